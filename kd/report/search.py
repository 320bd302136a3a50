"""The section about a search: what was tried, what mattered, how the choice does on new seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from kd.config.schema import Config
from kd.report import drawings
from kd.report.drawings import Dot
from kd.report.page import Section
from kd.report.study import Study
from kd.search.reading import FAILED, Found

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SLUG, TITLE = "search", "The search"
LEAST = 0.5  # share of the trials, the best ones, that the drawings have room for


def show_search(study: Study, config: Config) -> list[Section]:
    """The trials of the study's search."""
    found = study.search
    if found is None:
        return []
    if found.chosen is None:
        return [Section(SLUG, TITLE, "No trial of the search is complete.")]
    text = f"{describe(found)} {confirm(study, found)}"
    drawing = draw(found)
    return [Section(SLUG, TITLE, text, table=tabulate(found), drawing=drawing, said=[text])]


def describe(found: Found) -> str:
    """What was tried, and what is best on validation."""
    assert found.chosen is not None
    states = [state_of(trial) for trial in found.trials]
    some = [f"{states.count(word)} {word}" for word in ("halved", "failed") if word in states]
    others = f", {' and '.join(some)}," if some else ""
    seeds = "one seed each" if found.seeds == 1 else f"mean of {found.seeds} seeds each"
    return (
        f"{len(found.trials)} trials{others} of {len(found.chosen.params)} settings at once, "
        f"proposed by {found.sampler}. The best on validation is {words_of(found.chosen)}: "
        f"{figure(found, found.chosen.value)} ({seeds}). Small dots at the edge of a drawing are "
        "trials that were halved, or are worse than it has room for."
    )


def confirm(study: Study, found: Found) -> str:
    """By how much the search flattered its choice."""
    runs = [run for run in study.runs if run.name in found.confirmed]
    if not runs or found.chosen is None or found.chosen.value is None:
        return (
            "The best of many flatters itself; search.confirm=10 trains it on fresh seeds, beside "
            "the student alone."
        )
    fresh = fmean(run.metrics[found.metric] for run in runs)
    better = 1 if found.metric.endswith("acc") else -1
    by = better * (found.chosen.value - fresh)
    much = f"{100 * by:.2f} points" if found.metric.endswith("acc") else f"{by:.4f}"
    return (
        f"On {len(runs)} fresh seeds the same setting has {figure(found, fresh)} on validation: "
        f"being the best of many flattered it by {much.replace('-', '−')}. The verdict is about "
        "the fresh seeds; no test figure took part in the choice."
    )


def state_of(trial: FrozenTrial) -> str:
    """What became of a trial, in a word."""
    if FAILED in trial.user_attrs:
        return "failed"
    return "complete" if trial.state.name == "COMPLETE" else "halved"


def words_of(trial: FrozenTrial) -> str:
    """What a trial tried."""
    return ", ".join(f"{key} = {shown(value)}" for key, value in trial.params.items())


def shown(value: Any) -> str:
    """A value with few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figure(found: Found, value: float | None) -> str:
    """A figure of the search in its unit."""
    if value is None:
        return "nothing"
    accuracy = found.metric.endswith("acc")
    return f"{100 * value:.2f} %" if accuracy else f"a loss of {value:.4f} nats"


def tabulate(found: Found) -> pd.DataFrame:
    """One row per trial, the best first."""
    sign = -1 if found.metric.endswith("acc") else 1
    rows = sorted(
        found.trials,
        key=lambda t: (state_of(t) != "complete", math.inf if t.value is None else sign * t.value),
    )
    return pd.DataFrame(
        {
            "trial": trial.number,
            "state": state_of(trial),
            **trial.params,
            found.metric: trial.value,
            "epochs": trial.last_step if state_of(trial) == "halved" else None,
        }
        for trial in rows
    )


def draw(found: Found) -> Markup:
    """The accuracy over the trials, the importance of each setting, and a slice of each."""
    drawn = {}
    if shares := importances(found):
        bars = drawings.draw_bars(shares, "Importance of each setting")
        drawn["Importance of each setting (PED-ANOVA)"] = bars
    what = "Validation accuracy (%)" if found.metric.endswith("acc") else "Validation loss"
    for key in ("", *found.chosen.params) if found.chosen else ():
        title = f"{what} by {key or 'trial'}"
        names, logs = (axis_name(found, key), ""), key in logarithmic(found)
        drawn[title] = drawings.draw_dots(dots_of(found, key), title, names, logs=logs)
    return drawings.beside(drawn)


def dots_of(found: Found, key: str) -> list[Dot]:
    """All trials by their value of a setting, or by their number; the chosen one on top.

    Those that were halved, or are worse than the drawing shows, stand small at its edge.
    """
    accuracy = found.metric.endswith("acc")
    values = {
        trial.number: trial.value
        for trial in found.trials
        if state_of(trial) == "complete" and trial.value is not None and math.isfinite(trial.value)
    }
    worst, dots = worst_shown(found, list(values.values())), []
    for trial in found.trials:
        x, name = place(found, trial, key)
        value = values.get(trial.number, -math.inf if accuracy else math.inf)
        inside = value >= worst if accuracy else value <= worst
        y = (100 if accuracy else 1) * (value if inside else worst)
        said = f"trial {trial.number}, {state_of(trial)}: {name}"
        dots.append(Dot(said, x, y, size=3 if inside else 1.5))
    best = found.chosen
    if best is not None and best.value is not None:
        x, y = place(found, best, key)[0], (100 if accuracy else 1) * best.value
        dots.append(Dot("chosen", x, y, "good"))
    return dots


def worst_shown(found: Found, values: Sequence[float]) -> float:
    """The value at which drawings end: what is worse stands at their edge."""
    best_first = sorted(values, reverse=found.metric.endswith("acc"))
    middle = best_first[int(LEAST * (len(values) - 1))]
    return middle + 2 * (middle - best_first[0])


def place(found: Found, trial: FrozenTrial, key: str) -> tuple[float, str]:
    """Where a trial stands in a slice, and the value in words; without a key its number."""
    if not key:
        return trial.number, words_of(trial)
    value = trial.params[key]
    if isinstance(value, str):
        return choices_of(found, key).index(value), value
    return value, f"{key} = {shown(value)}"


def choices_of(found: Found, key: str) -> list[str]:
    """The values of a setting that has no order."""
    return sorted({str(trial.params[key]) for trial in found.trials})


def axis_name(found: Found, key: str) -> str:
    """The name of a slice's axis."""
    if not key or found.chosen is None or not isinstance(found.chosen.params[key], str):
        return key or "trial"
    return ", ".join(f"{n}: {value}" for n, value in enumerate(choices_of(found, key)))


def logarithmic(found: Found) -> set[str]:
    """The settings whose intervals are logarithmic."""
    of = found.chosen.distributions if found.chosen else {}
    return {key for key, distribution in of.items() if getattr(distribution, "log", False)}


def importances(found: Found) -> dict[str, float]:
    """How much each setting matters, by Optuna; nothing where too few trials are complete."""
    from optuna.importance import get_param_importances

    try:
        return get_param_importances(found.study)
    except (ValueError, RuntimeError):
        return {}
