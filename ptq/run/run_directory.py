"""The directory of a run: opened for new work or for work that was interrupted, and what its files say of themselves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ptq.config.settings import Settings
from ptq.errors import InputError
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.run.allocation import kept_widths
from ptq.run.fingerprint import decided_by
from ptq.run.inputs import BATCHES
from ptq.utils.files import run_folder
from ptq.utils.ranks import done_by_first
from ptq.utils.work_store import WorkStore, resume

__all__ = ["about_run", "open_run", "refuse_quantized", "unfinished"]


@done_by_first
def open_run(
    settings: Settings,
    model: Model,
    teachers: Sequence[Model],
    graph_model: GraphModel,
    device: torch.device,
    restart: bool,
    say: Callable[[str], object] | None,
) -> tuple[Path, WorkStore, WorkStore]:
    """Make the run directory, and return it with what is finished in there.

    That is what an interrupted run of the same settings has done, and what runs with other budgets for bits have measured.

    Args:
        settings: of the run.
        model, teachers, graph_model, device: what decides its result, besides.
        restart: discard what is finished.
        say: told what is finished.

    Raises:
        InputError: for an unfinished run of other settings.
        MachineError: when it cannot be written.
    """
    folder = run_folder(settings.output.folder)
    decides = decided_by(settings, model, teachers, graph_model.module, device)
    store, widths = unfinished(folder, decides, restart, say), kept_widths(folder, decides, settings)
    if restart:
        widths.discard()
    return folder, store, widths


def unfinished(
    folder: Path, decides: Mapping[str, Any], restart: bool, say: Callable[[str], object] | None
) -> WorkStore:
    """Return what an interrupted run in a run directory has done, synthesized batches of images among it.

    Args:
        folder: the run directory.
        decides: all that decides the result.
        restart: discard what is finished.
        say: told what is finished.

    Raises:
        InputError: for an unfinished run of other settings, of which anything is done.
        MachineError: when it cannot be written.
    """
    part = folder / "run.part"
    begun = any(part.glob("**/*.safetensors")) or (folder / BATCHES).is_dir()
    store = resume(part, decides, restart or not begun)
    if restart:
        WorkStore(folder / BATCHES).discard()
    batches = "a part of the images" if (folder / BATCHES).is_dir() else ""
    if say is not None and (done := store.words() or batches):
        say(f"continues an interrupted run: {done} already done")
    return store


@done_by_first
def refuse_quantized(folder: Path) -> None:
    """Refuse to put a float network where a quantized one is, whose images would be replaced.

    Raises:
        InputError: for such a run directory.
    """
    if (folder / "quantized.safetensors").exists():
        raise InputError(f"{folder} holds a quantized network, which is of other images: choose another --out.")


def about_run(settings: Settings, model: Model, by_name: bool) -> dict[str, Any]:
    """Return what the files of a run say about what they were made from, as JSON-able data.

    Args:
        settings: of the run.
        model: the float network.
        by_name: whether the settings name it, so that it can be loaded again.
    """
    return {
        "model": settings.model.name if by_name else None,
        "preprocess": asdict(model.preprocess),
        "num_classes": model.num_classes,
        "settings": settings.decisive().to_json(),
        "pruned": settings.pruning.budget is not None,
    }
