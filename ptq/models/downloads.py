"""Downloads of published weights that fail soon and clearly when there is no network."""

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ptq.errors import MachineError, reason

__all__ = ["downloading"]

_SECONDS = 10.0


@contextmanager
def downloading(ref: str, url: str | None) -> Iterator[None]:
    """Turn what goes wrong inside into one PtqError that names --weights.

    Args:
        ref: the model reference, for the message.
        url: of a file that torch.hub fetches and caches; None for the Hugging Face hub.

    What is cached is used without a network. Whether the server answers is found out first:
    torch.hub announces a download before it fails, and the other's client retries for most of a
    minute.

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
            f"the weights of {ref} could not be downloaded ({reason(error)}): check the network, or give a file with --weights"
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
