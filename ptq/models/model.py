"""A name, or a file with a factory, becomes a network with everything known about it."""

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ptq.data.class_names import class_names
from ptq.data.preprocess import IMAGENET, Preprocess
from ptq.errors import InputError, ModelError, reason
from ptq.models.entry import ModelEntry
from ptq.models.inputs import Inputs, image_channels, with_one_input
from ptq.models.registry import find_entry
from ptq.models.weights import check_finite, read_weights
from ptq.tasks.outputs import named_tensors
from ptq.tasks.task import Task, find_task
from ptq.utils.batchnorms import plain_batchnorms
from ptq.utils.digest import state_digest
from ptq.utils.modules import copy_module, store_computed_weights, to_eval, unwrap, unwrap_parts

__all__ = ["Model", "Preprocess", "as_model", "load_model"]


@dataclass(frozen=True)
class Model:
    """A network and what one must know to feed it.

    Attributes:
        name: short, fit for a file name.
        module: in eval mode, float32, on the CPU.
        preprocess: what its images go through.
        task: what it is for: the kind of each output.
        weights_source: where its weights came from, for people: "torchvision IMAGENET1K_V2", a file name.
        sha256: over the tensors of the state dict.
        classes: their names, as many as there are classes; empty where nobody wrote them down.
    """

    name: str
    module: nn.Module
    preprocess: Preprocess
    task: Task
    weights_source: str
    sha256: str
    classes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """How many classes it tells apart; None where no output is class scores."""
        return self.task.classes


def load_model(
    name: str,
    weights: Path | None = None,
    *,
    pretrained: bool = True,
    size: int | Sequence[int] | None = None,
    resize: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
    range: int | None = None,
    num_classes: int | None = None,
    task: str = "auto",
    like: Preprocess | None = None,
) -> Model:
    """Load a network by its name.

    Args:
        name: a torchvision classification model ("resnet50"), "timm:NAME", a bundled one
            ("efficientnet_lite0", 1 or 2), "FILE.onnx", a float network, or "FILE.py:factory", a function without arguments that
            returns an nn.Module; FILE.py may hold ``PREPROCESS = dict(size=32, mean=(...),
            std=(...))``, with optional "resize", "interpolation", "channels" and "range"; ImageNet's are assumed, with
            a warning, for what neither it nor the arguments say. ``CLASSES = ("cat", ...)`` there names the
            classes, and ``INPUTS = dict(left="RGB", right="RGB", scale=2.0)`` the inputs of a network of several.
        weights: a .safetensors, .pth or .pt state dict to use in place of the published weights.
        pretrained: False builds the network with random weights when `weights` is not given; call
            `torch.manual_seed` first to know which.
        size: of the input in pixels, in place of what the provider says, as all that follow.
        resize: shorter side before the center crop, in pixels.
        mean, std: per channel, in units of [0, 1].
        interpolation: "bilinear" or "bicubic".
        channels: what they are, as "BGR" or "L"; see `Preprocess`.
        range: 255 where mean and std are of values in 0..255; without these, the network takes such values.
        num_classes: length of the output; read from `weights` where it is not given.
        task: what the network is for, as `ptq.find_task` takes it.
        like: of a network that this one goes with. It says what neither the provider nor the arguments do, in place of ImageNet's.

    Raises:
        InputError: for unknown names, files that cannot be read, and a task that the network cannot have.
        ModelError: for weights that do not fit or are not finite, and networks that do not map (N, 3, H, W) to
            tensors of N.
        MachineError: where a package is missing, or weights cannot be downloaded.

    Example:
        >>> load_model("resnet18", pretrained=False).preprocess.size
        (224, 224)
    """
    overrides = {"size": size, "resize": resize, "mean": mean, "std": std, "interpolation": interpolation}
    overrides |= {"channels": channels, "range": range}
    entry = find_entry(name, {key: value for key, value in overrides.items() if value is not None}, like)
    if weights is not None:
        state = read_weights(Path(weights))
        module = _build_for(entry, state, num_classes)
        entry.fit(module, state, str(weights))
        source = Path(weights).name
    elif pretrained:
        module, source = entry.pretrained(num_classes)
    else:
        module, source = entry.build(num_classes), "random"
    model = _finish(entry.name, module, entry.preprocess, source, entry.classes, task, entry.inputs)
    if num_classes is not None and model.num_classes != num_classes:
        raise InputError(f"{name} has {model.num_classes} classes, not {num_classes}")
    return model


