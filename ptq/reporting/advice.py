"""What a finished run means to who reads its report: whether the file can be used, and what to do next."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ptq.config.choices import MAX_BITS
from ptq.config.settings import Settings
from ptq.reporting.report import Report
from ptq.utils.units import number_text, short_text

__all__ = ["Badge", "Step", "badges", "lost", "next_steps"]

KEPT = 1.0  # points of top-1 that nobody would quantize again for; the checks allow as much between simulation and file
MUCH = 10.0  # beyond it a file is of no use to most


@dataclass(frozen=True)
class Badge:
    """A judgment in a few words.

    Args:
        state: "passed", "warned", "failed" or "unknown".
        text: for people.
    """

    state: str
    text: str


@dataclass(frozen=True)
class Step:
    """Something to do.

    Args:
        text: what, and why.
        command: a line of shell for it, or "".
    """

    text: str
    command: str = ""


def lost(report: Report) -> float | None:
    """Return the points of top-1 that the file has less than float; None without labels."""
    top1 = report.validation.top1
    return top1["float"] - top1["onnx"] if {"float", "onnx"} <= top1.keys() else None


def badges(report: Report) -> list[Badge]:
    """Return two judgments: on the file, which can be right and inaccurate, and on its accuracy."""
    failed, count = len(report.validation.failed), len(report.validation.checks)
    if failed:
        return [Badge("failed", f"file: failed {failed} of {count} checks"), _accuracy(report)]
    return [Badge("passed", f"file: passed all {count} checks"), _accuracy(report)]


def _accuracy(report: Report) -> Badge:
    points = lost(report)
    if points is None:
        return Badge("unknown", "accuracy: not measured")
    state = "passed" if points <= KEPT else "warned" if points <= MUCH else "failed"
    text = f"{number_text(points)} points lost" if round(points, 2) > 0 else "nothing lost"
    return Badge(state, f"accuracy: {text}")


def next_steps(report: Report, folder: str) -> list[Step]:
    """Return what to do next, the most useful first.

    Args:
        report: of the run.
        folder: the run directory, as commands take it.
    """
    run = shlex.quote(folder)
    if report.validation.failed:
        return [*_after_failure(report.validation.failed, run)]
    points = lost(report)
    steps = [*_for_accuracy(report.settings, run)] if points is None or points > KEPT else []
    if points is None:
        data = "Measure accuracy on labeled images: a network that agrees with float on calibration images may have "
        return [Step(f"{data}lost points on others.", f"ptq validate {run} --data DIR"), *steps[:1]]
    if points > KEPT:
        return steps
    return [*_to_use(report, folder)]


def _after_failure(failed: Sequence[str], run: str) -> Iterator[Step]:
    if all(line.startswith("the file is slower") for line in failed):
        yield Step(
            "The file computes what it should; only its speed is in doubt. Measure again when nothing else runs on "
            "this machine.",
            f"ptq validate {run}",
        )
    else:
        yield Step(
            "Do not use this file: make it again. Where that fails as well, onnxruntime computes something else than "
            "it should, which is worth a report."
        )


def _for_accuracy(settings: Settings, run: str) -> Iterator[Step]:
    """What gives points back, the cheapest first."""
    bits, activations = settings.quantization.bits, settings.quantization.act_bits
    if activations < MAX_BITS:
        yield Step(f"Leave out --act-bits {activations}: 8 bits for activations cost neither time nor space.")
    if settings.execution.preset == "fast" and bits < MAX_BITS:
        yield Step("Give it time: --preset default has more images and more iterations.")
    if bits < 4:
        yield Step(f"Take --bits 4: {bits} are few for weights.")
    if bits < MAX_BITS:
        yield Step(
            "Give the layers that cost most 8 bits for their weights: this names them, with their options.",
            f"ptq inspect {run}",
        )
    if settings.calibration.images == "noise":
        yield Step("Leave out --images noise: synthesized images are better.")
    elif bits == MAX_BITS and activations == MAX_BITS:
        yield Step("Calibrate with real images, if you may use any: --images DIR; no labels are needed.")


def _to_use(report: Report, folder: str) -> Iterator[Step]:
    takes = report.model.preprocess
    height, width = takes.size
    words = f"{width}×{height} pixels RGB in [0, 1], less {_channels(takes.mean)}, over {_channels(takes.std)}"
    yield Step(f"Use {folder}/model.onnx. It takes float32 (N, 3, height, width): {words}.")
    if report.settings.quantization.bits > 4:
        yield Step("For a smaller file, as fast, try --bits 4.")


def _channels(values: Sequence[float]) -> str:
    shown = [short_text(value) for value in values]
    return shown[0] if len({*shown}) == 1 else f"({', '.join(shown)})"
