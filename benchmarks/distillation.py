"""What a network learns from nothing but trained teachers: accuracy of students from scratch, and of damaged networks.

    python -m benchmarks.distillation DATA [--pairs resnet56:resnet20,...] [--sources real,noise,deepinversion,mixmix,mixmix-turns]
                                           [--images 2048] [--iterations 50] [--epochs 200] [--mixings 0.5] [--hints auto] [--rounds 1] [--weights none,rounded] [--seeds 0] [--test 5000] [--compile]

DATA is described in benchmarks/networks.py; real images are those of cifar10-train-jpeg.zip there (train/CLASS/NUMBER.jpg), spread over the
classes. Sources are those of benchmarks/sources.py. Where one has several teachers, they are all networks of the pair's family but those of the
student's kind, and all of them say together what is right. Images are kept in runs/distillation. Rows are added to
results/distillation.json as they are finished; results/distillation.md is made from it.

--rounds 4 makes the images in four parts, all but the first against the student as it is then; together they are as many.

--weights rounded begins with the trained weights of the student, every layer but the first and the last rounded to 2 bits; --weights pruned with
half of its multiply-accumulates removed, and nothing repaired. `resnet20:resnet20` then says how far a damaged network finds back. Every row has the
seconds that images and learning took.
"""

import argparse
import io
import itertools
import json
import math
import statistics
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.datafree import logits_of
from benchmarks.rows import add_rows, footer, with_spread
from benchmarks.sources import PRESET, source_of
from ptq.calibration import CalibrationSet, SynthesisConfig, against, gaussian_noise, synthesis_preset, synthesize
from ptq.distillation.beginning import config_for
from ptq.distillation.config import DistillConfig
from ptq.distillation.distillation import distill
from ptq.graph.preparation import prepare
from ptq.models.model import Model, load_model
from ptq.pruning.config import PruneConfig
from ptq.pruning.pruning import prune
from ptq.utils.environment import Stopwatch, environment
from ptq.utils.metrics import top1

IMAGES = Path("runs/distillation")
KEYS = (
    "teacher",
    "student",
    "source",
    "images",
    "iterations",
    "epochs",
    "mixing",
    "hints",
    "rounds",
    "compile",
    "weights",
    "seed",
    "test_images",
)
KINDS = ("resnet", "vgg", "mobilenet")
BEGINNINGS = {
    "none": "random weights",
    "rounded": "weights of 2 bits",
    "pruned": "half of its multiply-accumulates, nothing repaired",
}
BITS = 2  # of weights that are damaged
RANKED = 256  # images that say which channels are removed
WAY = (0.1, 0.5, 0.8, 1.0)  # of the epochs: what the page has of a curve


def teachers_of(source: str, teacher: str, student: str) -> list[str]:
    """The networks that a source is made from, and that say what is right: the teacher first."""
    if source_of(source).teachers != "all":
        return [teacher]
    kind = next(kind for kind in KINDS if student.startswith(kind))
    return [teacher, *(name for name in networks.family(teacher)[1:] if not name.startswith(kind))]


def make_images(
    source: str, names: list[str], data: Path, count: int, iterations: int, seed: int
) -> tuple[CalibrationSet, float]:
    """Images of a source, and the seconds that it took to make them."""
    found = source_of(source)
    models = [networks.load(name, data) for name in names]
    if found.method == "real":
        return real_images(data, count), 0.0
    if found.method == "noise":
        return gaussian_noise(models[0], count, seed), 0.0
    path = IMAGES / f"{source}-{'+'.join(names)}-{count}-{iterations}-{seed}.safetensors"
    if not path.exists():
        started = time.perf_counter()
        config = synthesis_of(source, models[0], count, iterations, seed)
        images = synthesize(models, config, preprocess=models[0].preprocess)
        provenance = images.provenance | {"seconds": time.perf_counter() - started}
        CalibrationSet(images.images, images.labels, provenance).save(path)
    images = CalibrationSet.load(path)
    return images, float(images.provenance["seconds"])


def synthesis_of(source: str, model: Model, count: int, iterations: int, seed: int) -> SynthesisConfig:
    """How the images of a source are synthesized."""
    found = source_of(source)
    changes = dict(found.changes) | {"count": count, "iterations": iterations, "seed": seed}
    return synthesis_preset(PRESET, model.preprocess, found.method, **changes)


def real_images(data: Path, count: int) -> CalibrationSet:
    """Training images of CIFAR-10, as many of every class as there can be."""
    with zipfile.ZipFile(data / "cifar10-train-jpeg.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        by_class = [[name for name in names if name.split("/")[-2] == one] for one in classes]
        dealt = [name for turn in itertools.zip_longest(*by_class) for name in turn if name is not None]
        pixels = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in dealt[:count]]
    return CalibrationSet.from_pixels(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), source="real")


