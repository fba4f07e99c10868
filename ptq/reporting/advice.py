"""What a finished run means to who reads its report: whether the file can be used, and what to do next."""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ptq.analysis.distributions import LayerDistribution
from ptq.config.bit_budget import bit_budget
from ptq.config.budgets import parse_factor, parse_share
from ptq.config.choices import MAX_BITS, REDUCED_BITS, UNIVERSAL
from ptq.config.flat_options import command
from ptq.config.settings import Settings
from ptq.export.results import OWN_METRIC, PRUNED_PREDICTIONS, SAME_PREDICTIONS, SPEED, Validation
from ptq.reporting.report import Report
from ptq.reporting.text import agreement_name
from ptq.utils.units import number_text, percent_text, short_text

__all__ = ["Badge", "Step", "badges", "file_badge", "lost", "next_steps", "remedy"]

KEPT = 1.0  # points of top-1 that nobody would quantize again for; the checks allow as much between simulation and file
WORST = 3  # layers that are named
_PREDICTIONS = (SAME_PREDICTIONS, PRUNED_PREDICTIONS)
_OF_RIGHT_FILES = (*_PREDICTIONS, OWN_METRIC)
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
    return [file_badge(report.validation), _accuracy(report)]


def file_badge(measured: Validation) -> Badge:
    """Return the judgment on a file: whether it is right."""
    failed, count = len(measured.failed), len(measured.checks)
    if failed:
        return Badge("failed", f"file: failed {failed} of {count} checks")
    return Badge("passed", f"file: passed all {count} checks")


def _accuracy(report: Report) -> Badge:
    points = lost(report)
    if points is None:
        if _lost_too_much(report):
            return Badge(
                "failed",
                f"accuracy: {agreement_name(report.validation)} {percent_text(report.validation.agreement['onnx'])}",
            )
        for name, figures in report.validation.metrics.items():
            return Badge("unknown", f"{name}: {number_text(figures['onnx'])}, float {number_text(figures['float'])}")
        return Badge("unknown", "accuracy: not measured")
    state = "passed" if points <= KEPT else "warned" if points <= MUCH else "failed"
    text = f"{number_text(points)} points lost" if round(points, 2) > 0 else "nothing lost"
    return Badge("failed" if _lost_too_much(report) else state, f"accuracy: {text}")


def _lost_too_much(report: Report) -> bool:
    return any(check.name in _PREDICTIONS and not check.passed for check in report.validation.checks)


def remedy(settings: Settings, layers: Sequence[LayerDistribution]) -> str:
    """Return what to do about a network that has lost its predictions, in sentences for a message.

    Args:
        settings: of the run.
        layers: those that lose most, the worst first.
    """
    first = list(_against_loss(settings, layers, shlex.quote(settings.output.folder)))[:2]
    return " ".join(f"{step.text} ({step.command})" if step.command else step.text for step in first)


def next_steps(report: Report, folder: str) -> list[Step]:
    """Return what to do next, the most useful first.

    Args:
        report: of the run.
        folder: the run directory, as commands take it.
    """
    run = shlex.quote(folder)
    if report.validation.failed:
        return [*_after_failure(report, run)]
    points = lost(report)
    steps = [*_for_accuracy(report.settings, run)] if points is None or points > KEPT else []
    mixed = [*_mixed(report)]
    if points is None:
        return [*_to_measure(report, run), *steps[:1], *mixed]
    if points > KEPT:
        return [*steps, *mixed]
    return [*_to_use(report, folder)]


def _to_measure(report: Report, run: str) -> Iterator[Step]:
    """Labels are of classes; everything else has a metric of its own."""
    why = "a network that agrees with float on calibration images may have lost points on others."
    kinds = {output.kind for output in report.validation.outputs}
    if "classify" in kinds or not kinds:
        yield Step(f"Measure accuracy on labeled images: {why}", f"ptq validate {run} --data DIR")
    elif not report.validation.metrics:
        yield Step(
            f"Measure accuracy with a metric of your own, which is given predict(images): {why}",
            f"ptq validate {run} --metric FILE.py:function",
        )


