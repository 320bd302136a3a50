"""Trainings that have not ended: their state after the latest epoch.

``<study>/unfinished/`` has for each training ``NAME-EPOCH.ckpt``, Lightning's checkpoint of the
latest epoch, and ``NAME.json`` with the digest of that file.
"""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kd._torch import torch
from kd.files import code_hashes, file_hash, replacing

log = logging.getLogger(__name__)

FOLDER = "unfinished"
OF_ONE_RUN = "run-"  # how the names of trainings begin that are of one run


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for a value of JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@functools.cache
def version() -> str:
    """A digest of what rounding depends on besides the settings: this package's code, and torch."""
    return digest([code_hashes(), torch.__version__])


def below_study(directory: Path) -> str:
    """A run's folder below its study."""
    return f"{directory.parent.name}/{directory.name}"


def name_of(directory: Path) -> str:
    """The name of the training of one run."""
    return f"{OF_ONE_RUN}{digest(below_study(directory))}"


class State(NamedTuple):
    """The state of a training after its latest epoch."""

    study: Path  # its folder
    name: str  # of the training
    settings: str  # a digest of all that the state depends on

    def save(self, epoch: int, write: Callable[[Path], None]) -> None:
        """Keep the state after an epoch, in place of that of the epoch before.

        Args:
            epoch: how many have passed.
            write: writes the state to a file.
        """
        folder = self.study / FOLDER
        path = folder / f"{self.name}-{epoch}.ckpt"
        with replacing(path) as beside:
            write(beside)
        content = {"file": path.name, "sha256": file_hash(path), "settings": self.settings}
        with replacing(folder / f"{self.name}.json") as beside:
            beside.write_text(json.dumps(content) + "\n")
        for old in folder.glob(f"{self.name}-*.ckpt"):
            if old != path:
                old.unlink(missing_ok=True)

    def saved(self) -> Path | None:
        """The file of the latest epoch; None where there is none that can be used.

        What cannot be used is removed, and the log says so.
        """
        note = self.study / FOLDER / f"{self.name}.json"
        reason = None
        if note.exists():  # else there is at most a first epoch that was not brought to its end
            try:
                content = json.loads(note.read_text(encoding="utf-8"))
                path = note.with_name(str(content["file"]))
                if not path.name.startswith(self.name) or file_hash(path) != content["sha256"]:
                    raise ValueError
                if content["settings"] == self.settings:
                    return path
                reason = "was trained with other settings, data, teacher or code"
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                reason = "is damaged"
        if reason:
            file = note.with_suffix(".ckpt")
            log.warning("%s: %s; removed, the training starts over", file, reason)
        forget(self.study, self.name)
        return None


def has_state(study: Path, name: str) -> bool:
    """Whether an epoch of the training has passed."""
    return (study / FOLDER / f"{name}.json").exists()


def forget(study: Path, name: str) -> None:
    """Remove a training's files, and the folder if nothing else is in it."""
    for pattern in (f".{name}*", f"{name}*"):
        for path in sorted((study / FOLDER).glob(pattern)):  # NAME.json last: see has_state
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or not there
        (study / FOLDER).rmdir()
