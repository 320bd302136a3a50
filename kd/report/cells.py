"""Which distilled runs form a cell, which cells form a method, and what their controls are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd.report.runs import Run
from kd.report.teachers import partition_by_teacher, teacher_label
from kd.training.run_folder import STAGES

Settings = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Method:
    """Distilled runs that differ in T, alpha and seed alone, and the controls of their seeds."""

    label: str  # the method's name, and what distinguishes it from others of the study
    controls: dict[int, Run] = field(repr=False)  # by seed: students alone of the same settings
    plain: dict[int, Run] = field(repr=False)  # by seed: students alone on unaugmented images
    unpaired: list[int] = field(repr=False)  # seeds of distilled runs that have no control


@dataclass(frozen=True, eq=False)
class Cell:
    """A setting of a sweep without its seed: a method at one temperature and one alpha."""

    method: Method
    T: float
    alpha: float
    runs: dict[int, Run] = field(repr=False)  # by seed: those with a control; all if none has one

    @property
    def is_control(self) -> bool:
        """Whether the cell is the student alone by its setting."""
        return self.alpha == 1


def comparable_settings(run: Run, without: tuple[str, ...] = ()) -> Settings:
    """The settings that must be equal for runs to be compared: all but T, alpha, seed and teacher.

    Settings that are 0 or null are left out: a run may be older than a setting that is off.

    Args:
        run: its metrics hold every setting that its result depends on.
        without: prefixes of further settings to leave out.
    """
    groups = ("checkpoint", "data/", "device", "kd/", "model/", "optim/", "trainer/max")
    free = ("kd/T", "kd/alpha", *without)
    return {
        key: value
        for key, value in sorted(run.metrics.items())
        if key.startswith(groups) and not key.startswith(free) and value
    }


def student_settings(run: Run) -> Settings:
    """The settings that a distilled run shares with its student alone, views aside."""
    return comparable_settings(run, without=("kd/", "data/augment/"))


def views_of(run: Run) -> dict[str, float]:
    """How the training images were augmented; empty if they were not."""
    prefix = "data/augment/"
    settings = comparable_settings(run)
    return {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}


def partition_by_settings(runs: Iterable[Run], key: Callable[[Run], Settings]) -> list[list[Run]]:
    """Partition runs by equal settings ``key(run)``, the largest part first."""
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(repr(key(run)), []).append(run)
    return sorted(parts.values(), key=len, reverse=True)


def select_split(runs: list[Run], refused: dict[str, str]) -> list[Run]:
    """Select the runs of one data split; add the others to ``refused``.

    Figures of other test images do not belong beside theirs. The split of most distilled runs
    counts; without these, that of most students alone; without these, that of most teachers.
    """
    stages = [[run for run in runs if run.metrics["stage"] == stage] for stage in reversed(STAGES)]
    first = next((stage for stage in stages if stage), None)
    if first is None:
        return []
    split = partition_by_settings(first, student_settings)[0][0].metrics["data/fingerprint"]
    for run in runs:
        if run.metrics["data/fingerprint"] != split:
            refused[run.name] = (
                f"of another data split ({run.metrics['data/fingerprint']}; this report is about "
                f"{split}); report it in a study of its own"
            )
    return [run for run in runs if run.metrics["data/fingerprint"] == split]


def partition_by_method(distilled: Iterable[Run]) -> list[list[Run]]:
    """Partition the distilled runs of one student by method and teacher, the largest part first.

    Of several settings of the student the one with the most runs counts. Views of the images
    belong to the method: they may differ.
    """
    (runs, *_) = partition_by_settings(distilled, student_settings) or [[]]
    methods = [
        part
        for same in partition_by_settings(runs, comparable_settings)
        for part in partition_by_teacher(same)
    ]
    # Of equally large ones, unaugmented images come first, then the first teacher.
    methods.sort(
        key=lambda part: (-len(part), len(views_of(part[0])), part[0].metrics["teacher/checkpoint"])
    )
    return methods


def build_cells(
    runs: Sequence[Run], methods: Iterable[Sequence[Run]], students: Iterable[Run]
) -> list[Cell]:
    """Build the cells of one method, by temperature, then alpha.

    Args:
        runs: the method's runs.
        methods: the runs of every method of the study, for the label.
        students: the study's students alone.
    """
    settings, views = student_settings(runs[0]), views_of(runs[0])
    alike = [student for student in students if student_settings(student) == settings]
    controls = {s.metrics["seed"]: s for s in alike if views_of(s) == views}
    method = Method(
        label=method_label(runs, methods),
        controls=controls,
        plain={s.metrics["seed"]: s for s in alike if not views_of(s)},
        unpaired=sorted({run.metrics["seed"] for run in runs} - controls.keys()),
    )
    by_cell: dict[tuple[float, float], dict[int, Run]] = {}
    for run in runs:
        by_seed = by_cell.setdefault((run.metrics["kd/T"], run.metrics["kd/alpha"]), {})
        by_seed[run.metrics["seed"]] = run
    return [
        Cell(method, T, alpha, {s: by_seed[s] for s in by_seed if s in controls} or by_seed)
        for (T, alpha), by_seed in sorted(by_cell.items())
    ]


def method_label(runs: Sequence[Run], methods: Iterable[Sequence[Run]]) -> str:
    """Name a method, with the settings and teachers that distinguish it from its namesakes."""
    own = runs[0].metrics
    namesakes = [other[0] for other in methods if other[0].metrics["kd/method"] == own["kd/method"]]
    known = [comparable_settings(run) for run in namesakes]
    keys = sorted({key for settings in known for key in settings})
    differing = [key for key in keys if any(s.get(key) != known[0].get(key) for s in known)]
    values = {key: "null" if own.get(key) is None else own[key] for key in differing}
    words = [f"{k.removeprefix('kd/').replace('/', '.')}={v}" for k, v in values.items()]
    if any(run.metrics["teacher/sha256"] != own["teacher/sha256"] for run in namesakes):
        words.append(f"taught by {teacher_label(runs[0], namesakes)}")
    return ", ".join([own["kd/method"], *words])
