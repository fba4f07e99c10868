"""How many images every epoch of distillation looks at, where they grow in rounds."""

from dataclasses import dataclass

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Epochs in rounds of about as many each. With every round after the first there are as many images more.

    Args:
        count: images of the first round, 1..
        batch: images in a step.
        epochs: of all rounds together.
        rounds: 1..epochs.

    Example:
        >>> schedule = Schedule(count=100, batch=50, epochs=4, rounds=2)
        >>> [schedule.images(epoch) for epoch in (1, 2, 3, 4)]
        [100, 100, 200, 200]
        >>> schedule.total, schedule.steps_before(4)
        (12, 8)
    """

    count: int
    batch: int
    epochs: int
    rounds: int

    def round_of(self, epoch: int) -> int:
        """The round that an epoch, 1.., belongs to, 1.."""
        return 1 + (epoch - 1) * self.rounds // self.epochs

    def images(self, epoch: int) -> int:
        """How many images an epoch looks at."""
        return self.count * self.round_of(epoch)

    def steps(self, epoch: int) -> int:
        """How many batches that is; the images of a batch that is not full are looked at in another epoch."""
        return max(1, self.images(epoch) // self.batch)

    def steps_before(self, epoch: int) -> int:
        """How many steps all epochs before one take."""
        return sum(self.steps(before) for before in range(1, epoch))

    @property
    def total(self) -> int:
        """How many steps all epochs take."""
        return self.steps_before(self.epochs + 1)