def _after_failure(report: Report, run: str) -> Iterator[Step]:
    failed = [check.name for check in report.validation.checks if not check.passed]
    if any(name not in _OF_RIGHT_FILES and not name.startswith(SPEED) for name in failed):
        yield Step(
            "Do not use this file: make it again. Where that fails as well, onnxruntime computes something else than "
            "it should, which is worth a report."
        )
    elif PRUNED_PREDICTIONS in failed:
        yield Step(
            "This is no success: the file computes what it should, but the network has lost too much by pruning."
        )
        yield from _fewer_channels(report.settings)
    elif SAME_PREDICTIONS in failed:
        yield Step("This is no success: the file computes what it should, but the network has lost too much by it.")
        yield from _against_loss(report.settings, report.worst_layers, run)
    elif OWN_METRIC in failed:
        yield Step(
            "The file computes what it should; only your metric is not measured. Mend it, and measure again.",
            f"ptq validate {run} --metric FILE.py:function",
        )
    else:
        yield Step(
            "The file computes what it should; only its speed is in doubt. Measure again when nothing else runs on "
            "this machine.",
            f"ptq validate {run}",
        )


def _against_loss(settings: Settings, layers: Sequence[LayerDistribution], run: str) -> Iterator[Step]:
    """More bits for the layers that lose most, or none where they have all; then what else gives points back."""
    most = REDUCED_BITS if settings.quantization.reduce_range else MAX_BITS
    few = [layer for layer in layers if layer.bits < most]
    if names := [layer.name for layer in (few or layers)[:WORST]]:
        given = {**settings.quantization.layers, **dict.fromkeys(names, most if few else None)}
        changed = replace(settings, quantization=replace(settings.quantization, layers=given))
        what = (
            f"Give the layers that lose most {most} bits for their weights"
            if few
            else "Leave the layers that lose most in float"
        )
        yield Step(f"{what}: {', '.join(names)}.", command(changed))
    yield from _for_accuracy(settings, run)


def _fewer_channels(settings: Settings) -> Iterator[Step]:
    """A budget in the middle between the one that was asked for and the whole network."""
    pruning = settings.pruning
    if pruning.macs is not None:
        less = replace(pruning, macs=f"{math.sqrt(parse_factor(pruning.macs)):.3g}x")
    elif pruning.parameters is not None:
        less = replace(pruning, parameters=f"{50 * (1 + parse_share(pruning.parameters)):.3g}%")
    else:
        yield Step("Remove fewer channels: give --prune-to more time.")
        return
    yield Step("Remove fewer channels.", command(replace(settings, pruning=less)))


def _for_accuracy(settings: Settings, run: str) -> Iterator[Step]:
    """What gives points back, the cheapest first."""
    if settings.pruning.budget is not None:
        yield from _fewer_channels(settings)
    bits, activations = settings.quantization.bits, settings.quantization.act_bits
    if activations == "auto" or activations < MAX_BITS:
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
    elif settings.calibration.images == UNIVERSAL:
        yield Step("Leave out --images universal where the network has BatchNorm, for images of its own.")
    elif bits == MAX_BITS and activations == MAX_BITS:
        yield Step("Calibrate with real images, if you may use any: --images DIR; no labels are needed.")


def _mixed(report: Report) -> Iterator[Step]:
    """The same bytes with bits of its own for every layer, where weights are packed."""
    settings, size = report.settings, report.validation.size_bytes.get("onnx")
    if report.alternative is not None and not report.alternative.better:
        return
    if size is None or report.validation.format != "packed" or bit_budget(settings.quantization) is not None:
        return
    output = replace(settings.output, folder=f"{settings.output.folder}-mixed")
    quantization = replace(settings.quantization, bits=MAX_BITS, max_size=f"{size}B")
    yield Step(
        "Give every layer bits of its own, in a file of the same size.",
        command(replace(settings, quantization=quantization, output=output)),
    )


def _to_use(report: Report, folder: str) -> Iterator[Step]:
    takes = report.model.preprocess
    height, width = takes.size
    kinds = takes.channels.split(",")
    words = f"{width}×{height} pixels {' and '.join(kinds)} in [0, 1], less {_channels(takes.mean)}, over {_channels(takes.std)}"
    shapes = " and ".join(f"(N, {len(kind)}, height, width)" for kind in kinds)
    yield Step(f"Use {folder}/model.onnx. It takes float32 {shapes}: {words}.")
    if report.settings.quantization.bits > 4 and bit_budget(report.settings.quantization) is None:
        yield Step("For a smaller file, as fast, try --bits 4.")


def _channels(values: Sequence[float]) -> str:
    shown = [short_text(value) for value in values]
    return shown[0] if len({*shown}) == 1 else f"({', '.join(shown)})"
