"""Mistakes that users make, each with what they are told: the table that tests and `benchmarks.bad_input` go through."""

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image
from safetensors.torch import save_file

__all__ = ["CASES", "NETWORK", "Case", "prepare_folder"]

NETWORK = """
import time
import torch
from torch import nn

PREPROCESS = dict(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

def net(channels=3, classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, classes))

def other():
    module = net()
    module[0].weight.data += 1
    return module

def filled(value):
    module = net()
    module[0].weight.data[0] = value
    return module

def nan(): return filled(float("nan"))
def infinite(): return filled(float("inf"))
def gray(): return net(channels=1)
def raises(): raise RuntimeError("no such checkpoint")
def number(): return 7
def wants(width): return net()
def plain(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
def pixels(): return nn.Conv2d(3, 4, 3)
def no_layers(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()
    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)

class Two(Branching):
    def forward(self, x):
        return self.net(x), x

def branching(): return Branching()
def two(): return Two()

def slow():
    print("waiting", flush=True)
    time.sleep(60)
"""


@dataclass(frozen=True)
class Case:
    """A mistake.

    Args:
        what: in words.
        arguments: of the command.
        says: what the message must contain.
        make: writes the files of it into the working directory.
        finished: whether there is a finished run in ``run`` before `make`.
        torch: whether it takes torch to find out.
    """

    what: str
    arguments: tuple[str, ...]
    says: str
    make: Callable[[Path], object] = lambda _: None
    finished: bool = False
    torch: bool = True


def prepare_folder(case: Case, folder: Path, finished: Path) -> None:
    """Write what a case needs into an empty folder; `finished` is a finished run of ``net.py:net``."""
    (folder / "net.py").write_text(NETWORK)
    if case.finished:
        shutil.copytree(finished, folder / "run")
    case.make(folder)


def quantize(*more: str, model: str = "net.py:net", bits: str = "4", images: str = "noise") -> tuple[str, ...]:
    """A command that is in order but for `more`."""
    return ("quantize", "--model", model, "--bits", bits, "--preset", "fast", "--images", images, "--out", "run", *more)


def _option(what: str, says: str, *more: str, **changed: str) -> Case:
    return Case(what, quantize(*more, **changed), says, torch=False)


def _recipe(what: str, says: str, content: str) -> Case:
    return Case(what, quantize("--config", "r.toml"), says, lambda at: (at / "r.toml").write_text(content), torch=False)


LONG = "a" * 5000

