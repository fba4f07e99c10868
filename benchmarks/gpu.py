"""What a GPU makes of ptq: the tests, the kernels, synthesis, reconstruction, a whole run, and whether all repeats bit for bit.

    python -m benchmarks.gpu [--device cuda] [--small] [--stages tests,kernels,synthesis,reconstruction,run,repetition]

Needs nothing from the network: weights are random, from a seed. Below 8 minutes on one GPU. `--small` is a check of this file, on a
CPU if need be: small networks, few images, and its numbers say nothing.

    tests           the tests that need a GPU
    kernels         each kernel against the same in plain torch, and the bytes it moves over what a copy moves in that time
    synthesis       images a second, and the share of the time in which the GPU computes
    reconstruction  W4A4 with 1,024 images: iterations a second over forward and backward of the float network on as many images
    run             `ptq quantize` from synthesis to the checked file
    repetition      the same images and the same codes twice, with the same seed

A stage that fails says why, and the others go on. Rows are added to results/gpu.json as they are finished. results/gpu.md is made from it.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.gpu_clock import milliseconds, peak, share_busy
from benchmarks.rows import Rows, add_rows, footer
from ptq.calibration import calibrate, synthesis_preset, synthesize
from ptq.graph.preparation import GraphModel, prepare
from ptq.models.model import Model, as_model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.kernels import functions, reference
from ptq.reconstruction.loop import reconstruct
from ptq.utils.autocast import fast_autocast
from ptq.utils.environment import environment

KEYS = ("stage", "what", "small")
TESTS = ("tests/reconstruction/test_fused_triton.py", "tests/reconstruction/test_kernels.py", "tests/test_devices.py")
NETWORKS = {"resnet50": torchvision.models.resnet50, "mobilenet_v2": torchvision.models.mobilenet_v2}


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Args:
        device: where it runs.
        small: only to see that it runs.
        side: of the images, pixels.
        images: to reconstruct with.
        made: images to synthesize.
        iterations: of reconstruction, for a block.
        numbers: in a tensor of the kernels.
    """

    device: torch.device
    small: bool = False
    side: int = 224
    images: int = 1024
    made: int = 128
    iterations: int = 100
    numbers: tuple[int, int, int, int] = (32, 256, 56, 56)

    @property
    def networks(self) -> dict[str, Callable[[], nn.Module]]:
        return {"resnet18": torchvision.models.resnet18} if self.small else dict(NETWORKS)


def small(device: torch.device) -> Scale:
    """What runs on a CPU in a minute."""
    return Scale(device, True, side=32, images=16, made=4, iterations=2, numbers=(4, 8, 8, 8))


