"""Networks that cannot be quantized."""

from collections.abc import Sequence
from pathlib import Path

from tests.helpers.bad_input.case import NETWORK, Case, quantize

__all__ = ["MODELS"]


def _model(what: str, name: str, says: str, *more: str, **changed: str) -> Case:
    return Case(what, quantize(*more, model=name, **changed), says)


def _onnx(what: str, says: str, *operators: str, shape: Sequence[int | str] = (1, 3, 8, 8)) -> Case:
    """A file with operators that work one after another."""

    def make(at: Path) -> None:
        import onnx
        from onnx import TensorProto, helper

        nodes = [
            helper.make_node(kind, [f"x{i}"], [f"x{i + 1}"], name=kind, domain="my" if kind == "Fancy" else "")
            for i, kind in enumerate(operators)
        ]
        shapes = ((0, shape), (len(nodes), None))
        values = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, s) for i, s in shapes]
        graph = helper.make_graph(nodes, "graph", values[:1], values[1:])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
        onnx.save(helper.make_model(graph, opset_imports=opsets), at / "net.onnx")

    return Case(what, quantize(model="net.onnx"), says, make)


MODELS = (
    _onnx("an ONNX file of custom operators", "Fancy (my.Fancy)", "Relu", "Fancy"),
    _onnx("an ONNX file that selects", "NonZero (NonZero)", "NonZero"),
    _onnx("an ONNX file in integers", "is quantized already, at DynamicQuantizeLinear", "DynamicQuantizeLinear"),
    _onnx("an ONNX file for any size", "any height and width: say which with --size", "Relu", shape=(1, 3, "h", "w")),
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
    _model("no result", "net.py:nothing", "the model returns nothing"),
    _model("boxes in place of images", "net.py:boxes", "returns boxes of shape (7, 4) for one image"),
    _model("a task that the network cannot have", "net.py:net", "dense wants an output of", "--task", "dense"),
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
