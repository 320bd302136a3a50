"""Groups in training: what a sweep that was killed needs to end as if it had not been.

Rounding depends on the size of a group, so a group is taken up again as it was planned.
``<study>/unfinished/plan.json`` lists the groups of the study's sweeps from before their training
until their last run is complete; a copy stands in where it is damaged. Beside it lie, for each
group, its state after the latest epoch (``NAME-EPOCH.ckpt``) and the digest of that file
(``NAME.json``).
"""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from kd.config.schema import PROJECT
from kd.files import file_hash, lock, remove_leftovers, replacing
from kd.training.run_folder import LOCKS, is_complete, lock_run

log = logging.getLogger(__name__)

FOLDER = "unfinished"
PLANS = ("plan.json", "plan.copy.json")

Cell = tuple[tuple[str, float | None], ...]


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that stand for a value of JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@functools.cache
def version() -> str:
    """A digest of what rounding depends on besides a group: this package's code, and torch."""
    code = {str(path): file_hash(path) for path in sorted((PROJECT / "kd").rglob("*.py"))}
    return digest([list(code.values()), torch.__version__])


@dataclass(frozen=True)
class Planned:
    """A group of a sweep: every seed with every cell."""

    common: str  # a digest of the settings that its students share
    group_mb: int  # that it was made for
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    runs: tuple[str, ...]  # their folders below the study
    version: str

    @property
    def name(self) -> str:
        """What its files are called."""
        return digest(list(asdict(self).values()))


def read(study: Path) -> list[Planned]:
    """The groups that the study's plan lists; a plan that cannot be read lists none."""
    damaged = None
    for name in PLANS:
        path = study / FOLDER / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["sha256"] != digest(content["groups"]):
                raise ValueError("its digest does not match")
            return [_parse(entry) for entry in content["groups"]]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            damaged = f"{path}: cannot be read ({error})"
    if damaged:
        log.warning("%s; unfinished groups start anew", damaged)
    return []


def _parse(entry: dict[str, Any]) -> Planned:
    texts = {key: entry[key] for key in ("common", "version")}
    seeds, runs = tuple(map(int, entry["seeds"])), tuple(map(str, entry["runs"]))
    cells = tuple(tuple((str(key), value) for key, value in cell) for cell in entry["cells"])
    if not all(isinstance(text, str) for text in texts.values()) or not seeds or not cells:
        raise ValueError("a group's entry is malformed")
    return Planned(group_mb=int(entry["group_mb"]), seeds=seeds, cells=cells, runs=runs, **texts)


@contextlib.contextmanager
def _editing(study: Path) -> Iterator[list[Planned]]:
    """The plan, written back when the block ends; one process at a time."""
    with lock(study / LOCKS / "plan.lock"):
        paths = [study / FOLDER / name for name in PLANS]
        groups = read(study)
        yield groups
        if groups:
            listed = [asdict(group) for group in groups]
            text = json.dumps({"groups": listed, "sha256": digest(listed)}) + "\n"
            for path in paths:
                with replacing(path) as beside:
                    beside.write_text(text)
        else:
            for path in paths:
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or not there
                paths[0].parent.rmdir()


def replace(study: Path, old: Iterable[Planned], new: Iterable[Planned]) -> None:
    """Take groups off the study's plan, their files with them, and list others."""
    with _editing(study) as plan:
        for group in old:
            _forget(study, group)
            if group in plan:
                plan.remove(group)
        plan += [group for group in new if group not in plan]


def _forget(study: Path, group: Planned) -> None:
    for pattern in (f"{group.name}*", f".{group.name}*"):
        for path in (study / FOLDER).glob(pattern):
            path.unlink(missing_ok=True)


def tidy(study: Path) -> None:
    """Remove, and say so, what nobody can use any more.

    These are groups whose runs are all complete, groups that other code or another torch began, and
    files of no group.
    """
    folder = study / FOLDER
    if not folder.is_dir():
        return
    with _editing(study) as plan:
        for group in list(plan):
            complete = all(is_complete(study / run) for run in group.runs)
            if not (complete or group.version != version()) or _in_use(study, group):
                continue
            if complete:
                plan.remove(group)
                _forget(study, group)
            else:
                plan.remove(group)
                _forget(study, group)
                log.warning(
                    "%s: %d students of other code or another torch were in training; removed, "
                    "they start anew",
                    folder / group.name,
                    len(group.seeds) * len(group.cells),
                )
        for name in PLANS:
            remove_leftovers(folder / name)
        known = {group.name for group in plan}
        for path in folder.iterdir():
            if path.name not in PLANS and path.name.lstrip(".")[:16] not in known:
                log.warning("%s: belongs to no group in training; removed", path)
                path.unlink(missing_ok=True)


def _in_use(study: Path, group: Planned) -> bool:
    """Whether another process trains the group."""
    for run in group.runs:
        try:
            with lock_run(study / run):
                pass
        except Timeout:
            return True
    return False


def save(
    study: Path, group: Planned, settings: str, epoch: int, write: Callable[[Path], None]
) -> None:
    """Keep a group's state after an epoch, in place of that of the epoch before.

    Args:
        study: its folder.
        group: of the plan.
        settings: a digest of all that the state depends on.
        epoch: how many have passed.
        write: writes the state to a file.
    """
    folder = study / FOLDER
    path = folder / f"{group.name}-{epoch}.ckpt"
    with replacing(path) as beside:
        write(beside)
    content = {"file": path.name, "sha256": file_hash(path), "settings": settings}
    with replacing(folder / f"{group.name}.json") as beside:
        beside.write_text(json.dumps(content) + "\n")
    for old in folder.glob(f"{group.name}-*.ckpt"):
        if old != path:
            old.unlink(missing_ok=True)


def saved(study: Path, group: Planned, settings: str) -> Path | None:
    """The file of a group's latest epoch; None where there is none that can be used.

    What cannot be used is removed, and said.
    """
    note = study / FOLDER / f"{group.name}.json"
    if not note.exists():
        _forget(study, group)  # at most a first epoch that was not brought to its end
        return None
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        path = note.with_name(str(content["file"]))
        if path.name.startswith(group.name) and file_hash(path) == content["sha256"]:
            if content["settings"] == settings:
                return path
            reason = "was trained on other data or by another teacher"
        else:
            reason = "is damaged"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        reason = "is damaged"
    log.warning("%s: %s; removed, the group starts anew", note.with_suffix(".ckpt"), reason)
    _forget(study, group)
    return None


def has_state(study: Path, group: Planned) -> bool:
    """Whether an epoch of the group has been trained."""
    return (study / FOLDER / f"{group.name}.json").exists()


def run_name(directory: Path) -> str:
    """A run's folder below its study, as plans have it."""
    return f"{directory.parent.name}/{directory.name}"


def ended(study: Path, group: Planned, handled: Sequence[Path]) -> bool:
    """Whether nothing is left to do for a group: its runs are complete, or were ``handled``."""
    done = {run_name(directory) for directory in handled}
    return all(run in done or is_complete(study / run) for run in group.runs)
