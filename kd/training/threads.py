"""How many threads torch computes with: fewer where another process keeps a core busy.

Threads of small operations wait for each other every few microseconds. One that has no core holds
up all of them: beside one busy process of two cores, two threads take four times as long as one.
Rounding may depend on the number of threads, so it follows the load only where it does not, or
where one thread can :mod:`round as several <kd.training.rounding>`.
"""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

log = logging.getLogger(__name__)

TRIES = 2  # pieces with each number, of which the fastest counts
EVERY = 20.0  # times what a trial takes pass until the next one, which costs a few per cent so


def use_threads(count: int) -> None:
    """Have torch use so many threads; where it does already, its pool is left alone."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextmanager
def using(count: int) -> Generator[None]:
    """Compute with so many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two computations gave the same, to the last bit."""
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


def is_free(step: Callable[[], Sequence[Tensor]], drawing: Sequence[torch.Generator]) -> bool:
    """Whether one thread gives a step's results to the last bit, as all of them do.

    Args:
        step: computes them; is taken twice.
        drawing: what draws random numbers in it, and is left as it was.
    """
    before = [generator.get_state() for generator in drawing]

    def again() -> Sequence[Tensor]:
        for generator, state in zip(drawing, before, strict=True):
            generator.set_state(state)
        return step()

    mine = again()
    with using(1):
        same = again()
    for generator, state in zip(drawing, before, strict=True):
        generator.set_state(state)
    return same_bits(mine, same)


class Threads:
    """Chooses between all threads and one, by measuring pieces of work.

    ``free`` says whether the results allow it: None as long as nobody has looked.
    """

    def __init__(self) -> None:
        self.free: bool | None = None
        self.chosen = 0  # none yet
        self.trial: list[tuple[float, int]] = []  # seconds per size of a piece, number of threads
        self.took = 0.0  # seconds of the trial
        self.next_trial = 0.0

    @contextmanager
    def piece(self, size: int) -> Generator[None]:
        """Do a piece of work with the number that is in its turn, or that won.

        Args:
            size: of the piece; its time grows with it.
        """
        most = torch.get_num_threads()
        if not self.free or most == 1:
            yield
            return
        started = time.perf_counter()
        trying = started >= self.next_trial
        count = (most, 1)[len(self.trial) % 2] if trying else self.chosen
        with using(count):
            yield
        if trying:
            seconds = time.perf_counter() - started
            self.took += seconds
            self.trial.append((seconds / size, count))
            if len(self.trial) == 2 * TRIES:
                self._choose()

    def _choose(self) -> None:
        """Take the number of the fastest piece until the next trial."""
        _, chosen = min(self.trial)
        if chosen != self.chosen:
            log.info("computes with %d thread%s", chosen, "" if chosen == 1 else "s")
        self.next_trial = time.perf_counter() + EVERY * self.took
        self.chosen, self.trial, self.took = chosen, [], 0.0