OPTIONS = (
    *(_option(f"{bits} bits", "--bits", bits=bits) for bits in ("0", "1", "9", "-3", "four", "4.5")),
    _option("16 bits for activations", "--act-bits", "--act-bits", "16"),
    _option("no such preset", "--preset", "--preset", "quick"),
    _option("no such method", "--method", "--method", "magic"),
    _option("no such format", "--format", "--format", "zip"),
    _option("a negative seed", "--seed", "--seed", "-1"),
    _option("a seed of 70 bits", "--seed", "--seed", str(2**70)),
    _option("no threads", "--threads", "--threads", "0"),
    _option("100,000 threads", "--threads", "--threads", "100000"),
    _option("a size of 0", "--size: '0' is no size; give 224", "--size", "0"),
    _option("half a size", "--size: '224x' is no size; give 224", "--size", "224x"),
    _option("two means for three channels", "--mean: '0.5,0.5'; give three numbers", "--mean", "0.5,0.5"),
    _option("a mean that is no number", "--mean: 'nan'; give three numbers", "--mean", "nan"),
    _option("a deviation that is a word", "--std: 'red'; give three numbers", "--std", "red"),
    _option("a memory limit that is no size", "--memory-limit: 'lots' is no size; give 1GiB", "--memory-limit", "lots"),
    _option("a memory limit beyond all machines", "more than any machine has", "--memory-limit", "9" * 30 + "TB"),
    _option("no such device", "--device: 'gpu'; give cpu, cuda or cuda:N", "--device", "gpu"),
    _option("an option that does not exist", "--color", "--color", "red"),
    _option("data that are not there", "--data: there is nothing at nowhere", "--data", "nowhere"),
    _option("weights that are not there", "--weights: there is nothing at no.pth", "--weights", "no.pth"),
    _option("a path longer than the system allows", "--weights: there is nothing at aaa", "--weights", LONG),
    _option("images misspelt", "--images: 'mixmax' is none of mixmix, zeroq", images="mixmax"),
    _option("a comma too many in the teachers", "--teachers: name a model", "--teachers", "resnet18,,"),
    _option("a teacher's file that is not there", "--teachers: there is no file no.py", "--teachers", "no.py:net"),
    _option(
        "a teacher's weights that are not there",
        "--teachers: there is nothing at no.pth",
        "--teachers",
        "resnet18=no.pth",
    ),
    _option("a verifier's file that is not there", "--verifier: there is no file no.py", "--verifier", "no.py:net"),
    _option("an empty model name", "--model: name a model", model=""),
    _option("a model file that is not there", "--model: there is no file no.py", model="no.py:net"),
    _option("a model file named as a Python module", "'net:net' is no model; write net.py:net", model="net:net"),
    Case(
        "the directory is a file",
        quantize(),
        "--out: run is a file; give a folder",
        lambda at: (at / "run").touch(),
        torch=False,
    ),
    _option("an assignment without a value", "give NAME=VALUE", "--set", "reconstruction.iterations"),
    _option("a misspelt setting", "did you mean reconstruction.iterations?", "--set", "reconstruction.itertions=5"),
    _option(
        "iterations below 0", "--set: reconstruction.iterations cannot be -1", "--set", "reconstruction.iterations=-1"
    ),
    _option("a word for a number", "cannot be '2k': expected int", "--set", "reconstruction.iterations=2k"),
    _option("a method assigned that there is not", "did you mean brecq?", "--set", "reconstruction.method=breck"),
    _option("no such layer bits", "--layer: 'fc=9'", "--layer", "fc=9"),
    _option("an activation in float", "--tensor: 'fc=float'; give", "--tensor", "fc=float"),
    _option("a recipe that is not there", "--config: cannot read no.toml", "--config", "no.toml"),
    _recipe("a recipe that is no TOML", "r.toml is not TOML", "bits = "),
    _recipe("a recipe without tables", "did you mean quantization.bits?", "bits = 4"),
    _recipe("a misspelt key in a recipe", "did you mean reconstruction.drop?", "[reconstruction]\ndorp = 0.5"),
    _recipe("a recipe with 9 bits for a layer", "quantization.layers cannot be", "[quantization.layers]\nfc = 9"),
    _recipe("data in a recipe that are not there", "--data: there is nothing at no", "[evaluation]\ndata = 'no'"),
    Case("no model", ("quantize", "--bits", "4"), "--model", torch=False),
    Case("no bits", ("quantize", "--model", "net.py:net"), "--bits", torch=False),
    Case("no options", ("quantize",), "--model", torch=False),
    Case("no such synthesis", ("synthesize", "--model", "net.py:net", "--method", "magic"), "--method", torch=False),
    Case("a run that is not there", ("validate", "nowhere"), "there is nothing at nowhere", torch=False),
    Case(
        "nothing to inspect", ("inspect",), "give the directory of a finished run, or --model and --bits", torch=False
    ),
)


def _model(what: str, name: str, says: str, *more: str, **changed: str) -> Case:
    return Case(what, quantize(*more, model=name, **changed), says)


