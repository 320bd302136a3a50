"""A study read back from its folder: its runs, what is compared with what, and the answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from kd.errors import UserError
from kd.report import stats
from kd.report.cells import Cell, Method, build_cells, partition_by_method, select_split
from kd.report.runs import Run
from kd.report.teachers import TeacherCheckpoints, find_checkpoints, find_study_teacher
from kd.training.run_folder import METRICS, STAGES, scan, shortened


@dataclass(frozen=True, repr=False)
class Study:
    """A study's complete runs, what is compared with what, and the answer.

    Distilled runs are comparable when the student's network, the images and the optimiser are the
    same. Those that share all but T, alpha and seed make a :class:`Method`, the largest one first.
    Of several settings of the student, the one with the most runs is compared.
    """

    folder: Path
    runs: list[Run]
    incomplete: list[str]  # names of the runs that began and did not end
    teacher: Run | None  # the largest method's, if it is still there; without methods, the first
    teachers: dict[int, Run]  # by seed: the study's own, except those that replaced another
    checkpoints: TeacherCheckpoints  # that taught the distilled runs
    students: dict[int, Run]  # by seed: the controls of the largest method that has any
    cells: list[Cell]  # by method, then temperature, then alpha
    not_compared: int  # the number of distilled runs of other settings of the student
    refused: dict[str, str]  # by name: why a run is left out of everything

    def __repr__(self) -> str:
        """Folder and number of runs: the runs themselves would fill pages."""
        return f"Study({str(self.folder)!r}, {len(self.runs)} runs)"

    def frame(self) -> pd.DataFrame:
        """One row per run with its metrics; ``run`` is its folder below the study."""
        return pd.DataFrame([run.metrics for run in self.runs])

    @property
    def methods(self) -> list[Method]:
        """The methods of the cells, the one with the most runs first."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    @property
    def student(self) -> Run | None:
        """The student alone of the lowest seed."""
        return self.students[min(self.students)] if self.students else None

    def cells_of(self, method: Method) -> list[Cell]:
        """The cells of one method, by temperature, then alpha."""
        return [cell for cell in self.cells if cell.method is method]

    @cached_property
    def comparisons(self) -> dict[Cell, stats.Comparison]:
        """Every cell compared with the controls of its seeds."""

        def figures(key: str, runs: dict[int, Run]) -> dict[int, float]:
            return {seed: run.metrics[key] for seed, run in runs.items()}

        return stats.compare_cells(
            test={cell: figures("test/acc", cell.runs) for cell in self.cells},
            validation={cell: figures("val/acc", cell.runs) for cell in self.cells},
            controls={cell: figures("test/acc", cell.method.controls) for cell in self.cells},
            control_cells={cell for cell in self.cells if cell.is_control},
        )

    @cached_property
    def verdict(self) -> stats.Verdict[Cell]:
        """Whether distillation works here: a word, a sentence, and the cell they are about."""
        return stats.judge(self.comparisons)


def load_study(folder: Path | str) -> Study:
    """Read a study back from its runs' ``metrics.json``; runs that cannot be used are refused.

    Args:
        folder: the study's folder, such as ``outputs/main``.

    Raises:
        UserError: the folder holds no complete run.
    """
    folder = Path(folder)
    rows, refused = scan(folder)
    runs = [Run(folder / row["run"], row) for row in rows]
    runs = select_split(select_usable(runs, refused), refused)
    if not runs:
        raise UserError(
            f"{folder}: no complete run to report; first run python train.py stage=teacher"
            f"{list_refused(refused)}"
        )
    teachers, students, distilled = (
        [run for run in runs if run.metrics["stage"] == stage] for stage in STAGES
    )
    methods = partition_by_method(distilled)
    cells = [cell for part in methods for cell in build_cells(part, methods, students)]
    checkpoints = find_checkpoints(folder, teachers, distilled)
    # Of several with one seed, the one with the shortest name counts: it has nothing overridden.
    teachers.sort(key=lambda run: -len(run.folder.name))
    by_seed = {r.metrics["seed"]: r for r in teachers if not checkpoints.is_replacement(r)}
    if methods:
        teacher = find_study_teacher(methods, checkpoints, runs, refused)
    else:
        teacher = by_seed[min(by_seed)] if by_seed else None
    return Study(
        folder=folder,
        runs=runs,
        incomplete=find_incomplete(folder),
        teacher=teacher,
        teachers=by_seed,
        checkpoints=checkpoints,
        students=next(
            (cell.method.controls for cell in cells if cell.method.controls),
            {run.metrics["seed"]: run for run in students if not methods},
        ),
        cells=cells,
        not_compared=len(distilled) - sum(map(len, methods)),
        refused=refused,
    )


def list_refused(refused: dict[str, str], most: int = 3) -> str:
    """Name the first refused runs with their reasons, in brackets, for an error message."""
    named = list(refused.items())[:most]
    text = "".join(f" ({name} is left out: {reason})" for name, reason in named)
    return text + (f" (and {len(refused) - most} more)" if len(refused) > most else "")


def select_usable(runs: Iterable[Run], refused: dict[str, str]) -> list[Run]:
    """Select the runs whose predictions can be used; add the others to ``refused``."""
    usable = []
    for run in runs:
        try:
            _ = run.predictions
        except UserError as error:
            refused[run.name] = shortened(error, run.folder)
        else:
            usable.append(run)
        run.forget_predictions()  # those of a large study need not all stay in memory
    return usable


def find_incomplete(folder: Path) -> list[str]:
    """Name the runs that began and did not end."""
    logs = [path for stage in STAGES for path in folder.glob(f"{stage}/*/train.log")]
    return sorted(
        str(path.parent.relative_to(folder))
        for path in logs
        if not (path.parent / METRICS).exists()
    )