def tests(scale: Scale) -> Iterator[dict[str, Any]]:
    """The tests that run on a GPU where there is one, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *TESTS]
    done = subprocess.run(command, capture_output=True, text=True)
    yield {"what": "tests", "code": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def kernels(scale: Scale) -> Iterator[dict[str, Any]]:
    """Milliseconds of every kernel, of the reference, and of a copy that moves as many bytes."""
    device, dtype = scale.device, torch.bfloat16
    x, grad = (torch.randn(scale.numbers, device=device).to(dtype) for _ in range(2))
    keep = (torch.rand(scale.numbers, device=device) > 0.5).to(torch.uint8)
    step, grid = torch.tensor(0.1, device=device), torch.tensor([0.0, 6.0, 0.0, 15.0], device=device)
    base, alpha, slope = (torch.randn(scale.numbers, device=device) for _ in range(3))
    widths = torch.rand(scale.numbers[0], 1, 1, 1, device=device) + 0.1
    sharp = torch.tensor(3.0, device=device)
    calls: dict[str, tuple[Callable[[Any], object], tuple[Tensor, ...]]] = {
        "quantize, forward": (lambda k: k.quantize_forward(x, keep, step, grid), (x, keep, x)),
        "quantize, backward": (lambda k: k.quantize_backward(grad, x, keep, step, grid), (grad, x, keep, x)),
        "round, forward": (lambda k: k.round_forward(base, alpha, widths, sharp, -8, 7), (base, alpha, base)),
        "round, backward": (
            lambda k: k.round_backward(slope, base, alpha, widths, sharp, -8, 7),
            (slope, base, alpha, base),
        ),
        "error, forward": (lambda k: k.error_forward(x, grad, None), (x, grad)),
        "error, backward": (lambda k: k.error_backward(x, grad, None, step), (x, grad, x)),
    }
    for name, (call, touched) in calls.items():
        moved = sum(t.numel() * t.element_size() for t in touched)
        source = torch.empty(moved // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        fused = functions.implementation(x)
        yield {
            "what": name,
            "implementation": fused.__name__.rpartition(".")[2],
            "ms": milliseconds(partial(call, fused), device),
            "ms_reference": milliseconds(partial(call, reference), device),
            "ms_copy": milliseconds(partial(target.copy_, source), device),
            "bytes": moved,
        }


def synthesis(scale: Scale) -> Iterator[dict[str, Any]]:
    """Images a second of the default preset, and how long the GPU computes in a second."""
    for name in scale.networks:
        model = network(scale, name)
        config = synthesis_preset("default", model.preprocess, count=scale.made)
        if scale.small:
            config = replace(config, iterations=4)
        started = time.perf_counter()
        synthesize([model], config, device=scale.device)
        seconds = time.perf_counter() - started
        short = synthesis_preset("default", model.preprocess, count=config.batch, iterations=10)
        busy = share_busy(partial(synthesize, [model], short, device=scale.device), scale.device)
        yield {
            "what": name,
            "images": scale.made,
            "images_per_second": scale.made / seconds,
            "busy": busy,
            **peak(scale.device),
        }


def reconstruction(scale: Scale) -> Iterator[dict[str, Any]]:
    """Iterations a second of all blocks together, over the float network's forward and backward on the same batches."""
    for name in scale.networks:
        images = torch.rand(scale.images, 3, scale.side, scale.side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        quantized_model = quantized(scale, name, images)
        config = method_preset("qdrop", "default", (scale.side, scale.side))
        started = time.perf_counter()
        results = reconstruct(quantized_model, images, config)
        seconds = time.perf_counter() - started
        whole = milliseconds(float_pass(scale, name, images[: config.batch]), scale.device)
        tuned = sum(r.seconds for r in results)
        yield {
            "what": name,
            "blocks": len(results),
            "iterations": scale.iterations,
            "seconds": seconds,
            # All blocks once are one pass through the network.
            "ms_iteration_of_all_blocks": 1e3 * tuned / scale.iterations,
            "ms_float_pass": whole,
            "images": scale.images,
            **peak(scale.device),
        }


def run(scale: Scale) -> Iterator[dict[str, Any]]:
    """`ptq quantize` with random weights, in a process of its own."""
    name = next(iter(scale.networks))
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        save_file(network(scale, name).module.state_dict(), weights)
        options = ["--bits", "4", "--act-bits", "4", "--preset", "fast" if scale.small else "default"]
        options += ["--device", str(scale.device), "--out", str(Path(folder) / "run"), "--weights", str(weights)]
        if scale.small:
            options += ["--images", "noise", "--size", str(scale.side), "--method", "nearest"]
        started = time.perf_counter()
        command = [sys.executable, "-m", "ptq", "quantize", "--model", name, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        yield {"what": name, "code": done.returncode, "seconds": time.perf_counter() - started, "said": said}


def repetition(scale: Scale) -> Iterator[dict[str, Any]]:
    """Images and codes of two runs with one seed."""
    name = next(iter(scale.networks))
    model = network(scale, name)
    config = synthesis_preset("fast", model.preprocess, count=8, batch=8, iterations=4 if scale.small else 20)
    one, other = (synthesize([model], config, device=scale.device).images for _ in range(2))
    yield {"what": "images", "equal": torch.equal(one, other)}
    images = one.float() / 127.5 - 1
    states = []
    for _ in range(2):
        quantized_model = quantized(scale, name, images)
        method = method_preset("qdrop", "default", (scale.side, scale.side))
        reconstruct(quantized_model, images, replace(method, iterations=4 if scale.small else 10, batch=4))
        states.append(quantized_model.module.state_dict())
    same = all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    yield {"what": "roundings and scales", "equal": same}


STAGES: dict[str, Callable[[Scale], Iterator[dict[str, Any]]]] = {
    "tests": tests,
    "kernels": kernels,
    "synthesis": synthesis,
    "reconstruction": reconstruction,
    "run": run,
    "repetition": repetition,
}


def network(scale: Scale, name: str) -> Model:
    """A network with random weights, whose BatchNorms know what it gives on noise."""
    torch.manual_seed(0)
    module = scale.networks[name]().to(scale.device).train()
    with torch.no_grad():
        for _ in range(10):
            module(torch.randn(8, 3, scale.side, scale.side, device=scale.device))
    return as_model(module.cpu().eval(), size=scale.side, mean=(0.5,) * 3, std=(0.5,) * 3)


def float_model(scale: Scale, name: str) -> GraphModel:
    """The prepared network on the device."""
    graph_model = prepare(network(scale, name).module, (3, scale.side, scale.side))
    graph_model.module.to(scale.device)
    return graph_model


def quantized(scale: Scale, name: str, images: Tensor) -> QuantizedModel:
    """A calibrated network at W4A4 on the device."""
    graph_model = float_model(scale, name)
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 4, 4))
    quantized_model.module.to(scale.device)
    return calibrate(quantized_model, images[:64].to(scale.device))


