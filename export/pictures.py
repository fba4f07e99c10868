"""Dense outputs as pictures, for reports: what float and the file give for a few images, side by side."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ptq.tasks.outputs import Output, named
from ptq.tasks.task import Task
from ptq.utils.tensor_files import save_tensors

__all__ = ["FORMAT", "Pictures"]

FORMAT = "ptq-pictures-1"
COUNT = 4  # images
WIDEST = 256  # pixels; of larger ones every so many-th
SHOWN = ("float", "onnx")
GRAY_AND_COLOR = (1, 3)  # channels that are a picture


class Pictures:
    """Takes the outputs for the first images that come.

    A dense output becomes the number of the class of each pixel, (N, H, W), and images are scaled to 0..255 as the float
    network's are, (N, C, H, W). Other outputs are no pictures.

    Args:
        task: of the network.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.tensors: dict[str, Tensor] = {}

    def add(self, images: Tensor, outputs: Mapping[str, Output]) -> None:
        """Take in a batch, unless there was one already: RGB images in [0, 1], and the outputs of every network."""
        if self.tensors or not set(SHOWN) <= outputs.keys():
            return
        for output in self.task.kinds:
            given = [named(outputs[network])[output][:COUNT] for network in SHOWN]
            if given[0].dim() == 4 and self.task.kinds[output] == "dense":
                pictures = [one.argmax(1) for one in given]
            elif given[0].dim() == 4 and given[0].shape[1] in GRAY_AND_COLOR:
                low, high = given[0].aminmax()
                pictures = [255 * ((one - low) / (high - low).clamp(min=1e-12)).clamp(0, 1) for one in given]
            else:
                continue
            for network, picture in zip(SHOWN, pictures, strict=True):
                self.tensors[f"{output}/{network}"] = _small(picture)
        if self.tensors:
            self.tensors["images"] = _small(255 * images[:COUNT])

    def save(self, path: Path) -> None:
        """Write the pictures; a file of an earlier run goes where there are none."""
        if self.tensors:
            save_tensors(path, self.tensors, {"format": FORMAT, "kinds": dict(self.task.kinds)})
        else:
            path.unlink(missing_ok=True)


def _small(picture: Tensor) -> Tensor:
    step = -(-max(picture.shape[-2:]) // WIDEST)
    return picture[..., ::step, ::step].round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
