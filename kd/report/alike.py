"""Which runs are alike: what is compared with what depends on settings, never on figures."""

from collections.abc import Callable, Iterable
from typing import Any

from kd.report.evaluation import Run
from kd.report.kinds import LESSONS, OLDER, Kind
from kd.report.teachers import teacher_label
from kd.training.run_folder import STAGES

VIEWS = ("data/augment/", "data/views")
# What names layers of a network for methods to compare, and changes nothing of it.
LAYERS = ("model/hidden_layer", "model/map_layers")
DERIVED = {"model/params"}  # follows from other settings


def by_stage(runs: Iterable[Run]) -> list[list[Run]]:
    """The teachers, the students alone and the distilled runs."""
    return [[run for run in runs if run.metrics["stage"] == stage] for stage in STAGES]


def partition(runs: Iterable[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    """Partition runs by equal ``key(run)``, the largest part first."""
    parts: dict[str, list[Run]] = {}
    known: dict[int, tuple[Any, str]] = {}  # runs of a kind have one key: its words are made once
    for run in runs:
        found = key(run)
        if id(found) not in known:
            known[id(found)] = found, repr(found)  # it stays alive, so its id stays its own
        parts.setdefault(known[id(found)][1], []).append(run)
    return sorted(parts.values(), key=len, reverse=True)


def comparable_settings(run: Run, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings that must be equal for runs to be compared: all but T, alpha, seed and teacher.

    Settings that are 0 or null are left out: a run may be older than a setting that is off. What
    it computed with instead of younger settings that are never off is in ``OLDER``.

    Args:
        run: its metrics hold every setting that its result depends on.
        without: prefixes of further settings to leave out.
    """
    return run.kind.settings(without)


def student_settings(run: Run) -> dict[str, Any]:
    """The settings that a distilled run shares with its student alone, views aside."""
    without = ("kd/", "code/method", *LAYERS, *LESSONS, *VIEWS)
    return comparable_settings(run, without=without)


def views_of(run: Run) -> dict[str, str]:
    """How the training images were augmented, as words; empty if they were not."""
    settings = comparable_settings(run).items()
    return {
        key.rpartition("/")[2]: str(value).removesuffix(".0")
        for key, value in settings
        if key.startswith(VIEWS)
    }


def describe_others(distilled: list[Run], methods: list[list[Run]]) -> dict[str, int]:
    """Count the distilled runs of other settings of the student than those compared.

    Returns:
        the number of runs, by the settings in which they differ.
    """
    compared = [student_settings(runs[0]) for runs in methods]
    found: dict[str, int] = {}
    differing: dict[Kind, set[str] | None] = {}  # nothing of kinds that are compared
    for run in distilled:
        if run.kind not in differing:
            settings = student_settings(run)
            own = differing_keys([compared[0], settings]) if settings not in compared else None
            differing[run.kind] = own
        if (keys := differing[run.kind]) is not None:
            words = describe_differences(run, keys)
            found[words] = found.get(words, 0) + 1
    return found


def describe_differences(run: Run, keys: set[str]) -> str:
    """A run's values of the settings in which it differs from others, as words of a command."""
    own = {**OLDER, **run.metrics}
    values = {key: "null" if own.get(key) is None else own[key] for key in sorted(keys - DERIVED)}
    return ", ".join(
        f"{key.removeprefix('kd/').replace('/', '.')}={value}" for key, value in values.items()
    )


def differing_keys(settings: list[dict[str, Any]]) -> set[str]:
    """The settings in which some of these differ."""
    first, *_ = settings
    return {key for each in settings for key, _ in each.items() ^ first.items()}


def partition_by_method(distilled: Iterable[Run], students: Iterable[Run]) -> list[list[Run]]:
    """Partition the distilled runs by student, method and teacher, the largest part first.

    Of several settings of the student, the one with the most runs counts, and every other of which
    there are students alone. Views of the images belong to the method: they may differ.
    """
    alone = [student_settings(runs[0]) for runs in partition(students, student_settings)]
    of_settings = partition(distilled, student_settings)
    counted = [
        run
        for place, runs in enumerate(of_settings)
        if place == 0 or student_settings(runs[0]) in alone
        for run in runs
    ]
    alike = partition(counted, comparable_settings)
    # Of equally large ones, unaugmented images come first, then the teacher of the shortest name:
    # it has nothing overridden.
    return sorted(
        (part for same in alike for part in partition_by_teacher(same)),
        key=lambda p: (
            -len(p),
            len(views_of(p[0])),
            *by_length(p[0].metrics["teacher/checkpoint"]),
        ),
    )


def by_length(path: str | None) -> tuple[int, str]:
    """Where a path stands among others: the shortest first."""
    return len(path or ""), path or ""


def partition_by_teacher(runs: list[Run]) -> list[list[Run]]:
    """Partition runs by their teachers, unless every seed has a teacher of its own."""
    keys = ("seed", "teacher/checkpoint", "teacher/sha256")
    known = {tuple(run.metrics[key] for key in keys) for run in runs}
    if all(len(set(column)) == len(known) for column in zip(*known, strict=True)):
        return [runs]
    return partition(runs, lambda run: run.metrics["teacher/sha256"])


def label_methods(methods: list[list[Run]]) -> list[tuple[str, str]]:
    """Name methods, with the settings and teachers that distinguish each from its namesakes.

    Returns:
        of each: its label, and what distinguishes its students from those of others; mostly
        nothing.
    """
    firsts = [runs[0] for runs in methods]
    of_students = differing_keys([student_settings(run) for run in firsts]) if firsts else set()
    namesakes: dict[str, list[Run]] = {}
    for run in firsts:
        namesakes.setdefault(run.metrics["kd/method"], []).append(run)
    differing = {
        name: differing_keys([comparable_settings(run) for run in runs])
        for name, runs in namesakes.items()
    }
    taught = {
        name: len({run.metrics["teacher/sha256"] for run in runs}) > 1
        for name, runs in namesakes.items()
    }
    labels = []
    for run in firsts:
        name = run.metrics["kd/method"]
        words = [name, describe_differences(run, differing[name])]
        if taught[name]:
            words.append(f"taught by {teacher_label(run, namesakes[name])}")
        labels.append((", ".join(filter(None, words)), describe_differences(run, of_students)))
    return labels
