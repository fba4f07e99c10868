"""Make the images that come with ptq: `--images universal`.

    python -m benchmarks.universal_set DATA [--quality 96] [--formats]

DATA is described in benchmarks/networks.py; of it, only the networks are used. Every network of PARTS is missing in one part at least. That
part shows what the set is worth for a network that took no part in making it (`--sources universal-unseen` of benchmarks/datafree.py).

Parts stay in runs/universal: the same command continues after an interruption. It writes ptq/data/universal.safetensors, with the images as
WebP, universal.json beside it, which says how they were made, and runs/universal/images.png to look at. With --formats it prints instead what
JPEG and WebP make of them: kilobytes of an image, signal to noise, and the distance from MobileNetV2's BatchNorm statistics.
"""

import argparse
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from benchmarks import networks
from ptq.calibration.bn_statistics import statistics_distance
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.quality import with_quality
from ptq.calibration.synthesis import synthesize
from ptq.calibration.synthesis_config import synthesis_preset
from ptq.cli.messages import progress
from ptq.config.choices import UNIVERSAL
from ptq.data.preprocess import IMAGENET
from ptq.models.model import Model
from ptq.utils.environment import library_versions
from ptq.utils.files import atomic

FOLDER = Path("runs/universal")
PACKAGED = Path("ptq/data/universal.safetensors")


@dataclass(frozen=True)
class Part:
    """Images that some of the networks make."""

    teachers: tuple[str, ...]
    count: int
    preset: str
    seed: int = 0

    def make(self, models: dict[str, Model]) -> CalibrationSet:
        """The images, made once and kept."""
        path = FOLDER / f"{'+'.join(self.teachers)}.safetensors"
        if path.exists():
            return CalibrationSet.load(path)
        config = synthesis_preset(self.preset, IMAGENET, seed=self.seed, count=self.count)
        started = time.process_time()
        teachers = [models[name] for name in self.teachers]
        images = synthesize(teachers, config, preprocess=IMAGENET, progress=progress())
        seconds = round(time.process_time() - started)
        images = replace(images, provenance=images.provenance | {"seconds": seconds})
        images.save(path)
        images.contact_sheet(path.with_suffix(".png"))
        return images


LITE0, LITE1, LITE2 = networks.LITES
MOBILENET = networks.MOBILENET
PARTS = (
    Part((MOBILENET,), 64, "default", seed=1),
    Part((LITE1, LITE2, MOBILENET), 32, "fast"),
    Part((LITE0, LITE1, LITE2), 32, "fast", seed=3),
)


def joined(parts: list[CalibrationSet], models: dict[str, Model], command: str) -> CalibrationSet:
    """All parts as one set, with one provenance."""
    facts = [part.provenance for part in parts]
    teachers = [{"name": m.name, "weights": m.weights_source, "sha256": m.sha256} for m in models.values()]
    made = {
        "source": UNIVERSAL,
        "command": command,
        "teachers": teachers,
        "classes": next(iter(models.values())).num_classes,
        "parts": [
            {
                "images": len(part),
                "teachers": [teacher["name"] for teacher in fact["teachers"]],
                **{key: fact[key] for key in ("settings", "losses", "device", "seconds", "versions")},
            }
            for part, fact in zip(parts, facts, strict=True)
        ],
        "versions": library_versions() | {"pillow": PIL.__version__},
    }
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return CalibrationSet(images, labels, made)


def formats(images: CalibrationSet, model: Model) -> Iterator[str]:
    """What compression takes and costs, a line for each format."""
    pixels = images.images
    for name, qualities, subsampling in (
        ("JPEG", (85, 92, 96), 0),
        ("JPEG", (85, 92), 2),
        ("WEBP", (80, 90, 96), None),
    ):
        chroma = {} if subsampling is None else {"subsampling": subsampling}
        for quality in qualities:
            files = [io.BytesIO() for _ in pixels]
            for file, image in zip(files, pixels, strict=True):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, name, quality=quality, **chroma)
            back = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
            noise = float((back.float() - pixels.float()).square().mean())
            distance = statistics_distance(model.module, model.preprocess.normalize(back.float() / 255))
            size = sum(len(file.getvalue()) for file in files) / len(files) / 1e3
            level = 10 * math.log10(255**2 / noise)
            yield f"{name} {quality} {chroma or ''}: {size:.1f} kB, {level:.1f} dB, distance {distance:.4f}"


def main() -> None:
    """Make the parts that are missing, and write what comes with ptq."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quality", type=int, default=96, help="of the compressed images, 1 to 100")
    parser.add_argument("--formats", action="store_true", help="compare formats, on 32 of the images that are there")
    options = parser.parse_args()
    if options.formats:
        made = CalibrationSet.load(FOLDER / "images.safetensors").few(32)
        for line in formats(made, networks.load(MOBILENET, options.data)):
            print(line, flush=True)
        return
    models = {name: networks.load(name, options.data) for name in networks.UNIVERSAL}
    command = f"python -m benchmarks.universal_set DATA --quality {options.quality}"
    made = joined([part.make(models) for part in PARTS], models, command)
    made.save(FOLDER / "images.safetensors")
    made.contact_sheet(FOLDER / "images.png")
    made.save(PACKAGED, options.quality)
    judged = with_quality(CalibrationSet.load(PACKAGED), list(models.values()))  # of the images as they come back
    replace(made, provenance=judged.provenance).save(PACKAGED, options.quality)
    with atomic(PACKAGED.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(judged.provenance, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(judged.provenance["quality"], indent=2), PACKAGED.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
