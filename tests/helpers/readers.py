"""Every reader of files, with sound files of its kind, and a mutator that damages them.

What must hold: whatever is in a file, a reader gives its result or raises `PtqError`. `seeds` writes the sound files,
`read` opens one as the command line would, and `mutate` damages bytes, also below the checksums and lengths around
them: members of a zip, JSON in a safetensors header.
"""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ptq.calibration import CalibrationSet
from ptq.data.datasets import load_eval, load_images
from ptq.data.preprocess import Preprocess
from ptq.errors import PtqError
from ptq.export import export_qdq, ort
from ptq.export.integer_reference import IntegerReference
from ptq.export.onnx_files import QuantizedFile
from ptq.models.weights import check_finite, fit, read_weights
from ptq.quantization.storage import load_quantized, save_quantized
from ptq.reporting.report_files import markdown, read_report
from ptq.utils.work_store import WorkStore, resume
from tests.helpers import networks

__all__ = ["READERS", "Reader", "mutate"]

PREPROCESS = Preprocess((16, 16), 18, "bilinear", (0.5,) * 3, (0.5,) * 3)


@dataclass(frozen=True)
class Reader:
    """How files of one kind are read.

    Args:
        name: of the file.
        seeds: writes sound files into a folder and returns their paths.
        read: opens a file; may raise PtqError alone.
    """

    name: str
    seeds: Callable[[Path], list[Path]]
    read: Callable[[Path], object]


