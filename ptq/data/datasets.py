"""Images from disk: labeled ones to evaluate with, plain ones to calibrate with.

Pixels are, bit for bit, those that the evaluation transforms of torchvision and timm make of the same file (a test
compares them). Both libraries are left out here: importing torchvision takes a second, its transforms leave as much
to do (EXIF, 16 bits, oblong crops, strips), and its ImageFolder numbers the folders that happen to be there, so that
a part of ImageNet's classes would get the labels of others.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ptq.data.preprocess import Preprocess
from ptq.errors import InputError, reason
from ptq.utils.sampling import spread

__all__ = ["EvalSet", "fit_images", "imagenet_wnids", "load_eval", "load_images"]

_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"))
LARGEST = 1 << 27  # pixels of a resized image
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class EvalSet:
    """Labeled images that are decoded when asked for, so that a large folder fits in memory.

    Attributes:
        labels: int64 (N,), class indices.
        read: index -> uint8 (3, H, W), RGB, resized and cropped for one network.
        source: where they come from, for people.
    """

    labels: Tensor
    read: Callable[[int], Tensor]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, float32 (n, 3, H, W) in [0, 1], and labels, int64 (n,), in a fixed order.

        Raises:
            InputError: for a file that cannot be decoded.
        """
        with ThreadPoolExecutor(max_workers=4) as pool:  # decoding releases the interpreter lock
            for start in range(0, len(self), batch_size):
                labels = self.labels[start : start + batch_size]
                images = pool.map(self.read, range(start, start + len(labels)))
                yield torch.stack(list(images)).float() / 255, labels


def load_eval(path: Path | str, preprocess: Preprocess, num_classes: int | None = None) -> EvalSet:
    """Open labeled data.

    Args:
        path: a folder with one folder of images per class, named by class index ("0", "17") or by
            ImageNet WNID ("n01440764"), not necessarily all of them; or an .npz of `images`, uint8
            (N, C, H, W), RGB, RGBA or gray, or gray (N, H, W), and `labels`, integers (N,). As in files, an alpha
            channel is left out.
        preprocess: says how images are resized and cropped. Arrays that already have the size the
            network takes are left as they are.
        num_classes: of the network; labels beyond it are refused.

    Raises:
        InputError: when there is nothing there, or not of this form.

    Example:
        >>> from ptq.data.preprocess import IMAGENET
        >>> np.savez("val.npz", images=np.zeros((5, 3, 224, 224), np.uint8), labels=np.arange(5))
        >>> [tuple(images.shape) for images, labels in load_eval("val.npz", IMAGENET).batches(4)]
        [(4, 3, 224, 224), (1, 3, 224, 224)]
    """
    path = Path(path)
    if path.is_dir():
        files = _labeled_files(path)
        labels = torch.tensor([label for _, label in files])
        _check_headers([file for file, _ in files])
        found = EvalSet(labels, lambda i: _read_file(files[i][0], preprocess), str(path))
    else:
        arrays = _read_npz(path)
        if "labels" not in arrays:
            raise InputError(f"{path} has no array 'labels', with one class index per image")
        images, numbers = arrays["images"], arrays["labels"]
        if numbers.shape != images.shape[:1] or numbers.dtype.kind not in "iu":
            raise InputError(
                f"'labels' in {path} is {numbers.dtype} {numbers.shape}: it must be integers "
                f"({len(images)},), one per image"
            )
        labels = torch.from_numpy(numbers.astype(np.int64))
        found = EvalSet(labels, lambda i: _from_array(images[i], preprocess), str(path))
    low, high = int(found.labels.min()), int(found.labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise InputError(
            f"{path} has labels {low} to {high}, but the model knows the classes 0 to "
            f"{'...' if num_classes is None else num_classes - 1}: this is data for another model"
        )
    return found


def load_images(path: Path | str, preprocess: Preprocess, limit: int = 1024) -> Tensor:
    """Read images to calibrate with, labels or none.

    Args:
        path: a folder, searched through and through, or an .npz with `images` as in `load_eval`.
        preprocess: says how images are resized and cropped.
        limit: the most images to take; of more, every so many-th, so that every class has its part.

    Returns:
        uint8 (N, 3, H, W), RGB, resized and cropped as `preprocess` says.

    Raises:
        InputError: when there is nothing there, or a file cannot be decoded.

    Example:
        >>> from ptq.data.preprocess import IMAGENET
        >>> np.savez("images.npz", images=np.zeros((5, 3, 300, 300), np.uint8))
        >>> load_images("images.npz", IMAGENET, limit=2).shape
        torch.Size([2, 3, 224, 224])
    """
    path = Path(path)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _is_image(file)]
        if not files:
            raise InputError(f"no images in {path}: expected {', '.join(sorted(_SUFFIXES))} files")
        return torch.stack([_read_file(files[i], preprocess) for i in spread(len(files), limit)])
    images = _read_npz(path)["images"]
    return torch.stack([_from_array(images[i], preprocess) for i in spread(len(images), limit)])


