"""What of a study is compared with what."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.errors import UserError
from kd.report.teachers import Teachers, by_teacher, find_teachers, run_of, taught_by, told
from kd.training.results import Run, scan, shortened
from kd.training.run_folder import METRICS, STAGES

Cell = tuple[float, float]  # temperature, alpha


@dataclass(frozen=True, eq=False)
class Method:
    """Distilled runs that differ in T, alpha and seed alone, and the students they compare with."""

    label: str  # the method, and what tells it from others of the study
    cells: dict[Cell, dict[int, Run]]  # by temperature and alpha, then by seed: those of students
    students: dict[int, Run]  # alone, trained alike but for what only a distillation has
    plain: dict[int, Run]  # the same, on the images as they are
    unpaired: list[int]  # the seeds that distilled runs have and no student alone has

    @property
    def seeds(self) -> str:
        """How many seeds the cells have, in words."""
        counts = sorted({len(by_seed) for by_seed in self.cells.values()})
        said = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{said} seed{'s' * (counts != [1])}"


@dataclass(frozen=True)
class Study:
    """A study's complete runs, and which of them are compared with each other.

    Distilled runs are comparable when the student's network, the images and the optimiser are the
    same. Those that share all but T, alpha and seed make a :class:`Method`, the largest one first;
    of several settings of the student the one with the most runs is reported, the runs of the
    others are counted in ``left_out``. A cell has the seeds that a student alone has too, or all
    where none has one. Runs that cannot be used, or are of another data split, are ``refused``.
    """

    folder: Path
    runs: list[Run]
    failed: list[str]
    teacher: Run | None  # of the largest method whose teacher is still there; of none, the first
    teachers: dict[int, Run]  # the study's own by seed, but for those that took another's place
    taught: Teachers
    students: dict[int, Run]  # alone; those of the largest method that has any
    methods: list[Method]
    left_out: int
    refused: dict[str, str]  # runs that are left out altogether, and why

    @property
    def cells(self) -> dict[Cell, dict[int, Run]]:
        """The runs of the largest method, by temperature and alpha, then by seed."""
        return self.methods[0].cells if self.methods else {}

    @property
    def student(self) -> Run | None:
        """The student alone of the lowest seed."""
        return self.students[min(self.students)] if self.students else None


Settings = dict[str, Any]


def settings(run: Run, without: tuple[str, ...] = ()) -> Settings:
    """What must be equal for runs to be compared: every setting but T, alpha, seed and teacher.

    What is 0 or null is left out: a run that is older than a setting did without it.

    Args:
        run: its metrics hold every setting that its result depends on.
        without: beginnings of further settings to leave out.
    """
    groups = ("checkpoint", "data/", "device", "kd/", "model/", "optim/", "trainer/max")
    free = ("kd/T", "kd/alpha", *without)
    return {
        key: value
        for key, value in sorted(run.metrics.items())
        if key.startswith(groups) and not key.startswith(free) and value
    }


def views_of(run: Run) -> dict[str, float]:
    """How the training images were augmented; empty where they were taken as they are."""
    prefix = "data/augment/"
    return {k.removeprefix(prefix): v for k, v in settings(run).items() if k.startswith(prefix)}


def gather(runs: Iterable[Run], key: Callable[[Run], Settings]) -> list[list[Run]]:
    """The runs with equal ``key`` together, the largest lot first."""
    lots: dict[str, list[Run]] = {}
    for run in runs:
        lots.setdefault(repr(key(run)), []).append(run)
    return sorted(lots.values(), key=len, reverse=True)


def cell_of(run: Run) -> Cell:
    """Temperature and alpha of a distilled run."""
    return run.metrics["kd/T"], run.metrics["kd/alpha"]


def label_of(lot: Sequence[Run], others: Iterable[Sequence[Run]]) -> str:
    """The method's name, and what else tells this lot of runs from others of that name."""
    mine = lot[0].metrics
    kin = [one[0] for one in others if one[0].metrics["kd/method"] == mine["kd/method"]]
    known = [settings(run) for run in kin]
    keys = sorted({key for part in known for key in part})
    differing = [key for key in keys if any(p.get(key) != known[0].get(key) for p in known)]
    values = {key: "null" if mine.get(key) is None else mine[key] for key in differing}
    words = [f"{k.removeprefix('kd/').replace('/', '.')}={v}" for k, v in values.items()]
    if any(run.metrics["teacher/sha256"] != mine["teacher/sha256"] for run in kin):
        words.append(f"taught by {told(lot[0], kin)}")
    return ", ".join([mine["kd/method"], *words])


