"""What each factor accounts for: the gain of a study whose runs cross two or more settings.

A *factor* is a setting, other than seed, T and alpha, in which the study's students differ.
Settings that never differ without each other are one factor. A *combination* has one level of every
factor.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, combinations
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from kd.config.schema import Config
from kd.report import figures, stats
from kd.report.alike import (
    by_stage,
    comparable_settings,
    partition,
    partition_by_teacher,
    student_settings,
    views_of,
)
from kd.report.comparison import interval_columns, without_untested
from kd.report.evaluation import Run
from kd.report.kinds import OLDER, Kind
from kd.report.page import Section, one_line
from kd.report.study import Study

MOST_CELLS = 3  # that are shown

Levels = tuple[int, ...]  # a combination: its level of every factor, by number
Place = tuple[float, float]  # a cell's T and alpha
Gains = dict[int, float]  # by seed


class Crossing(NamedTuple):
    """Distilled runs that have every combination of two or more factors."""

    factors: dict[str, dict[int, str]]  # by name: what its levels are called
    runs: dict[Levels, list[Run]]  # by combination
    others: int  # combinations of the study that take no part


class Account(NamedTuple):
    """What each factor accounts for in one cell."""

    place: Place
    base: Levels  # the combination with the lowest mean gain
    changed: Levels  # of those that differ from it in every factor, the one with the highest
    before: stats.Estimate  # the gain at ``base``
    shares: dict[str, stats.Estimate]  # by factor: its Shapley value
    after: stats.Estimate  # the gain at ``changed``
    seeds: int  # that some combination has; the estimates are over those that all have


def show_factors(study: Study, config: Config) -> list[Section]:
    """The Shapley value of every factor for the gain, where the study's runs cross factors."""
    title = "What each factor accounts for"
    _, students, distilled = by_stage([*study.runs, *study.other_splits])
    crossing = find_crossing(run for run in distilled if run.metrics["kd/alpha"] < 1)
    if crossing is None:
        return []
    measured = measure_gains(crossing, students)
    places = sorted(set.intersection(*map(set, measured.values())), key=lambda p: (-p[0], p[1]))
    cells = [{levels: measured[levels][place] for levels in measured} for place in places]
    known = [cell for cell in zip(places, cells, strict=True) if common_seeds(cell[1])]
    if not known:
        return [Section("factors", title, explain_lack(crossing, measured))]
    shown = [account(crossing.factors, *cell) for cell in known[:MOST_CELLS]]
    parts = {place_label(each.place): name_parts(crossing, each) for each in shown}
    drawn = {f"Gain at {name}": pd.DataFrame(own.values(), [*own]) for name, own in parts.items()}
    figure = figures.draw_shares(drawn)
    text = describe(crossing, shown[0], len(known) - len(shown))
    alt = f"Bars of the gain's parts at {'; '.join(parts)}: their numbers are in the table below"
    table = pd.concat([tabulate(crossing, each) for each in shown], ignore_index=True)
    said = [line for name, own in parts.items() for line in list_lines(name, own)]
    return [Section("factors", title, text, figure, alt, table, said=said)]


def find_crossing(distilled: Iterable[Run]) -> Crossing | None:
    """Find the factors whose combinations are all there; None if there are not two of them.

    While a combination is missing, the runs of the level that the fewest combinations have are
    left out. Of several teachers of one combination, the one with the most runs counts.
    """
    parts = partition(distilled, combined_settings)
    there = len(parts)
    while True:
        patterns = find_patterns([combined_settings(part[0]) for part in parts])
        counts = {pattern: Counter(pattern) for pattern in patterns}
        if len(patterns) < 2:
            return None
        if math.prod(map(len, counts.values())) == len(parts):
            break
        levels = ((pattern, level) for pattern in patterns for level in counts[pattern])
        pattern, rarest = min(levels, key=lambda found: counts[found[0]][found[1]])
        parts = [part for part, own in zip(parts, pattern, strict=True) if own != rarest]
    named = [name_factor([part[0] for part in parts], *found) for found in patterns.items()]
    runs = [partition_by_teacher(part)[0] for part in parts]
    combined = dict(zip(zip(*patterns, strict=True), runs, strict=True))
    return Crossing(dict(named), combined, there - len(parts))


def combined_settings(run: Run) -> dict[str, Any]:
    """The settings that may be factors, without what follows from others."""
    return comparable_settings(run, without=("data/fingerprint", "model/params"))