def student_of(name: str, data: Path, weights: str, images: CalibrationSet, seed: int) -> Model:
    """A network with random weights, with its trained ones rounded, or with channels removed that matter least on images."""
    torch.manual_seed(seed)
    reference, file = networks.model_and_weights(name, data)
    if weights == "none":
        return load_model(reference, pretrained=False)
    model = load_model(reference, file)
    return rounded(model) if weights == "rounded" else pruned(model, images)


def rounded(model: Model) -> Model:
    """The network with all layers but the first and the last rounded to 2 bits."""
    layers = [m for m in model.module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        for layer in layers[1:-1]:
            scale = layer.weight.abs().amax(tuple(range(1, layer.weight.dim())), keepdim=True) / 2 ** (BITS - 1)
            layer.weight.copy_((layer.weight / scale).round().clamp(-(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1) * scale)
    return model


def pruned(model: Model, images: CalibrationSet) -> Model:
    """The network with half of its multiply-accumulates removed, and nothing repaired."""
    config = PruneConfig("2x", closed_form=False, network_iterations=0, feature_iterations=0)
    inputs = model.preprocess.normalize(images.few(RANKED).floats())
    smaller, _ = prune(prepare(model.module, (3, *model.preprocess.size)), inputs, config)
    return replace(model, module=smaller.module)


def measure(
    pair: str, source: str, count: int, iterations: int, config: DistillConfig, weights: str, data: Path, test: int
) -> dict[str, Any]:
    """Teach one student with one source's images."""
    teacher, student_name = pair.split(":")
    names = teachers_of(source, teacher, student_name)
    images, seconds = make_images(source, names, data, count // config.rounds, iterations, config.seed)
    student = student_of(student_name, data, weights, images, config.seed)
    judged, labels = networks.images(student_name, data, student).spaced(test)
    asked, watch = [networks.load(name, data) for name in names], Stopwatch()

    def accuracy(module: nn.Module) -> float:
        with watch("judging"):  # which no user would wait for
            return top1(logits_of(module, student, judged), labels)

    def more_images(learner: Model, number: int) -> Tensor:
        first = synthesis_of(source, asked[0], len(images), iterations, config.seed)
        drawn = against(first, learner, seed=7919 * number + config.seed)
        with watch("images"):
            return synthesize(asked, drawn, preprocess=asked[0].preprocess).images

    before, chosen = accuracy(student.module), config_for(student, config)
    with watch("learning"):
        learned, result = distill(
            asked, student, images.images, config, labels=images.labels, more_images=more_images, evaluate=accuracy
        )
    trained = networks.load(student_name, data)
    curve = [(epoch.number, round(epoch.accuracy, 2)) for epoch in result.epochs if epoch.accuracy is not None]
    return {
        "teacher": teacher,
        "student": student_name,
        "source": source,
        "images": result.images,
        "iterations": images.provenance.get("settings", {}).get("iterations", 0),
        "epochs": config.epochs,
        "mixing": config.mixing,
        "hints": chosen.hints,
        "rounds": config.rounds,
        "compile": config.compile,
        "weights": weights,
        "seed": config.seed,
        "test_images": len(judged),
        "teachers": list(result.teachers),
        "recognized": {name: round(share, 1) for name, share in result.recognized.items()},
        "top1_teacher": round(accuracy(asked[0].module), 2),
        "top1_trained": round(accuracy(trained.module), 2),
        "top1_before": round(before, 2),
        "top1": round(accuracy(learned.module), 2),
        "curve": curve,
        "seconds_images": round(seconds + watch.seconds.get("images", 0.0), 1),
        "seconds_learning": round(watch.seconds["learning"], 1),
        "batch": config.batch,
        "crop": config.crop,
        "optimizer": [config.optimizer, chosen.lr, chosen.weight_decay],
        "temperature": config.temperature,
        **environment(),
    }


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown page: a table per pair of networks and way to begin."""
    yield "# What a network learns from its teachers"
    yield "\nMade by `python -m benchmarks.distillation DATA`.\n"
    yield "- Cells have top-1 in percent on test images that no source has seen, in float: of several seeds the mean, the lowest and the highest."
    yield "- *iterations* are those in which the images were made."
    yield "- *mixing* is the share of batches with images pasted into images."
    yield "- *hints* is the weight of maps inside the first teacher; 0 is predictions alone."
    yield "- *rounds*: images are made in as many parts, all but the first against the student as it is then."
    yield "- *compiled* networks went through torch.compile, the time for which is in that of learning."
    yield "- *before* is top-1 before anything is learned, of the first seed."
    yield "- *seconds* are those of making the images, and of learning."
    yield "- *on the way* is top-1 after a tenth, a half, four fifths and all of the epochs."
    for chosen in sorted({(r["teacher"], r["student"], r["weights"], r["test_images"]) for r in rows}):
        mine = [r for r in rows if (r["teacher"], r["student"], r["weights"], r["test_images"]) == chosen]
        teacher, student, weights, test = chosen
        yield f"\n## {teacher} → {student}, from {BEGINNINGS[weights]}"
        yield (
            f"\nThe teacher has {mine[0]['top1_teacher']:.2f} %, {student} as it was trained {mine[0]['top1_trained']:.2f} %; "
            f"{test} test images.\n"
        )
        tables = [_cells(same) for same in _over_seeds(mine)]
        yield f"| {' | '.join(tables[0])} |\n|{' --- |' * len(tables[0])}"
        yield from (f"| {' | '.join(map(str, cells.values()))} |" for cells in tables)
    yield footer(rows)


def _over_seeds(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows that differ in nothing but the seed together."""
    alike = [key for key in KEYS if key != "seed"]
    order = ("images", "epochs", "source", "iterations", "mixing", "hints", "rounds", "compile")
    found = sorted({tuple(r[key] for key in alike) for r in rows}, key=lambda one: [one[alike.index(k)] for k in order])
    return [[r for r in rows if tuple(r[key] for key in alike) == one] for one in found]


def _cells(rows: list[dict[str, Any]]) -> dict[str, object]:
    """What a line of the table says of rows of several seeds."""
    first, found = rows[0], [r["top1"] for r in rows]
    curves = [[accuracy for _, accuracy in r["curve"]] for r in rows]
    way = [statistics.mean(look) for look in zip(*curves, strict=True)]
    images, learning = (statistics.mean(r[key] for r in rows) for key in ("seconds_images", "seconds_learning"))
    return {
        "source": source_of(first["source"]).title,
        "teachers": ", ".join(first["teachers"]),
        "images": first["images"],
        "iterations": first["iterations"] or "",
        "epochs": first["epochs"],
        "mixing": first["mixing"],
        "hints": f"{first['hints']:g}",
        "rounds": first["rounds"],
        "compiled": "yes" if first["compile"] else "",
        "before": f"{first['top1_before']:.2f}",
        "top-1": with_spread(found),
        "on the way": ", ".join(f"{way[i]:.1f}" for i in sorted({math.ceil(len(way) * share) - 1 for share in WAY})),
        "seconds": f"{images:.0f} + {learning:.0f}",
    }


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    default = DistillConfig()
    parser.add_argument("--pairs", default="resnet56:resnet20,resnet56:mobilenetv2_x0_5,vgg8_bn:resnet20")
    parser.add_argument("--sources", default="real,noise,deepinversion,mixmix,mixmix-turns")
    parser.add_argument("--images", default="2048", help="how many, for every source")
    parser.add_argument("--iterations", default="50", help="in which images are synthesized")
    parser.add_argument("--epochs", default=str(default.epochs))
    parser.add_argument("--mixings", default=str(default.mixing), help="shares of batches with images in images")
    parser.add_argument("--hints", default="auto", help="weights of maps inside the first teacher")
    parser.add_argument("--rounds", default="1", help="in which images are made")
    parser.add_argument("--weights", default="none", help="none, rounded, pruned: what students begin with")
    parser.add_argument("--compile", action="store_true", help="networks with torch.compile")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--test", type=int, default=5000, help="images to judge by")
    o = parser.parse_args()
    lists = (o.pairs, o.sources, o.images, o.iterations, o.epochs, o.mixings, o.hints, o.rounds, o.weights, o.seeds)
    for pair, source, images, iterations, epochs, mixing, hints, rounds, weights, seed in itertools.product(
        *(text.split(",") for text in lists)
    ):
        config = DistillConfig(
            int(epochs),
            mixing=float(mixing),
            hints=None if hints == "auto" else float(hints),
            rounds=int(rounds),
            compile=o.compile,
            seed=int(seed),
        )
        row = measure(pair, source, int(images), int(iterations), config, weights, o.data, o.test)
        add_rows("distillation", [row], KEYS, page)
        shown = (*KEYS, "top1_teacher", "top1_trained", "top1_before", "top1", "seconds_images", "seconds_learning")
        print(json.dumps({key: row[key] for key in shown}), flush=True)


if __name__ == "__main__":
    main()
