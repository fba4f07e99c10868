"""The sources of calibration images that the benchmarks compare, and their images, made once and kept."""

import json
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import networks
from ptq.calibration import CalibrationSet, fit_to_network, gaussian_noise, synthesis_preset, synthesize, universal_set
from ptq.data.image_ops import low_pass
from ptq.models.model import Model

__all__ = [
    "PRESET",
    "SOURCES",
    "Source",
    "make_images",
    "mct_images",
    "own_source",
    "source_of",
    "teachers_of",
    "unseen",
]

IMAGES = Path("runs/datafree")
PRESET = "default"


@dataclass(frozen=True)
class Source:
    """Where images come from: a method, whose statistics, what of the preset is changed, and the images of how many seeds."""

    title: str
    method: str
    teachers: str = "own"
    changes: dict[str, Any] = field(default_factory=dict)
    seeds: int = 1


PLAIN = {"data_mixing": 0.0}
HALVES = {"feature_mixing": "halves"}  # what small images have by default
TURNS = {"feature_mixing": "turns"}  # what large ones have
BASELINE = {"iterations": 500}  # fewer than published (2,000 and 4,000); MixMix takes 150
LARGE_BASELINE = {"iterations": 200}  # as many as MixMix takes, but all of them at full resolution
SOURCES = {
    "noise": Source("Gaussian noise", "noise"),
    "zeroq": Source("ZeroQ", "zeroq", changes=BASELINE),
    "deepinversion": Source("DeepInversion", "deepinversion", changes=BASELINE),
    "genie": Source("GENIE-D", "genie", changes=BASELINE),
    "synq": Source("GENIE-D + SynQ's low-pass", "synq", changes=BASELINE),
    "mct": Source("Sony MCT 2.6.1 (needs --mct)", "mct", changes=BASELINE),
    "mixmix-plain": Source("MixMix, one teacher, no data mixing", "mixmix", changes=PLAIN),
    "mixmix": Source("MixMix, one teacher", "mixmix"),
    "mixmix-zoo-plain": Source("MixMix, several teachers, no data mixing", "mixmix", "all", PLAIN),
    "mixmix-zoo": Source("MixMix, several teachers", "mixmix", "all"),
    "mixmix-halves": Source("MixMix, several teachers, half from the first alone", "mixmix", "all", HALVES),
    "mixmix-turns": Source("MixMix, several teachers, in turns", "mixmix", "all", TURNS),
    "mixmix-turns-plain": Source("MixMix, several teachers, in turns, no data mixing", "mixmix", "all", PLAIN | TURNS),
    "mixmix-sum": Source("MixMix, several teachers, all at every step", "mixmix", "all", {"feature_mixing": "sum"}),
    "mixmix-shared": Source("MixMix, one set from all networks, in turns", "mixmix", "shared", TURNS),
    "mixmix-others": Source("MixMix, the other networks only, in turns", "mixmix", "others", TURNS),
    "mixmix-few": Source("MixMix, one teacher, 32 of the images", "mixmix"),
    "mixmix-2": Source("MixMix, one teacher, twice the images", "mixmix", seeds=2),
    "mixmix-3": Source("MixMix, one teacher, three times the images", "mixmix", seeds=3),
    "mixmix-4": Source("MixMix, one teacher, four times the images", "mixmix", seeds=4),
    "universal": Source("the universal set, 64 of its images", "universal", "universal"),
    "universal-unseen": Source("of the universal set, up to 64 images that it took no part in", "universal", "unseen"),
    "real": Source("real images", "real"),
    "real-2": Source("twice the real images", "real", seeds=2),
}
FEW = 32  # as many as the universal set has for MobileNetV2 from others


def source_of(name: str) -> Source:
    """A row of SOURCES, or the one that "METHOD:NETWORK+NETWORK" says."""
    if name in SOURCES:
        return SOURCES[name]
    method, _, teachers = name.partition(":")
    return Source(f"{SOURCES[method].title.split(',')[0]} from {teachers}", method, teachers)


def own_source(network: str) -> str:
    """The row of SOURCES for a network that has no data: those that come with ptq for ImageNet, synthesized ones else."""
    return "universal" if network in networks.UNIVERSAL else "mixmix"


