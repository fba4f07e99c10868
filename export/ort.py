"""onnxruntime as ptq uses it: sessions, their latency, and what they do in integers.

On CPUs without VNNI (x86 with AVX2 or plain AVX512) onnxruntime's default kernel for uint8 activations and
int8 weights adds pairs of products in 16 bits and saturates: with 8-bit weights the sums are wrong, and
accuracy drops by points without any message. Its session option ``session.x64quantprecision`` picks
exact, slower kernels for those layers that hold a weight beyond [-64, 64]; weights of 7 bits and fewer
never saturate and stay fast. `exact_by_default` finds out by computing, not by reading CPU flags.
"""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ptq.errors import ExportError, InputError, reason
from ptq.export.network_inputs import split_channels
from ptq.export.onnx_files import LAYER_OPS

__all__ = [
    "PRECISE",
    "KernelTime",
    "exact_by_default",
    "float_layers",
    "float_operators",
    "kernel_times",
    "latencies",
    "optimized",
    "output_names",
    "run",
    "run_all",
    "session",
]

PRECISE = ("session.x64quantprecision", "1")
FUSED = "fused "  # before the name of a linear layer that onnxruntime computes with the activation behind it
CONVERTING = (
    "QuantizeLinear",
    "Cast",
    "Transpose",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "Concat",
    "Split",
    "Slice",
    "Gather",
    "Pad",
    "DepthToSpace",
    "SpaceToDepth",
    "Expand",
)


REAL = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@cache
def exact_by_default() -> bool:
    """Whether onnxruntime's default kernels on this CPU sum uint8 x int8 products exactly."""
    depth = 64
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, depth])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])
    weight = helper.make_tensor("w", TensorProto.INT8, [depth, 16], [127] * (depth * 16))
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "probe", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    probe = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = probe.run(None, {"x": np.full((1, depth), 255, np.uint8)})
    return bool((sums == 255 * 127 * depth).all())


def session(
    path: Path | str,
    *,
    threads: int = 1,
    optimize: bool = True,
    precise: bool | None = None,
    profile: str | None = None,
) -> Any:
    """Open an ONNX file with onnxruntime on the CPU.

    Args:
        path: of the file.
        threads: of the pool that computes inside operators.
        optimize: all graph optimizations (integer kernels), or none (every operator by itself).
        precise: exact integer sums on CPUs whose default kernels saturate; None where they need it.
        profile: how the names of files begin that say what every kernel took.

    Raises:
        InputError: for a file that is not there.
        ExportError: for one that onnxruntime cannot load.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it raises says it again
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    # Threads of a session that waits for its turn would take the cores of the one that is measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not exact_by_default() if precise is None else precise:
        options.add_session_config_entry(*PRECISE)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return _open(path, options)


@dataclass(frozen=True)
class KernelTime:
    """A kernel that onnxruntime ran.

    Args:
        operator: what it computes, by onnxruntime's name.
        microseconds: the least of several runs.
    """

    operator: str
    microseconds: float


def kernel_times(models: Sequence[onnx.ModelProto], threads: int, runs: int) -> list[list[KernelTime]]:
    """Return the kernels of small models, in the order in which they run, all of them open at once and run in turns.

    Args:
        models: with inputs of fixed shapes, float or uint8.
        threads: of onnxruntime.
        runs: of each, after two to warm up.

    Raises:
        ExportError: for a model that onnxruntime cannot load.
    """
    found: list[list[KernelTime]] = []
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        opened, feeds = [], []
        for index, model in enumerate(models):
            path = Path(folder) / f"{index}.onnx"
            onnx.save(model, str(path))
            opened.append(session(path, threads=threads, profile=str(path.with_suffix(""))))
            feeds.append({one.name: _any_input(one.shape, one.type) for one in opened[-1].get_inputs()})
        for _ in range(runs + 2):
            for one, feed in zip(opened, feeds, strict=True):
                one.run(None, feed)
        for one in opened:
            events = json.loads(Path(one.end_profiling()).read_text(encoding="utf-8"))
            times: dict[tuple[str, str], list[float]] = {}
            for event in events:
                if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                    times.setdefault((event["name"], event["args"]["op_name"]), []).append(event["dur"])
            found.append([KernelTime(operator, min(each[2:])) for (_, operator), each in times.items()])
    return found


def _any_input(shape: Sequence[int], kind: str) -> NDArray[Any]:
    values = np.random.default_rng(0).standard_normal(shape)
    return values.astype(np.float32) if kind == "tensor(float)" else (128 + 40 * values).clip(0, 255).astype(np.uint8)


def _open(path: Path | str, options: Any) -> Any:
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}.")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ExportError(f"onnxruntime cannot load {path}: {reason(error)}") from error


def output_names(path: Path | str) -> list[str]:
    """Return what the outputs of a file are called, in its order."""
    return [output.name for output in session(path).get_outputs()]


def run(opened: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the only output of a file for normalized `images` (N, C, H, W).

    Raises:
        ExportError: when onnxruntime stops, as for images of another size.
    """
    (output,) = run_all(opened, images)
    return np.asarray(output)


