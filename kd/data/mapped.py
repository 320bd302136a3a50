"""What the tasks of one machine share: made once, kept in a file, mapped into each one's memory.

``$TMPDIR/kd-USER-MACHINE/NAME.safetensors`` has the images as they are trained on, their split, or
a teacher's outputs. The name stands for all that their bits depend on, and a digest in the file for
what it holds: whatever does not fit is made again. Where no file can be written, each task has its
own. So has a command that trains by itself, which writes nothing here.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Callable, Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from kd._torch import Tensor, torch
from kd.data.remembered import code
from kd.errors import reason
from kd.files import lock

log = logging.getLogger(__name__)

MOST_BYTES = 2**31  # of all files: those go that have not been used for longest
SUFFIX = ".safetensors"

_among_tasks = ContextVar("among_tasks", default=False)


class Made(NamedTuple):
    """Tensors, and what else there is to know of them, as JSON has it."""

    tensors: dict[str, Tensor]
    told: Any = None


@contextlib.contextmanager
def among_tasks() -> Generator[None]:
    """Share what is made meanwhile with the other tasks of this machine."""
    before = _among_tasks.set(True)
    try:
        yield
    finally:
        _among_tasks.reset(before)


def made_once(key: Any, make: Callable[[], Made]) -> Made:
    """Return what ``make`` makes or, in a task, has made for any task of this machine.

    A task may write to what it gets; no other sees that.

    Args:
        key: all that the bits depend on besides the code, as JSON has it.
        make: is called by one task at a time; the others wait for it.
    """
    if not _among_tasks.get():
        return make()
    named = json.dumps([key, code(), torch.__version__])
    try:
        path = _folder() / (hashlib.sha256(named.encode()).hexdigest()[:32] + SUFFIX)
    except OSError as error:
        log.debug("nothing is shared with other tasks: %s", reason(error))
        return make()
    found, made = _read(path), None
    if found is None:
        with lock(path.with_name(f".{path.name[0]}.lock")):  # sixteen that stay, not one per file
            if not path.exists():
                made = make()
                _write(path, made)
        found = _read(path)  # also what was made here, so that all map the same
    return found or made or make()


def _folder() -> Path:
    """Return this user's folder on this machine.

    Raises:
        OSError: it cannot be made, or others could write to it.
    """
    folder = Path(tempfile.gettempdir(), f"kd-{os.getuid()}-{platform.node()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if (found.st_uid, found.st_mode & 0o170077) != (os.getuid(), 0o040000):
        raise PermissionError(f"{folder} is not a folder of this user's alone")
    return folder


def _read(path: Path) -> Made | None:
    """Map a file; None if it is not there, or damaged, which removes it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # maps it, and copies a page on writing
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            notes = file.metadata() or {}
        found = Made(tensors, json.loads(notes["told"]))
        if notes["sha256"] != _digest(found):
            raise ValueError("its digest does not match")
        os.utime(path)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        log.warning("%s: cannot be used (%s); making it again", path, reason(error))
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    return found


def _write(path: Path, made: Made) -> None:
    """Keep what was made where there is room; the caller holds the lock of this file.

    It does not wait for the disk: the digest tells what a power cut has left.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if (size := sum(tensor.nbytes for tensor in made.tensors.values())) > MOST_BYTES:
        return
    beside = path.with_name(f".{path.name}")
    with contextlib.suppress(OSError, SafetensorError):
        try:
            _make_room(path.parent, MOST_BYTES - size)
            notes = {"told": json.dumps(made.told), "sha256": _digest(made)}
            save_file(made.tensors, beside, notes)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def _make_room(folder: Path, most: int) -> None:
    """Remove files that were not used for longest; who has mapped one keeps it."""
    found = [(path, path.stat()) for path in folder.glob(f"*{SUFFIX}")]  # hidden ones too
    for path, stat in sorted(found, key=lambda each: each[1].st_mtime, reverse=True):
        most -= stat.st_size
        if most < 0:
            path.unlink(missing_ok=True)


def _digest(made: Made) -> str:
    summed = hashlib.sha256(json.dumps(made.told).encode())
    for name, tensor in sorted(made.tensors.items()):
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        summed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return summed.hexdigest()
