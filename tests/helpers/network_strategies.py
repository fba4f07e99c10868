"""Random specs of networks, drawn with hypothesis: it can shrink a network that fails to the few steps that matter."""

import math
from typing import Any

from hypothesis import strategies as st

from tests.helpers.network_specs import Shape, Spec, Step, shapes_of
from tests.helpers.random_networks import ACTIVATIONS, FUNCTIONS
from tests.helpers.written_parts import PARTS

__all__ = ["specs"]

MOST_CHANNELS = 16
MOST_PIXELS = 16  # a side


@st.composite
def specs(draw: st.DrawFn, most_steps: int = 12) -> Spec:
    """Draw a network of 1 to `most_steps` steps."""
    shape = (3, draw(st.integers(5, 12)), draw(st.integers(5, 12)))
    shapes: list[Shape] = [shape]
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, most_steps))):
        step = _step(draw, shapes, steps)
        made = shapes_of(step, shapes)
        if all(_sensible(one) for one in made) and _runs(step, shapes):
            steps.append(step)
            shapes += made
    head = draw(st.sampled_from(("pool", "mean", "flatten", "hidden", "conv")))
    gain = draw(st.sampled_from((1.0, 0.25, 3.0, 0.0, 1e-3)))
    return Spec(shape, tuple(steps), head, draw(st.integers(0, 3)), gain)


def _sensible(shape: Shape) -> bool:
    return min(shape) >= 1 and shape[0] <= MOST_CHANNELS and max(shape[1:]) <= MOST_PIXELS


def _runs(step: Step, shapes: list[Shape]) -> bool:
    """Whether there are pixels enough for what a convolution reflects, and numbers enough for a norm of one image."""
    shape = shapes[step.reads[0]]
    if step.kind == "float norm":
        return math.prod(shape) > 1
    return step.facts.get("mode") != "reflect" or step.facts["padding"] < min(shape[1:])


KINDS = (
    "conv",
    "depthwise",
    "functional",
    "transposed",
    "norm",
    "act",
    "again",
    "add",
    "multiply",
    "cat",
    "chunk",
    "gate",
    "max",
    "average",
    "upsample",
    "pixel_shuffle",
    "shuffle",
    "pad",
    "scale",
    "global",
    "same",
    "last",
    "float norm",
    "affine",
    "cut",
    "mean",
    "flip",
    "written",
    "written",
    "written",
)


def _step(draw: st.DrawFn, shapes: list[Shape], steps: list[Step]) -> Step:
    """Draw a step that fits the tensors there are; a convolution where what was drawn does not."""
    kind = draw(st.sampled_from(KINDS))
    # The newest tensors most of all: what nobody reads is not part of the network.
    source = max(0, len(shapes) - 1 - draw(st.integers(0, 3)) * draw(st.integers(0, 1)))
    channels, height, width = shapes[source]
    partners = [i for i, s in enumerate(shapes) if s in (shapes[source], (channels, 1, 1))]
    flat = [i for i, s in enumerate(shapes) if s[1:] == shapes[source][1:]]
    match kind:
        case "add" | "multiply":
            other = draw(st.sampled_from(partners))
            return Step(kind, (source, other), {"spelling": draw(st.integers(0, 3)), **_act(draw)})
        case "cat":
            return Step(kind, (source, draw(st.sampled_from(flat))), {})
        case "again":
            fitting = [i for i, s in enumerate(steps) if s.kind == "conv" and shapes[s.reads[0]][0] == channels]
            if fitting:
                index = draw(st.sampled_from(fitting))
                facts = {k: v for k, v in steps[index].facts.items() if k not in ("norm", "act", "plain")}
                return Step(kind, (source,), {**facts, "step": index, **_act(draw)})
        case "chunk" | "shuffle" if channels % 2 == 0:
            return Step(kind, (source,), {"spelling": draw(st.integers(0, 1))})
        case "pixel_shuffle" if channels % 4 == 0:
            return Step(kind, (source,), {})
        case "max" | "average" if min(height, width) >= 2:
            return Step(kind, (source,), {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(0, 1))})
        case "global" | "mean" | "float norm" | "affine" | "flip":
            return Step(kind, (source,), {})
        case "written":
            return Step(kind, (source,), {"which": draw(st.sampled_from(sorted(PARTS))), **_act(draw)})
        case "cut":
            return Step(kind, (source,), {"spelling": draw(st.integers(0, 3))})
        case "same" | "last":
            sizes = {
                "kernel": draw(st.integers(1, 4)),
                "dilation": draw(st.integers(1, 2)),
                "bias": draw(st.booleans()),
            }
            return Step(kind, (source,), {"channels": draw(st.integers(1, MOST_CHANNELS)), **sizes, **_act(draw)})
        case "upsample" | "gate" | "norm" | "act":
            act = {} if kind in ("upsample", "norm") else _act(draw)
            if kind == "gate":
                act = {"act": draw(st.sampled_from(("sigmoid", "hardsigmoid")))}
            return Step(kind, (source,), act)
        case "pad":
            return Step(kind, (source,), {"sides": tuple(draw(st.integers(0, 2)) for _ in range(4))})
        case "scale":
            numbers = draw(st.sampled_from(((2.0, 0.0), (0.5, 1.0), (-1.0, 0.0))))
            return Step(kind, (source,), {"by": numbers[0], "plus": numbers[1]})
        case _:
            pass
    return _layer(draw, kind, source, channels, min(height, width))


def _layer(draw: st.DrawFn, kind: str, source: int, channels: int, side: int) -> Step:
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    groups = channels if kind == "depthwise" else draw(st.sampled_from((1, 1, *divisors)))
    outputs = groups * draw(st.integers(1, max(1, MOST_CHANNELS // groups)))
    if kind == "depthwise":
        outputs = channels
    facts = {"channels": outputs, "groups": groups, "bias": draw(st.booleans()), **_act(draw)}
    facts["norm"] = draw(st.booleans())
    if kind == "transposed":
        kernel = draw(st.integers(1, 3))
        stride = draw(st.integers(1, 2))
        sizes = {"kernel": kernel, "stride": stride, "padding": draw(st.integers(0, (kernel - 1) // 2))}
        return Step(kind, (source,), {**facts, **sizes})
    kernel, dilation = draw(st.sampled_from((1, 2, 3, 5))), draw(st.integers(1, 2))
    reach = dilation * (kernel - 1) + 1
    least = max(0, -(-(reach - side) // 2))
    padding = max(least, draw(st.integers(0, reach // 2)))
    facts |= {"kernel": kernel, "dilation": dilation, "padding": padding, "stride": draw(st.integers(1, 2))}
    if kind != "functional" and padding and padding < side:
        facts["mode"] = draw(st.sampled_from(("zeros", "zeros", "reflect", "replicate")))
    return Step("functional" if kind == "functional" else "conv", (source,), facts)


def _act(draw: st.DrawFn) -> dict[str, Any]:
    plain = draw(st.booleans())
    names = sorted(FUNCTIONS) if plain else sorted(ACTIVATIONS)
    act = draw(st.sampled_from(("relu", "relu", *names)))
    return {"act": act, "plain": plain, "inplace": draw(st.booleans())}