MODELS = (
    _model("a misspelt torchvision model", "resnet5O", "did you mean resnet50"),
    _model("a misspelt timm model", "timm:resnet1b", "did you mean timm:resnet"),
    _model("a name like none", "qqqqqq", "A model is a torchvision name, timm:NAME"),
    _model("weights to download, no network", "resnet50", "check the network, or give a file with --weights"),
    _model(
        "a function that is not there", "net.py:none", "net.py has no function 'none': write net.py:NAME; it has net"
    ),
    _model("no function named", "net.py", "alone names no function"),
    _model("a factory that raises", "net.py:raises", "net.py:raises() failed: RuntimeError: no such checkpoint"),
    _model("a factory of no module", "net.py:number", "returned a int: it must return an nn.Module"),
    _model("a factory with arguments", "net.py:wants", "missing 1 required positional argument"),
    _model("weights that are NaN", "net.py:nan", "holds NaN or infinite values"),
    _model("weights that are infinite", "net.py:infinite", "holds NaN or infinite values"),
    _model("a network without BatchNorm", "net.py:plain", "BatchNorm", images="mixmix"),
    _model(
        "control flow that depends on pixels", "net.py:branching", "without control flow that depends on tensor values"
    ),
    _model("a network with two results", "net.py:two", "wrap it in a module that picks the class scores"),
    _model("a network that gives images", "net.py:pixels", "it must return (1, classes)"),
    _model("a network with nothing to quantize", "net.py:no_layers", "no convolution and no linear layer"),
    _model("a network for gray images", "net.py:gray", "its first convolution takes 1 channel:"),
    _model("a size too small for the network", "net.py:net", "does not run on 3x1x1 images", "--size", "1"),
    _model("a size that no memory holds", "net.py:net", "check its input --size", "--size", "99999"),
    _model("a resize smaller than the crop", "net.py:net", "give a --resize of at least 8", "--resize", "4"),
    _model("a deviation of 0", "net.py:net", "each must be above 0", "--std", "0"),
    _model("a mean on the scale of bytes", "net.py:net", "0..255", "--mean", "123.7,116.3,103.5"),
    _model("a GPU that is not there", "net.py:net", "use --device cpu", "--device", "cuda:77"),
    _model("an unknown teacher", "net.py:net", "did you mean resnet18", "--teachers", "resnet81"),
    _model("a verifier that fails", "net.py:net", "net.py:raises() failed", "--verifier", "net.py:raises"),
    Case("a teacher without BatchNorm", quantize("--teachers", "net.py:plain", images="mixmix"), "BatchNorm"),
    Case(
        "a file that is no Python",
        quantize(model="bad.py:net"),
        "importing bad.py failed: SyntaxError",
        lambda at: (at / "bad.py").write_text("def net(:"),
    ),
    Case(
        "a file that ends the process",
        quantize(model="bad.py:net"),
        "importing bad.py failed: SystemExit",
        lambda at: (at / "bad.py").write_text("raise SystemExit(0)"),
    ),
    Case(
        "preprocessing with unknown keys",
        quantize(model="bad.py:net"),
        "PREPROCESS in bad.py must be a dict with keys among",
        lambda at: (at / "bad.py").write_text(NETWORK.replace("size=8", "sise=8")),
    ),
    Case(
        "preprocessing with a word for a size",
        quantize(model="bad.py:net"),
        "the input size is",
        lambda at: (at / "bad.py").write_text(NETWORK.replace("size=8", "size='big'")),
    ),
    Case(
        "preprocessing with a word for a mean",
        quantize(model="bad.py:net"),
        "PREPROCESS in bad.py: could not convert string to float",
        lambda at: (at / "bad.py").write_text(NETWORK.replace("mean=(0.5,", "mean=('half',")),
    ),
)


class Attack:
    """A pickle that writes a file when it is loaded as one."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return exec, ("open('pwned', 'w')",)


def _state(folder: Path, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    names: dict[str, object] = {}
    exec(compile(NETWORK, "net.py", "exec"), names)
    state: dict[str, torch.Tensor] = names["net"]().state_dict()  # type: ignore[operator]
    return {**state, **changes}


def _weights(what: str, file: str, says: str, make: Callable[[Path], object]) -> Case:
    return Case(what, quantize("--weights", file), says, make)


def _cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def _cut_weights(at: Path) -> None:
    torch.save(_state(at), at / "w.pth")
    _cut(at / "w.pth")


def _cut_safetensors(at: Path) -> None:
    save_file(_state(at), at / "w.safetensors")
    _cut(at / "w.safetensors")


WEIGHTS = (
    _weights("an empty file of weights", "w.pth", "w.pth", lambda at: (at / "w.pth").touch()),
    _weights("weights cut short", "w.pth", "w.pth", _cut_weights),
    _weights(
        "weights that would run code",
        "w.pth",
        "not loaded because they could run code",
        lambda at: torch.save(Attack(), at / "w.pth"),
    ),
    _weights(
        "a plain pickle that would run code",
        "w.pth",
        "not loaded because they could run code",
        lambda at: (at / "w.pth").write_bytes(pickle.dumps(Attack())),
    ),
    _weights("safetensors cut short", "w.safetensors", "not a readable safetensors file", _cut_safetensors),
    _weights(
        "safetensors with a forged length",
        "w.safetensors",
        "not a readable safetensors file",
        lambda at: (at / "w.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}"),
    ),
    _weights(
        "weights for another number of classes",
        "w.pth",
        "of another shape: 5.weight is (7, 4), the model wants (3, 4)",
        lambda at: torch.save(_state(at, **{"5.weight": torch.zeros(7, 4), "5.bias": torch.zeros(7)}), at / "w.pth"),
    ),
    _weights(
        "weights of another shape",
        "w.pth",
        "of another shape: 0.weight",
        lambda at: torch.save(_state(at, **{"0.weight": torch.zeros(4, 3, 5, 5)}), at / "w.pth"),
    ),
    _weights(
        "weights of another network",
        "w.pth",
        "does not fit the model: missing 0.weight",
        lambda at: torch.save({"x.weight": torch.zeros(1)}, at / "w.pth"),
    ),
    _weights(
        "weights that are NaN in the file",
        "w.pth",
        "holds NaN or infinite values",
        lambda at: torch.save(_state(at, **{"5.bias": torch.full((3,), torch.nan)}), at / "w.pth"),
    ),
    _weights(
        "a list in place of weights",
        "w.pth",
        "save model.state_dict() and pass that",
        lambda at: torch.save([1, 2], at / "w.pth"),
    ),
    _weights("a text in place of weights", "w.pth", "w.pth", lambda at: (at / "w.pth").write_text("hello")),
    _weights(
        "a folder in place of weights",
        "folder",
        "no weights at folder: check --weights",
        lambda at: (at / "folder").mkdir(),
    ),
    _weights(
        "tensors that are not dense",
        "w.pth",
        "0.weight is sparse; save it as a dense tensor",
        lambda at: torch.save(_state(at, **{"0.weight": torch.zeros(4, 3, 3, 3).to_sparse()}), at / "w.pth"),
    ),
)


def _picture(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


def _npz(at: Path, **arrays: np.ndarray) -> None:
    np.savez(at / "d.npz", **arrays)  # type: ignore[arg-type]


def _data(what: str, says: str, make: Callable[[Path], object], file: str = "d") -> Case:
    return Case(what, quantize("--data", file), says, make)


def _cut_picture(at: Path) -> None:
    _picture(at / "d/0/a.jpg", (200, 200))
    _cut(at / "d/0/a.jpg", 0.4)


PIXELS = np.zeros((2, 3, 8, 8), np.uint8)
LABELS = np.arange(2)
DATA = (
    _data("an empty folder", "no folders of images", lambda at: (at / "d").mkdir()),
    _data("empty folders of classes", "no images in the folders of d", lambda at: (at / "d/0").mkdir(parents=True)),
    _data(
        "a text that is called .png",
        "is not an image that can be read",
        lambda at: _picture(at / "d/0/a.png").write_text("hello"),
    ),
    _data("an image cut short", "remove it", _cut_picture),
    _data(
        "folders with names of their own",
        "neither class indices nor ImageNet WNIDs: cats",
        lambda at: _picture(at / "d/cats/a.png"),
    ),
    _data(
        "more classes than the network has",
        "but the model knows the classes 0 to 2",
        lambda at: _picture(at / "d/7/a.png"),
    ),
    _data("one image for a folder", "not a readable .npz", lambda at: _picture(at / "d.png"), "d.png"),
    _data("an empty file", "not a readable .npz", lambda at: (at / "d.npz").touch(), "d.npz"),
    _data("a text for data", "not a readable .npz", lambda at: (at / "d.npz").write_text("hello"), "d.npz"),
    _data("arrays without images", "has no array 'images'", lambda at: _npz(at, labels=LABELS), "d.npz"),
    _data("arrays without labels", "has no array 'labels'", lambda at: _npz(at, images=PIXELS), "d.npz"),
    _data(
        "images as floats",
        "it must be uint8 (N,3,H,W)",
        lambda at: _npz(at, images=PIXELS / 255, labels=LABELS),
        "d.npz",
    ),
    _data(
        "gray images in an array",
        "it must be uint8 (N,3,H,W)",
        lambda at: _npz(at, images=PIXELS[:, :1], labels=LABELS),
        "d.npz",
    ),
    _data(
        "no images at all",
        "it must be uint8 (N,3,H,W)",
        lambda at: _npz(at, images=PIXELS[:0], labels=LABELS[:0]),
        "d.npz",
    ),
    _data(
        "labels as floats",
        "it must be integers (2,), one per image",
        lambda at: _npz(at, images=PIXELS, labels=LABELS / 2),
        "d.npz",
    ),
    _data(
        "fewer labels than images",
        "it must be integers (2,), one per image",
        lambda at: _npz(at, images=PIXELS, labels=LABELS[:1]),
        "d.npz",
    ),
    _data(
        "labels beyond the classes",
        "but the model knows the classes 0 to 2",
        lambda at: _npz(at, images=PIXELS, labels=LABELS + 2),
        "d.npz",
    ),
    _data(
        "negative labels",
        "but the model knows the classes 0 to 2",
        lambda at: _npz(at, images=PIXELS, labels=LABELS - 1),
        "d.npz",
    ),
    _data(
        "arrays of objects that would run code",
        "not a readable .npz",
        lambda at: _npz(at, images=np.array([Attack()], object), labels=LABELS),
        "d.npz",
    ),
    _data("one array alone", "expected an .npz with `images`", lambda at: np.save(at / "d.npy", PIXELS), "d.npy"),
    Case(
        "a folder without images to calibrate with",
        quantize(images="d"),
        "no images in d",
        lambda at: (at / "d").mkdir(),
    ),
    Case(
        "images of another size to calibrate with",
        quantize("--size", "9", images="run/images.safetensors"),
        "the images in run/images.safetensors are (8, 8) pixels",
        finished=True,
    ),
    Case(
        "weights for images to calibrate with",
        quantize(images="w.safetensors"),
        "no calibration set",
        lambda at: save_file(_state(at), at / "w.safetensors"),
    ),
    Case(
        "images cut short to calibrate with",
        quantize(images="w.safetensors"),
        "cannot read calibration images",
        _cut_safetensors,
    ),
)


def _foreign_onnx(path: Path) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 192])
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["y"])], "foreign", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _finished(what: str, says: str, make: Callable[[Path], object], command: str = "validate") -> Case:
    return Case(what, (command, "run"), says, make, finished=True)


def _without_quantizers(at: Path) -> None:
    save_file(_state(at), at / "run/quantized.safetensors")


def _at(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _unfinished(at: Path) -> None:
    part = at / "run/run.part"
    part.mkdir(parents=True)
    (part / "settings.json").write_text(json.dumps({"bits": 8, "model": "resnet18"}))


RUNS = (
    Case("a directory inside a file", quantize("--out", "net.py/run"), "choose another --out"),
    Case("an unfinished run of other settings", quantize(), "keeps an unfinished run of other settings: ", _unfinished),
    Case(
        "a file where unfinished work is kept",
        quantize(),
        "run/run.part",
        lambda at: _at(at / "run").joinpath("run.part").touch(),
    ),
    Case(
        "a folder that is no run",
        ("validate", "run"),
        "give the directory of a finished run",
        lambda at: (at / "run").mkdir(),
    ),
    Case(
        "an ONNX file that is not ours",
        ("validate", "other.onnx"),
        "give the directory of a finished run",
        lambda at: _foreign_onnx(at / "other.onnx"),
    ),
    _finished(
        "another network's ONNX file in a run", "another network", lambda at: _foreign_onnx(at / "run/model.onnx")
    ),
    _finished("an ONNX file cut short", "is no valid ONNX file", lambda at: _cut(at / "run/model.onnx")),
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
        lambda at: _cut(at / "run/quantized.safetensors"),
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
        lambda at: _cut(at / "run/quantized.safetensors"),
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
        lambda at: _picture(at / "d/7/a.png"),
        finished=True,
    ),
)

CASES = (*OPTIONS, *MODELS, *WEIGHTS, *DATA, *RUNS)
