"""Random numbers of a run: one generator a purpose, none shared, none global.

Runs with the same seed start from the same weights, see the same batches and draw the same dropout
masks, whatever else the process did before: differences between them are the settings' doing.
"""

import numpy as np
import torch

PURPOSES = ("weights", "order", "dropout", "views", "regressor")


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose of one run.

    Args:
        seed: the run's seed, 0 or more.
        purpose: ``weights`` (initial values), ``order`` (of the batches), ``dropout`` (masks),
            ``views`` (of the images) or ``regressor`` (initial values).
        device: where the numbers are drawn; the CPU and a GPU draw different ones.
    """
    stream = np.random.SeedSequence([seed, PURPOSES.index(purpose)])
    return torch.Generator(device).manual_seed(int(stream.generate_state(1, np.uint64)[0] >> 1))