def fit_images(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Resize images that were made for another network: as small as they can be to fill its input, and cropped.

    Nothing is cropped where the shapes agree: what was made for a network has no border that is meant to go.

    Args:
        images: uint8 (N, 3, H, W), RGB.
        preprocess: of the network; its size and interpolation.

    Returns:
        uint8 (N, 3, height, width); the images themselves where they have this size.

    Example:
        >>> from ptq.data.preprocess import IMAGENET
        >>> fit_images(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), IMAGENET).shape
        torch.Size([2, 3, 224, 224])
    """
    if tuple(images.shape[-2:]) == preprocess.size:
        return images
    whole = replace(preprocess, resize=min(preprocess.size))
    return torch.stack([_from_array(image, whole) for image in images.numpy()])


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids of ImageNet-1k, in the order of its class indices.

    Example:
        >>> imagenet_wnids()[0]
        'n01440764'
    """
    return tuple(resources.files("ptq.data").joinpath("imagenet_wnids.txt").read_text().split())


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES and not file.name.startswith(".") and file.is_file()


def _labeled_files(root: Path) -> list[tuple[Path, int]]:
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{root} has no folders of images: name one per class, by class index or ImageNet WNID")
    classes = _class_of_folders(root, [folder.name for folder in folders])
    files = [(file, classes[folder.name]) for folder in folders for file in sorted(folder.iterdir()) if _is_image(file)]
    if not files:
        raise InputError(f"no images in the folders of {root}: expected {', '.join(sorted(_SUFFIXES))} files")
    return files


def _class_of_folders(root: Path, names: list[str]) -> dict[str, int]:
    """Return the class index of every folder: its number, or the position of its WNID among all 1,000."""
    if all(re.fullmatch(r"\d{1,9}", name) for name in names):
        return {name: int(name) for name in names}
    positions = {wnid: index for index, wnid in enumerate(imagenet_wnids())}
    strange = [name for name in names if name not in positions]
    if strange:
        raise InputError(
            f"{root} has folders that are neither class indices nor ImageNet WNIDs: "
            f"{', '.join(strange[:3])}{' and more' if len(strange) > 3 else ''}; rename them"
        )
    return {name: positions[name] for name in names}


def _check_headers(files: list[Path]) -> None:
    """Find files that are no images now, and not after an hour of work."""
    for file in files:
        _open(file).close()


def _open(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file} is not an image that can be read ({reason(error)}): remove it") from error


def _read_file(file: Path, preprocess: Preprocess) -> Tensor:
    with _open(file) as image:
        try:
            # Scanners and some medical images have 16 bits, which `convert` would clip to white.
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{file} cannot be decoded ({reason(error)}): remove it") from error
    return _fit(upright, preprocess)


def _from_array(array: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    if array.shape[1:] == preprocess.size:
        return torch.from_numpy(array.copy())
    return _fit(Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0))), preprocess)


def _fit(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """Resize the shorter side to `preprocess.resize` and crop the center, as torchvision rounds: uint8 (3, H, W)."""
    height, width = preprocess.size
    short = min(image.size)
    # More than `resize` only where an oblong crop would reach over the edge of the image.
    target = max(preprocess.resize, -(-width * short // image.width), -(-height * short // image.height))
    wide, high = target * image.width // short, target * image.height // short
    left, top = round((wide - width) / 2), round((high - height) / 2)
    if wide * high > LARGEST:  # a strip of one pixel's width: only the part that is seen is enlarged
        across, down = image.width / wide, image.height / high
        seen = (left * across, top * down, (left + width) * across, (top + height) * down)
        image = image.resize((width, height), _FILTERS[preprocess.interpolation], box=seen)
        left, top = 0, 0
    elif (wide, high) != image.size:
        image = image.resize((wide, high), _FILTERS[preprocess.interpolation])
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _read_npz(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.exists():
        raise InputError(f"nothing at {path}: expected a folder of images or an .npz file")
    try:
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", b"\x93N"):  # numpy would offer to load it as a pickle
                raise ValueError("it is no archive of arrays")
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} holds one array: expected an .npz with `images`")
        with archive:
            arrays = {name: archive[name] for name in archive.files if name in ("images", "labels")}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise nearly anything on a damaged file
        raise InputError(
            f"{path} is not a readable .npz ({reason(error)}): expected a folder of images, or an .npz of "
            "uint8 images (N,3,H,W)"
        ) from error
    # numpy gives the bytes of a member that is no array.
    arrays = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
    images = arrays.get("images")
    if images is None:
        raise InputError(f"{path} has no array 'images', uint8 (N,3,H,W)")
    colors = images[:, None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or colors.ndim != 4 or colors.shape[1] not in (1, 3, 4) or not images.size:
        raise InputError(
            f"'images' in {path} is {images.dtype} {images.shape}: it must be uint8 (N,3,H,W), RGB, or (N,H,W), gray"
        )
    return arrays | {"images": np.broadcast_to(colors[:, :3], (len(colors), 3, *colors.shape[2:]))}
