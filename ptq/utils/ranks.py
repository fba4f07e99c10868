"""The processes of a run, called ranks: one, or as many as torchrun started, on one host or on several.

All ranks run the same code on the same settings. What costs time is shared out, and comes out the same on every rank: batches of
images (`dealt`), rows of activations (`share`, `exchange`) and of mini-batches (`share`, `add_up`). What cannot be shared out
the first rank does by itself, and the others take what it found (`by_first`). Within that there is one rank, so that code
which shares out its work can be called there, too. Only the first rank writes and speaks.

Without `joined` there is one rank, and nothing here costs anything. torch is imported only then: the command line asks here,
too.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ptq.errors import InputError, MachineError, PtqError, reason

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Share",
    "add_up",
    "by_first",
    "dealt",
    "exchange",
    "first_to_say",
    "gathered",
    "is_first",
    "joined",
    "neighbors",
    "only_first",
    "portion",
    "rank",
    "require_same",
    "same_state",
    "share",
    "size",
]

T = TypeVar("T")
Q = TypeVar("Q")
LONG = timedelta(days=60)  # the first rank may export and validate for hours while the others wait
CHUNK = 1 << 26  # bytes sent at a time
ENDED = "a process of this run was ended; what was finished is kept, and the same command continues"


@dataclass(frozen=True)
class _Joined:
    rank: int
    size: int
    store: Any  # where all ranks count together, kept by torchrun: it outlives every rank


_NOBODY = _Joined(0, 1, None)
_joined: ContextVar[_Joined] = ContextVar("joined", default=_NOBODY)


@dataclass(frozen=True)
class Share:
    """What one rank does of something that has rows.

    Args:
        rows: from the first to the last.
        count: how many rows there are in all.
        weight: what a mean over these rows counts in the mean over all; the weights of all ranks add up to 1.
    """

    rows: slice
    count: int
    weight: float


def rank() -> int:
    """Return the number of this process, 0 for the first."""
    return _joined.get().rank


def size() -> int:
    """Return how many processes share the work."""
    return _joined.get().size


def is_first() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return rank() == 0


def neighbors() -> int:
    """Return how many ranks share this host's memory, this one among them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if size() > 1 else 1


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the block lasts; do nothing where it started none.

    On a machine with GPUs every rank takes its own, by its number on that machine. There ranks talk over NCCL, on CPUs over
    gloo. A rank waits for the others as long as they live.

    Raises:
        MachineError: when the others cannot be reached; within the block, when another rank has ended too early.

    Example:
        >>> with joined():  # torchrun --nproc-per-node 4 script.py
        ...     size()
        1
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or "RANK" not in os.environ:
        yield
        return
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    local, on_host = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
        if on_host <= torch.cuda.device_count():  # NCCL wants a GPU for every rank
            backend = "cpu:gloo,cuda:nccl"
    try:
        store, number, count = next(rendezvous("env://"))
        distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=LONG)
    except (RuntimeError, ValueError) as error:
        raise MachineError(
            f"cannot join the {os.environ['WORLD_SIZE']} processes that WORLD_SIZE speaks of ({reason(error)}): start them with torchrun."
        ) from error
    token = _joined.set(_Joined(number, count, store))
    before = signal.signal(signal.SIGTERM, _ended)  # torchrun sends it to the others when a rank has ended
    try:
        yield
        _call(distributed.barrier)  # torchrun may take a rank that is ready early for one that is lost
        distributed.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, before)
        _joined.reset(token)


def by_first(make: Callable[[], T]) -> T:
    """Let the first rank make something, and return it on all; the others wait. It has to be picklable.

    Raises:
        PtqError: what it raised, on all ranks.

    Example:
        >>> by_first(lambda: 2 + 2)
        4
    """
    if size() == 1:
        return make()
    from torch import device, distributed

    outcome: list[Any] = [None, None]
    if is_first():
        token = _joined.set(_NOBODY)
        try:
            outcome[0] = make()
        except PtqError as error:
            outcome[1] = error
        finally:
            _joined.reset(token)
    _call(lambda: distributed.broadcast_object_list(outcome, src=0, device=device("cpu")))
    if outcome[1] is not None:
        raise outcome[1]
    made: T = outcome[0]
    return made


