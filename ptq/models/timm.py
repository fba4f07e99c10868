"""timm's classifiers, as "timm:NAME", with or without the tag of their weights."""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from ptq.data.class_names import timm_classes
from ptq.data.preprocess import Preprocess, numbers
from ptq.errors import InputError, MachineError, ModelError
from ptq.models.entry import ModelEntry
from ptq.models.weights import downloading

__all__ = ["import_timm", "timm_entry"]


def timm_entry(name: str, overrides: Mapping[str, Any]) -> ModelEntry:
    """Return the entry of a timm classifier.

    Args:
        name: "timm:ARCHITECTURE", with the tag of its weights, "timm:ARCHITECTURE.TAG", or without.
        overrides: values of `Preprocess` fields.

    Raises:
        InputError: for a tag that timm does not have.
        MachineError: where timm is not installed.
    """
    timm = import_timm(name)
    name = name.removeprefix("timm:")
    architecture, _, tag = name.partition(".")
    if tag and name not in timm.list_models(f"{architecture}.*", pretrained=True):
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        raise InputError(f"timm has no weights {name!r}; it has {', '.join(tags) or 'none for this model'}")
    config = timm.get_pretrained_cfg(name)
    _, height, width = config.input_size
    preprocess = Preprocess(
        (height, width),
        max(math.floor(min(height, width) / config.crop_pct), height, width),
        config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bicubic",
        numbers(config.mean),
        numbers(config.std),
    ).override(**overrides)
    # Transformers are built for one size; telling timm lets it resample their position embeddings.
    size = {"img_size": preprocess.size} if config.fixed_input_size and "size" in overrides else {}

    def create(num_classes: int | None, with_weights: bool) -> nn.Module:
        classes = {} if num_classes is None else {"num_classes": num_classes}
        module: nn.Module = timm.create_model(name, pretrained=with_weights, **size, **classes)
        return module

    def build(num_classes: int | None) -> nn.Module:
        return create(num_classes, with_weights=False)

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        if not (config.hf_hub_id or config.url or config.file):
            raise ModelError(f"timm publishes no weights for {name}: give a file with --weights")
        with downloading(f"timm:{name}", None):
            return create(num_classes, with_weights=True), f"timm {config.hf_hub_id or config.tag}"

    return ModelEntry(name, preprocess, build, pretrained, classes=timm_classes(config))


def import_timm(name: str) -> ModuleType:
    """Return timm, or say that the network `name` needs it.

    Raises:
        MachineError: where it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise MachineError(f"{name} needs timm: pip install 'ptq[zoo]'") from error
    return timm
