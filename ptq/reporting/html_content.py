"""What stands in report.html, put together from report.json: text, shares in percent, and charts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq.reporting import gallery, plots
from ptq.reporting.advice import badges, next_steps
from ptq.reporting.text import exactness_lines, figure_columns, figure_rows, image_lines, memory_lines, threads_text

__all__ = ["Chart", "content"]


@dataclass(frozen=True)
class Chart:
    """A drawing: what stands above it, what it shows in words, and itself as SVG of our own making."""

    title: str
    alt: str
    svg: str


def content(report: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return what `report.html.j2` shows.

    Args:
        report: the content of report.json; what it does not have is left out.
        folder: holds images.safetensors; None leaves the images out.
    """
    settings, images = report["settings"], report["images"]
    columns, blocks = figure_columns(report), report.get("blocks", [])
    seconds = report.get("seconds", {})
    source = folder and folder / "images.safetensors"
    tiles = gallery.tiles(source, images.get("names", {})) if source else []
    out = str(folder or settings.get("out") or "RUN_DIR")
    return {
        "title": report["model"].get("name", "network"),
        "subtitle": f"weights {settings.get('bits')} bits, activations {settings.get('act_bits')} bits; "
        f"{images.get('count', 'no')} images: {images.get('source', 'unknown')}",
        "badges": badges(report),
        "failures": report.get("failed", []),
        "cards": [*_cards(report)],
        "steps": next_steps(report, out),
        "measured_on": _measured_on(report),
        "columns": columns,
        "rows": [row for row in figure_rows(report, columns) if any(row[1:])],
        "gates": report.get("gates", []),
        "image_lines": [
            *(image_lines(images) if "source" in images else []),
            *([f"{len(tiles)} of them are shown"] if 0 < len(tiles) < images.get("count", 0) else []),
        ],
        "tiles": tiles,
        "scale": _scale(blocks),
        "blocks": [*_blocks(report)],
        "curves": [*_curves(blocks)],
        "layers": [_layer(layer) for layer in report.get("worst_layers", [])],
        "stages": _stages(seconds),
        "together": f"{sum(seconds.values()):.1f}",
        "memory": memory_lines(report),
        "command": report.get("command", ""),
        "notes": [*report.get("notes", []), *report.get("unmeasured", []), *exactness_lines(report.get("exact"))],
        "facts": [*_facts(report)],
    }


def _measured_on(report: Mapping[str, Any]) -> str:
    count = report.get("validated_on")
    images = "some" if count is None else f"{count:,}"
    if report["top1"]:
        what = f"Accuracy on {images} labeled images"
    else:
        what = f"Agreement with float on {images} calibration images, without labels"
    return f"{what}; latency is the median at batch 1."


