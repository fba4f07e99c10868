"""What must hold of an exported file: every check is a function here, and stands in `CHECKS`.

A check looks at what was found out about the file (`Evidence`) and gives its answer, or several (one per other
runtime, say), or none where what it needs was not found out.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from ptq.config.choices import Runtime
from ptq.export import ort
from ptq.export.comparison import Comparisons
from ptq.export.onnx_files import QuantizedFile
from ptq.export.results import AS_GOOD, PRUNED_PREDICTIONS, SAME_PREDICTIONS, SPEED, Check, Exact
from ptq.export.stepwise import Stepwise
from ptq.quantization.quantized_model import QuantizedModel

__all__ = ["ATTEMPTS", "CHECKS", "Evidence", "not_slower", "run_checks"]

# Decibels; equal but for the rounding of float32 in the last layer.
EQUAL_DB = 100.0
# Of float operators, whose sums are in another order; a share of the largest output.
FLOAT_NOISE = 1e-5
# Decibels; equal but for such noise in the operators behind the last codes.
FLOAT_DB = 60.0
# The share of a tensor's codes that such noise flips: those within it of the middle between two of 256 codes.
FLIPPED = 2 * 255 * FLOAT_NOISE
# Percent of the images on which a network must predict what the float one predicts, and of what another task counts. Half of them at any bits: of float's
# accuracy, networks that work keep 84 % and more down to W2A4, EfficientNet-Lite0 at W2A4 keeps 21 %, and calibrated with
# noise 32 to 51 % (docs/measured/datafree.md). And where nothing has fewer than 7 bits, where EfficientNet-Lite0 agrees
# on 98 % (docs/measured/accuracy.md).
COLLAPSED = 50.0
FAITHFUL, FAITHFUL_BITS = 90.0, 7
# On fewer images on which float is sure (`ptq.tasks.kinds`) nothing can be said.
FEWEST = 16
# Standard errors by which scores differ where nothing but chance does.
CHANCE = 2.0
# Times that latency is measured before a file counts as slow.
ATTEMPTS = 3
# By which a file may be slower before it counts: medians of a busy machine differ by that.
MARGIN = 1.1
# Milliseconds that do not count: what the operators of a tiny network take to be called.
LAUNCH = 0.1

FEWER_CHANNELS = "Remove fewer channels, or take more images or better ones."
UNKNOWN = "the file was changed, or onnxruntime has a kernel that ptq does not know"
_BASELINES = {
    "float": "the float network",
    "pruned": "the pruned float network",
    "quantize_static": "onnxruntime's quantize_static",
}
_OTHERS = {
    "onnx_unoptimized": ("the unoptimized one", "as without onnxruntime's optimizations"),
    "simulated": ("the simulation", "as the simulation"),
    **{name: (name, f"in {name}") for name in get_args(Runtime)},
}
"""What is compared with the optimized file, and in words."""


@dataclass(frozen=True)
class Evidence:
    """What was found out about a file.

    Attributes:
        file: what it says.
        quantized_model: what it was exported from, where that is at hand.
        float_layers: names of the layers that onnxruntime runs in float.
        float_operators: names of the other operators that it runs in float.
        outputs: how those compare of "onnx" and, as far as they ran, "onnx_unoptimized", "simulated", "float", "pruned" and the
            other runtimes; None where nothing ran.
        tolerance: points of top-1 or agreement by which those may differ that compute the same network.
        exact: how outputs compare with exact integer arithmetic.
        stepwise: compares file and simulation step by step; called where outputs alone do not tell.
        latency_ms: of "onnx" and the baselines.
        remedy: what to do where predictions are not those of float, in sentences.
    """

    file: QuantizedFile
    quantized_model: QuantizedModel | None = None
    float_layers: Sequence[str] = ()
    float_operators: Sequence[str] = ()
    outputs: Comparisons | None = None
    tolerance: float = 1.0
    exact: Exact | None = None
    stepwise: Callable[[], Stepwise] | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    remedy: str = "Give layers more bits: ptq inspect names those that cost most."


def run_checks(evidence: Evidence) -> tuple[Check, ...]:
    """Return the answers of all checks that a file has use for, those that failed among them.

    Example:
        >>> path = ptq.export_qdq(quantized_model, "model.onnx")
        >>> [check.name for check in run_checks(Evidence(QuantizedFile(path))) if not check.passed]
        []
    """
    quantized = evidence.quantized_model is not None or len(evidence.file.layers()) > len(evidence.file.unquantized())
    asked = CHECKS if quantized else [check for check in CHECKS if check not in OF_INTEGERS]
    return tuple(answer for check in asked for answer in check(evidence))


def biases_on_the_accumulator_grid(evidence: Evidence) -> Iterator[Check]:
    """An int32 bias is added to sums of products of codes: it must count in steps of scale_x * scale_w."""
    wrong = evidence.file.wrong_bias_scales()
    failure = f"the bias scale is not scale_x * scale_w in {_some(wrong)}; export again." if wrong else ""
    yield Check("biases lie on the grid scale_x · scale_w", _where(evidence.file, wrong), failure)


def weight_scales_along_output_channels(evidence: Evidence) -> Iterator[Check]:
    """onnxruntime does not look at the axis; the standard and other runtimes do."""
    wrong = evidence.file.wrong_axes()
    failure = f"the scales of the weight lie along the wrong axis in {_some(wrong)}; export again." if wrong else ""
    yield Check("weight scales lie along the output channels", _where(evidence.file, wrong), failure)


def planned_layers_are_quantized(evidence: Evidence) -> Iterator[Check]:
    """The exporter forgot no layer."""
    if evidence.quantized_model is None:
        return
    # Those that compute in float, since that is faster, have codes for their weights alone.
    unread = sum(layer.input_quantizer is None for layer in evidence.quantized_model.layers().values())
    planned = len(evidence.quantized_model.plan.weights) - unread
    quantized = len(evidence.file.layers()) - len(evidence.file.unquantized())
    failure = (
        f"{planned - quantized} layers that the plan quantizes are float in the file." if quantized < planned else ""
    )
    answer = f"{quantized} in the file, {planned} planned"
    answer += f"; {unread} more compute in float" if unread else ""
    yield Check("the file quantizes the layers that the plan says", answer, failure)


def quantized_layers_run_in_integers(evidence: Evidence) -> Iterator[Check]:
    """onnxruntime found a kernel for every layer whose weight and input are integers in the file, if it has one."""
    unquantized = evidence.file.unquantized()
    quantized = len(evidence.file.layers()) - len(unquantized)
    # What onnxruntime fuses with a layer is written behind its name.
    known = (*unquantized, *evidence.file.without_kernel())
    slow = [n for n in evidence.float_layers if not any(n == u or n.startswith(f"{u}/") for u in known)]
    failure = f"onnxruntime runs {_some(slow)} in float although quantized in the file." if slow else ""
    name = "onnxruntime runs every quantized layer in integers"
    yield Check(name, f"{len(slow)} of {quantized} quantized layers run in float", failure)


def same_accuracy(evidence: Evidence) -> Iterator[Check]:
    """What computes the same network must score the same.

    A score is top-1 or, without labels, how much a network agrees with the float one; of several outputs the worst.
    Without either, outputs are compared with each other.

    Without optimizations onnxruntime sums in float what the file has in integers. Codes that are flipped by that flip others, and of
    MobileNetV2's predictions 1 % or more change. So where the file's numbers are the simulation's, scores may differ by as much
    as so many other predictions make by chance.
    """
    if (outputs := evidence.outputs) is None:
        return
    scores, tolerance, measure = outputs.top1, evidence.tolerance, "top-1"
    if not scores and "float" in outputs.names:
        measure = "agreement with float"
        scores = {name: outputs.agreement(name, "float") for name in outputs.names}
    for other, (called, as_good_as) in _OTHERS.items():
        if other not in outputs.names:
            continue
        if scores:
            apart = abs(scores["onnx"] - scores[other])
            measured = f"{measure} {scores['onnx']:.2f} and {scores[other]:.2f} %"
        else:
            measure, apart = "predictions", 100.0 - outputs.agreement(other, "onnx")
            measured = f"other predictions for {apart:.2f} % of the images"
        limit, failure = tolerance, ""
        if apart > tolerance and other == "onnx_unoptimized" and _simulated(evidence):
            limit = max(tolerance, _by_chance(outputs.agreement(other, "onnx"), outputs.images))
        if apart > limit:
            failure = (
                f"{measure} of the optimized file and of {called} differ by {apart:.2f} points (at most {limit:.2f})."
            )
        yield Check(f"{AS_GOOD}{as_good_as}", f"{measured}; at most {limit:.2f} points apart", failure)


def _by_chance(agreement: float, images: int) -> float:
    """By how many points scores differ where the predictions that differ are right as often on either side."""
    return CHANCE * 100 * math.sqrt((1 - agreement / 100) / images)


def _simulated(evidence: Evidence) -> bool:
    """Whether there is a simulation, and the file gives its numbers."""
    answers = list(same_numbers_as_simulation(evidence))
    return bool(answers) and all(answer.passed for answer in answers)


def same_predictions_as_float(evidence: Evidence) -> Iterator[Check]:
    """A network that has lost its predictions is no success, however right its file is.

    Of class scores only those images (or pixels) count on which the float network is sure, and there must be some. Of
    several outputs the worst counts. What pruning lost is not what quantization lost: each is compared with what it began
    with.
    """
    outputs = evidence.outputs
    if outputs is None or "float" not in outputs.names:
        return
    least = FAITHFUL if (evidence.file.narrowest() or 0) >= FAITHFUL_BITS else COLLAPSED
    reference = "pruned" if "pruned" in outputs.names else "float"
    yield from _same_predictions(outputs, "onnx", reference, SAME_PREDICTIONS, least, evidence.remedy)
    if reference == "pruned":
        yield from _same_predictions(outputs, "pruned", "float", PRUNED_PREDICTIONS, COLLAPSED, FEWER_CHANNELS)


def _same_predictions(
    outputs: Comparisons, name: str, reference: str, title: str, least: float, remedy: str
) -> Iterator[Check]:
    tallies = {output: tally for output, tally in outputs.sure(name, reference).items() if tally.count >= FEWEST}
    if not tallies:
        return
    who = {"onnx": "the quantized network", "pruned": "the pruned network"}[name]
    # Of class indices nobody knows where float was sure.
    limits = {output: COLLAPSED if outputs.task.kinds[output] == "discrete" else least for output in tallies}
    output = min(tallies, key=lambda output: tallies[output].percent - limits[output])
    kind, same, least = outputs.task.kinds[output], tallies[output].percent, limits[output]
    where = f" of the output {output}" if len(outputs.task.kinds) > 1 else ""
    if outputs.task.kind(output).decides:
        what = "pixels" if kind == "dense" else "images"
        count = f"{same:.2f} % of the {tallies[output].count} {what}"
        measured = f"{count} on which {reference} is sure{where}"
        failure = (
            f"{who} predicts what the {reference} one does on {count} on which that is sure (at least {least:.0f} %){where}: "
            f"it has lost too much. {remedy}"
        )
    else:
        measured = f"{outputs.task.kind(output).agreement}{where}: {same:.2f} %"
        failure = f"{who} has lost too much; {measured} (at least {least:.0f} %). {remedy}"
    yield Check(title, f"{measured}; at least {least:.0f} %", failure if same < least else "")


def same_numbers_as_simulation(evidence: Evidence) -> Iterator[Check]:
    """The file and the simulation compute the same integers.

    Their outputs are equal, but for what the last layer rounds. Only float operators may change that: a number that they
    round otherwise may flip a code, and blocks behind it make more of that. Sound files of convolutions with GELUs
    were equal nevertheless, those of ConvNeXts 52 dB apart, of transformers down to 26 dB at W8A8 and 28 dB at W4A4:
    no threshold tells these from files that are wrong. So they are compared step by step (`ptq.export.stepwise`), each
    tensor computed from the file's codes before it. All that may differ then are numbers in the middle between two codes.
    """
    if evidence.outputs is None or "simulated" not in evidence.outputs.names:
        return
    sqnr = evidence.outputs.decibels("simulated")
    name = "the file gives the same numbers as the simulation"
    rounds = bool(evidence.float_layers or evidence.float_operators)
    if sqnr >= EQUAL_DB or not rounds or evidence.stepwise is None:
        failure = (
            f"outputs of the file and of the simulation differ, by noise {sqnr:.0f} dB below them, where both compute "
            f"the same integers (at least {EQUAL_DB:.0f} dB); {UNKNOWN}."
        )
        measured = "no difference" if math.isinf(sqnr) else f"noise {sqnr:.0f} dB below them"
        different = not sqnr >= EQUAL_DB  # NaN is different, too
        yield Check(name, f"{measured}; at least {EQUAL_DB:.0f} dB", failure if different else "")
    else:
        yield _same_numbers_step_by_step(name, evidence.stepwise())


def _same_numbers_step_by_step(name: str, found: Stepwise) -> Check:
    # What is clipped or of few bits has few values: where one is in the middle, a large share of the codes is.
    wrong = [t for t in found.tensors if t.farthest > 1 or (t.differing > FLIPPED * t.count and t.numbers > 1)]
    count, differing = sum(t.count for t in found.tensors), sum(t.differing for t in found.tensors)
    limit = f"at most {100 * FLIPPED:.1f} % of a tensor's, or one number's, by one"
    measured = f"step by step, {differing} of {count} codes differ; {limit}"
    failure = ""
    if wrong:
        each = [f"{t.name} ({t.differing} of {t.count}, by up to {t.farthest})" for t in wrong]
        failure = (
            f"the file computes other codes than the simulation, from the same codes, in {_some(each)}; {UNKNOWN}."
        )
    elif not found.output_db >= FLOAT_DB:
        failure = (
            f"the file's output and the simulation's differ, by noise {found.output_db:.0f} dB below them, where both "
            f"are computed from the same codes (at least {FLOAT_DB:.0f} dB); {UNKNOWN}."
        )
    elif not found.watched_db >= EQUAL_DB:
        failure = (
            f"onnxruntime's optimizations change the output, by noise {found.watched_db:.0f} dB below it (at least "
            f"{EQUAL_DB:.0f} dB): it fuses what the file has as two roundings; please report this, with the network."
        )
    return Check(name, measured, failure)


def same_numbers_as_exact_arithmetic(evidence: Evidence) -> Iterator[Check]:
    """onnxruntime's kernels give what exact integer arithmetic gives, but for the noise of float operators."""
    if (exact := evidence.exact) is None:
        return
    apart = f"outputs differ on {exact.differing} of {exact.images} images, by up to {100 * exact.largest:.2g} %"
    failure = "" if exact.largest <= FLOAT_NOISE else f"onnxruntime's and exact integer arithmetic's {apart}."
    yield Check("exact integer arithmetic gives the same numbers", apart, failure)


