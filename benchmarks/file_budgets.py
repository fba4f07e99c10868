"""What budgets for a file bring: how near files come to the size asked for, how long choosing takes, and the smallest that is as accurate as asked.

    python -m benchmarks.file_budgets DATA [--parts sizes,smallest] [--networks mobilenet_v2,...] [--sizes 1.5MB,...] [--drop 1.0]
                                           [--preset default] [--folds 0,1]

DATA is described in benchmarks/networks.py. Parts:

    sizes      for each size the choice of bits, and the file that is written with it. Nothing is tuned, and that changes no byte. Widths are measured once
    smallest   `ptq quantize --max-drop`: the smallest file within so many points of float. Fold 0 is judged on one half of the labeled images, of which a run takes up to 500 large
               ones or 2,000 small ones, and tested on the other half; fold 1 the other way round

Images are those that come with ptq for networks of ImageNet, and synthesized ones for others, kept in runs/; no time is that of making them. Rows are added to results/file_budgets.json. results/file_budgets.md is made from
it. For times nothing else should run on the machine.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks import networks
from benchmarks.datafree import logits_of
from benchmarks.rows import Rows, add_rows, footer
from benchmarks.sources import make_images, own_source
from ptq.allocation.allocate import allocate, find_choices
from ptq.allocation.widths import change_widths
from ptq.calibration import calibrate
from ptq.config.choices import Preset
from ptq.errors import InputError
from ptq.export import export_qdq, ort
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.run.pipeline import quantize
from ptq.utils.environment import environment
from ptq.utils.metrics import top1
from ptq.utils.units import byte_count

SIZES = "1.5MB,1.75MB,2MB,2.25MB,2.5MB,2.75MB,3MB,3.25MB,3.5MB,3.75MB,4MB"
KEYS = ("part", "network", "asked", "fold", "preset")


def of_sizes(network: str, sizes: list[str], data: Path) -> Iterator[dict[str, Any]]:
    """Write a file for each size, a row after the other."""
    model = networks.load(network, data)
    source = own_source(network)
    inputs = model.preprocess.normalize(make_images(source, network, model, data, seed=0).floats())
    started = time.perf_counter()
    graph_model = prepare(model.module, (3, *model.preprocess.size))
    wide = insert_quantizers(graph_model, make_plan(graph_model, 8))
    calibrate(wide, inputs, preprocess=model.preprocess)
    calibrated = time.perf_counter()
    choices = find_choices(wide, inputs)
    measured = time.perf_counter()
    for asked in sizes:
        started_choice = time.perf_counter()
        found = allocate(wide, inputs, choices, byte_count(asked))
        seconds = time.perf_counter() - started_choice
        with tempfile.TemporaryDirectory() as folder:
            path = export_qdq(change_widths(wide, found.bits), Path(folder) / "model.onnx")
            written = path.stat().st_size
        yield {
            "part": "sizes",
            "network": network,
            "asked": byte_count(asked),
            "fold": 0,
            "preset": None,
            "file": written,
            "said": found.size,
            "largest": choices.tradeoffs.most(),
            "measured": found.measured,
            "loss": found.loss,
            "seconds_calibrate": round(calibrated - started, 1),
            "seconds_widths": round(measured - calibrated, 1),
            "seconds_choice": round(seconds, 2),
            "images": choices.tradeoffs.images,
            "source": source,
            "threads": torch.get_num_threads(),
            **environment(),
        }


def smallest(network: str, drop: float, preset: str, fold: int, data: Path) -> dict[str, Any]:
    """Find the smallest file within `drop` points of float on one half of the labeled images, and test it on the other."""
    name, weights = networks.model_and_weights(network, data)
    model = networks.load(network, data)
    found = networks.images(network, data, model)
    pixels, labels = found.test, found.labels
    if network not in networks.CIFAR:  # nothing is calibrated with those, either
        pixels, labels = torch.cat([pixels, found.others]), torch.cat([labels, found.other_labels])
    judging, testing = slice(fold, None, 2), slice(1 - fold, None, 2)
    source = own_source(network)
    with tempfile.TemporaryDirectory() as folder:
        images = f"{folder}/images.safetensors"
        make_images(source, network, model, data, seed=0).save(images)
        half = Path(folder) / "half.npz"
        np.savez(half, images=pixels[judging].numpy(), labels=labels[judging].numpy())
        started = time.perf_counter()
        row = {"part": "smallest", "network": network, "asked": drop, "fold": fold, "preset": preset, "source": source}
        try:
            made = quantize(
                name,
                8,
                weights=weights,
                max_drop=drop,
                data=str(half),
                preset=preset,
                out=f"{folder}/run",
                images=images,
            )
        except InputError as error:
            return row | {"refused": str(error), **environment()}
        seconds = time.perf_counter() - started
        session = ort.session(made.folder / "model.onnx")
        logits = logits_of(lambda x: torch.from_numpy(ort.run_all(session, x.numpy())[0]), model, pixels[testing])
        report, size = made.report, (made.folder / "model.onnx").stat().st_size
    assert report.allocation is not None
    labels, reference = labels[testing], logits_of(model.module, model, pixels[testing])
    return row | {
        "file": size,
        "int8": report.allocation.frontier[-1].size,
        "tuned": len(report.allocation.attempts),
        "attempts": [[attempt.size, attempt.after, attempt.enough] for attempt in report.allocation.attempts],
        "judged": report.validation.validated_on,
        "judged_float": report.validation.top1["float"],
        "judged_file": report.validation.top1["onnx"],
        "top1": round(top1(logits, labels), 3),
        "top1_float": round(top1(reference, labels), 3),
        "tested": len(labels),
        "seconds": round(seconds, 1),
        "widths": report.allocation.bits,
        "threads": torch.get_num_threads(),
        **environment(),
    }


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Budgets for a file\n"
    yield "Made by `python -m benchmarks.file_budgets DATA`."
    for network in dict.fromkeys(r["network"] for r in rows if r["part"] == "sizes"):
        mine = sorted((r for r in rows if (r["part"], r["network"]) == ("sizes", network)), key=lambda r: r["asked"])
        one = mine[0]
        yield f"\n## {network}: files of a size\n"
        yield f"Calibrating took {one['seconds_calibrate']:.0f} s, and measuring what widths cost {one['seconds_widths']:.0f} s, on {one['images']} images and {one['threads']} threads. The largest file has {one['largest']:,} bytes."
        yield "*loss* is the divergence from float's predictions before tuning, in thousandths of a nat.\n"
        yield (
            "| asked, bytes | the file | left over | of what the largest could use | choosing | loss |\n|"
            + " --- |" * 6
        )
        for row in mine:
            usable = min(row["asked"], row["largest"])
            yield (
                f"| {row['asked']:,} | {row['file']:,} | {100 * (1 - row['file'] / row['asked']):.2f} % | {100 * (1 - row['file'] / usable):.2f} % "
                f"| {row['seconds_choice']:.1f} s | {1e3 * row['loss']:.3g} |"
            )
    found = [r for r in rows if r["part"] == "smallest"]
    if found:
        yield "\n## The smallest file within a drop of top-1\n"
        yield (
            "| network | preset, images | allowed | float, judged | the file | float, tested | the file | bytes | of int8's | tuned |\n|"
            + " --- |" * 10
        )
        for row in found:
            if "refused" in row:
                yield (
                    f"| {row['network']} | {row['preset']}, {row['source']} | {row['asked']} | {row['refused']} |"
                    + " |" * 6
                )
                continue
            judged, tested = (
                f"{row[of]:.2f} % of {row[count]:,} | {row[file]:.2f} %"
                for of, count, file in (("judged_float", "judged", "judged_file"), ("top1_float", "tested", "top1"))
            )
            yield (
                f"| {row['network']} | {row['preset']}, {row['source']} | {row['asked']} | {judged} | {tested} "
                f"| {row['file']:,} | {100 * row['file'] / row['int8']:.0f} % | {row['tuned']} |"
            )
    yield footer(rows)


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--parts", default="sizes,smallest")
    parser.add_argument("--networks", default="mobilenet_v2")
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--drop", type=float, default=1.0)
    parser.add_argument("--preset", default="default", choices=get_args(Preset))
    parser.add_argument("--folds", default="0,1")
    options = parser.parse_args()
    for network in options.networks.split(","):
        rows: list[Iterator[dict[str, Any]]] = []
        if "sizes" in options.parts:
            rows.append(of_sizes(network, options.sizes.split(","), options.data))
        if "smallest" in options.parts:
            folds = map(int, options.folds.split(","))
            rows.append(smallest(network, options.drop, options.preset, fold, options.data) for fold in folds)
        for row in itertools.chain(*rows):
            add_rows("file_budgets", [row], KEYS, page)
            print(
                json.dumps({key: value for key, value in row.items() if key not in ("widths", "versions")}), flush=True
            )


if __name__ == "__main__":
    main()
