"""Does knowledge distillation work here, and if not, why not?"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """For the first import of torch and Lightning: saves two of the five seconds it takes.

    Half a million objects come into being that live until the end, and the garbage collector would
    search them again and again for what is no longer used, at the end of the program once more.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
