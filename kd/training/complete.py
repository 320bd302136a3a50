"""Runs that are complete: found, compared with what is asked for, and skipped.

Neither torch nor Lightning is imported here.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from kd.config.naming import run_name
from kd.config.schema import Config, relevant
from kd.data.pool import fingerprint
from kd.data.sources import fetch
from kd.errors import UserError
from kd.training import run_folder, unfinished
from kd.training.own_code import code_digests
from kd.training.packs import Pack, pack_of
from kd.training.unfinished import below_study

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What a run gives back: its metrics, and whether they were there already."""

    metrics: dict[str, Any]
    skipped: bool


def find_complete(
    config: Config, directory: Path, pack: Pack | None = None
) -> dict[str, Any] | None:
    """The metrics of the run if it is complete and need not be trained again.

    Args:
        config: of the run.
        directory: its folder, or the one that it would have.
        pack: that is asked; by default the folder is, and without one the pack that has the run.

    Raises:
        UserError: it is a run of other settings, data or teacher, or ``data.files`` is wrong.
    """
    if config.overwrite:
        return None
    if pack is None and not run_folder.is_own(directory):
        pack = pack_of(directory)
    before = pack.row(below_study(directory)) if pack else run_folder.read_metrics(directory)
    if before is not None:
        if config.data.files is not None:  # they are checked whether they are needed or not
            fetch(config.data)
        now = fingerprint(config.data, directory.parents[1]), code_digests(config)
        run_folder.refuse_other_settings(config, directory, before, *now, pack)
    return before


_alone: dict[str, dict[str, Any] | None] = {}  # what find_alone has found, by all it depends on


def find_alone(config: Config, study: Path, words: Sequence[str]) -> dict[str, Any] | None:
    """The metrics of the student alone that a distilled run is compared with; None without one.

    Args:
        config: of the distillation.
        study: the folder of its study.
        words: of its command.
    """
    alone = replace(config, stage="student", overwrite=False, keep_epochs=False)
    directory = study / run_name(alone, list(words))
    with contextlib.suppress(OSError, UserError):  # of other settings, or damaged
        key = repr((directory, _stamp(directory), relevant(alone)))
        if key not in _alone:
            _alone[key] = find_complete(alone, directory)
        return _alone[key]
    return None


def _stamp(directory: Path) -> int:
    """When a complete run was written, in its folder or in a pack.

    Raises:
        OSError: it is in neither.
    """
    own, pack = directory / run_folder.METRICS, pack_of(directory)
    return (own if own.exists() or not pack else pack.folder).stat().st_mtime_ns


def skip(before: dict[str, Any], directory: Path, quiet: bool) -> Outcome:
    """Say that the run is complete, and do what its own attempt left undone if it was killed."""
    shown = as_shown(directory)
    with contextlib.suppress(run_folder.Busy):  # another process that trains it anew has its state
        if unfinished.has_state(shown.parents[1], name := unfinished.name_of(shown)):
            with run_folder.hold(shown.absolute()):
                if run_folder.is_complete(shown):
                    unfinished.forget(shown.parents[1], name)
    table = shown.parents[1] / run_folder.RESULTS
    if not quiet and not (table.exists() and table.stat().st_mtime_ns >= _stamp(shown.absolute())):
        run_folder.write_results(table.parent)
    pack = None if run_folder.is_own(shown) else pack_of(shown.absolute())
    where = as_shown(pack.folder) if pack else shown
    said = "skipped: complete already, test accuracy %.4f\nresults: %s"
    log.info(said, before["test/acc"], where)
    return Outcome(before, skipped=True)


def as_shown(directory: Path) -> Path:
    """A run's folder as messages name it: below the working directory where it is there."""
    return directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory
