"""Networks that cannot be quantized."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.helpers.bad_input.case import NETWORK, Case, quantize

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["MODELS"]


def _model(what: str, name: str, says: str, *more: str, **changed: str) -> Case:
    return Case(what, quantize(*more, model=name, **changed), says)


def _graph(*operators: str, shape: Sequence[int | str] = (1, 3, 8, 8), inputs: int = 1) -> "ModelProto":
    """Operators that work one after another; a convolution has a weight."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    nodes = [
        helper.make_node(
            kind,
            [f"x{i}", *(["weight"] if kind == "Conv" else [])],
            [f"x{i + 1}"],
            name=kind,
            domain="my" if kind == "Fancy" else "",
        )
        for i, kind in enumerate(operators)
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (*((f"x{-i or 0}", shape) for i in range(inputs)), (f"x{len(nodes)}", None))
    ]
    graph = helper.make_graph(nodes, "graph", values[:-1], values[-1:], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=opsets)


def _onnx(
    what: str, says: str, *operators: str, shape: Sequence[int | str] = (1, 3, 8, 8), inputs: int = 1, more: str = ""
) -> Case:
    def make(at: Path) -> None:
        import onnx

        onnx.save(_graph(*operators, shape=shape, inputs=inputs), at / "net.onnx")
        torch.save({"w": torch.zeros(1)}, at / "w.pth")

    return Case(what, quantize(*more.split(), model="net.onnx"), says, make)


def _without_its_weights(at: Path) -> None:
    import onnx

    onnx.save(_graph("Conv"), at / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (at / "weights.bin").unlink()


def _with_few_weights(at: Path) -> None:
    _without_its_weights(at)
    (at / "weights.bin").write_bytes(b"few")


MODELS = (
    _model(
        "a budget that cannot be met", "net.py:net", "50x fewer multiply-accumulates cannot be met", "--prune", "50x"
    ),
    _model(
        "a latency that cannot be met", "net.py:net", "ms cannot be met: the network takes", "--prune-to", "0.0001ms"
    ),
    _model("one convolution to prune", "net.py:features", "has no channels that can be removed", "--prune", "1.5x"),
    _model(
        "bits for a layer that is not there when channels go",
        "net.py:net",
        "no layer matches 'gone'",
        *("--prune", "1.5x", "--set", "pruning.granule=1", "--layer", "gone=8"),
    ),
    _onnx("an ONNX file of custom operators", "Fancy (my.Fancy)", "Relu", "Fancy"),
    _onnx("an ONNX file that selects", "NonZero (NonZero)", "NonZero"),
    _onnx("an ONNX file in integers", "is quantized already, at DynamicQuantizeLinear", "DynamicQuantizeLinear"),
    _onnx("an ONNX file for any size", "any height and width: say which with --size", "Relu", shape=(1, 3, "h", "w")),
    _onnx("an ONNX file for anything", "any height and width", "Conv", shape=("n", "c", "h", "w")),
    _onnx("an ONNX file of two inputs", "the file has 2 inputs (x0, x-1)", "Relu", inputs=2),
    _onnx(
        "an ONNX file and weights",
        "has its weights in it: leave --weights out",
        "Conv",
        more="--weights w.pth --size 8",
    ),
    _onnx("an ONNX file, and a size too small", "check --size", "Conv", shape=(1, 3, "h", "w"), more="--size 2"),
    Case(
        "an ONNX file without its weights",
        quantize(model="net.onnx"),
        "weights.bin, which is not there: keep both in one folder",
        _without_its_weights,
    ),
    Case("an ONNX file with few of its weights", quantize(model="net.onnx"), "net.onnx", _with_few_weights),
    Case(
        "the integer file of a run as a model",
        quantize("--out", "again", model="run/model.onnx"),
        "is quantized already, at",
        finished=True,
    ),
    _onnx("an ONNX file for vectors", "of 2 dimensions: images have 4", "Relu", shape=(1, 8)),
    Case("an ONNX file that is not there", quantize(model="net.onnx"), "there is no file net.onnx", torch=False),
    Case(
        "a text that is called ONNX",
        quantize(model="net.onnx"),
        "net.onnx: it is no ONNX file that can be read",
        lambda at: (at / "net.onnx").write_text("hello"),
    ),
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
    _model(
        "a result that is no tensor", "net.py:word", "the model returns 'kind', a str: every output must be a tensor"
    ),
    _model("words beside a tensor", "net.py:words", "the model returns 'output_1_0', a str"),
    _model("one number for all images", "net.py:mean", "must be that of the images"),
    _model("no result", "net.py:nothing", "the model returns nothing"),
    _model("boxes in place of images", "net.py:boxes", "returns boxes of shape (7, 4) for one image"),
    _model("a task that the network cannot have", "net.py:net", "dense wants an output of", "--task", "dense"),
    _model("classes of feature maps", "net.py:features", "classify wants an output of", "--task", "classify"),
    _model(
        "a task of an output that is not there", "net.py:net", "unknown output in --task 'box'", "--task", "box=embed"
    ),
    _model(
        "two means for three channels", "net.py:net", "give one number, or one for each channel", "--mean", "0.5,0.5"
    ),
    _model("channels that are none", "net.py:net", "the channels are 'XYZ'", "--channels", "XYZ"),
    _model("gray for a network of colors", "net.py:net", "one for each channel of L", "--channels", "L"),
    _model("a network of two inputs", "net.py:pair", "missing 1 required positional argument"),
    _model(
        "a metric that raises",
        "net.py:net",
        "net.py:bad_metric failed: KeyError 'iou'",
        "--metric",
        "net.py:bad_metric",
    ),
    _model("a metric of no numbers", "net.py:net", "returned a str", "--metric", "net.py:worded"),
    _model("a metric of words", "net.py:net", "returned what is no number", "--metric", "net.py:rated"),
    _model("a metric that is NaN", "net.py:net", "numbers must be finite", "--metric", "net.py:undefined"),
    _model("a metric that predicts no images", "net.py:net", "takes RGB images", "--metric", "net.py:listed"),
    _model("no such metric", "net.py:net", "net.py has no function 'iou'", "--metric", "net.py:iou"),
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
