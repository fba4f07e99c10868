"""In steps of how many channels int8 convolutions of onnxruntime get faster: what the granule of pruning should be.

    python -m benchmarks.granule [--kernels 3,1] [--channels 32,36,...] [--size 28] [--runs 20]

Convolutions read and write as many channels. They are exported with 8 bits, and run in onnxruntime on one thread. Seconds are those of the processor,
the least of all runs: what else the machine does is not in them. Where a number of channels takes as long as the next multiple of a granule, channels
between the two are free, and removing some of them brings nothing.

Rows are added to results/granule.json as they are finished. results/granule.md is made from it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from benchmarks.rows import add_rows, footer
from ptq.calibration import calibrate
from ptq.export import export_qdq
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.utils.environment import environment

KEYS = ("kernel", "size", "channels")
DEEP = 4  # convolutions in the file: what is around them does not count


def measure(kernel: int, channels: int, size: int, runs: int) -> dict[str, Any]:
    """Processor milliseconds of one convolution for one image."""
    torch.manual_seed(0)
    layers = [[nn.Conv2d(channels, channels, kernel, padding=kernel // 2), nn.ReLU()] for _ in range(DEEP)]
    network = nn.Sequential(*(layer for pair in layers for layer in pair)).eval()
    graph_model = prepare(network, (channels, size, size))
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 8))
    x = torch.rand(2, channels, size, size)
    calibrate(quantized_model, x)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_qdq(quantized_model, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(x[:1].numpy())}
    session.run(None, feed)
    times = []
    for _ in range(runs):
        started = time.process_time()
        session.run(None, feed)
        times.append(time.process_time() - started)
    macs = channels**2 * kernel**2 * size**2
    milliseconds = 1e3 * min(times) / DEEP
    return {
        "kernel": kernel,
        "size": size,
        "channels": channels,
        "milliseconds": round(milliseconds, 4),
        "gmacs_per_second": round(macs / milliseconds / 1e6, 2),
        **environment(),
    }


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page: a table per kernel."""
    yield "# Steps in which int8 convolutions get faster"
    yield "\nMade by `python -m benchmarks.granule`."
    for kernel, size in sorted({(r["kernel"], r["size"]) for r in rows}):
        mine = sorted((r for r in rows if (r["kernel"], r["size"]) == (kernel, size)), key=lambda r: r["channels"])
        yield f"\n## {kernel}x{kernel}, {size}x{size} pixels, as many channels in as out\n"
        yield "| channels | milliseconds | billion multiply-accumulates in a second |\n| --- | --- | --- |"
        for r in mine:
            yield f"| {r['channels']} | {r['milliseconds']:.3f} | {r['gmacs_per_second']:.1f} |"
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default="3,1")
    parser.add_argument("--channels", default="32,36,40,44,48,52,56,60,64,72,80,88,96,112,128")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    for kernel in map(int, options.kernels.split(",")):
        for channels in map(int, options.channels.split(",")):
            row = measure(kernel, channels, options.size, options.runs)
            add_rows("granule", [row], KEYS, page)
            print(json.dumps({key: row[key] for key in (*KEYS, "milliseconds", "gmacs_per_second")}), flush=True)


if __name__ == "__main__":
    main()
