"""Weights of networks: read without running code, downloaded, fitted to a network's names, checked."""

import pickle
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from ptq.errors import InputError, MachineError, ModelError, reason

__all__ = ["check_finite", "downloading", "fit", "fit_in_order", "read_weights"]

# What training scripts put around a state dict, and in front of its names.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
# The published DenseNets say "norm.1" where today's modules say "norm1".
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")

# How long a server may take to answer.
_SECONDS = 10.0


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from .pth/.pt with `weights_only`.

    Takes the state dict out of ``{"state_dict": ...}`` and ``{"model": ...}``, and drops the
    ``module.`` in front of every name that DataParallel leaves.

    Raises:
        InputError: when the file is missing, damaged, or holds anything but tensors.
        ModelError: for tensors that are sparse, quantized or complex.

    Example:
        >>> read_weights(Path("resnet50.pth"))["fc.weight"].shape  # doctest: +SKIP
        torch.Size([1000, 2048])
    """
    if not path.is_file():
        raise InputError(f"no weights at {path}: check --weights")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}: save model.state_dict() and pass that")
    state = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path} holds no tensors: save model.state_dict() and pass that")
    for name, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_complex():
            kind = "sparse" if value.layout is not torch.strided else str(value.dtype)
            raise ModelError(f"{path}: {name} is {kind}; save it as a dense tensor of real numbers")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({reason(error)})") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged or holds Python objects besides tensors, which are not loaded "
            "because they could run code: save model.state_dict() alone, best as .safetensors"
        ) from error
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise InputError(f"{path} is not a readable weights file ({reason(error)})") from error


def fit(module: nn.Module, state: Mapping[str, Tensor], source: str, ignore: tuple[str, ...] = ()) -> None:
    """Copy `state`, but for names that start with `ignore`, into `module`; all else must agree.

    Raises:
        ModelError: naming what is missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    state = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items() if not name.startswith(ignore)}
    # Counters of batches seen play no part in inference, and old files lack them.
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in wanted]
    shapes = [
        f"{n} is {tuple(state[n].shape)}, the model wants {tuple(wanted[n].shape)}"
        for n in wanted
        if n in state and state[n].shape != wanted[n].shape
    ]
    faults = [
        f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape:", shapes))
        if names
    ]
    if faults:
        raise ModelError(f"{source} does not fit the model: {'; '.join(faults)}")
    module.load_state_dict(state, strict=False)


def fit_in_order(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `module` entry by entry: one network written under other names.

    Raises:
        ModelError: when the two do not agree in number and shapes.
    """
    wanted = module.state_dict()
    if [value.shape for value in wanted.values()] != [value.shape for value in state.values()]:
        raise ModelError(f"{source} does not fit the model: their entries differ in number or shape")
    module.load_state_dict(dict(zip(wanted, state.values(), strict=True)))


def check_finite(module: nn.Module, source: str) -> None:
    """Refuse parameters and running statistics that hold NaN or infinity; a mask of -inf is sound.

    Raises:
        ModelError: naming the first of them.
    """
    statistics = ((n, b) for n, b in module.named_buffers() if n.rpartition(".")[2] in ("running_mean", "running_var"))
    for name, value in (*module.named_parameters(), *statistics):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{source}: {name} holds NaN or infinite values; nothing can be made of it")


@contextmanager
def downloading(name: str, url: str | None) -> Iterator[None]:
    """Turn what goes wrong in a download of published weights into one message that names --weights.

    What is cached is used without a network. Whether the server answers is found out first:
    torch.hub announces a download before it fails, and the other's client retries for most of a
    minute.

    Args:
        name: of the network, for the message.
        url: of a file that torch.hub fetches and caches; None for the Hugging Face hub.

    Raises:
        MachineError: when the weights are neither cached nor to be had.

    Example:
        >>> with downloading("resnet50", "https://example.org/resnet50.pth"):  # doctest: +SKIP
        ...     ...
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        with _from_hub() if url is None else _from_url(url):
            yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a checksum that does not match
        raise MachineError(
            f"the weights of {name} could not be downloaded ({reason(error)}): check the network, or give a file with --weights"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


@contextmanager
def _from_url(url: str) -> Iterator[None]:
    from torch import hub

    cached = Path(hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if not cached.exists() and not _answers(url):
        raise OSError(f"{urlsplit(url).hostname} does not answer")
    yield


@contextmanager
def _from_hub() -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise OSError(f"{urlsplit(constants.ENDPOINT).hostname} does not answer") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    """Whether a server, or a proxy on the way to it, says anything at all."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
