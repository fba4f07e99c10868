"""Channels of a group that go one by one, the one that costs least first, while the others make good what they can (OBS, Hassibi & Stork, 1993).

So two channels that can replace each other are not both worth nothing, and not both worth much: one is, once the other is gone. Where channels are
many, a share of them goes at a time.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from ptq.pruning.selection.changes import growth
from ptq.pruning.selection.reading import Reading

__all__ = ["OutputErrors", "Predictions", "eliminate"]

SHARE = 32  # at most one channel of so many goes at a time
ALIKE = 0.5  # squared partial correlation, above which two channels do not go at once: each would count on the other
DAMPING = 1e-4  # of the mean variance: what else two equal channels would both be worth nothing
TINY = 1e-30


class Loss(Protocol):
    """What is lost with the channels of a group that are gone, and with those that may go next."""

    def after(self) -> Tensor:
        """What would be lost in all with each of those left, if it went next, float64 (left,)."""

    def alike(self, few: Tensor) -> Tensor:
        """The squared partial correlation of every two of a few of those left, (few, few)."""

    def remove(self, gone: Tensor) -> float:
        """Let some of those left go, bool (left,), and return what is lost in all."""


def eliminate(size: int, loss: Loss) -> Tensor:
    """Return what each of a group's channels is worth, float64 (size,): the scores of all that go add up to what is lost with them.

    Channels are worth no less the later they go. Where losses do not say so, neighbors share what both lose (isotonic regression).
    """
    left, order, totals = torch.arange(size), list[int](), [0.0]
    while len(left):
        after = loss.after()
        chosen = after.argsort(stable=True)[: max(1, len(left) // SHARE)]
        if len(chosen) > 1:
            chosen = chosen[_strangers(loss.alike(chosen))]
        gone = torch.zeros(len(left), dtype=torch.bool)
        gone[chosen] = True
        order += left[chosen].tolist()
        lost = max(loss.remove(gone), totals[-1])
        totals += torch.linspace(totals[-1], lost, len(chosen) + 1).tolist()[1:]
        left = left[~gone]
    scores = torch.zeros(size, dtype=torch.float64)
    scores[torch.tensor(order)] = torch.from_numpy(isotonic_regression(torch.tensor(totals).double().diff().numpy()).x)
    return scores


def _strangers(alike: Tensor) -> list[int]:
    """Which of some channels can go at once, in their order."""
    found: list[int] = []
    for i in range(len(alike)):
        if not found or float(alike[i, found].max()) <= ALIKE:
            found.append(i)
    return found


class OutputErrors:
    """What the outputs of the layers that read a group lose, as a share of their variance, summed over layers."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.stand_ins = [_StandIns(reading) for reading in readings]
        self.products = [reading.weight_products for reading in readings]
        self.total = 0.0

    def after(self) -> Tensor:
        return self.total + sum(
            (
                w.diagonal().clamp(min=0) / s.precision.diagonal()
                for s, w in zip(self.stand_ins, self.products, strict=True)
            ),
            torch.zeros(1).double(),
        )

    def alike(self, few: Tensor) -> Tensor:
        return _alike(self.stand_ins, few)

    def remove(self, gone: Tensor) -> float:
        for i, (stand_ins, products) in enumerate(zip(self.stand_ins, self.products, strict=True)):
            covariance, factors = stand_ins.remove(gone)
            lost, shared, rest = products[gone][:, gone], products[gone][:, ~gone], products[~gone][:, ~gone]
            self.total += max(0.0, float((covariance * lost).sum()))
            self.products[i] = rest + factors.T @ lost @ factors + factors.T @ shared + shared.T @ factors
        return self.total