def _cards(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The headline figures, as far as they were measured."""
    top1, agreement = report["top1"], report["agreement"]
    latency, size = report["latency_ms"], report["size_bytes"]
    if "onnx" in top1:
        loss = top1["onnx"] - top1["float"] if "float" in top1 else None
        detail = "" if loss is None else f"{_signed(loss)} points (float {top1['float']:.2f} %)"
        yield _card("top-1 accuracy", f"{top1['onnx']:.2f}", "%", detail)
    elif agreement.get("onnx") is not None:
        detail = "of calibration images; no labels were given"
        yield _card("same prediction as float", f"{agreement['onnx']:.1f}", "%", detail)
    if "onnx" in latency:
        detail = threads_text(latency.get("threads"))
        if "float" in latency:
            times = latency["float"] / latency["onnx"]
            detail = f"{times:.1f}× as fast (float {latency['float']:.2f} ms)"
        yield _card("latency", f"{latency['onnx']:.2f}", "ms", detail)
    if "onnx" in size:
        detail = ""
        if "float" in size:
            times = size["float"] / size["onnx"]
            word = f"{times:.1f}× smaller" if times >= 1 else f"{1 / times:.1f}× larger"
            detail = f"{word} (float {size['float'] / 1e6:.2f} MB)"
        yield _card("size", f"{size['onnx'] / 1e6:.2f}", "MB", detail)
    if seconds := report.get("seconds"):
        longest = max(seconds, key=seconds.__getitem__)
        share = 100 * seconds[longest] / max(sum(seconds.values()), 1e-9)
        total = sum(seconds.values())
        value, unit = (f"{total / 60:.1f}", "min") if total >= 60 else (f"{total:.0f}", "s")
        yield _card("time of the run", value, unit, f"{longest} {share:.0f} % of it")


def _card(name: str, value: str, unit: str, detail: str) -> dict[str, str]:
    return {"name": name, "value": value, "unit": unit, "detail": detail}


def _scale(blocks: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The ends of the axis of decibels, multiples of 10; what is infinite stands at an end."""
    known = [x for b in blocks for x in (b["sqnr_nearest"], b["sqnr"]) if math.isfinite(x)]
    low, high = min(known, default=0.0), max(known, default=10.0)
    return 10 * math.floor(low / 10), max(10 * math.ceil(high / 10), 10 * math.floor(low / 10) + 10)


def _blocks(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    blocks, bits = report.get("blocks", []), report.get("bits", {})
    low, high = _scale(blocks)

    def place(db: float) -> str:
        share = 0.5 if math.isnan(db) else (max(low, min(high, db)) - low) / (high - low)
        return f"{100 * share:.2f}"

    for block in blocks:
        widths = sorted({str(bits[name]) for name in block["layers"] if name in bits})
        words = [f"{', '.join(widths)} bits" if widths else "no layers", block["kept"]]
        yield {
            "name": block["name"],
            "detail": ", ".join([*words, f"{block['seconds']:.1f} s"]),
            "nearest": _db(block["sqnr_nearest"]),
            "kept": _db(block["sqnr"]),
            "start": place(block["sqnr_nearest"]),
            "end": place(block["sqnr"]),
        }


def _curves(blocks: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    for block in blocks:
        if curves := _finite(block.get("losses", [])):
            change = f"from {curves[0][0]:.3g} to {curves[-1][-1]:.3g}"
            alt = f"loss of {block['name']}: {change}"
            yield Chart(block["name"], alt, plots.loss_curves(curves, alt))


def _finite(curves: Sequence[Sequence[float]]) -> list[list[float]]:
    kept = ([value for value in curve if math.isfinite(value)] for curve in curves)
    return [curve for curve in kept if curve]


def _layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    parts = [("weight", layer["weight"], layer["bits"], "steps of its channel")]
    if layer["input"] is not None:
        parts.append(("input", layer["input"], layer["input_bits"], "value"))
    charts = []
    for name, data, bits, unit in parts:
        beyond = f"{100 * data['clipped']:.2f} % clipped"
        alt = f"histogram of the {name} of {layer['name']}: {beyond}"
        charts.append(Chart(f"{name}, {bits} bits, {beyond}", alt, plots.histogram(data, unit, 1 << bits, alt)))
    return {
        "name": layer["name"],
        "detail": f"output {_db(layer['sqnr'])} dB above the noise of quantizing this layer alone",
        "charts": charts,
    }


def _stages(seconds: Mapping[str, float]) -> list[dict[str, str]]:
    most = max(seconds.values(), default=0.0) or 1.0
    return [
        {"name": name, "seconds": f"{value:.1f}", "share": f"{100 * value / most:.2f}"}
        for name, value in seconds.items()
    ]


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What another run must agree in to give the same, and what this one ran on."""
    model = report["model"]
    yield from ((f"model: {k}", _text(v)) for k, v in model.items() if v is not None)
    for name, value in report["settings"].items():
        if value not in (None, "", [], {}, False):
            yield name.replace("_", " "), _text(value)
    yield from ((f"version of {k}", _text(v)) for k, v in report.get("versions", {}).items())
    yield from ((f"machine: {k}", _text(v)) for k, v in report.get("machine", {}).items())


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _db(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "∞" if value > 0 else "−∞"