def as_model(
    module: nn.Module,
    *,
    size: int | Sequence[int] = IMAGENET.size,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    interpolation: str = IMAGENET.interpolation,
    channels: str | None = None,
    range: int | None = None,
    inputs: Inputs | None = None,
    name: str = "model",
    classes: Sequence[str] = (),
    task: str = "auto",
) -> Model:
    """Wrap a network of your own; it is copied, and left as it is.

    Args:
        module: maps (N, 3, H, W) to (N, classes), or to any tensors of N in a tuple, list, dictionary or dataclass.
        size: (height, width) of its input in pixels, or one number for both.
        mean, std: per channel, both for values in [0, 1] or both in 0..255; ImageNet's when not given.
        resize: shorter side before the center crop; `size` when not given.
        interpolation: "bilinear" or "bicubic".
        channels: what they are, as "BGR" or "L"; see `Preprocess`. "RGB" when not given.
        range: 255 where mean and std are of values in 0..255; without these, the network takes such values.
        inputs: of a network that takes more than one image: argument -> channels, as "RGB", or a constant.
        name: of the network, in reports.
        classes: their names, for reports; as many as the network has classes.
        task: what the network is for, as `ptq.find_task` takes it.

    Raises:
        InputError: for a task that the network cannot have.
        ModelError: for weights that are not finite or a network that does not run on such input.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> as_model(net, size=32, mean=(0.5,) * 3, std=(0.5,) * 3).num_classes
        10
    """
    preprocess = Preprocess.of(
        size,
        resize=resize,
        interpolation=interpolation,
        mean=mean,
        std=std,
        channels=channels or (image_channels(inputs) if inputs else "RGB"),
        range=range,
    )
    return _finish(name, copy_module(unwrap(module)), preprocess, "as given", classes, task, inputs or {})


def _finish(
    name: str, module: nn.Module, preprocess: Preprocess, source: str, classes: object, task: str, inputs: Inputs
) -> Model:
    module = with_one_input(unwrap(module), inputs) if inputs else unwrap(module)
    unwrap_parts(module)
    store_computed_weights(module)
    module.float()
    module.cpu()
    to_eval(module)
    check_finite(module, source if source not in ("random", "as given") else name)
    try:
        gray = torch.zeros(1, *preprocess.input_shape)
        with torch.no_grad():
            output = module(gray)
        plain_batchnorms(module, gray)
    except Exception as error:  # a network is someone's code: it may raise anything
        shape = "x".join(map(str, preprocess.input_shape))
        raise ModelError(
            f"{name} does not run on {shape} images ({reason(error)}): "
            f"{_several_inputs(module) or f'check its input --size{_other_channels(module, preprocess)}'}"
        ) from error
    try:
        outputs = named_tensors(output)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    for output_name, value in outputs.items():
        if value.dim() == 0 or len(value) != 1:
            raise ModelError(
                f"{name} returns {output_name} of shape {tuple(value.shape)} for one image: the first dimension of every "
                "output must be that of the images: permute what has another one first, and decode boxes behind the network"
            )
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{name} gives NaN or infinite numbers for a gray image: load a sound checkpoint")
    found = find_task(outputs, preprocess.input_shape, task)
    if (scores := found.scores(outputs)) is not None and _are_probabilities(scores):
        warnings.warn(
            f"{name} returns probabilities: images are synthesized from scores, and worse from these. Leave its softmax "
            "out, and apply one to what the file returns",
            stacklevel=1,
        )
    names = class_names(classes, found.classes or 0)
    return Model(name, module, preprocess, found, source, state_digest(module), names)


def _several_inputs(module: nn.Module) -> str:
    """What keeps a network from taking one image, where that is that it wants more than one input; else nothing."""
    arguments = inspect.signature(module.forward).parameters.values()
    needed = [one.name for one in arguments if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(needed) < 2:
        return ""
    return (
        f"it takes {', '.join(needed)}: say which channels an image has, and what is a constant, with INPUTS = "
        f"dict({needed[0]}='RGB', ...) in its file, or inputs= in Python"
    )


def _other_channels(module: nn.Module, preprocess: Preprocess) -> str:
    """What keeps a network from taking images, where that is the channels of its first convolution."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.in_channels == preprocess.count:
        return ""
    count = f"{first.in_channels} channel{'s' * (first.in_channels > 1)}"
    return f"; its first convolution takes {count}: say which with --channels, as L for gray"


def _are_probabilities(scores: Tensor) -> bool:
    """Whether the class scores of an image, (1, classes), have been through a softmax."""
    return bool(scores.min() >= 0) and abs(float(scores.sum()) - 1) < 1e-4


def _build_for(entry: ModelEntry, state: dict[str, Tensor], num_classes: int | None) -> nn.Module:
    """Build the network with as many classes as the weights have, told by its last matrix."""
    module = entry.build(num_classes)
    matrices = [(n, value.shape[0]) for n, value in module.state_dict().items() if value.ndim >= 2]
    if num_classes is None and matrices:
        last, classes = matrices[-1]
        if last in state and state[last].ndim >= 2 and state[last].shape[0] != classes:
            return entry.build(state[last].shape[0])
    return module
