"""A quantized model on disk: tensors and everything needed to rebuild it, in one safetensors file."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError
from torch import nn

from ptq.config.choices import KeptBranches, check_choice
from ptq.config.settings import OutputSettings, Settings
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError, reason
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import Model, load_model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan
from ptq.tasks.task import Task
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors

__all__ = ["FORMAT", "load_quantized", "read_metadata", "save_quantized", "settings_of"]

FORMAT = "ptq-quantized-7"


def save_quantized(quantized_model: QuantizedModel, path: Path | str, about: Mapping[str, Any]) -> None:
    """Write a quantized model atomically: codes of weights as int8, scales, biases, and layers left in float.

    Args:
        quantized_model: calibrated.
        path: a .safetensors file.
        about: JSON-able; "model" (a name that `load_model` knows, or None for a module of the
            caller's), "preprocess" and "num_classes" are read back by `load_quantized`.

    Raises:
        InputError: when the quantized model has not been calibrated.

    Example:
        >>> save_quantized(quantized_model, "quantized.safetensors", {"model": None})
        >>> again = load_quantized("quantized.safetensors", net)
        >>> torch.equal(again.integer_forward(images), quantized_model.integer_forward(images))
        True
    """
    quantized_model.require_calibrated()
    header = {
        "format": FORMAT,
        "plan": quantized_model.plan.to_json(),
        "input_shape": quantized_model.input_shape,
        "task": quantized_model.task.to_json(),
        "keep_branches": quantized_model.keep_branches,
        "about": dict(about),
    }
    save_tensors(path, quantized_model.module.state_dict(), header)


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Return "plan", "input_shape", "task", "keep_branches" and "about" of a quantized model's file.

    Raises:
        InputError: when it is missing, damaged, or not written by `save_quantized`.
    """
    try:
        header = read_header(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a quantized model ({reason(error)}); give the directory of a finished ptq quantize."
        ) from error
    about = header.get("about")
    if header.get("format") != FORMAT or not isinstance(about, dict) or "model" not in about:
        raise InputError(f"{path} was not written by this version of ptq; run ptq quantize again.")
    return header


def settings_of(folder: Path) -> Settings:
    """Return the settings that a run directory was made with, but for the folder, which is this one.

    Raises:
        InputError: when its quantized model is missing, damaged, or of another version.
    """
    about = read_metadata(folder / "quantized.safetensors")["about"]
    try:
        settings = Settings.from_json(about["settings"])
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{folder} was made by another version of ptq; quantize again.") from error
    return replace(settings, output=OutputSettings(folder=str(folder)))


def load_quantized(
    path: Path | str, model: nn.Module | Model | None = None, change: Callable[[GraphModel], GraphModel] | None = None
) -> QuantizedModel:
    """Rebuild a quantized model from its file.

    Args:
        path: quantized.safetensors, or the run directory that holds it.
        model: the float network, needed where the quantized model was made from a module. Without it the
            structure is built anew, and ``float_model`` is None.
        change: what happened to the float network between `prepare` and quantization, such as pruning.

    Raises:
        InputError: when the file is damaged or of another network.
    """
    path = Path(path)
    path = path / "quantized.safetensors" if path.is_dir() else path
    header = read_metadata(path)
    about = header["about"]
    try:
        plan = QuantPlan.from_json(header["plan"])
        channels, height, width = (operator.index(size) for size in header["input_shape"])
        task, keep_branches = Task.from_json(header["task"]), header["keep_branches"]
        check_choice(keep_branches, get_args(KeptBranches), "branches")
        arguments = _arguments(path, about) if model is None else {}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged; run ptq quantize again.") from error
    network = load_model(**arguments) if model is None else model
    network = network.module if isinstance(network, Model) else network
    graph_model = prepare(network, (channels, height, width), task=task, keep_branches=keep_branches)
    quantized_model = insert_quantizers(graph_model if change is None else change(graph_model), plan)
    try:
        quantized_model.module.load_state_dict(read_tensors(path))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path} does not fit the network: {reason(error)}") from error
    if not quantized_model.calibrated:
        raise InputError(f"{path} is damaged; run ptq quantize again.")
    if model is None:  # random numbers would pass for float weights
        for layer in quantized_model.layers().values():
            layer.weight_quantizer.drop_float_weight()
        return replace(quantized_model, float_model=None)
    return quantized_model


def _arguments(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `load_model` takes to build the network that a quantized model was made from, without its weights."""
    if about["model"] is None:
        raise InputError(f"{path} was made from a Python module: pass it, as load(path, model).")
    preprocess = asdict(Preprocess.from_json(about["preprocess"]))
    classes = None if about["num_classes"] is None else operator.index(about["num_classes"])
    task = about["settings"]["model"]["task"] if "settings" in about else "auto"
    return {"name": str(about["model"]), "pretrained": False, "num_classes": classes, "task": str(task), **preprocess}
