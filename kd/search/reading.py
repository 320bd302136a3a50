"""A search read back from its file; Optuna is imported where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kd.errors import UserError, shown

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FILE = "search.log"  # in the folder of kd's study: Optuna's journal
NAME = "search"  # of Optuna's study in it
DEFINITION, CONFIRMED = "definition", "confirmed"  # attributes of that study
RUNS, FAILED, IS_CONTROL = "runs", "failed", "is_control"  # attributes of a trial
NEEDED = "needs Optuna; pip install 'kd[search]'"


class Found(NamedTuple):
    """A search as its file has it."""

    study: Study
    trials: list[FrozenTrial]  # that have ended, in their order
    metric: str
    seeds: int  # of each trial
    sampler: str
    chosen: FrozenTrial | None
    confirmed: list[str]  # runs of the chosen setting on fresh seeds
    aside: set[str]  # runs that take no part in a verdict: those of trials, and of earlier choices


def read_search(study: Path) -> Found | None:
    """Read the search of a study, to look at it; None without one.

    Raises:
        UserError: its file cannot be read.
    """
    path = study / FILE
    if not path.is_file():
        return None
    if find_spec("optuna") is None:
        raise UserError(f"{path}: {NEEDED}")
    from optuna import load_study
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with readable(path):
        found = load_study(storage=JournalStorage(JournalFileBackend(str(path))), study_name=NAME)
        what = found.user_attrs[DEFINITION]
        choices = [choice["runs"] for choice in found.user_attrs.get(CONFIRMED, [])]
        every = found.get_trials(deepcopy=False)
        runs = {run for trial in every for run in trial.user_attrs.get(RUNS, [])}
        confirmed = choices[-1] if choices else []
        aside = runs | {run for some in choices for run in some if run not in confirmed}
        metric, sampler = str(what["search.metric"]), str(what["search.sampler"])
        seeds = len(what["search.seeds"])
        return Found(found, ended(found), metric, seeds, sampler, choose(found), confirmed, aside)


def ended(found: Study) -> list[FrozenTrial]:
    """The trials that have had their training, or as much of it as was granted."""
    from optuna.trial import TrialState

    states = TrialState.COMPLETE, TrialState.PRUNED
    return found.get_trials(deepcopy=False, states=states)


def choose(found: Study) -> FrozenTrial | None:
    """The trial that is best on validation; of equally good ones the first.

    One with alpha = 1 is the student alone by its setting, and is not chosen.
    """
    from optuna.study import StudyDirection

    trials = [
        trial
        for trial in ended(found)
        if trial.state.name == "COMPLETE" and not trial.user_attrs.get(IS_CONTROL)
    ]
    sign = 1 if found.direction == StudyDirection.MAXIMIZE else -1
    return max(trials, key=lambda trial: sign * (trial.value or 0.0), default=None)


@contextlib.contextmanager
def readable(path: Path) -> Generator[None]:
    """Say in a line that a file is none of Optuna's journals."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(
            f"{path}: cannot be read as the file of a search ({shown(str(error))}); delete it to "
            "search anew: what is trained is kept"
        ) from error
