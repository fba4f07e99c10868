"""The whole road from a trained network to a validated ONNX file. Read `run` first."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq.calibration import CalibrationSet, calibrate, gaussian_noise, synthesis_preset, synthesize
from ptq.data import EvalSet, load_eval, load_images
from ptq.errors import PtqError
from ptq.export import Validation, export_qdq, validate
from ptq.graph import prepare
from ptq.methods import ReconstructConfig, method_preset
from ptq.models import Model, as_model, load_model
from ptq.placement import Student, make_plan, place
from ptq.preprocess import Preprocess
from ptq.progress import SILENT, Progress
from ptq.reconstruction import BlockResult, reconstruct
from ptq.report import Stopwatch, environment, peak_rss_bytes, write_report
from ptq.settings import Settings
from ptq.store import load_student, read_metadata, save_student

__all__ = [
    "Calibrated",
    "Run",
    "calibrate_datafree",
    "load",
    "quantize",
    "run",
    "synthesize_images",
    "validate_run",
]


@dataclass(frozen=True)
class Run:
    """What a run made.

    Args:
        student: the simulated integer network.
        images: what it was calibrated with.
        report: the content of report.json.
        folder: the run directory.
    """

    student: Student
    images: CalibrationSet
    report: dict[str, Any]
    folder: Path


def run(settings: Settings, progress: Progress = SILENT, model: Model | None = None) -> Run:
    """Quantize a network and write the run directory.

    Args:
        settings: what to do.
        progress: told of every long stage.
        model: the network, where it is not to be loaded by ``settings.model``.

    Raises:
        PtqError: whatever a user can act on.
    """
    watch, device = Stopwatch(), _device(settings)
    with watch("load"):
        model = model or _load(settings)
        evaluation = (
            load_eval(settings.data, model.preprocess, model.num_classes) if settings.data else None
        )
        prepared = prepare(model.module, (3, *model.preprocess.size))
        plan = make_plan(
            prepared, settings.bits, settings.act_bits,
            reduce_range=settings.reduce_range, overrides=settings.overrides,
        )  # fmt: skip
        student = place(prepared, plan)
        folder = _folder(settings)
    with watch("synthesize"):
        images = _images(model, settings, device, progress)
        images.save(folder / "images.safetensors")
        images.contact_sheet(folder / "images.png")
    inputs = model.preprocess.normalize(images.floats())
    _move(student, device)
    with watch("calibrate"):
        calibrate(student, inputs, seed=settings.seed, progress=progress)
    with watch("reconstruct"):
        blocks = reconstruct(student, inputs, _method(settings), progress=progress)
    _move(student, torch.device("cpu"))
    about = {
        "model": settings.model,
        "preprocess": asdict(model.preprocess),
        "num_classes": model.num_classes,
    }
    save_student(student, folder / "student.safetensors", about | {"settings": settings.to_json()})
    with watch("export"):
        export_qdq(student, folder / "model.onnx", _metadata(settings, images))
    with watch("validate"):
        measured = validate(
            folder / "model.onnx", student, model.preprocess, _batches(evaluation, images),
            threads=settings.threads, progress=progress,
        )  # fmt: skip
    report = _report(settings, model, student, images, blocks, measured, watch)
    write_report(report, folder)
    measured.raise_for_failure()
    return Run(student, images, report, folder)


def quantize(
    model: str | nn.Module | Model,
    bits: int = 8,
    *,
    progress: Progress = SILENT,
    preprocess: Preprocess | None = None,
    **options: Any,
) -> Run:
    """Quantize a network: the whole pipeline, from Python.

    Args:
        model: a reference ("resnet50"), your own trained module, or a `Model`. It comes out untouched.
        bits: of the weights, 2..8.
        progress: told of every long stage.
        preprocess: of your own module: size, mean and standard deviation; ImageNet's at 224 by default.
        options: further fields of `Settings`: act_bits, preset, data, out, seed, ...

    Returns:
        The student, the images, the report and the run directory.

    Raises:
        PtqError: whatever a user can act on.

    Example:
        >>> made = quantize(net, bits=4, preset="fast", out="runs/mine")
        >>> made.report["agreement"]["onnx"]
    """
    if isinstance(model, str):
        return run(Settings(model=model, bits=bits, **options), progress)
    model = _as_model(model, preprocess)
    options.setdefault("out", f"runs/{model.name}-w{bits}a{options.get('act_bits', 8)}")
    return run(Settings(model=model.name, bits=bits, **options), progress, model)


@dataclass(frozen=True)
class Calibrated:
    """A calibrated student and the images that did it."""

    student: Student
    images: CalibrationSet


def calibrate_datafree(
    model: str | nn.Module | Model,
    bits: int = 8,
    act_bits: int = 8,
    *,
    teachers: tuple[Model, ...] = (),
    preprocess: Preprocess | None = None,
    preset: str = "default",
    seed: int = 0,
    device: str | None = None,
    progress: Progress = SILENT,
) -> Calibrated:
    """Return a calibrated student of `model` and the images synthesized for it; no data is needed.

    Args:
        model: a reference, your own trained module, or a `Model`. It comes out untouched.
        bits, act_bits: of weights and activations, 2..8.
        teachers: further models to synthesize from (feature mixing).
        preprocess: of your own module; ImageNet's at 224 by default.
        preset: "fast", "default" or "best".
        seed: same seed, same machine: same result.
        device: None takes a GPU where there is one.
        progress: told of every long stage.

    Raises:
        PtqError: for a network without BatchNorm, or one that cannot be traced.

    Example:
        >>> student, images = calibrate_datafree(net).student, ...
        >>> logits = student(x)
    """
    network = load_model(model) if isinstance(model, str) else _as_model(model, preprocess)
    prepared = prepare(network.module, (3, *network.preprocess.size))
    student = place(prepared, make_plan(prepared, bits, act_bits))
    settings = Settings(network.name, bits, act_bits, preset=preset, seed=seed, device=device)
    images = _synthesize([network, *teachers], settings, _device(settings), progress)
    calibrate(student, network.preprocess.normalize(images.floats()), seed=seed, progress=progress)
    return Calibrated(student, images)


def load(folder: Path | str, model: nn.Module | None = None) -> Student:
    """Return the student of a run directory.

    Args:
        folder: as `quantize` wrote it.
        model: the network, where the run was made from a module and not from a reference.

    Raises:
        PtqError: when it is damaged or of another network.
    """
    return load_student(Path(folder), model)


def synthesize_images(settings: Settings, progress: Progress = SILENT) -> CalibrationSet:
    """Write images.safetensors and images.png into the run directory, and nothing else."""
    folder, device = _folder(settings), _device(settings)
    images = _images(_load(settings), replace(settings, images="mixmix"), device, progress)
    images.save(folder / "images.safetensors")
    images.contact_sheet(folder / "images.png")
    return images


def validate_run(
    folder: Path,
    *,
    data: str | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Validation:
    """Measure a finished run again, and bring its report up to date.

    Raises:
        PtqError: when files are missing or the ONNX file fails a gate.
    """
    about = read_metadata(folder / "student.safetensors")["about"]
    preprocess = Preprocess.from_json(about["preprocess"])
    images = CalibrationSet.load(folder / "images.safetensors")
    evaluation = load_eval(data, preprocess, about["num_classes"]) if data else None
    student = load(folder)
    measured = validate(
        folder / "model.onnx",
        student,
        preprocess,
        _batches(evaluation, images),
        threads=threads,
        progress=progress,
    )
    try:
        report = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise PtqError(f"{folder} has no readable report.json: run ptq quantize again.") from error
    write_report(report | measured.to_json(), folder)
    return measured


def _as_model(model: nn.Module | Model, preprocess: Preprocess | None) -> Model:
    if isinstance(model, Model):
        return model
    return as_model(model, **({} if preprocess is None else asdict(preprocess)))


def _load(settings: Settings, ref: str | None = None) -> Model:
    if ref is not None:
        return load_model(ref)
    return load_model(
        settings.model,
        Path(settings.weights) if settings.weights else None,
        size=settings.size, resize=settings.resize, mean=settings.mean, std=settings.std,
    )  # fmt: skip


def _folder(settings: Settings) -> Path:
    """The run directory, made now: an hour of work should not end at a folder that cannot be written."""
    folder = Path(settings.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PtqError(f"cannot make {folder} ({error.strerror}); choose another --out.") from error
    if not os.access(folder, os.W_OK):
        raise PtqError(f"cannot write into {folder}; choose another --out.")
    return folder


def _device(settings: Settings) -> torch.device:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise PtqError(
            f"there is no device {name!r} here ({str(error).splitlines()[0]}); use --device cpu."
        ) from error
    return torch.device(name)


def _move(student: Student, device: torch.device) -> None:
    student.module.to(device)
    student.prepared.module.to(device)


def _images(
    model: Model, settings: Settings, device: torch.device, progress: Progress
) -> CalibrationSet:
    """Calibration images from wherever the settings say."""
    source, preset = settings.images, synthesis_preset(settings.preset, model.preprocess)
    if source == "mixmix":
        return _synthesize(
            [model, *(_load(settings, ref) for ref in settings.teachers)],
            settings,
            device,
            progress,
        )
    if source == "noise":
        return gaussian_noise(model, preset.images, settings.seed)
    if source.endswith(".safetensors"):
        images = CalibrationSet.load(Path(source))
        if tuple(images.images.shape[-2:]) != model.preprocess.size:
            raise PtqError(
                f"the images in {source} are {tuple(images.images.shape[-2:])} pixels, the model takes {model.preprocess.size}."
            )
        return images
    return CalibrationSet.from_pixels(
        load_images(source, model.preprocess, limit=preset.images), source=source
    )


def _synthesize(
    teachers: list[Model], settings: Settings, device: torch.device, progress: Progress
) -> CalibrationSet:
    config = replace(synthesis_preset(settings.preset, teachers[0].preprocess), seed=settings.seed)
    return synthesize(teachers, config, device=str(device), progress=progress)


def _method(settings: Settings) -> ReconstructConfig:
    return replace(method_preset(settings.method, settings.preset), seed=settings.seed)


def _batches(
    evaluation: EvalSet | None, images: CalibrationSet
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images to validate on: the labelled ones, else the calibration images."""
    if evaluation is not None:
        yield from evaluation.batches(50)
    else:
        yield from ((images.floats(slice(i, i + 50)), None) for i in range(0, len(images), 50))


