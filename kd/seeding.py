"""Random numbers of a run: one generator a purpose, none shared, none global.

Runs with the same seed start from the same weights, see the same batches and draw the same dropout
masks, whatever else the process did before: differences between them are the settings' doing.
"""

import contextlib
import random
from collections.abc import Generator
from typing import Any

import numpy as np
import torch

PURPOSES = ("weights", "order", "dropout", "views", "regressor", "permutation", "shifts")


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose of one run.

    Args:
        seed: the run's seed, 0 or more.
        purpose: ``weights`` (initial values), ``order`` (of the batches), ``dropout`` (masks),
            ``views`` (of the images), ``regressor`` (initial values), ``permutation`` (of a
            teacher's logits; the seed is that of the data) or ``shifts`` (which views of a bank).
        device: where the numbers are drawn; the CPU and a GPU draw different ones.
    """
    stream = np.random.SeedSequence([seed, PURPOSES.index(purpose)])
    return torch.Generator(device).manual_seed(int(stream.generate_state(1, np.uint64)[0] >> 1))


@contextlib.contextmanager
def isolated(seed: int, device: torch.device | str = "cpu") -> Generator[None]:
    """Seed what code draws from that knows nothing of our generators, and restore it afterwards.

    That are the global generators of torch, NumPy and Python.

    Args:
        seed: a number that a generator takes.
        device: whose generator is seeded too.
    """
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def global_state() -> list[Any]:
    """Return the states of NumPy's and Python's global generators, as plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return [[kind, np.asarray(keys).tolist(), *rest], list(map(_plain, random.getstate()))]


def restore_global_state(state: list[Any]) -> None:
    """Continue where :func:`global_state` was taken."""
    (kind, keys, *rest), (version, internal, gauss) = state
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    random.setstate((version, tuple(internal), gauss))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
