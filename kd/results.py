"""Reading a study back: one row a complete run."""

import csv
import json
from pathlib import Path
from typing import Any

from kd.checkpoint import replacing
from kd.config import UserError

METRICS = "metrics.json"


def read_metrics(directory: Path) -> dict[str, Any] | None:
    """The metrics of a run; None where it is not complete.

    Raises:
        UserError: ``metrics.json`` is there but cannot be read.
    """
    path = directory / METRICS
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it to train again") from error


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
