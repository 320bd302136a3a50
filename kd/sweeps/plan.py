"""The plan of a study: which groups are in training, so that a sweep ends as if never killed.

Rounding depends on the size of a group, so a group is taken up again as it was planned.
``<study>/unfinished/plan.json`` lists the groups of the study's sweeps from before their training
until their last run is complete; a copy stands in where it is damaged. Beside it lies the state of
each group, see ``kd.training.unfinished``.
"""

import contextlib
import json
import logging
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kd.files import lock, remove_leftovers, replacing
from kd.sweeps.students import Student
from kd.training.run_folder import LOCKS, Busy, hold, is_complete
from kd.training.unfinished import FOLDER, OF_ONE_RUN, below_study, digest, forget, version

log = logging.getLogger(__name__)

PLANS = ("plan.json", "plan.copy.json")


@dataclass(frozen=True)
class Planned:
    """A group of a sweep."""

    common: str  # a digest of what its students share
    group_mb: int  # that it was made for
    students: tuple[Student, ...]  # in the order of the stack
    runs: tuple[str, ...]  # their folders below the study
    version: str

    @property
    def name(self) -> str:
        """What its files are called."""
        return digest(list(asdict(self).values()))

    def entry(self) -> dict[str, Any]:
        """What the plan's file says of it."""
        return asdict(self) | {"students": [json.loads(student) for student in self.students]}


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
        log.warning("%s; unfinished groups start over", damaged)
    return []


def _parse(entry: dict[str, Any]) -> Planned:
    students = tuple(json.dumps(dict(settings), sort_keys=True) for settings in entry["students"])
    if not students:
        raise ValueError("a group's entry is malformed")
    size, common, version = int(entry["group_mb"]), str(entry["common"]), str(entry["version"])
    return Planned(common, size, students, tuple(map(str, entry["runs"])), version)


@contextlib.contextmanager
def _editing(study: Path) -> Generator[list[Planned]]:
    """The plan, written back when the block ends; one process at a time."""
    with lock(study / LOCKS / "plan.lock"):
        paths = [study / FOLDER / name for name in PLANS]
        groups = read(study)
        yield groups
        if groups:
            listed = [group.entry() for group in groups]
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
            forget(study, group.name)
            if group in plan:
                plan.remove(group)
        plan += [group for group in new if group not in plan]


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
            complete = ended(study, group)
            if not (complete or group.version != version()) or _in_use(study, group):
                continue
            plan.remove(group)
            forget(study, group.name)
            if not complete:
                students = f"{len(group.students)} students"
                said = f"{students} of other code or another torch were in training; removed"
                log.warning("%s: %s, they start over", folder / group.name, said)
        for name in PLANS:
            remove_leftovers(folder / name)
        known = {group.name for group in plan}
        for path in folder.iterdir() if folder.is_dir() else ():
            name = path.name.lstrip(".")
            if name not in PLANS and name[:16] not in known and not name.startswith(OF_ONE_RUN):
                log.warning("%s: belongs to no group in training; removed", path)
                path.unlink(missing_ok=True)


def _in_use(study: Path, group: Planned) -> bool:
    """Whether another process trains the group."""
    for run in group.runs:
        try:
            hold(study / run).release()
        except Busy:
            return True
    return False


def ended(study: Path, group: Planned, handled: Sequence[Path] = ()) -> bool:
    """Whether nothing is left to do for a group: its runs are complete, or were ``handled``."""
    done = {below_study(directory) for directory in handled}
    return all(run in done or is_complete(study / run) for run in group.runs)