def small() -> nn.Module:
    """A network that takes next to no time."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return networks.with_statistics(nn.Sequential(*layers, nn.Linear(4, 3)))


def _pth(folder: Path) -> list[Path]:
    state = small().state_dict()
    torch.save(state, folder / "a.pth")
    torch.save({"state_dict": state, "epoch": 3}, folder / "b.pth")
    torch.save(state, folder / "c.pth", _use_new_zipfile_serialization=False)
    return [folder / name for name in ("a.pth", "b.pth", "c.pth")]


def _safetensors(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    save_file(small().state_dict(), folder / "a.safetensors")
    return [folder / "a.safetensors"]


def _weights(path: Path) -> None:
    module, state = small(), read_weights(path)
    fit(module, state, str(path))
    check_finite(module, str(path))


def _images(folder: Path) -> list[Path]:
    pixels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    CalibrationSet(pixels, torch.arange(4), {"source": "noise", "seed": 0}).save(folder / "a.safetensors")
    return [folder / "a.safetensors"]


@cache
def _quantized_model() -> Any:
    return networks.quantized_network("mobilenet", 4, 8)


def _quantized_models(folder: Path) -> list[Path]:
    about: dict[str, Any] = {"model": None, "preprocess": {}, "num_classes": 10, "settings": {}}
    save_quantized(_quantized_model(), folder / "a.safetensors", about)
    return [folder / "a.safetensors"]


def _npz(folder: Path) -> list[Path]:
    images = np.arange(2 * 3 * 16 * 16, dtype=np.uint8).reshape(2, 3, 16, 16)
    np.savez(folder / "a.npz", images=images, labels=np.arange(2))
    np.savez_compressed(folder / "b.npz", images=images[:, :, :9, :11], labels=np.arange(2))
    return [folder / "a.npz", folder / "b.npz"]


def _read_npz(path: Path) -> None:
    load_images(path, PREPROCESS)
    for _ in load_eval(path, PREPROCESS, 10).batches():
        pass


def _pictures(folder: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 4), np.uint8)
    made = []
    for mode, suffix in (
        ("RGB", "jpg"),
        ("CMYK", "jpg"),
        ("RGBA", "png"),
        ("L", "png"),
        ("P", "gif"),
        ("RGB", "bmp"),
        ("RGB", "webp"),
        ("RGB", "ppm"),
        ("RGB", "tiff"),
        ("I;16", "tiff"),
        ("I;16", "png"),
    ):
        image = Image.fromarray(pixels[..., :3]) if mode != "I;16" else None
        image = Image.fromarray(pixels[..., 0].astype(np.uint16)) if image is None else image.convert(mode)
        made.append(folder / f"{mode.replace(';', '')}.{suffix}")
        image.save(made[-1], exif=_rotated() if suffix in ("jpg", "png", "webp") else Image.Exif())
    return made


def _rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _read_picture(path: Path) -> None:
    load_images(path.parent, PREPROCESS)


def _reports(folder: Path) -> list[Path]:
    from tests.helpers.reports import made_up

    (folder / "report.json").write_text(json.dumps(made_up().to_json()))
    return [folder / "report.json"]


def _parts(folder: Path) -> list[Path]:
    finished = resume(folder / "run.part", {"bits": 4})
    finished.save("ranges", small(), {"sqnr": 30.0})
    return sorted((folder / "run.part").iterdir())


def _resume(path: Path) -> None:
    """A damaged file counts as none; settings that cannot be read refuse nobody."""
    folder = path.parent
    if path.suffix == ".json":
        path.replace(folder / "settings.json")
    else:
        path.replace(folder / "ranges.safetensors")
    resume(folder, {"bits": 4}).restore("ranges", small())


def _batches(folder: Path) -> list[Path]:
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    WorkStore(folder, {"seed": 0}).write("batch-0000", {"images": pixels}, {"loss": 0.5})
    return [folder / "batch-0000.safetensors"]


def _read_batch(path: Path) -> None:
    path.replace(path.with_name("batch-0000.safetensors"))
    WorkStore(path.parent, {"seed": 0}).read("batch-0000")


def _onnx(folder: Path) -> list[Path]:
    return [export_qdq(_quantized_model(), folder / "a.onnx")]


def _read_onnx(path: Path) -> None:
    file = QuantizedFile(path)
    for question in (file.layers, file.unquantized, file.wrong_bias_scales, file.wrong_axes):
        question()
    IntegerReference(path)
    ort.optimized(path)


READERS = (
    Reader("weights.pth", _pth, _weights),
    Reader("weights.safetensors", _safetensors, _weights),
    Reader("images.safetensors", _images, CalibrationSet.load),
    Reader("quantized.safetensors", _quantized_models, lambda path: load_quantized(path, networks.build("mobilenet"))),
    Reader("data.npz", _npz, _read_npz),
    Reader("picture", _pictures, _read_picture),
    Reader("report.json", _reports, lambda path: markdown(read_report(path.parent))),
    Reader("run.part", _parts, _resume),
    Reader("images.part", _batches, _read_batch),
    Reader("model.onnx", _onnx, _read_onnx),
)

NUMBERS = (0, 1, -1, 255, 256, 65535, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**63 - 1, 2**63)
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    1e308,
    10**30,
    "",
    "x",
    "NaN",
    [],
    [[]],
    {},
    {"x": 1},
    [0] * 5,
    [-1, 3],
    [2**62, 2**62],
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file: its bytes, or what lies below the checksums and lengths around them."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice((_bytes, _bytes, _inside))(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut out, repeat or insert bytes."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(8))
    start = rng.randrange(len(data))
    # Formats say what follows at their beginning, and archives at their end.
    if rng.random() < 0.5:
        start = min(start, rng.randrange(200))
    end = min(len(data), start + rng.choice((1, 2, 4, 8, 64)))
    match rng.randrange(6):
        case 0:
            return data[:start] + bytes([data[start] ^ (1 << rng.randrange(8))]) + data[start + 1 :]
        case 1:
            number = rng.choice(NUMBERS)
            packed = struct.pack(rng.choice("<>") + "Q", number % 2**64)[: rng.choice((1, 2, 4, 8))]
            return data[:start] + packed + data[start + len(packed) :]
        case 2:
            return data[:start]
        case 3:
            return data[:start] + data[end:]
        case 4:
            return data[:start] + data[start:end] * rng.choice((2, 3, 100)) + data[end:]
        case _:
            return data[:start] + bytes(rng.randrange(256) for _ in range(end - start)) + data[end:]


def _inside(data: bytes, rng: random.Random) -> bytes:
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _zip(data, rng)
    if data[:1] == b"{":
        return _json(data, rng)
    length = int.from_bytes(data[:8], "little")
    if 8 < length < len(data) and data[8:9] == b"{":
        header = _json(data[8 : 8 + length], rng)
        return len(header).to_bytes(8, "little") + header + data[8 + length :]
    return _bytes(data, rng)


def _zip(data: bytes, rng: random.Random) -> bytes:
    """Damage one member, and write checksums that are right."""
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
            names = old.namelist()
            chosen = rng.choice(names)
            for name in names:
                content = old.read(name)
                new.writestr(name, _bytes(content, rng) if name == chosen else content)
    except Exception:  # what is left of an archive can be damaged as bytes alone
        return _bytes(data, rng)
    return made.getvalue()


def _json(data: bytes, rng: random.Random) -> bytes:
    """Put something odd in the place of one value, or leave it out; also in JSON that is a string in it."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    places: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        at = todo.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
        places += [(at, key) for key in keys]
        todo += [at[key] for key in keys]
    if not places:
        return json.dumps(rng.choice(ODD)).encode()
    at, key = rng.choice(places)
    if isinstance(at[key], str) and at[key][:1] == "{" and rng.random() < 0.9:
        at[key] = _json(at[key].encode(), rng).decode(errors="replace")
    elif rng.random() < 0.2:
        del at[key]
    elif rng.random() < 0.05:
        return data.replace(b"{", b"[" * 100_000, 1)
    else:
        at[key] = rng.choice(ODD)
    return json.dumps(tree).encode()


def escapes(reader: Reader, path: Path) -> Exception | None:
    """Return what a reader raises that is no PtqError."""
    try:
        reader.read(path)
    except PtqError:
        return None
    except Exception as error:
        return error
    return None