def not_slower(latency_ms: Mapping[str, float]) -> Iterator[Check]:
    """The file may not be slower than a baseline that was measured, a float network or quantize_static."""
    for name, called in _BASELINES.items():
        if name not in latency_ms:
            continue
        limit = MARGIN * latency_ms[name] + LAUNCH
        both = f"{latency_ms['onnx']:.2f} against {latency_ms[name]:.2f} ms"
        failure = f"the file is slower than {called}: {both}, in each of {ATTEMPTS} measurements{_latency_advice()}."
        slower = latency_ms["onnx"] > limit
        yield Check(f"{SPEED}{called}", f"{both}; up to {limit:.2f} counts as equal", failure if slower else "")


CHECKS: tuple[Callable[[Evidence], Iterable[Check]], ...] = (
    biases_on_the_accumulator_grid,
    weight_scales_along_output_channels,
    planned_layers_are_quantized,
    quantized_layers_run_in_integers,
    same_accuracy,
    same_predictions_as_float,
    same_numbers_as_simulation,
    same_numbers_as_exact_arithmetic,
    lambda evidence: not_slower(evidence.latency_ms),
)
"""In the order of the report."""
OF_INTEGERS = (
    biases_on_the_accumulator_grid,
    weight_scales_along_output_channels,
    planned_layers_are_quantized,
    quantized_layers_run_in_integers,
)
"""What a float file has no use for."""


def _latency_advice() -> str:
    if ort.exact_by_default():
        return ""
    return "; this CPU has no VNNI, and exact sums of 8-bit weights are slow on it: try --reduce-range"


def _where(file: QuantizedFile, wrong: Sequence[str]) -> str:
    total = len(file.layers())
    return f"not in {len(wrong)} of {total} layers" if wrong else f"in all {total} layers"


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
