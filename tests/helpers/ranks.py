"""Several processes that share out their work, started as torchrun starts them."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from ptq.utils.ranks import joined

__all__ = ["on_ranks"]


def on_ranks(work: Callable[..., object], *given: Any, size: int = 2) -> list[int | None]:
    """Run `work` on every rank, one thread each, and return the exit status of each.

    Args:
        work: a function of a module, so that other processes find it.
        given: to it.
        size: how many ranks.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run, args=(work, given, rank, size, port)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _run(work: Callable[..., object], given: tuple[Any, ...], rank: int, size: int, port: int) -> None:
    torch.set_num_threads(1)
    places = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with joined():
        work(*given)