class Predictions:
    """What the divergence of the predictions grows, to second order.

    That is half the mean square over images of what all that go change together, or the sum of what each does where that is more: changes that cancel
    out to first order are no gain.

    Args:
        halves: of the images: what one half says of how channels stand in for each other where layers read them, and `exchanges` of the other half
            there. On the same images few pixels would make everything seem replaceable.
    """

    def __init__(self, halves: Sequence[tuple[Sequence[Reading], Sequence[Tensor]]]) -> None:
        self.halves = [_Half(readings, exchanges) for readings, exchanges in halves]
        self.total = 0.0

    @cached_property
    def each(self) -> Tensor:
        """What each of those left would change, (rows, left)."""
        return torch.cat([half.each() for half in self.halves])

    @property
    def moved(self) -> Tensor:
        """What those that are gone change, (rows,)."""
        return torch.cat([half.moved for half in self.halves])

    def after(self) -> Tensor:
        return torch.maximum(self.total + growth(self.each), growth(self.moved.unsqueeze(1) + self.each))

    def alike(self, few: Tensor) -> Tensor:
        return _alike([one for half in self.halves for one in half.stand_ins], few)

    def remove(self, gone: Tensor) -> float:
        self.total += float(growth(self.each[:, gone]).sum())
        del self.each  # others are left now
        for half in self.halves:
            half.remove(gone)
        self.total = max(self.total, float(growth(self.moved)))
        return self.total


class _Half:
    """What the loss of some images changes with those that are gone, `moved`, (rows,), where others stand in for them."""

    def __init__(self, readings: Sequence[Reading], exchanges: Sequence[Tensor]) -> None:
        self.stand_ins = [_StandIns(reading) for reading in readings]
        self.exchanges = list(exchanges)
        self.moved = torch.zeros(exchanges[0].shape[-1]).double()

    def each(self) -> Tensor:
        """What each of those left would change, (rows, left)."""
        found = torch.zeros(())
        for stand_ins, exchanges in zip(self.stand_ins, self.exchanges, strict=True):
            precision = stand_ins.precision
            shares = (precision / precision.diagonal().unsqueeze(1)).to(exchanges)  # 1 of its own, less the factors
            found = found + torch.bmm(shares.unsqueeze(1), exchanges).squeeze(1).T
        return found.double()

    def remove(self, gone: Tensor) -> None:
        """Let some of those left go."""
        for i, (stand_ins, exchanges) in enumerate(zip(self.stand_ins, self.exchanges, strict=True)):
            _, factors = stand_ins.remove(gone)
            factors = factors.to(exchanges)
            lost = exchanges[gone]
            replaced = lost[:, ~gone]
            self.moved += torch.diagonal(lost[:, gone]).sum(1) - torch.einsum("cj,cjr->r", factors, replaced)
            # What a channel now weighs, it weighs for those that are gone, too. In place: these are the largest tensors here.
            kept = (~gone).nonzero()
            stays = exchanges[kept, kept.T]
            stays.flatten(1).addmm_(factors.T, replaced.flatten(1))
            self.exchanges[i] = stays


class _StandIns:
    """How well those that are left of a group make good for each other where one layer reads them, by least squares at the same pixel."""

    def __init__(self, reading: Reading) -> None:
        covariance, size = reading.covariance, len(reading.group)
        variance = covariance.diagonal()[reading.read].mean().clamp(min=TINY)
        damping = max(DAMPING, size / reading.n) * variance  # few pixels make everything seem replaceable
        self.precision = torch.linalg.inv(covariance + damping * torch.eye(size, dtype=torch.float64))

    def remove(self, gone: Tensor) -> tuple[Tensor, Tensor]:
        """Let some go: return the covariance of what of them nothing stands for, and the factors with which the others stand in, (gone, left)."""
        covariance = torch.linalg.inv(self.precision[gone][:, gone])
        shared = self.precision[gone][:, ~gone]
        factors = -covariance @ shared
        self.precision = self.precision[~gone][:, ~gone] + shared.T @ factors
        return covariance, factors


def _alike(stand_ins: Sequence[_StandIns], few: Tensor) -> Tensor:
    found = torch.zeros(len(few), len(few)).double()
    for one in stand_ins:
        among = one.precision[few][:, few]
        found = torch.maximum(found, among.square() / among.diagonal().outer(among.diagonal()))
    return found
