"""What agreement without data is worth: predictions that are float's on synthesized images, on mixed copies of them, and on photographs.

    python -m benchmarks.agreement DATA [--parts judges,files] [--networks resnet20,...] [--bits 8,4,3] [--asked 95,90] [--preset default]

DATA is described in benchmarks/networks.py. Parts:

    judges   uniform bits and nearest codes. Judged by the images themselves, three quarters of which ranges were found with; by mixed copies of the last quarter, as
             `--min-agreement` does without data; and by photographs
    files    `ptq quantize --min-agreement`: the file, what it was found to have, and what it has on photographs

Images are those that come with ptq for networks of ImageNet, and synthesized ones for others, kept in runs/; no time is that of making them. Rows are added to results/agreement.json. results/agreement.md is made from it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.datafree import logits_of
from benchmarks.rows import Rows, add_rows, footer
from benchmarks.sources import make_images, own_source
from ptq.calibration import calibrate
from ptq.config.choices import Preset
from ptq.config.flat_options import make_settings
from ptq.errors import InputError
from ptq.export import ort
from ptq.graph.preparation import prepare
from ptq.models.model import Model
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.run.allocation import held_apart
from ptq.run.pipeline import quantize
from ptq.utils.environment import environment

KEYS = ("part", "network", "bits", "asked", "preset")
TESTED = 2500  # photographs at most


def judges(network: str, widths: list[int], data: Path) -> Iterator[dict[str, Any]]:
    """Count the predictions of uniform bits that are float's, a row for each number of bits."""
    model = networks.load(network, data)
    source = own_source(network)
    images = make_images(source, network, model, data, seed=0)
    ranges_by, copies = held_apart(images, make_settings(network, min_agreement=90.0))
    assert copies is not None
    sets = {
        "photographs": networks.images(network, data, model).spaced(TESTED)[0],
        "images": images.images,
        "copies": copies.images,
    }
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    float_logits = {name: logits_of(model.module, model, pixels) for name, pixels in sets.items()}
    for bits in widths:
        quantized_model = insert_quantizers(graph_model, make_plan(graph_model, bits))
        calibrate(quantized_model, model.preprocess.normalize(ranges_by.floats()), preprocess=model.preprocess)
        yield {
            "part": "judges",
            "network": network,
            "bits": bits,
            "asked": None,
            "preset": None,
            "source": source,
            **{
                name: _agreement(quantized_model.module, model, pixels, float_logits[name])
                for name, pixels in sets.items()
            },
            "counts": {name: len(pixels) for name, pixels in sets.items()},
            **environment(),
        }


def file(network: str, asked: float, preset: str, data: Path) -> dict[str, Any]:
    """Find the smallest file that agrees as asked, and count its predictions that are float's on photographs."""
    name, weights = networks.model_and_weights(network, data)
    model = networks.load(network, data)
    photographs, _ = networks.images(network, data, model).spaced(TESTED)
    source = own_source(network)
    row = {"part": "files", "network": network, "bits": None, "asked": asked, "preset": preset, "source": source}
    with tempfile.TemporaryDirectory() as folder:
        images = f"{folder}/images.safetensors"
        make_images(source, network, model, data, seed=0).save(images)
        started = time.perf_counter()
        try:
            made = quantize(
                name, 8, weights=weights, min_agreement=asked, images=images, preset=preset, out=f"{folder}/run"
            )
        except InputError as error:
            return row | {"refused": str(error), **environment()}
        seconds = time.perf_counter() - started
        session = ort.session(made.folder / "model.onnx")
        of_file = _agreement(
            lambda x: torch.from_numpy(ort.run_all(session, x.numpy())[0]),
            model,
            photographs,
            logits_of(model.module, model, photographs),
        )
        size = (made.folder / "model.onnx").stat().st_size
    report = made.report
    assert report.allocation is not None
    return row | {
        "found": report.validation.agreement["onnx"],
        "photographs": of_file,
        "tested": len(photographs),
        "file": size,
        "int8": report.allocation.frontier[-1].size,
        "tuned": len(report.allocation.attempts),
        "attempts": [[attempt.size, attempt.after, attempt.enough] for attempt in report.allocation.attempts],
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        **environment(),
    }


def _agreement(network: Callable[[Tensor], Tensor], model: Model, pixels: Tensor, float_logits: Tensor) -> float:
    same = logits_of(network, model, pixels).argmax(1) == float_logits.argmax(1)
    return round(100 * float(same.float().mean()), 2)


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Agreement without data\n"
    yield "Made by `python -m benchmarks.agreement DATA`.\n"
    yield "Shares of the predictions that are float's, in percent."
    of = {part: [r for r in rows if r["part"] == part] for part in ("judges", "files")}
    if of["judges"]:
        yield "\n## Who judges\n\nUniform bits, nearest codes, activations of 8 bits.\n"
        yield "| network | bits | photographs | the images themselves | mixed copies of a quarter |\n|" + " --- |" * 5
        for row in sorted(of["judges"], key=lambda r: (r["network"], -r["bits"])):
            cells = [f"{row[name]:.1f} ({row['counts'][name]:,})" for name in ("photographs", "images", "copies")]
            yield f"| {row['network']} | {row['bits']} | {' | '.join(cells)} |"
    if of["files"]:
        yield "\n## The smallest file that agrees\n"
        yield (
            "| network | images, preset | asked | found | on photographs | bytes | of int8's | tuned |\n|"
            + " --- |" * 8
        )
        for row in sorted(of["files"], key=lambda r: (r["network"], -r["asked"])):
            head = f"| {row['network']} | {row['source']}, {row['preset']} | {row['asked']:g} |"
            if "refused" in row:
                yield f"{head} {row['refused']} | | | | |"
                continue
            yield (
                f"{head} {row['found']:.1f} | {row['photographs']:.1f} ({row['tested']:,}) | {row['file']:,} | {100 * row['file'] / row['int8']:.0f} % "
                f"| {row['tuned']} |"
            )
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--parts", default="judges,files")
    parser.add_argument("--networks", default="resnet20,resnet56,mobilenetv2_x0_5")
    parser.add_argument("--bits", default="8,4,3")
    parser.add_argument("--asked", default="95,90")
    parser.add_argument("--preset", default="default", choices=get_args(Preset))
    options = parser.parse_args()
    for network in options.networks.split(","):
        if "judges" in options.parts:
            for row in judges(network, [int(bits) for bits in options.bits.split(",")], options.data):
                _add(row)
        if "files" in options.parts:
            for asked in options.asked.split(","):
                _add(file(network, float(asked), options.preset, options.data))


def _add(row: dict[str, Any]) -> None:
    add_rows("agreement", [row], KEYS, page)
    print(json.dumps({key: value for key, value in row.items() if key != "versions"}), flush=True)


if __name__ == "__main__":
    main()
