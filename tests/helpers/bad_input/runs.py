"""Run directories that are unfinished, damaged, or of something else."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from safetensors.torch import save_file

from tests.helpers.bad_input.case import NETWORK, Case, quantize
from tests.helpers.bad_input.damage import cut, picture, state

__all__ = ["RUNS"]


def _foreign_onnx(path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 192])
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["y"])], "foreign", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _finished(what: str, says: str, make: Callable[[Path], object], command: str = "validate") -> Case:
    return Case(what, (command, "run"), says, make, finished=True)


def _without_quantizers(at: Path) -> None:
    save_file(state(at), at / "run/quantized.safetensors")


def _at(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _unfinished(at: Path) -> None:
    part = at / "run/run.part"
    part.mkdir(parents=True)
    (part / "settings.json").write_text(json.dumps({"bits": 8, "model": "resnet18", "prune": "1.5x"}))
    save_file({}, part / "images.safetensors")


RUNS = (
    Case("a directory inside a file", quantize("--out", "net.py/run"), "choose another --out"),
    Case("an unfinished run of other settings", quantize(), "keeps an unfinished run of other settings: ", _unfinished),
    Case("a budget that no file meets", quantize("--max-size", "1kB"), "can be made: the smallest takes"),
    Case(
        "an unfinished run of another budget",
        quantize("--prune", "2x", "--set", "pruning.granule=1"),
        "prune: 1.5x there, 2x here",
        _unfinished,
    ),
    Case(
        "a file where unfinished work is kept",
        quantize(),
        "run/run.part",
        lambda at: _at(at / "run").joinpath("run.part").touch(),
    ),
    Case(
        "a folder that is no run",
        ("validate", "run"),
        "give the directory of a finished ptq quantize",
        lambda at: (at / "run").mkdir(),
    ),
    Case(
        "an ONNX file that is not ours",
        ("validate", "other.onnx"),
        "give the directory of a finished ptq quantize",
        lambda at: _foreign_onnx(at / "other.onnx"),
    ),
    _finished(
        "another network's ONNX file in a run", "another network", lambda at: _foreign_onnx(at / "run/model.onnx")
    ),
    _finished("an ONNX file cut short", "is no valid ONNX file", lambda at: cut(at / "run/model.onnx")),
    _finished(
        "an ONNX file that is a text", "is no valid ONNX file", lambda at: (at / "run/model.onnx").write_text("hello")
    ),
    _finished(
        "a run without its ONNX file",
        "there is no file run/model.onnx: quantize again.",
        lambda at: (at / "run/model.onnx").unlink(),
    ),
    _finished(
        "a quantized model cut short",
        "cannot be read as a quantized model",
        lambda at: cut(at / "run/quantized.safetensors"),
    ),
    _finished(
        "a quantized model that is a plain state dict", "not written by this version of ptq", _without_quantizers
    ),
    _finished("a run without its report", "no readable report.json", lambda at: (at / "run/report.json").unlink()),
    _finished(
        "a report that is not ours",
        "no readable report.json",
        lambda at: (at / "run/report.json").write_text('{"model": "x"}'),
    ),
    _finished(
        "a run without its images",
        "cannot read calibration images",
        lambda at: (at / "run/images.safetensors").unlink(),
    ),
    _finished(
        "a network that has changed",
        "has other weights now",
        lambda at: (at / "net.py").write_text(NETWORK.replace("manual_seed(0)", "manual_seed(1)")),
    ),
    _finished("a network that is gone", "no file net.py", lambda at: (at / "net.py").unlink()),
    _finished(
        "a run to inspect, cut short",
        "cannot be read as a quantized model",
        lambda at: cut(at / "run/quantized.safetensors"),
        "inspect",
    ),
    _finished(
        "a run to inspect without its report",
        "no readable report.json",
        lambda at: (at / "run/report.json").unlink(),
        "inspect",
    ),
    Case(
        "a run and a model to inspect",
        ("inspect", "run", "--model", "net.py:net"),
        "give one of the two",
        finished=True,
    ),
    Case(
        "data for another network to validate with",
        ("validate", "run", "--data", "d"),
        "but the model knows the classes 0 to 2",
        lambda at: picture(at / "d/7/a.png"),
        finished=True,
    ),
)
