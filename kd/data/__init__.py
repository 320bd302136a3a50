"""The data sets: fetched and verified, held in memory, split and handed out a batch at a time.

The package may import ``kd.config``, ``kd.models`` and the small modules at the top of ``kd``;
torch loads when one of its names is first used.
"""

from typing import TYPE_CHECKING

from kd._startup import exports

if TYPE_CHECKING:
    from kd.data.module import Batches, MNISTDataModule
    from kd.data.pool import Pool, fingerprint, load_pool

__all__ = ["Batches", "MNISTDataModule", "Pool", "fingerprint", "load_pool"]

_POOL = ("Pool", "fingerprint", "load_pool")
_MODULES = {name: "pool" if name in _POOL else "module" for name in __all__}
__getattr__ = exports(__name__, _MODULES)
