"""VGG and MobileNetV2 as torchvision has them, cut to the size of CIFAR images.

Teachers of families other than the ResNets'. Both take 32x32 images in the ImageNet normalization; the
weights are passed with ``--weights``.

Example:
    ptq quantize --model benchmarks/models/cifar_torchvision.py:vgg8_bn --weights vgg8_bn.pth --bits 4
"""

from torch import nn
from torchvision.models import MobileNetV2, mobilenet_v2
from torchvision.models.vgg import VGG, make_layers

from benchmarks.models.cifar_resnet import PREPROCESS

__all__ = ["PREPROCESS", "mobilenetv2_x0_5", "vgg8_bn"]


def vgg8_bn() -> VGG:
    """Seven convolutions, the last of 256 channels, and one linear layer: 1.1 M parameters."""
    net = VGG(make_layers([32, "M", 64, "M", 128, 128, "M", 256, 256, "M"], batch_norm=True), num_classes=10)
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(256, 10)
    return net


def mobilenetv2_x0_5() -> MobileNetV2:
    """Half the channels; the first two halvings of the resolution are left out: 0.7 M parameters."""
    net = mobilenet_v2(num_classes=10, width_mult=0.5)
    net.features[0][0].stride = (1, 1)
    net.features[2].conv[1][0].stride = (1, 1)
    return net
