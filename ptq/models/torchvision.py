"""torchvision's classifiers, by their names there."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ptq.data.preprocess import Preprocess, numbers, pair
from ptq.models.entry import ModelEntry
from ptq.models.weights import downloading, fit

__all__ = ["torchvision_entry"]

_IMAGENET_HALVES = (0.5, 0.5, 0.5)
# Networks with heads that only training uses. Pretrained, they also turn ImageNet-normalized
# input into (x - 0.5) / 0.5 themselves (`transform_input`); here the preprocessing does that.
_WITH_TRAINING_HEADS = ("googlenet", "inception_v3")
_TRAINING_HEADS = ("aux1.", "aux2.", "AuxLogits.")


def torchvision_entry(name: str, overrides: Mapping[str, Any]) -> ModelEntry:
    """Return the entry of a torchvision classifier, with the weights that torchvision calls its default.

    Example:
        >>> torchvision_entry("resnet18", {}).preprocess.size
        (224, 224)
    """
    from torchvision import models

    name = name.lower()
    has_training_heads = name in _WITH_TRAINING_HEADS
    options = {"aux_logits": False, "transform_input": False, "init_weights": False} if has_training_heads else {}
    published = models.get_model_weights(name).DEFAULT
    transforms = published.transforms()
    preprocess = Preprocess(
        pair(transforms.crop_size),
        transforms.resize_size[0],
        transforms.interpolation.value,
        _IMAGENET_HALVES if has_training_heads else numbers(transforms.mean),
        _IMAGENET_HALVES if has_training_heads else numbers(transforms.std),
    )

    def build(num_classes: int | None) -> nn.Module:
        classes = {} if num_classes is None else {"num_classes": num_classes}
        module: nn.Module = models.get_model(name, weights=None, **options, **classes)
        return module

    def fit_without_heads(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
        fit(module, state, source, ignore=_TRAINING_HEADS if has_training_heads else ())

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        module, source = build(num_classes), f"torchvision {published.name}"
        with downloading(name, published.url):
            state = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
        fit_without_heads(module, state, source)
        return module, source

    return ModelEntry(
        name, preprocess.override(**overrides), build, pretrained, fit_without_heads, published.meta.get("categories")
    )
