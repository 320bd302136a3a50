"""A command that is refused leaves nothing behind: Hydra makes folders before a run is looked at.

Hydra makes a run's folder before the run begins, and a sweep's ``multirun.yaml`` before a job of it
is composed. :class:`Before` sees what was there earlier, :func:`undo` restores it.
"""

import contextlib
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

_missing: list[Path] = []  # folders that were not there, the innermost first
_written: dict[Path, bytes | None] = {}  # what Hydra writes: its bytes of before; None without


class Before(Callback):
    """Hydra's callback: notes what is there before Hydra touches it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note which folders a run will make."""
        with contextlib.suppress(Exception):  # wrong settings: Hydra meets them next, and says so
            _note(config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note which folders a sweep will make, and its file."""
        with contextlib.suppress(Exception):
            _note(config.hydra.sweep.dir)
            file = Path(config.hydra.sweep.dir, "multirun.yaml").absolute()
            _written[file] = file.read_bytes() if file.is_file() else None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep a sweep's file from now on: it has begun."""
        keep()


def _note(directory: str) -> None:
    forget()
    folder = Path(directory).absolute()
    _missing.extend(path for path in (folder, *folder.parents) if not path.exists())


def forget() -> None:
    """Start anew: nothing of an earlier command is undone."""
    _missing.clear()
    _written.clear()


def keep() -> None:
    """Keep a sweep's file from now on: its jobs have begun."""
    _written.clear()


def undo() -> None:
    """Bring back a sweep's file if no job began, and remove the new folders that are empty."""
    for file, content in _written.items():
        with contextlib.suppress(OSError):
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
    for folder in _missing:
        with contextlib.suppress(OSError):  # what is not empty is wanted
            folder.rmdir()
    forget()