def only_first(make: Callable[[], T]) -> T | None:
    """Let the first rank make something that only it needs; the others wait, and get None.

    Raises:
        PtqError: what it raised, on all ranks.

    Example:
        >>> only_first(lambda: 2 + 2)
        4
    """
    kept: list[T] = []
    by_first(lambda: kept.append(make()))
    return kept[0] if kept else None


def gathered(value: T) -> list[T]:
    """Return what every rank has, in their order. It has to be picklable, and on the CPU.

    Example:
        >>> gathered("mine")
        ['mine']
    """
    if size() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * size()
    _call(lambda: distributed.all_gather_object(values, value))
    return values


def portion(items: Sequence[T]) -> Sequence[T]:
    """Return the items that fall to this rank, neighbors in their order; none where there are too few."""
    return items[rank() * len(items) // size() : (rank() + 1) * len(items) // size()]


def dealt(work: Callable[[Q], T], items: Sequence[Q]) -> list[T]:
    """Return what some work gives for each of several items, in their order; every rank does its portion.

    Example:
        >>> dealt(lambda x: x + 1, [1, 2, 3])
        [2, 3, 4]
    """
    return [made for part in gathered([work(item) for item in portion(items)]) for made in part]


def share(count: int, step: int = 1) -> Share:
    """Return which of `count` rows this rank computes: whole steps, but at the end. Where there are too few steps, every rank computes all.

    Example:
        >>> share(32)
        Share(rows=slice(0, 32, None), count=32, weight=1.0)
    """
    return _shares(count, step, size())[rank()]


def exchange(rows: Tensor, step: int = 1) -> None:
    """Fill the rows that other ranks have computed, as `share` says, with theirs.

    Args:
        rows: (N, ...), dense in memory with the rows outermost; the same shape on every rank.
        step: as `share` was given.
    """
    shares = _shares(len(rows), step, size())
    if size() == 1 or shares[0] == shares[1]:
        return
    import torch
    from torch import distributed

    for source, each in enumerate(shares):
        part = rows[each.rows]
        if part.dim() == 4:
            part = part.permute(0, 2, 3, 1)  # as activations lie in memory
        for piece in part.view(-1).view(torch.uint8).split(CHUNK):
            _call(lambda piece=piece, source=source: distributed.broadcast(piece, source))  # type: ignore[misc]


def add_up(tensors: Sequence[Tensor]) -> None:
    """Put the sum over all ranks in the place of each tensor; all of one type, on one device."""
    if size() == 1 or not tensors:
        return
    import torch
    from torch import distributed

    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])  # one message
    _call(lambda: distributed.all_reduce(flat))
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view(tensor.shape))


def same_state(module: nn.Module) -> None:
    """Give a module the state that it has on the first rank."""
    if size() == 1:
        return
    state = by_first(lambda: {name: value.detach().cpu() for name, value in module.state_dict().items()})
    if not is_first():
        module.load_state_dict(state)


def require_same(what: str, value: str) -> None:
    """Refuse to go on where ranks differ in something that decides what they find.

    Raises:
        InputError: on all ranks.
    """
    if len(set(gathered(value))) > 1:
        raise InputError(f"{what} differ from one process to another: give all of them the same files.")


def first_to_say() -> bool:
    """Return whether no other rank has asked this before: a run that ends has one message.

    Example:
        >>> first_to_say()
        True
    """
    store = _joined.get().store
    if store is None:
        return True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is said, whoever ends meanwhile
    try:
        return int(store.add("said", 1)) == 1
    except RuntimeError:  # the store has gone: torchrun was killed itself
        return is_first()


def _shares(count: int, step: int, ranks: int) -> list[Share]:
    steps = -(-count // step)
    if steps < ranks:
        return [Share(slice(0, count), count, 1 / ranks)] * ranks
    ends = [min(count, number * steps // ranks * step) for number in range(ranks + 1)]
    return [Share(slice(low, high), count, (high - low) / count) for low, high in itertools.pairwise(ends)]


def _call(collective: Callable[[], object]) -> None:
    """Take part in something that all ranks do together.

    Raises:
        MachineError: when another rank has ended.
    """
    try:
        collective()
    except RuntimeError as error:
        raise MachineError(ENDED) from error


def _ended(*_: object) -> None:
    raise MachineError(ENDED)
