"""What several processes cost and bring: measured with one and two, and a model of it for four and eight.

    python -m benchmarks.growth DATA [--images 512] [--steps 60] [--iterations 150]

torchrun starts one process, then two, each with one thread and a core of its own. They synthesize images for CIFAR ResNet-20
and reconstruct it at W4A4 with these, in default settings but for fewer steps and iterations. The *ideal* is half of the time with twice the processes.
Two more seeds in one process show how far apart networks are that differ by nothing else.

The model of reconstruction: n processes take P/n + K (C(B/n) + M(n)) seconds. K is the number of iterations. C(b) is what one
iteration of all blocks takes with b images: a line through what one process takes with 32, 16, 8 and 4. P is the rest of the time of one process. M(n) is
what it takes to add up gradients, by the usual model of a ring: (n - 1) L + 2 (n - 1)/n S/W for every block, with S bytes. The latency L and
the bandwidth W are fitted to sums of several sizes, timed between two processes. A second network is assumed: 10 Gbit/s, 50 us.

DATA is described in benchmarks/networks.py. Writes results/growth.{json,md}. It needs two cores, on which nothing else runs, and takes some 5 minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks import networks
from benchmarks.rows import Rows, footer, write_rows
from ptq.calibration import CalibrationSet, calibrate, synthesis_preset, synthesize
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig, method_preset
from ptq.reconstruction.loop import reconstruct
from ptq.reconstruction.soft_modules import soften
from ptq.utils.digest import digest
from ptq.utils.environment import environment
from ptq.utils.metrics import kl_divergence
from ptq.utils.ranks import gathered, is_first, joined, rank, size
from ptq.utils.shares import add_up

T = TypeVar("T")
NETWORK = "resnet20"
BATCH = 32  # of reconstruction
BATCHES = (BATCH, 16, 8, 4)
SHORT, LONGER = 20, 120  # iterations: their difference is what iterations take
SIZES = (1 << 12, 1 << 16, 1 << 19, 1 << 22)  # bytes
SUMS = 30  # of each size
FEW = 64  # images where their number does not matter
JUDGED = 500  # test images
ETHERNET = (0.05, 8e3 / 10e9)  # ms, and ms a byte
PROCESSES = (1, 2, 4, 8)


def images(data: Path, count: int, steps: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Synthesize images with all processes; write them, and tell how long it took."""
    model = networks.load(NETWORK, data)
    config = synthesis_preset("default", model.preprocess, count=count, iterations=steps)
    few = synthesis_preset("default", model.preprocess, count=config.batch * size(), iterations=2)
    synthesize([model], few)  # warm up
    made, seconds = _timed(lambda: synthesize([model], config))
    if is_first():
        made.save(folder / "images.safetensors")
    yield {
        "what": f"{count} images, {steps} steps",
        "processes": size(),
        "seconds": seconds,
        "sha256": digest({"images": made.images}),
    }


