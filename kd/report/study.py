"""A study read back from its folder: its runs, what is compared with what, and the answer.

Hashes of checkpoints say which networks taught its runs. A path does not identify a teacher:
another network may have been trained in its place since.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kd.errors import UserError
from kd.report import stats
from kd.report.alike import (
    by_stage,
    describe_others,
    label_methods,
    partition,
    partition_by_method,
    student_settings,
    views_of,
)
from kd.report.evaluation import Run
from kd.report.kinds import Kinds
from kd.report.packed import PackedRun
from kd.report.progress import watched
from kd.report.teachers import (
    find_checkpoints,
    find_study_teacher,
    teacher_checkpoints,
)
from kd.search.reading import FILE, Found, read_search
from kd.training.pack_rows import Row
from kd.training.packs import packs_of
from kd.training.run_folder import METRICS, STAGES, scan, shortened


@dataclass(frozen=True, eq=False)
class Method:
    """Distilled runs that differ in T, alpha and seed alone, and the controls of their seeds."""

    label: str  # the method's name, and what distinguishes it from others of the study
    student: str = field(repr=False)  # what tells its students from those of others; mostly nothing
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


@dataclass(frozen=True, repr=False)
class Study:
    """A study's complete runs, what is compared with what, and the answer.

    Distilled runs that share all but T, alpha and seed make a :class:`Method`, the largest first.
    Each is compared with the students alone of the same network, images and optimiser. Of several
    settings of the student, those with students alone count, and the one with the most runs.
    """

    folder: Path
    runs: list[Run]
    incomplete: list[str]  # names of the runs that began and did not end
    teacher: Run | None  # the largest method's, if it is still there; without methods, the first
    teachers: dict[int, Run]  # by seed: the study's own, except those that replaced another
    changed: dict[str, list[Path]]  # by sha256 of a teacher that is gone: where it was
    students: dict[int, Run]  # by seed: the controls of the largest method that has any
    cells: list[Cell]  # by method, then temperature, then alpha
    not_compared: dict[str, int]  # by what differs: distilled runs of other settings
    refused: dict[str, str]  # by name: why a run is left out of everything
    other_splits: list[Run]  # of those left out: usable, but of another data split than ``runs``
    search: Found | None = None  # whose trials are not among ``runs``

    def __repr__(self) -> str:
        """Folder and number of runs: the runs themselves would fill pages."""
        return f"Study({str(self.folder)!r}, {len(self.runs)} runs)"

    def frame(self) -> pd.DataFrame:
        """One row per run with its metrics; ``run`` is its folder below the study."""
        names = [run.name for run in self.runs]
        own = [dict(run.metrics) for run in self.runs if not isinstance(run, PackedRun)]
        if len(own) == len(names):
            return pd.DataFrame(own)
        packed = [pack.table().to_pandas() for pack in packs_of(self.folder) if pack.names]
        found = pd.concat([pd.DataFrame(own), *reversed(packed)]).drop_duplicates("run")
        return found.set_index("run").loc[names].reset_index()

    @property
    def methods(self) -> list[Method]:
        """The methods of the cells, the one with the most runs first."""
        return [*self._cells_by_method]

    @cached_property
    def _cells_by_method(self) -> dict[Method, list[Cell]]:
        found: dict[Method, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.method, []).append(cell)
        return found

    @property
    def student(self) -> Run | None:
        """The student alone of the lowest seed."""
        return self.students[min(self.students)] if self.students else None

    def cells_of(self, method: Method) -> list[Cell]:
        """The cells of one method, by temperature, then alpha."""
        return self._cells_by_method[method]

    def scoring_teacher(self, run: Run) -> Run | None:
        """The study's teacher if a run can be scored against it, else None.

        Both must have been tested on the same images. A student whose own teacher has changed since
        is not scored: another network would take its teacher's place.
        """
        changed = any(sha256 in self.changed for _, sha256 in teacher_checkpoints(run))
        if self.teacher is None or changed:
            return None
        same_images = np.array_equal(run.indices, self.teacher.indices)
        return self.teacher if same_images else None

    @cached_property
    def comparisons(self) -> dict[Cell, stats.Comparison]:
        """Every cell compared with the controls of its seeds."""

        def figures(key: str, runs: dict[int, Run]) -> dict[int, float]:
            return {seed: run.metrics[key] for seed, run in runs.items()}

        alone = {method: figures("test/acc", method.controls) for method in self.methods}
        return stats.compare_cells(
            test={cell: figures("test/acc", cell.runs) for cell in self.cells},
            validation={cell: figures("val/acc", cell.runs) for cell in self.cells},
            controls={cell: alone[cell.method] for cell in self.cells},
            control_cells={cell for cell in self.cells if cell.is_control},
        )

    @cached_property
    def verdict(self) -> stats.Verdict[Cell]:
        """Whether distillation works here: a word, a sentence, and the cell they are about."""
        return stats.judge(self.comparisons)


def load_study(folder: Path | str, trust_code: bool = False) -> Study:
    """Read a study back from its runs' ``metrics.json``; runs that cannot be used are refused.

    Args:
        folder: the study's folder, such as ``outputs/main``.
        trust_code: import the code that its runs name, where a network is not kd's own and is asked
            for. Such code runs: trust the study's author first.

    Raises:
        UserError: the folder holds no complete run.
    """
    folder = Path(folder)
    rows, refused = scan(folder)
    rows.sort(key=itemgetter("run"))  # as if those in packs had folders of their own
    search = find_search(folder, refused)
    aside = search.aside if search else ()
    found_runs = make_runs(folder, [row for row in rows if row["run"] not in aside], trust_code)
    usable = select_usable(found_runs, refused)
    if not usable and search and search.trials:
        raise UserError(
            f"{folder}: has the trials of a search alone; give its command again with "
            "search.confirm=10, which trains the chosen setting and its student alone"
        )
    if not usable:
        raise UserError(
            f"{folder}: no complete run to report; first run python train.py stage=teacher"
            f"{list_refused(refused)}"
        )
    runs = select_split(usable, refused)
    other_splits = [run for run in usable if run.name in refused]
    teachers, students, distilled = by_stage(runs)
    methods = partition_by_method(distilled, students)
    cells = build_all_cells(methods, students)
    controls = filter(None, (cell.method.controls for cell in cells))
    found, changed = find_checkpoints(folder, teachers, distilled)
    # A teacher at the path of another that is gone has replaced it, unless it taught runs itself.
    lost = {path.absolute() for paths in changed.values() for path in paths}
    lost -= {path.absolute() for path in found.values()}
    # Of several with one seed, the one with the shortest name counts: it has nothing overridden.
    teachers.sort(key=lambda run: -len(run.folder.name))
    own = by_seed(run for run in teachers if run.checkpoint.absolute() not in lost)
    first = own[min(own)] if own else None
    return Study(
        folder=folder,
        runs=runs,
        incomplete=find_incomplete(folder, {row["run"] for row in rows}),
        teacher=find_study_teacher(methods, found, runs, refused) if methods else first,
        teachers=own,
        changed=changed,
        students=next(controls, {} if methods else by_seed(students)),
        cells=cells,
        not_compared=describe_others(distilled, methods),
        refused=refused,
        other_splits=other_splits,
        search=search,
    )


def make_runs(folder: Path, rows: Iterable[Mapping[str, Any]], trust_code: bool) -> list[Run]:
    """Make a study's runs of their metrics, in the order of their names."""
    kinds, runs = Kinds(), []
    for row in rows:
        form = PackedRun if isinstance(row, Row) else Run
        run = form(folder / row["run"], row, trust_code)
        run.__dict__["kind"] = kinds.of(row)  # runs of one kind share it
        runs.append(run)
    return runs