def load_study(folder: Path) -> Study:
    """Read a study back from its runs' ``metrics.json``; what cannot be used is left out by name.

    Raises:
        UserError: no complete run is there.
    """
    rows, refused = scan(folder)
    runs = of_one_split(readable((Run(folder / row["run"], row) for row in rows), refused), refused)
    if not runs:
        why = "".join(
            f" ({name} is left out: {reason})" for name, reason in list(refused.items())[:3]
        )
        if len(refused) > 3:
            why += f" (and {len(refused) - 3} more)"
        raise UserError(
            f"{folder}: no complete run to report; first run python train.py stage=teacher{why}"
        )
    own, students, distilled = (
        [run for run in runs if run.metrics["stage"] == stage] for stage in STAGES
    )
    lots = lots_of(distilled)
    methods = [method_of(lot, lots, students) for lot in lots]
    teachers = find_teachers(folder, own, distilled)
    # Of several with one seed the one with the shortest name counts: it has nothing overridden.
    own.sort(key=lambda run: -len(run.folder.name))
    by_seed = {run.metrics["seed"]: run for run in own if not teachers.replaced(run)}
    if lots:
        teacher = teacher_of(lots, teachers, runs, refused)
    else:
        teacher = by_seed[min(by_seed)] if by_seed else None
    return Study(
        folder=folder,
        runs=runs,
        failed=incomplete(folder),
        teacher=teacher,
        teachers=by_seed,
        taught=teachers,
        students=next(
            (m.students for m in methods if m.students),
            {run.metrics["seed"]: run for run in students if not methods},
        ),
        methods=methods,
        left_out=len(distilled) - sum(map(len, lots)),
        refused=refused,
    )


def readable(runs: Iterable[Run], refused: dict[str, str]) -> list[Run]:
    """The runs whose predictions can be used; why the others cannot is noted in ``refused``."""
    good = []
    for run in runs:
        try:
            _ = run.predictions
        except UserError as error:
            refused[run.name] = shortened(error, run.folder)
        else:
            good.append(run)
        run.forget()  # those of a large study need not all stay in memory
    return good


def of_one_split(runs: list[Run], refused: dict[str, str]) -> list[Run]:
    """The runs of the split that most distilled ones are of, else most students, else teachers.

    Figures of other test images do not belong beside theirs: such runs are noted in ``refused``.
    """
    stages = [[run for run in runs if run.metrics["stage"] == stage] for stage in reversed(STAGES)]
    lots = next((gather(part, trained_like) for part in stages if part), [])
    if not lots:
        return []
    split = lots[0][0].metrics["data/fingerprint"]
    for run in runs:
        if run.metrics["data/fingerprint"] != split:
            refused[run.name] = (
                f"of another data split ({run.metrics['data/fingerprint']}; this report is about "
                f"{split}); report it in a study of its own"
            )
    return [run for run in runs if run.metrics["data/fingerprint"] == split]


def incomplete(folder: Path) -> list[str]:
    """The runs that began and did not end."""
    logs = [path for stage in STAGES for path in folder.glob(f"{stage}/*/train.log")]
    return sorted(
        str(path.parent.relative_to(folder))
        for path in logs
        if not (path.parent / METRICS).exists()
    )


def lots_of(distilled: Iterable[Run]) -> list[list[Run]]:
    """Distilled runs of one setting of the student, by method and teacher, the largest lot first.

    Views of the images are a part of the method: they may differ, the student's setting not.
    """
    alike = gather(distilled, trained_like)
    lots = [lot for kin in gather(alike[0] if alike else [], settings) for lot in by_teacher(kin)]
    # Of equally large ones first the images as they are, then the first teacher.
    lots.sort(
        key=lambda lot: (-len(lot), len(views_of(lot[0])), lot[0].metrics["teacher/checkpoint"])
    )
    return lots


def method_of(lot: list[Run], lots: list[list[Run]], students: Iterable[Run]) -> Method:
    """A lot of distilled runs as a method, over the seeds that it shares with students alone."""
    students = controls(lot[0], students)
    views = views_of(lot[0])
    mine = {s.metrics["seed"]: s for s in students if views_of(s) == views}
    cells = in_cells(lot)
    seeds = {seed for by_seed in cells.values() for seed in by_seed}
    return Method(
        label=label_of(lot, lots),
        cells={
            cell: {seed: run for seed, run in by_seed.items() if seed in mine} or by_seed
            for cell, by_seed in cells.items()
        },
        students=mine,
        plain={s.metrics["seed"]: s for s in students if not views_of(s)},
        unpaired=sorted(seeds - mine.keys()),
    )


def teacher_of(
    lots: list[list[Run]], teachers: Teachers, runs: list[Run], refused: dict[str, str]
) -> Run | None:
    """The teacher of the largest lot that still has one, as a run; of an ensemble one of them."""
    split = lots[0][0].metrics["data/fingerprint"]
    for sha in dict.fromkeys(sha for lot in lots for run in lot for _, sha in taught_by(run)):
        if sha not in teachers.there:
            continue
        try:
            found = run_of(teachers.there[sha], runs)
        except UserError as error:
            folder = teachers.there[sha].parent
            refused[f"{folder.parent.name}/{folder.name}"] = shortened(error, folder)
            continue
        if found and found.metrics["data/fingerprint"] == split:
            return found
    return None


def controls(run: Run, students: Iterable[Run]) -> list[Run]:
    """The students alone that are trained like a distilled run, views aside."""
    return [student for student in students if trained_like(student) == trained_like(run)]


def trained_like(run: Run) -> Settings:
    """What a distilled run and the student alone have in common: all but method and views."""
    return settings(run, without=("kd/", "data/augment/"))


def in_cells(runs: Iterable[Run]) -> dict[Cell, dict[int, Run]]:
    """Runs of one method by temperature and alpha, then by seed."""
    cells: dict[Cell, dict[int, Run]] = {}
    for run in runs:
        cells.setdefault(cell_of(run), {})[run.metrics["seed"]] = run
    return dict(sorted(cells.items()))