def reconstruction(data: Path, iterations: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Reconstruct with all processes, and tell how long it took and how far the network is from float."""
    model = networks.load(NETWORK, data)
    inputs = model.preprocess.normalize(CalibrationSet.load(folder / "images.safetensors").floats())
    graph_model = prepare(model.module, model.preprocess.input_shape)
    plan = make_plan(graph_model, 4, 4)
    calibrated = insert_quantizers(graph_model, plan)
    calibrate(calibrated, inputs[:FEW], preprocess=model.preprocess, observer="mse")
    state = {name: value.clone() for name, value in calibrated.module.state_dict().items()}
    test = model.preprocess.normalize(networks.images(NETWORK, data, model).spaced(JUDGED)[0].float() / 255)
    preset = method_preset("qdrop", "default", model.preprocess.size)

    def run(seed: int = 0, count: int = len(inputs), **changes: Any) -> tuple[QuantizedModel, float]:
        quantized_model = insert_quantizers(graph_model, plan)
        quantized_model.module.load_state_dict(state)
        config = ReconstructConfig(**{**vars(preset), "iterations": iterations, "seed": seed, **changes})
        _, seconds = _timed(lambda: reconstruct(quantized_model, inputs[:count], config))
        return quantized_model, seconds

    run(count=FEW, iterations=2)  # warm up
    for seed in (0, 1, 2) if size() == 1 else (0,):
        quantized_model, seconds = run(seed)
        with torch.no_grad():
            kl = kl_divergence(graph_model.module(test), quantized_model.fake_quantized_forward(test))
        yield {
            "what": "reconstruction",
            "processes": size(),
            "seed": seed,
            "seconds": seconds,
            "kl": kl,
            "iterations": iterations,
        }
    if size() == 1:
        for batch in BATCHES:
            short, longer = (run(count=FEW, batch=batch, iterations=k)[1] for k in (SHORT, LONGER))
            yield {"what": "computing", "batch": batch, "ms": 1e3 * (longer - short) / (LONGER - SHORT)}
        yield _message(calibrated)
    else:
        for bytes_ in SIZES:
            values = [torch.ones(bytes_ // 4)]
            _sums(values, 5)
            _, seconds = _timed(partial(_sums, values, SUMS))
            yield {"what": "sum", "bytes": bytes_, "ms": 1e3 * seconds / SUMS}


def _sums(values: Sequence[torch.Tensor], count: int) -> None:
    for _ in range(count):
        add_up(values)


def _message(quantized_model: QuantizedModel) -> dict[str, Any]:
    """What processes add up in an iteration of each block, in bytes."""
    blocks = [soften(block.module, None) for block in quantized_model.split()]
    counts = [sum(p.numel() for p in block.parameters() if p.requires_grad) + 1 for block in blocks]
    return {"what": "message", "blocks": len(counts), "bytes": 4 * sum(counts)}


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work of all processes gives, and the seconds until the last is done."""
    gathered(None)
    started = time.perf_counter()
    made = work()
    gathered(None)
    return made, time.perf_counter() - started


def model(rows: Rows, n: int, link: tuple[float, float] | None = None) -> dict[str, float]:
    """What n processes take for reconstruction by the model: seconds, and ms of an iteration of all blocks.

    Args:
        rows: measured.
        n: processes; the batch must be one that was timed.
        link: ms of latency, and ms a byte; None for those of the rows.
    """
    start, an_image = computing(rows)
    alone = next(row for row in rows if row["what"] == "reconstruction" and row["processes"] == 1)
    message = next(row for row in rows if row["what"] == "message")
    latency, a_byte = link or fitted(rows)
    k, whole, share = alone["iterations"], start + BATCH * an_image, start + BATCH / n * an_image
    rest = max(0.0, alone["seconds"] - k * whole / 1e3)
    talk = message["blocks"] * latency * (n - 1) + message["bytes"] * a_byte * 2 * (n - 1) / n
    seconds = rest / n + k * (share + talk) / 1e3
    return {"computing": share, "talk": talk, "seconds": seconds, "share": alone["seconds"] / (n * seconds)}


def computing(rows: Rows) -> tuple[float, float]:
    """What an iteration of all blocks takes in ms whatever it computes, and what every image adds: a line through batches of several sizes."""
    timed = [row for row in rows if row["what"] == "computing"]
    an_image, start = np.polyfit([row["batch"] for row in timed], [row["ms"] for row in timed], 1)
    return float(start), float(an_image)


def fitted(rows: Rows) -> tuple[float, float]:
    """Latency in ms and ms a byte, of sums between two processes."""
    sums = sorted((row["bytes"], row["ms"]) for row in rows if row["what"] == "sum")
    (small, least), (large, most) = sums[0], sums[-1]
    a_byte = max(0.0, (most - least) / (large - small))
    return max(0.0, least - a_byte * small), a_byte


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Several processes\n"
    yield "Made by `python -m benchmarks.growth DATA`, which says what is measured. One thread and one core for each process.\n"
    yield "| what | processes | seconds | share of the ideal |"
    yield "| --- | --- | --- | --- |"
    timed = [row for row in rows if "seconds" in row and not row.get("seed")]
    for row in timed:
        alone = next(r for r in timed if r["what"] == row["what"] and r["processes"] == 1)
        share = alone["seconds"] / (row["processes"] * row["seconds"])
        what = f"{row['what']}, {row['iterations']} iterations" if "kl" in row else row["what"]
        yield f"| {what} | {row['processes']} | {row['seconds']:.1f} | {share:.2f} |"
    sets = {row["sha256"] for row in rows if "sha256" in row}
    yield f"\nThe images are {'the same, bit for bit' if len(sets) == 1 else 'not the same'}.\n"
    yield "| W4A4 | KL to float on test images |"
    yield "| --- | --- |"
    for row in (row for row in rows if "kl" in row):
        yield f"| {row['processes']} process{'es' * (row['processes'] > 1)}, seed {row['seed']} | {row['kl']:.5f} |"
    message = next(row for row in rows if row["what"] == "message")
    (latency, a_byte), found = fitted(rows), {row["processes"]: row["seconds"] for row in timed if "kl" in row}
    yield "\n## The model\n"
    yield (
        f"An iteration of all {message['blocks']} blocks adds up {message['bytes'] / 1e6:.2f} MB. Between two processes here a sum takes "
        f"{latency:.3f} ms and {a_byte * 1e6:.3f} ms a megabyte. An iteration of all blocks takes {computing(rows)[0]:.0f} ms, and "
        f"{computing(rows)[1]:.2f} ms an image.\n"
    )
    yield "| processes | computing, ms | adding up, ms | reconstruction, s | measured, s | share of the ideal | the same over 10 Gbit/s |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for n in PROCESSES:
        here, there = model(rows, n), model(rows, n, ETHERNET)
        measured = f"{found[n]:.1f}" if n in found else ""
        yield (
            f"| {n} | {here['computing']:.1f} | {here['talk']:.1f} | {here['seconds']:.1f} | {measured} | {here['share']:.2f} "
            f"| {there['share']:.2f} |"
        )
    yield footer(rows)


def _work(options: argparse.Namespace) -> None:
    """What torchrun starts: one part of the measurement, on one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    torch.set_num_threads(1)
    with joined():
        work = images(options.data, options.images, options.steps, options.to)
        if options.work == "reconstruction":
            work = reconstruction(options.data, options.iterations, options.to)
        found = list(work)
        if rank() == 0:
            (options.to / "rows.json").write_text(json.dumps(found))


def _started(work: str, processes: int, folder: Path) -> Rows:
    """The rows of one part of the measurement, by so many processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    given = [*sys.argv[1:], "--work", work, "--to", str(folder)]
    subprocess.run(
        [*torchrun, "-m", "benchmarks.growth", *given], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    rows: Rows = json.loads((folder / "rows.json").read_text())
    return [row | environment() for row in rows]


def main() -> None:
    """Measure and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--work", choices=("images", "reconstruction"), help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        _work(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for work in ("images", "reconstruction")
            for processes in (1, 2)
            for row in _started(work, processes, Path(folder))
        ]
    write_rows("growth", rows, page)
    print("\n".join(page(rows)))


if __name__ == "__main__":
    main()