def find_search(folder: Path, refused: dict[str, str]) -> Found | None:
    """Read the search that a study holds, if there is one; add a damaged file to ``refused``."""
    try:
        return read_search(folder)
    except UserError as error:
        refused[FILE] = shortened(error, folder)
        return None


def by_seed(runs: Iterable[Run]) -> dict[int, Run]:
    """The runs by their seeds; of several with one seed the last."""
    return {run.metrics["seed"]: run for run in runs}


def list_refused(refused: dict[str, str], most: int = 3) -> str:
    """Name the first refused runs with their reasons, in brackets, for an error message."""
    named = [f" ({name} is left out: {reason})" for name, reason in refused.items()]
    more = f" (and {len(named) - most} more)" if len(named) > most else ""
    return "".join(named[:most]) + more


def select_usable(runs: Sequence[Run], refused: dict[str, str]) -> list[Run]:
    """Select the runs whose predictions can be used; add the others to ``refused``."""
    usable = []
    for run in watched(runs, "reading the runs"):
        try:
            if not isinstance(run, PackedRun):  # of packs the files have sums of their own
                _ = run.predictions
            usable.append(run)
        except UserError as error:
            refused[run.name] = shortened(error, run.folder)
        run.forget_predictions()  # those of a large study need not all stay in memory
    return usable