def teachers_of(source: Source, network: str) -> tuple[str, ...]:
    """The names of the networks that a source's images are made from, for one target."""
    family = networks.family(network)
    others = tuple(name for name in networks.UNIVERSAL if name != network)
    known = {
        "own": family[:1],
        "all": family,
        "shared": tuple(sorted(family)),  # the same for every target
        "others": family[1:],
        "universal": networks.UNIVERSAL,
        "unseen": others,
    }
    return known.get(source.teachers, tuple(source.teachers.split("+")))


def unseen(network: str) -> CalibrationSet:
    """The images of the universal set that a network took no part in making."""
    made, start = universal_set(), 0
    picked: list[int] = []
    for part in made.provenance["parts"]:
        if network not in part["teachers"]:
            picked += range(start, start + part["images"])
        start += part["images"]
    return made.pick(picked)


def make_images(name: str, network: str, model: Model, data: Path, seed: int, mct: str = "") -> CalibrationSet:
    """Take a source's images from IMAGES, or make them and put them there.

    `mct` is the Python that has Sony's toolkit.
    """
    source = source_of(name)
    budget = synthesis_preset(PRESET, model.preprocess, seed=seed)
    if source.method == "real":
        return networks.images(network, data, model).real(budget.count * source.seeds, seed)
    if source.method == "noise":
        return gaussian_noise(model, budget.count, seed)
    if source.method == "mct":
        path = IMAGES / f"mct-{network}-{seed}.npz"
        return mct_images(mct, network, data, path, budget.count, seed, **source.changes)
    if source.method == "universal":
        made = unseen(network) if source.teachers == "unseen" else universal_set()
        return fit_to_network(made.few(budget.count), model)
    if source.seeds > 1:
        several = [make_images(source.method, network, model, data, seed + more) for more in range(source.seeds)]
        together = torch.cat([part.images for part in several])
        return replace(several[0], images=together, labels=torch.cat([part.labels for part in several]))
    if name == "mixmix-few":
        return make_images("mixmix", network, model, data, seed).few(FEW)
    large = max(model.preprocess.size) > 64
    changes = LARGE_BASELINE if large and source.changes == BASELINE else source.changes
    config = synthesis_preset(PRESET, model.preprocess, source.method, seed=seed, **changes)
    if source.method == "synq":  # GENIE's images, filtered: they need not be made twice
        images = make_images("genie", network, model, data, seed)
        filtered = CalibrationSet.from_pixels(low_pass(images.floats(), config.low_pass))
        return replace(filtered, provenance=images.provenance | {"low_pass": config.low_pass})
    teachers = [networks.load(teacher, data) for teacher in teachers_of(source, network)]
    # Named by what it was made from, so that two targets of one set share it.
    made_from = "+".join(m.name for m in teachers)
    path = IMAGES / f"{name.partition(':')[0]}-{made_from}-{model.preprocess.size[0]}-{seed}.safetensors"
    if path.exists():
        images = CalibrationSet.load(path)
        if images.provenance["settings"] == json.loads(json.dumps(config.to_json())):
            return images
    started = time.process_time()  # of all threads; several workers share the cores
    images = synthesize(teachers, config, preprocess=model.preprocess)
    seconds = round(time.process_time() - started, 1)
    images = replace(images, provenance=images.provenance | {"seconds": seconds})
    images.save(path)
    images.contact_sheet(path.with_suffix(".png"))
    return images


def mct_images(
    python: str, network: str, data: Path, path: Path, count: int, seed: int, iterations: int
) -> CalibrationSet:
    """Have Sony's toolkit make images of a CIFAR network, with its own defaults, in its own environment."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).parent / "mct_images.py"
        factory = f"{networks.MODELS / networks.CIFAR[network]}:{network}"
        command = [
            python,
            script,
            factory,
            data / f"{network}.pth",
            path,
            "--size",
            32,
            "--images",
            count,
            "--iterations",
            iterations,
            "--seed",
            seed,
            "--threads",
            torch.get_num_threads(),
        ]
        done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
        path.with_suffix(".txt").write_text(done.stdout.splitlines()[-1])
    facts = path.with_suffix(".txt").read_text().split()  # "seconds 500.1 mct 2.6.1 torch 2.14.1"
    made = CalibrationSet.from_pixels(torch.from_numpy(np.load(path)["images"]), source="mct")
    return replace(made, provenance={"source": "mct", "seconds": float(facts[1]), "settings": facts[2:]})
