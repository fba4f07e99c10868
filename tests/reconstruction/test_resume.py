"""An interrupted reconstruction ends bit for bit where it would have, and does nothing twice."""

from pathlib import Path
from typing import Any

import pytest

from ptq.reconstruction import loop
from ptq.reconstruction.loop import _fit, reconstruct
from ptq.reconstruction.results import BlockResult, Curve
from ptq.utils.work_store import WorkStore
from tests.helpers.networks import images, quantized_network
from tests.reconstruction.test_loop import COUNT, Outcome, outcome, quick, runs


class Killed(Exception):
    """Stands for a kill."""


def interrupted(network: str, method: str, folder: Path, blocks: int) -> None:
    """Reconstruct some blocks of the quantized model that `Outcome` reconstructs."""

    def stop(index: int, result: BlockResult) -> None:
        if index + 1 == blocks:
            raise Killed

    with pytest.raises(Killed):
        reconstruct(
            quantized_network(network, 3, 4), images(COUNT), quick(method), store=WorkStore(folder), on_block=stop
        )


def continued(network: str, method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, list[str]]:
    """What becomes of it, and the layers of the blocks that were fitted for it."""
    fitted: list[str] = []

    def fit(block: Any, *rest: Any) -> tuple[Curve, ...]:
        fitted.extend(n.name for n in block.quantized_block.module.graph.nodes if n.op == "call_module")
        return _fit(block, *rest)

    monkeypatch.setattr(loop, "_fit", fit)
    return Outcome(network, method, WorkStore(folder)), fitted


def found(result: BlockResult) -> dict[str, Any]:
    """A result but for what it cost."""
    return {k: v for k, v in result.to_json().items() if k not in ("seconds", "memory", "disk")}


@runs
@pytest.mark.parametrize("blocks", [1, 3])
def test_an_interrupted_reconstruction_ends_where_it_would_have(
    network: str, method: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = outcome(network, method)
    blocks = min(blocks, len(undisturbed.results) - 1)
    interrupted(network, method, tmp_path, blocks)
    again, fitted = continued(network, method, tmp_path, monkeypatch)
    assert again.bits_of(undisturbed)
    assert [found(r) for r in again.results] == [found(r) for r in undisturbed.results]
    assert again.seen == list(enumerate(again.results))
    assert again.progress.done == undisturbed.progress.done or method == "nearest"
    finished = {name for result in again.results[:blocks] for name in result.layers}
    assert not finished & set(fitted)


def test_a_damaged_block_is_done_again_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted("resnet", "qdrop", tmp_path, 3)
    path = tmp_path / "block-0001.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    again, fitted = continued("resnet", "qdrop", tmp_path, monkeypatch)
    undisturbed = outcome("resnet", "qdrop")
    assert again.bits_of(undisturbed)
    # The last block, of 8 bits, has nothing to be fitted.
    assert [i for i, r in enumerate(again.results) if set(r.layers) & set(fitted)] == [1, 3]


def test_a_finished_reconstruction_fits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Outcome("resnet", "qdrop", WorkStore(tmp_path))
    again, fitted = continued("resnet", "qdrop", tmp_path, monkeypatch)
    assert again.bits_of(first) and again.bits_of(outcome("resnet", "qdrop")) and not fitted
    assert again.results == first.results