def select_split(runs: list[Run], refused: dict[str, str]) -> list[Run]:
    """Select the runs of one data split; add the others to ``refused``.

    Figures of other test images do not belong beside theirs. The split of most distilled runs
    counts; without these, that of most students alone; without these, that of most teachers.
    """
    last = next(filter(None, reversed(by_stage(runs))))
    split = partition(last, student_settings)[0][0].metrics["data/fingerprint"]
    for run in runs:
        if run.metrics["data/fingerprint"] != split:
            refused[run.name] = (
                f"of another data split ({run.metrics['data/fingerprint']}; this report is about "
                f"{split}); report it in a study of its own"
            )
    return [run for run in runs if run.metrics["data/fingerprint"] == split]


def find_incomplete(folder: Path, complete: set[str]) -> list[str]:
    """Name the runs that began and did not end."""
    begun = [path.parent for stage in STAGES for path in folder.glob(f"{stage}/*/train.log")]
    names = {str(run.relative_to(folder)) for run in begun if not (run / METRICS).exists()}
    failed = {name for pack in packs_of(folder) for name in pack.note["failed"]}
    return sorted(names | (failed - complete))


def build_all_cells(methods: list[list[Run]], students: list[Run]) -> list[Cell]:
    """Build the cells of every method.

    Args:
        methods: the runs of each.
        students: the study's students alone.
    """
    labels = label_methods(methods)
    parts = partition(students, student_settings)
    cells = []
    for runs, named in zip(methods, labels, strict=True):
        own = student_settings(runs[0])
        alike = [run for part in parts if student_settings(part[0]) == own for run in part]
        cells += build_cells(runs, alike, *named)
    return cells


def build_cells(runs: list[Run], alike: list[Run], label: str, student: str) -> list[Cell]:
    """Build the cells of one method, by temperature, then alpha.

    Args:
        runs: the method's runs.
        alike: the students alone of its settings, whatever views they see.
        label: the method's.
        student: what distinguishes its students.
    """
    views = views_of(runs[0])
    controls = by_seed(student for student in alike if views_of(student) == views)
    plain = by_seed(student for student in alike if not views_of(student))
    unpaired = sorted(by_seed(runs).keys() - controls.keys())
    method = Method(label, student, controls, plain, unpaired)
    cells: dict[tuple[float, float], dict[int, Run]] = {}
    for run in runs:
        own = cells.setdefault((run.metrics["kd/T"], run.metrics["kd/alpha"]), {})
        own[run.metrics["seed"]] = run
    return [
        Cell(method, T, alpha, {s: own[s] for s in own if s in controls} or own)
        for (T, alpha), own in sorted(cells.items())
    ]
