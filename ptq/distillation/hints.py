"""What a student sees inside is taught, too: hints, maps inside of a teacher (FitNets, Romero et al., ICLR 2015).

A prediction is a few numbers for a view; maps are thousands, and say where. A student that has seen few views learns several times as fast by them
(docs/measured/distillation.md). Networks of other kinds have maps of the same sizes: of each size the last ones are compared, through a 1x1 convolution.
A student of another depth cannot have all of them, so that hints only lead the way: in the second half predictions alone count.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ptq.tasks.outputs import Output

__all__ = ["Hints", "WithMaps"]

PARAMETRIZED = "parametrizations."  # as torch.nn.utils.parametrize calls its modules
TINY = 1e-12


class WithMaps:
    """A network that gives maps beside its output: of every size, (H, W), the last one that one of its modules gives, (N, C, H, W).

    Hooks stay in the network, so that torch.compile can follow them; they do nothing where the network itself is called.

    Args:
        network: of any kind; one without maps, such as a transformer, gives none.

    Example:
        >>> network = WithMaps(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()))
        >>> output, maps = network(torch.rand(1, 3, 8, 8))
        >>> {size: tuple(found.shape) for size, found in maps.items()}
        {'8x8': (1, 4, 8, 8), '4x4': (1, 4, 4, 4)}
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._maps: dict[str, Tensor] | None = None
        for name, module in network.named_modules():
            if name and PARAMETRIZED not in name:  # parametrizations give weights, not maps
                module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: object) -> None:
        if self._maps is None or not isinstance(output, Tensor):
            return
        if output.is_floating_point() and output.dim() == 4 and len(output) == self._count:
            height, width = output.shape[2:]
            if width > 1:
                self._maps[f"{height}x{width}"] = output

    def __call__(self, x: Tensor) -> tuple[Output, dict[str, Tensor]]:
        """Run the network, and return its output, and maps by size."""
        self._maps, self._count = {}, len(x)
        try:
            return self.network(x), self._maps
        finally:
            self._maps = None


class Hints(nn.Module):
    """Compares maps of a student with those of a teacher of the same size.

    Args:
        student: its maps for some images, by size.
        teacher: the teacher's for the same.

    Example:
        >>> ours, theirs = {"8x8": torch.rand(4, 2, 8, 8)}, {"8x8": torch.rand(4, 3, 8, 8), "4x4": torch.rand(4, 6, 4, 4)}
        >>> hints = Hints(ours, theirs)
        >>> hints.sizes, hints.loss(ours, theirs).shape
        (['8x8'], torch.Size([]))
    """

    def __init__(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.sizes = [size for size in teacher if size in student]
        self.projections = nn.ModuleList(
            nn.Conv2d(student[size].shape[1], teacher[size].shape[1], 1) for size in self.sizes
        )

    def loss(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
        """Return the squared error of projected maps, as a share of the variance of the teacher's: the mean over all sizes, ()."""
        errors = []
        for projection, size in zip(self.projections, self.sizes, strict=True):
            variance = teacher[size].var((0, 2, 3)).mean().clamp(min=TINY)
            errors.append((projection(student[size]) - teacher[size]).square().mean() / variance)
        return torch.stack(errors).mean()
