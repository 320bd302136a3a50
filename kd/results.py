"""Reading a study back: one row a complete run."""

import csv
from pathlib import Path
from typing import Any

from kd.checkpoint import METRICS, read_metrics, replacing


def read_study(study: Path) -> list[dict[str, Any]]:
    """The metrics of every complete run of a study, with ``run``: its folder below the study."""
    runs = sorted(path.parent for path in study.glob(f"*/*/{METRICS}"))
    return [{"run": str(run.relative_to(study)), **(read_metrics(run) or {})} for run in runs]


def write_results(study: Path) -> Path:
    """Rebuild ``results.csv`` of a study from its runs' metrics: accuracies in [0, 1]."""
    rows = read_study(study)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path = study / "results.csv"
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path
