"""Where things lie; files written whole or not at all; digests; locks that end with a process."""

import functools
import hashlib
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock

PACKAGE = Path(__file__).resolve().parent
# Installed, the package carries conf/ and the small digits; in a checkout they lie beside it.
INSTALLED = (PACKAGE / "conf").is_dir()
PROJECT = PACKAGE if INSTALLED else PACKAGE.parent
CONF = PROJECT / "conf"
COMMAND = "kd" if INSTALLED else "python train.py"  # as messages name it
MINI = PACKAGE / "mnist_mini" if INSTALLED else PROJECT / "tests" / "mnist_mini"


def choices(group: str) -> list[str]:
    """The choices of a group of ``conf/``, those in folders below it after the others."""
    folder = CONF / group
    found = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
    return [path.as_posix() for path in sorted(found, key=lambda p: (len(p.parts), p))]


def data_dir() -> Path:
    """The folder for data sets: the checkout's, or ``data`` in the working directory."""
    return Path("data") if INSTALLED else PROJECT / "data"


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a file beside ``path`` to write, then rename it to ``path``: never half a file.

    The content reaches the disk before the name does, so a power cut leaves the old file or the
    new one. Permissions follow the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    beside.touch(exist_ok=False)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Generator[Path]:
    """Yield an empty folder beside ``path`` to fill, then rename it to ``path``.

    An old one stays until then. One process at a time may do so; what a killed one left is removed.
    """
    fresh, old = (path.with_name(f".{path.name}.{age}") for age in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what :func:`replacing` left beside ``path`` when its process was killed."""
    for beside in path.parent.glob(f".{path.name}.????????"):
        beside.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_hashes() -> list[str]:
    """sha256 of each file of this package's code."""
    return [*map(file_hash, sorted(PACKAGE.rglob("*.py")))]


def lock(path: Path, wait: bool = True) -> BaseFileLock:
    """Return a lock that one process at a time holds; the system frees it when the process ends.

    Args:
        path: of the lock's file, which is made where it is missing.
        wait: for another process to let go; False raises ``filelock.Timeout`` at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=-1 if wait else 0)