def find_patterns(settings: list[dict[str, Any]]) -> dict[tuple[int, ...], list[str]]:
    """Find the settings that differ, by the pattern in which they do.

    Returns:
        by pattern, the settings that differ alike. A pattern names the level of every combination
        by the first combination that has it.
    """
    found: dict[tuple[int, ...], list[str]] = {}
    for key in sorted({key for each in settings for key in each}):
        values = [repr(each.get(key)) for each in settings]
        if any(pattern := tuple(values.index(value) for value in values)):
            found.setdefault(pattern, []).append(key)
    return found


def name_factor(
    firsts: list[Run], pattern: tuple[int, ...], keys: list[str]
) -> tuple[str, dict[int, str]]:
    """Name a factor and its levels.

    Settings that a choice on the command line brought along, as ``optim=keras`` did, are called by
    that choice; others by their keys.

    Args:
        firsts: of every combination a run.
        pattern: in which the settings differ.
        keys: of the settings.
    """
    (group, *others) = {key.split("/")[0] for key in keys}
    values = [choice_of(run, group) for run in firsts]
    if len(keys) > 1 and not others and tuple(map(values.index, values)) == pattern:
        name = group
    else:
        name = ", ".join(keys).replace("/", ".")
        own = [{**OLDER, **run.metrics} for run in firsts]
        values = [", ".join(shown_value(each.get(key)) for key in keys) for each in own]
    return one_line(name), {level: one_line(values[level]) for level in pattern}


def choice_of(run: Run, group: str) -> str:
    """The choice from a config group that a run's command names; "default" if it names none."""
    words = run.read_hydra("overrides.yaml")
    known = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
    chosen = [word.partition("=")[2] for word in known if word.partition("=")[0] == group]
    return chosen[-1] if chosen else "default"


def shown_value(value: Any) -> str:
    """A setting's value as the command line takes it."""
    if value is None:
        return "null"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def measure_gains(crossing: Crossing, students: Iterable[Run]) -> dict[Levels, dict[Place, Gains]]:
    """Measure the gain over the student alone of the same settings, images and seed.

    Returns:
        by combination, by cell, by seed.
    """

    words: dict[Kind, str] = {}  # made once per kind

    def pairing(run: Run) -> tuple[str, int]:
        if run.kind not in words:
            words[run.kind] = repr((student_settings(run), views_of(run)))
        return words[run.kind], run.metrics["seed"]

    alone = {pairing(run): run.metrics["test/acc"] for run in students}
    found: dict[Levels, dict[Place, Gains]] = {}
    for levels, runs in crossing.runs.items():
        own = found.setdefault(levels, {})
        for run in runs:
            if (control := alone.get(pairing(run))) is not None:
                place = run.metrics["kd/T"], run.metrics["kd/alpha"]
                own.setdefault(place, {})[run.metrics["seed"]] = run.metrics["test/acc"] - control
    return found


def common_seeds(gains: Mapping[Levels, Gains]) -> list[int]:
    """The seeds that have every combination."""
    return sorted(set.intersection(*map(set, gains.values())))


def account(factors: Collection[str], place: Place, gains: Mapping[Levels, Gains]) -> Account:
    """Compute what each factor accounts for in a cell, over the seeds that all have."""
    seeds = common_seeds(gains)
    means = {levels: fmean(own[seed] for seed in seeds) for levels, own in gains.items()}
    base = min(means, key=lambda levels: means[levels])
    opposite = [own for own in means if all(a != b for a, b in zip(own, base, strict=True))]
    changed = max(opposite, key=lambda levels: means[levels])

    def at(some: Iterable[str]) -> Levels:
        triples = zip(factors, base, changed, strict=True)
        return tuple(new if name in some else old for name, old, new in triples)

    subsets = chain.from_iterable(combinations(factors, k) for k in range(len(factors) + 1))
    corners = {frozenset(some): gains[at(some)] for some in subsets}
    values = [stats.shapley({some: own[seed] for some, own in corners.items()}) for seed in seeds]
    return Account(
        place,
        base,
        changed,
        stats.estimate([gains[base][seed] for seed in seeds]),
        {name: stats.estimate([each[name] for each in values]) for name in factors},
        stats.estimate([gains[changed][seed] for seed in seeds]),
        len(set[int]().union(*gains.values())),
    )


