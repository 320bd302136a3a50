"""The data sets: fetched and verified, held in memory, split and handed out a batch at a time.

The package may import ``kd.config``, ``kd.models`` and the small modules at the top of ``kd``;
torch loads when one of its names is first used.
"""

from typing import TYPE_CHECKING

from kd._startup import exports

if TYPE_CHECKING:
    from kd.data.in_python import arrays, npz, torchvision
    from kd.data.module import Batches, ImageDataModule
    from kd.data.pool import Pool, fingerprint, load_pool

__all__ = [
    "Batches", "ImageDataModule", "Pool", "arrays", "fingerprint", "load_pool", "npz",
    "torchvision",
]  # fmt: skip

_MODULES = {"Batches": "module", "ImageDataModule": "module"}
_MODULES |= dict.fromkeys(("arrays", "npz", "torchvision"), "in_python")
_MODULES |= dict.fromkeys(("Pool", "fingerprint", "load_pool"), "pool")
__getattr__ = exports(__name__, _MODULES)
