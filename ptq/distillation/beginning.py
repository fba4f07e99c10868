"""What a student begins with decides how it learns."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ptq.distillation.config import DistillConfig
from ptq.models.model import Model
from ptq.utils.batchnorms import with_statistics

__all__ = ["config_for"]


def config_for(student: Model, config: DistillConfig) -> DistillConfig:
    """Return the configuration with what it leaves to the student.

    Weights are trained where a BatchNorm has seen images. Of a network without BatchNorm they are, where the model does not say that they are random.

    Example:
        >>> config = config_for(ptq.load_model("resnet18", pretrained=False), DistillConfig())
        >>> config.lr, config.hints
        (0.004, 100.0)
    """
    seen = [m.running_mean for m in with_statistics(student.module) if m.running_mean is not None]
    trained = any(bool(torch.any(mean != 0)) for mean in seen) if seen else student.weights_source != "random"
    return config.for_student(trained, normalized=any(isinstance(m, _BatchNorm) for m in student.module.modules()))