def run_all(opened: Any, images: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return all outputs of a file for normalized `images` (N, C, H, W), in its order.

    The images of several inputs lie side by side along the channels.

    Raises:
        ExportError: when onnxruntime stops, as for images of another size.
    """
    try:
        inputs = opened.get_inputs()
        parts = split_channels(images, [one.shape[1] for one in inputs])
        feeds = {one.name: part for one, part in zip(inputs, parts, strict=True)}
        outputs: list[NDArray[Any]] = opened.run(None, feeds)
    except Exception as error:
        raise ExportError(f"onnxruntime stopped: {reason(error)}") from error
    return outputs


def latencies(
    networks: Mapping[str, Callable[[NDArray[np.float32]], Any]],
    image: NDArray[np.float32],
    runs: int = 30,
    of: Callable[[Sequence[float]], float] = statistics.median,
) -> dict[str, float]:
    """Return the milliseconds per run of each network, measured in turns.

    Turns, so that whatever else the machine does meets all of them alike, in random order, so that none always
    follows the same one. Before its time is taken a network runs once more, because the one before it has left
    its own weights in the caches.

    Args:
        networks: by name, e.g. ``partial(run, session(path))``.
        image: (1, C, H, W).
        runs: of each, after three to warm up.
        of: what counts of them: the median, or the least on a busy machine.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    order, shuffle = list(networks), random.Random(0).shuffle
    for turn in range(-3, runs):
        shuffle(order)
        for name in order:
            networks[name](image)
            start = time.perf_counter()
            networks[name](image)
            if turn >= 0:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: of(values) for name, values in times.items()}


def float_layers(graph: onnx.GraphProto) -> list[str]:
    """Return the names of convolutions, transposed or not, and matrix products that onnxruntime runs in float.

    They are those of the file; what onnxruntime fuses with a layer may stand behind its name and a slash.

    Args:
        graph: what onnxruntime made of a file (`optimized`): what quantization nodes did not fuse with is still there.
    """
    return [node.name.removeprefix(FUSED) for node in graph.node if _is_layer(node)]


def _is_layer(node: onnx.NodeProto) -> bool:
    """Whether a node is a layer, by itself or fused with the activation behind it."""
    return node.op_type.removeprefix("Fused") in LAYER_OPS


def float_operators(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the other operators that compute on real numbers in an `optimized` graph.

    What only moves or converts numbers does not count, nor does an integer product that gives real ones.
    """
    real = {value.name for value in (*graph.input, *graph.value_info) if value.type.tensor_type.elem_type in REAL}
    real -= {constant.name for constant in graph.initializer}  # scales
    return [
        node.name
        for node in graph.node
        if real.intersection(node.input) and not _is_layer(node) and node.op_type not in CONVERTING
    ]


def optimized(path: Path | str) -> onnx.GraphProto:
    """Return the graph that onnxruntime makes of a file, before it lays memory out for the processor.

    Raises:
        InputError: for a file that is not there.
        ExportError: for one that onnxruntime cannot load.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it raises says it again
        # One level below all: the last one renames float convolutions for a blocked layout.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        # Only the graph is wanted, and a file with its weights may not be above 2 GB.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        _open(path, options)
        return onnx.load(options.optimized_model_filepath, load_external_data=False).graph
