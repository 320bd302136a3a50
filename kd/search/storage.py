"""The file of a search: Optuna's journal of its trials, ``<study>/search.log``.

``optuna-dashboard outputs/main/search.log`` shows it. What Optuna has no place for is in the user
attributes of its study: what the search is, and the runs that confirm its choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial

from kd.config.schema import BESIDE, NOT_RELEVANT, Search
from kd.errors import UserError, shown
from kd.search.reading import CONFIRMED, DEFINITION, FILE, NAME, readable
from kd.search.space import Space
from kd.training.complete import as_shown
from kd.training.run_folder import take

MAY_DIFFER = ("trials", "batch", "confirm")  # of a search that goes on

optuna.logging.set_verbosity(optuna.logging.WARNING)


def definition(space: Space, settings: Search) -> dict[str, Any]:
    """What a search is, by key: another one has another file."""
    found = {f"search.{key}": value for key, value in asdict(settings).items()}
    for key in MAY_DIFFER:
        del found[f"search.{key}"]
    own = {word.partition("=")[0]: word.partition("=")[2] for word in space.fixed}
    shared = {key: value for key, value in own.items() if key not in NOT_RELEVANT | BESIDE}
    return {**shared, **space.told, **found}


class Journal(NamedTuple):
    """An open file of a search."""

    study: Study
    storage: JournalStorage

    def note(self, trial: int, key: str, value: Any) -> None:
        """Give a trial that has not ended an attribute."""
        self.storage.set_trial_user_attr(self._id(trial), key, value)

    def report(self, trial: int, epoch: int, value: float) -> None:
        """Note what a trial had after an epoch."""
        self.storage.set_trial_intermediate_value(self._id(trial), epoch, value)

    def _id(self, trial: int) -> int:
        study = self.storage.get_study_id_from_name(NAME)
        return self.storage.get_trial_id_from_study_id_trial_number(study, trial)


@contextlib.contextmanager
def opened(study: Path, what: dict[str, Any], metric: str, anew: bool) -> Generator[Journal]:
    """Open a search's file, or make it, for this process alone.

    Args:
        study: the folder of kd's study.
        what: see :func:`definition`.
        metric: that is looked for.
        anew: leaves nothing of an earlier one.

    Raises:
        UserError: it is of another search, cannot be read, or is in use.
    """
    busy = f"{as_shown(study)}: another process is searching in this study; wait for it"
    path = study / FILE
    with take(study, "search.lock", busy):
        for leftover in study.glob(f"{FILE}.lock*"):  # Optuna's, of a process that was killed
            leftover.unlink()
        if anew:
            path.unlink(missing_ok=True)
        elif path.exists():
            _mend(path)
        with readable(as_shown(path)):
            storage = JournalStorage(JournalFileBackend(str(path)))
            if NAME in optuna.get_all_study_names(storage):
                found = optuna.load_study(study_name=NAME, storage=storage)
            else:
                direction = "minimize" if metric.endswith("loss") else "maximize"
                found = optuna.create_study(study_name=NAME, storage=storage, direction=direction)
            _refuse_another(as_shown(path), found, what)
        yield Journal(found, storage)


def _mend(path: Path) -> None:
    """Cut off half a line at the end, which a killed process or a full disk left."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)


def _refuse_another(path: Path, found: Study, what: dict[str, Any]) -> None:
    """Make sure that the file is of this search.

    Raises:
        UserError: it is of another one.
    """
    before = found.user_attrs.get(DEFINITION)
    if before is None and not found.get_trials(deepcopy=False):
        found.set_user_attr(DEFINITION, what)
        return
    before = before or {}
    differing = [
        f"{key} ({shown(before.get(key))} there, {shown(what.get(key))} here)"
        for key in {**before, **what}
        if before.get(key) != what.get(key)
    ]
    if differing:
        raise UserError(
            f"{path}: holds another search: {', '.join(differing)}; give study=NEW to keep it, or "
            "overwrite=true to replace it"
        )


def add_choice(found: Study, trial: FrozenTrial, runs: Sequence[str]) -> None:
    """Note which runs confirm a choice, before they are trained."""
    before, choice = found.user_attrs.get(CONFIRMED, []), {"trial": trial.number, "runs": [*runs]}
    if before[-1:] != [choice]:
        others = [earlier for earlier in before if earlier["trial"] != trial.number]
        found.set_user_attr(CONFIRMED, [*others, choice])