def float_pass(scale: Scale, name: str, images: Tensor) -> Callable[[], object]:
    """Forward and backward of the float network, in the precision of reconstruction."""
    graph = copy.deepcopy(float_model(scale, name).module).requires_grad_().to(memory_format=torch.channels_last)
    x = images.to(scale.device, memory_format=torch.channels_last)
    weights = [p for p in graph.parameters() if p.dim() > 1]

    def once() -> object:
        with torch.enable_grad():
            with fast_autocast(scale.device):
                loss = graph(x).float().square().mean()
            return torch.autograd.grad(loss, weights)

    return once


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page: a table for each stage."""
    yield "# What a GPU makes of ptq"
    yield "\nMade by `python -m benchmarks.gpu`, which says what is measured. A stage that failed says why."
    for stage in (stage for stage in STAGES if any(r["stage"] == stage for r in rows)):
        mine = [r for r in rows if r["stage"] == stage]
        shown = list(dict.fromkeys(k for r in mine for k in r if k not in ("stage", "versions", "machine")))
        yield f"\n## {stage}\n\n| {' | '.join(shown)} |\n|{' --- |' * len(shown)}"
        for r in mine:
            yield f"| {' | '.join(_cell(r.get(k)) for k in shown)} |"
    yield footer(rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "/").replace("\n", " ")


def main() -> None:
    """Run the stages that the command line names, and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--stages", default=",".join(STAGES))
    options = parser.parse_args()
    device = torch.device(options.device)
    scale = small(device) if options.small else Scale(device)
    card = {"card": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    failed = False
    for stage in options.stages.split(","):
        found: Rows = []
        try:
            found += STAGES[stage](scale)
        except Exception as error:  # the other stages shall be measured all the same
            traceback.print_exc()
            found.append({"what": "error", "said": f"{type(error).__name__}: {error}"})
        failed |= any("error" in r["what"] or r.get("code") or r.get("equal") is False for r in found)
        rows = [{"stage": stage, "small": options.small, **card, **row, **environment()} for row in found]
        add_rows("gpu", rows, KEYS, page)
        for row in found:
            print(stage, row, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