def explain_lack(crossing: Crossing, measured: Mapping[Levels, dict[Place, Gains]]) -> str:
    """Say what is missing where the gains of the combinations cannot be set side by side."""
    lacking = [levels for levels, own in measured.items() if not own]
    if lacking:
        listed = "; ".join(combination_label(crossing, levels) for levels in lacking)
        return f"Needs the student alone of the same seeds and settings. It lacks for: {listed}."
    return (
        f"Needs a seed, T and alpha that all {len(measured)} combinations of "
        f"{' and '.join(crossing.factors)} have, distilled and alone."
    )


def place_label(place: Place) -> str:
    """Name a cell by its T and alpha."""
    return f"T = {place[0]:g}, alpha = {place[1]:g}"


def combination_label(crossing: Crossing, levels: Levels) -> str:
    """Name a combination, in the words of its command where its factors are single settings."""
    pairs = zip(crossing.factors.items(), levels, strict=True)
    return "; ".join(f"{name}={labels[level]}" for (name, labels), level in pairs)


def tabulate(crossing: Crossing, found: Account) -> pd.DataFrame:
    """Tabulate the parts of the gain: what is there at first, every factor's, the remainder."""
    steps = zip(crossing.factors.items(), found.base, found.changed, strict=True)
    rows = [
        {"part": "lowest gain", "from": None, "to": None} | part_columns(found.before),
        *(
            {"part": name, "from": labels[old], "to": labels[new]}
            | part_columns(found.shares[name])
            for (name, labels), old, new in steps
        ),
        {"part": "remainder", "from": None, "to": None} | part_columns(found.after),
    ]
    place = {"T": found.place[0], "alpha": found.place[1]}
    return without_untested(pd.DataFrame(place | row for row in rows))


def part_columns(part: stats.Estimate) -> dict[str, float]:
    """A part of the gain as columns of the table."""
    return interval_columns("gain", part, "gain_") | {"seeds": part.n}


def describe(crossing: Crossing, first: Account, further: int) -> str:
    """Say what the numbers are, with the corners of the first cell."""
    n = first.before.n
    parts = [
        "Gain is test accuracy over the student alone of the same seed.",
        f"At {place_label(first.place)} it is lowest with "
        f"{combination_label(crossing, first.base)}: {format_points(first.before)}.",
        f"With every factor changed ({combination_label(crossing, first.changed)}) it is "
        f"{format_points(first.after)}, the remainder that no factor accounts for.",
        "A factor's Shapley value (Shapley 1953) is what changing it adds, on average over all "
        "orders in which the factors can be changed; the values sum to the whole change.",
        "The lowest gain is picked on test, so these numbers describe and test nothing.",
        f"{'Means and 95 % intervals are' if n > 1 else 'All is'} over the {count_seeds(n)} that "
        "every combination has" + (f", of {first.seeds}." if first.seeds > n else "."),
    ]
    if crossing.others:
        parts.append(f"Combinations that do not cross with these: {crossing.others}, left out.")
    if further:
        parts.append(f"Cells that are not shown: {further}.")
    return " ".join(parts)


def count_seeds(n: int) -> str:
    """A number of seeds in words."""
    return f"{n} seed{'s' * (n != 1)}"


def format_points(part: stats.Estimate) -> str:
    """A part of the gain in points, with its interval where there is one."""
    mean, low, high = (stats.signed(100 * value) for value in part[:3])
    return f"{mean} points" + ("" if math.isinf(part.high) else f" ({low} to {high})")


def name_parts(crossing: Crossing, found: Account) -> dict[str, stats.Estimate]:
    """The parts of the gain by their names, levels included."""
    steps = zip(crossing.factors.items(), found.base, found.changed, strict=True)
    return {
        "lowest gain": found.before,
        **{
            f"{name}: {labels[old]} → {labels[new]}": found.shares[name]
            for (name, labels), old, new in steps
        },
        "remainder": found.after,
    }


def list_lines(place: str, parts: Mapping[str, stats.Estimate]) -> list[str]:
    """The parts of the gain as lines for the terminal."""
    width = max(map(len, parts))
    return [
        f"what each factor accounts for at {place} ({count_seeds(parts['remainder'].n)}):",
        *(f"  {name:<{width}}  {format_points(part)}" for name, part in parts.items()),
    ]