def _metadata(settings: Settings, images: CalibrationSet) -> Mapping[str, str]:
    source = str(images.provenance.get("source", settings.images))
    return {"model": settings.model, "seed": str(settings.seed), "images": source}


def _advice(student: Student, measured: Validation) -> list[str]:
    """What somebody who deploys the file must know and cannot see in it."""
    if measured.precise and any(spec.bits == 8 for spec in student.plan.weights.values()):
        return [
            "this CPU has no VNNI: onnxruntime sums 8-bit weights wrongly here unless a session sets "
            "session.x64quantprecision to 1, as this validation did; --reduce-range avoids it and is faster"
        ]
    return []


def _report(
    settings: Settings,
    model: Model,
    student: Student,
    images: CalibrationSet,
    blocks: list[BlockResult],
    measured: Validation,
    watch: Stopwatch,
) -> dict[str, Any]:
    return {
        "model": {
            "name": model.name,
            "weights": model.weights,
            "sha256": model.sha256,
            "preprocess": asdict(model.preprocess),
        },
        **measured.to_json(),
        "seconds": watch.seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        "blocks": [block.to_json() for block in blocks],
        "bits": {name: spec.bits for name, spec in student.plan.weights.items()},
        "activation_bits": {name: spec.bits for name, spec in student.plan.activations.items()},
        "notes": [*student.plan.notes, *_advice(student, measured)],
        "images": {"count": len(images), **images.provenance},
        "settings": settings.to_json(),
        "command": settings.command(),
        "seed": settings.seed,
        **environment(),
    }
