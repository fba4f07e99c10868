"""The processes of a run, called ranks: one, or as many as torchrun started, on one host or on several.

All ranks run the same code on the same settings. What costs time is shared out, and comes out the same on every rank: batches of
images (`dealt`), rows of activations and of mini-batches (`ptq.utils.shares`). What cannot be shared out
the first rank does by itself, and the others take what it found (`by_first`). Within that there is one rank, so that code
which shares out its work can be called there, too. Only the first rank writes and speaks.

Without `joined` there is one rank, and nothing here costs anything. torch is imported only then: the command line asks here,
too.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ptq.errors import InputError, MachineError, PtqError, reason

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "by_first",
    "dealt",
    "done_by_first",
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
    "size",
    "together",
]

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
LONG = timedelta(days=60)  # the first rank may export and validate for hours while the others wait
ENDED = "a process of this run was ended; what was finished is kept, and the same command continues"


@dataclass(frozen=True)
class _Joined:
    rank: int
    size: int
    store: Any  # where all ranks count together, kept by torchrun: it outlives every rank


_NOBODY = _Joined(0, 1, None)
_joined: ContextVar[_Joined] = ContextVar("joined", default=_NOBODY)


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
        together(distributed.barrier)  # torchrun may take a rank that is ready early for one that is lost
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
    together(lambda: distributed.broadcast_object_list(outcome, src=0, device=device("cpu")))
    if outcome[1] is not None:
        raise outcome[1]
    made: T = outcome[0]
    return made


def done_by_first(function: Callable[P, T]) -> Callable[P, T]:
    """Let the first rank run a function wherever it is called, as `by_first` does.

    Example:
        >>> @done_by_first
        ... def four():
        ...     return 4
        >>> four()
        4
    """

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        return by_first(partial(function, *args, **options))

    return run


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
    together(lambda: distributed.all_gather_object(values, value))
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


def together(collective: Callable[[], object]) -> None:
    """Take part in something that all ranks do together: a collective of torch.distributed.

    Raises:
        MachineError: when another rank has ended.
    """
    try:
        collective()
    except RuntimeError as error:
        raise MachineError(ENDED) from error


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


def _ended(*_: object) -> None:
    raise MachineError(ENDED)
