"""Is a smooth activation faster as a table of 256 codes than as a float operator between two conversions?

    python -m benchmarks.activation_tables [--sizes 64x56,128x28,256x14] [--runs 60] [--activation maximum]

An 8-bit depthwise convolution, the activation and another such convolution, with as many channels and pixels as `--sizes` says, in onnxruntime on
one thread. Seconds are those of the processor, the least of all runs, which are taken in turns. The ways to compute the activation:

    none       no activation: what is around it
    operator   the float operator between DequantizeLinear and QuantizeLinear
    gather     Cast to int32, and Gather from a table of uint8: the only operator that looks up any table
    sigmoid    onnxruntime's own table, QLinearSigmoid, of which there is none for other functions; for SiLU with QLinearMul
    pool       of the larger of two tensors: MaxPool over their concatenated codes, the only maximum of codes there is

Rows are added to results/activation_tables.json as they are finished. results/activation_tables.md is made from it.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.rows import add_rows, footer
from ptq.utils.environment import environment

KEYS = ("activation", "size")
OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "GELU": ("Gelu", {}),
    "GELU, tanh": ("Gelu", {"approximate": "tanh"}),
    "SiLU": ("Sigmoid", {}),
    "Mish": ("Mish", {}),
    "ELU": ("Elu", {}),
    "Softplus": ("Softplus", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "maximum": ("Max", {}),  # of the layer's output and its input
}
WAYS = ("none", "operator", "gather", "sigmoid", "pool")
STEP = 0.05  # of all grids


class _Graph:
    """A network that is written node by node."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def call(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def grid(self, name: str) -> tuple[str, str]:
        return self.constant(f"{name}.scale", np.float32(STEP)), self.constant(f"{name}.zero", np.uint8(128))

    def quantized(self, x: str, name: str) -> str:
        """The real numbers behind QuantizeLinear and DequantizeLinear; the codes are called NAME.codes."""
        grid = self.grid(name)
        return self.call("DequantizeLinear", name, self.call("QuantizeLinear", f"{name}.codes", x, *grid), *grid)

    def convolution(self, x: str, name: str, channels: int) -> str:
        codes = np.random.default_rng(0).integers(-20, 20, (channels, 1, 3, 3), dtype=np.int8)
        scale = self.constant(f"{name}.scale", np.full(channels, 0.01, np.float32))
        zero = self.constant(f"{name}.zero", np.zeros(channels, np.int8))
        weight = self.call("DequantizeLinear", f"{name}.w", self.constant(f"{name}.codes", codes), scale, zero, axis=0)
        return self.call("Conv", name, x, weight, group=channels, pads=[1, 1, 1, 1])


def network(activation: str, way: str, channels: int, pixels: int) -> bytes | None:
    """An ONNX file; None where the activation cannot be computed in this way."""
    graph = _Graph()
    x = graph.quantized(graph.convolution(graph.quantized("x", "input"), "first", channels), "read")
    operator, attributes = OPERATORS[activation]
    if way == "operator" or (way == "sigmoid" and operator == "Sigmoid"):
        y = graph.call(operator, "y", x, *["input"][: activation == "maximum"], **attributes)
        if activation == "SiLU":
            y = graph.quantized(y, "gate") if way == "sigmoid" else y
            y = graph.call("Mul", "product", x, y)
        x = graph.quantized(y, "written")
    elif way == "pool" and activation == "maximum":
        pairs = graph.constant("pairs", np.array([1, 1, 2, channels * pixels * pixels]))
        image = graph.constant("image", np.array([1, channels, pixels, pixels]))
        both = graph.call("Reshape", "both", graph.call("Concat", "joined", "read.codes", "input.codes", axis=1), pairs)
        codes = graph.call("Reshape", "larger", graph.call("MaxPool", "pooled", both, kernel_shape=[2, 1]), image)
        x = graph.call("DequantizeLinear", "written", codes, *graph.grid("written"))
    elif way == "gather" and activation != "maximum":
        table = graph.constant("table", np.random.default_rng(1).integers(0, 255, 256, dtype=np.uint8))
        index = graph.call("Cast", "index", "read.codes", to=TensorProto.INT32)
        codes = graph.call("Gather", "looked_up", table, index)
        x = graph.call("DequantizeLinear", "written", codes, *graph.grid("written"))
    elif way != "none":
        return None
    graph.quantized(graph.convolution(x, "second", channels), "output")
    shape = [1, channels, pixels, pixels]
    given, wanted = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "output"))
    made = helper.make_graph(graph.nodes, "network", [given], [wanted], graph.constants)
    model: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    ).SerializeToString()
    return model


def measure(activation: str, channels: int, pixels: int, runs: int) -> dict[str, Any]:
    """Processor milliseconds of every way for one image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    files = {way: network(activation, way, channels, pixels) for way in WAYS}
    sessions = {
        way: onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for way, file in files.items()
        if file is not None
    }
    feed = {"x": np.random.default_rng(2).standard_normal((1, channels, pixels, pixels)).astype(np.float32)}
    times: dict[str, list[float]] = {way: [] for way in sessions}
    for _ in range(runs):
        for way, session in sessions.items():
            session.run(None, feed)  # what ran before it has left its own numbers in the caches
            started = time.process_time()
            session.run(None, feed)
            times[way].append(time.process_time() - started)
    found = {way: round(1e3 * min(seconds), 3) for way, seconds in times.items()}
    return {"activation": activation, "size": f"{channels}x{pixels}", **found, **environment()}


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Activations as tables"
    yield "\nMade by `python -m benchmarks.activation_tables`, which explains the columns: processor milliseconds for one image.\n"
    yield f"| activation | channels x pixels | {' | '.join(WAYS)} |\n|{' --- |' * (len(WAYS) + 2)}"
    for row in rows:
        cells = (f"{row[way]:.3f}" if way in row else "" for way in WAYS)
        yield f"| {row['activation']} | {row['size']} | {' | '.join(cells)} |"
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64x56,128x28,256x14")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--activation", action="append", choices=OPERATORS, help="which; all where none is given")
    options = parser.parse_args()
    for size in options.sizes.split(","):
        channels, pixels = map(int, size.split("x"))
        for activation in options.activation or OPERATORS:
            row = measure(activation, channels, pixels, options.runs)
            add_rows("activation_tables", [row], KEYS, page)
            print(json.dumps({key: row[key] for key in (*KEYS, *WAYS) if key in row}), flush=True)


if __name__ == "__main__":
    main()
