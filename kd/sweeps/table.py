"""The tables of test accuracies that a sweep ends with."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from statistics import mean

from rich.table import Table

from kd.config.naming import run_name
from kd.sweeps.job_configs import Job

MOST_ROWS, MOST_COLUMNS = 40, 13
BEST = 10
PADDING = 3  # of a column: a space to the left and to the right, and a line


def tables(jobs: Sequence[Job], width: int) -> list[Table]:
    """Test accuracies, T down and alpha across, the mean over seeds; a table for all else swept.

    Tables of a single cell each become the rows of one. Where a table would fill more than a page,
    one of the best settings stands for all.

    Args:
        jobs: of the sweep.
        width: of the terminal; a table with more alphas than it has room for continues below.
    """
    found = _all_tables(jobs, width)
    rows = sum(len(table.rows) + 1 for table in found)
    if rows <= MOST_ROWS and all(len(table.columns) <= MOST_COLUMNS for table in found):
        return found
    return [_best(jobs)]


def _best(jobs: Sequence[Job]) -> Table:
    """The best settings by validation accuracy, the mean over seeds."""
    settings: dict[str, list[Job]] = {}
    for job in jobs:
        if not job.error:
            settings.setdefault(_without_seed(job), []).append(job)
    validated = {
        name: mean(job.outcome.metrics["val/acc"] for job in some)
        for name, some in settings.items()
    }
    best = sorted(validated, key=lambda name: -validated[name])[:BEST]
    head = f"the best of {len(settings)} settings by validation accuracy{over_seeds(jobs)}"
    table = Table("", "validation", "test", title=head, title_justify="left")
    for name in best:
        table.add_row(name, f"{validated[name]:.4f}", mean_accuracy(settings[name]))
    return table


def _without_seed(job: Job) -> str:
    """A run's study and name, as if its seed were that of all."""
    name = run_name(replace(job.config, seed=0), list(job.hydra.overrides.task))
    stage, _, words = name.partition("/")
    told = [word for word in words.split(",") if not word.startswith("seed=")]
    return f"{job.config.study} {stage}/{','.join(told)}"


def _all_tables(jobs: Sequence[Job], width: int) -> list[Table]:
    """Every table of :func:`tables`."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        stage, _, name = _without_cell(job).partition("/")
        others = [w for w in name.split(",") if not w.startswith(("T=", "alpha=", "seed="))]
        groups.setdefault(" ".join([job.config.study, stage, *others]), []).append(job)
    places = [
        {(job.config.kd.T, job.config.kd.alpha) for job in group} for group in groups.values()
    ]
    if len(groups) < 2 or any(len(found) > 1 for found in places):
        return [t for title, group in groups.items() for t in tables_of(title, group, width)]
    head = f"test accuracy{over_seeds(jobs)}"
    table = Table("", "T", "alpha", "test accuracy", title=head, title_justify="left")
    common = set.intersection(*(set(title.split()[2:]) for title in groups))
    for title, group in groups.items():
        kd, told = group[0].config.kd, [word for word in title.split() if word not in common]
        numbers = (f"{kd.T:g}", f"{kd.alpha:g}") if group[0].config.stage == "distill" else ("", "")
        table.add_row(" ".join(told), *numbers, mean_accuracy(group))
    return [table]


def _without_cell(job: Job) -> str:
    """A run's name, as if T, alpha and seed were those of all: a long one has a hash of them."""
    kd = replace(job.config.kd, T=1.0, alpha=0.5)
    return run_name(replace(job.config, seed=0, kd=kd), list(job.hydra.overrides.task))


def tables_of(title: str, jobs: Sequence[Job], width: int) -> list[Table]:
    """One table of :func:`tables`, in blocks; without a teacher it is a single cell."""
    distilled = jobs[0].config.stage == "distill"
    cells: dict[tuple[str, str], list[Job]] = {}
    for job in sorted(jobs, key=lambda job: (job.config.kd.T, job.config.kd.alpha)):
        kd = job.config.kd
        key = (f"T = {kd.T:g}", f"{kd.alpha:g}") if distilled else (job.config.stage, "")
        cells.setdefault(key, []).append(job)
    rows, columns = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    figures = {key: mean_accuracy(some) for key, some in cells.items()}
    widest = max(map(len, [*columns, *figures.values()])) + PADDING
    first = max(map(len, ["alpha =", *rows])) + PADDING + 1
    most = max(1, (width - first) // widest)
    head = f"{title}: test accuracy{over_seeds(jobs)}"
    blocks = []
    for start in range(0, len(columns), most):
        some = columns[start : start + most]
        table = Table("alpha =", *some, title=head, title_justify="left", show_header=distilled)
        for row in rows:
            table.add_row(row, *(figures.get((row, column), "") for column in some))
        blocks.append(table)
        head = ""
    return blocks


def over_seeds(jobs: Sequence[Job]) -> str:
    """What to add to a table's title where it has means."""
    seeds = len({job.config.seed for job in jobs})
    return f", mean of {seeds} seeds" if seeds > 1 else ""


def mean_accuracy(jobs: Sequence[Job]) -> str:
    """Mean test accuracy of a cell's seeds; failures are counted, not averaged away."""
    good = [job.accuracy for job in jobs if not job.error]
    found = f"{mean(good):.4f}" if good else ""
    failed = len(jobs) - len(good)
    return f"{found} {failed} failed".strip() if failed else found


def rounded(seconds: float) -> str:
    """A time to the second, as 1:02:03 or 2:03."""
    return re.sub("^0:0?", "", str(timedelta(seconds=round(seconds))))
