"""Two processes find what one finds: the same images, the same network, and one message when one of them dies."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ptq.calibration.synthesis import synthesize
from ptq.calibration.synthesis_config import SynthesisConfig
from ptq.distillation.config import DistillConfig
from ptq.distillation.distillation import distill
from ptq.errors import InputError, MachineError
from ptq.models.model import Model, as_model
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.finetuning import finetune
from ptq.reconstruction.loop import reconstruct
from ptq.reconstruction.results import BlockResult
from ptq.utils import ranks
from ptq.utils.digest import state_digest
from ptq.utils.metrics import kl_divergence
from ptq.utils.shares import share
from ptq.utils.work_store import WorkStore
from tests.helpers.networks import build, images, quantized_network
from tests.helpers.ranks import on_ranks

FEW = SynthesisConfig(count=6, batch=2, iterations=4)
QUICK = ReconstructConfig(iterations=20, batch=9, finetune=4, tune_below=99.0, fisher="on")
COUNT = 40  # three steps of 16, so that the shares differ


def _model() -> Model:
    return as_model(build("resnet"), size=16, mean=(0.5,) * 3, std=(0.25,) * 3)


def _reconstructed(seed: int, store: WorkStore | None = None, dies: bool = False) -> QuantizedModel:
    quantized_model, inputs = quantized_network("resnet", 3, 4), images(COUNT)
    config = ReconstructConfig(**{**vars(QUICK), "seed": seed})

    def die(index: int, result: BlockResult) -> None:
        if dies and index == 1 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    reconstruct(quantized_model, inputs, config, store=store, on_block=die)
    finetune(quantized_model, inputs[:-2], inputs[-2:], config, store=store)
    return quantized_model


def _work(folder: Path) -> None:
    """What two processes do together, and what each of them has in the end."""
    made = synthesize([_model()], FEW, folder=folder / "batches")
    quantized_model = _reconstructed(0, WorkStore(folder / "blocks"))
    student, _ = distill(_model(), _model(), made.images, DistillConfig(epochs=1, batch=4))
    try:
        ranks.by_first(_refuse)
    except InputError as error:
        refused = str(error)
    found = {
        "images": made.images,
        "losses": made.provenance["losses"],
        "network": state_digest(quantized_model.module),
        "outputs": quantized_model.integer_forward(images(COUNT)),
        "student": state_digest(student.module),
        "refused": refused,
        "alone": ranks.by_first(ranks.size),
        "pieces": [piece.rows.start for piece in ranks.gathered(share(COUNT, 16))],
    }
    torch.save(found, folder / f"{ranks.rank()}.pt")


def _refuse() -> None:
    raise InputError("nobody may")


def _die(folder: Path) -> None:
    try:
        _reconstructed(0, WorkStore(folder / "blocks"), dies=True)
    except MachineError:
        (folder / "ended").touch()
        raise


def _go_on(folder: Path) -> None:
    quantized_model = _reconstructed(0, WorkStore(folder / "blocks"))
    if ranks.is_first():
        (folder / "network").write_text(state_digest(quantized_model.module))


@dataclass(frozen=True)
class Together:
    """What two processes found, and where their work is."""

    found: list[dict[str, Any]]
    folder: Path


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("ranks")
    assert on_ranks(_work, folder) == [0, 0]
    return Together([torch.load(folder / f"{rank}.pt") for rank in range(2)], folder)


def test_images_are_those_of_one_process(together: Together) -> None:
    alone = synthesize([_model()], FEW)
    for found in together.found:
        assert torch.equal(found["images"], alone.images)
        assert found["losses"] == alone.provenance["losses"]


def test_all_ranks_have_the_same(together: Together) -> None:
    first, second = together.found
    assert first["pieces"] == second["pieces"] == [0, 16]
    assert first["network"] == second["network"]
    assert first["student"] == second["student"]
    assert torch.equal(first["outputs"], second["outputs"])


def test_the_network_is_closer_to_that_of_one_process_than_seeds_are(together: Together) -> None:
    def away(outputs: Tensor, others: Tensor) -> float:
        return kl_divergence(outputs, others)

    alone, other_seed = (_reconstructed(seed).integer_forward(images(COUNT)) for seed in (0, 1))
    assert away(alone, together.found[0]["outputs"]) < 0.3 * away(alone, other_seed)


def test_what_the_first_does_alone_is_known_to_all(together: Together) -> None:
    for found in together.found:
        assert found["refused"] == "nobody may"
        assert found["alone"] == 1


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_the_work_goes_on(together: Together, tmp_path: Path) -> None:
    statuses = on_ranks(_die, tmp_path)
    assert statuses[1] == -signal.SIGKILL and statuses[0] not in (0, None)
    assert (tmp_path / "ended").exists()
    assert len(WorkStore(tmp_path / "blocks").found) >= 1
    assert on_ranks(_go_on, tmp_path) == [0, 0]
    assert (tmp_path / "network").read_text() == together.found[0]["network"]


@pytest.mark.slow
def test_under_torchrun_a_mistake_has_one_message() -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*start, "-m", "ptq", "synthesize", "--model", "nowhere.py:net"], capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert (ended.stdout + ended.stderr).count("ptq: error") == 1
