"""What a large sweep ends with: its best settings, and those beside the student alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from kd._startup import lazy
from kd.sweeps.table import BEST
from kd.training.run_folder import LARGE

pq: Any = lazy("pyarrow.parquet")

COLUMNS = ["run", "stage", "kd/alpha", "val/acc", "test/acc"]


def show(study: Path, console: Console) -> None:
    """Print the best settings of a study by validation accuracy.

    Args:
        study: its folder, with ``results.parquet``.
        console: to print on.
    """
    if not (study / LARGE).exists():  # every run has failed
        return
    known = pq.read_schema(study / LARGE).names
    columns = [column for column in COLUMNS if column in known]
    frame: Any = pq.read_table(study / LARGE, columns=columns).to_pandas().reindex(columns=COLUMNS)
    frame = frame[frame["stage"] != "teacher"] if set(frame["stage"]) != {"teacher"} else frame
    frame["setting"] = frame["run"].map(_settings(frame["run"]))
    means = _means(frame)
    left = frame["setting"].nunique() - len(means)
    others = f"; {left:,} with fewer seeds are left out" if left else ""
    seeds = f", mean of {most} seeds" if (most := int(means["runs"].max())) > 1 else ""
    head = f"the best of {len(means):,} settings by validation accuracy{seeds}{others}"
    table = Table("", "validation", "test", title=head, title_justify="left")
    for setting, row in means.head(BEST).iterrows():
        table.add_row(str(setting), f"{row['val/acc']:.4f}", f"{row['test/acc']:.4f}")
    console.print(table)
    taught = frame[(frame["stage"] == "distill") & (frame["kd/alpha"] < 1)]
    alone = frame[frame["stage"] == "student"]
    if not taught.empty and not alone.empty:
        best, other = _means(taught).iloc[0], _means(alone).iloc[0]
        console.print(
            f"best distilled, by validation: {best.name}, {100 * best['test/acc']:.2f} %; best "
            f"student alone {100 * other['test/acc']:.2f} % (test, means over seeds)",
            markup=False,
        )


def _settings(runs: Iterable[str]) -> dict[str, str]:
    """What runs are called without their seed, and without the words that all of them have."""
    words = {run: run.partition("/")[2].split(",") for run in runs}
    shared = set[str].intersection(*map(set, words.values())) if len(words) > 1 else set[str]()
    told = {
        run: [word for word in own if word not in shared and not word.startswith("seed=")]
        for run, own in words.items()
    }
    return {run: " ".join([run.partition("/")[0], *own]) for run, own in told.items()}


def _means(frame: pd.DataFrame) -> Any:
    """Mean accuracies of the settings with the most seeds, the best first: others are no match."""
    parts: Any = frame.groupby("setting")
    means = parts[["val/acc", "test/acc"]].mean().assign(runs=parts.size())
    means = means[means["runs"] == means["runs"].max()]
    return means.sort_values("val/acc", ascending=False, kind="stable")
