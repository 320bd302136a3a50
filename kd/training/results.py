"""Reading a study back: one row a complete run."""

import csv
import logging
from pathlib import Path
from typing import Any

from kd.errors import UserError
from kd.files import lock, remove_leftovers, replacing
from kd.training.run_folder import LOCKS, METRICS, STAGES, read_metrics

log = logging.getLogger(__name__)

Row = dict[str, Any]
RESULTS = "results.csv"


def scan(study: Path) -> tuple[list[Row], dict[str, str]]:
    """The metrics of a study's complete runs, and those that cannot be used.

    Returns:
        rows with ``run``, a folder below the study; and by such a folder why it is left out.
    """
    rows, refused = [], {}
    found = sorted(path.parent for stage in STAGES for path in study.glob(f"{stage}/*/{METRICS}"))
    for run in (path for path in found if not path.name.startswith(".")):
        name = str(run.relative_to(study))
        try:
            name.encode()
            row = read_metrics(run)
        except UnicodeEncodeError:
            refused[name.encode(errors="replace").decode()] = "the folder's name is not UTF-8"
        except UserError as error:  # one damaged run does not take the others along
            refused[name] = shortened(error, run)
        else:
            if row is not None:
                rows.append({"run": name, **row} | {"run": name})
    return rows, refused


def shortened(error: UserError, run: Path) -> str:
    """What an error says of a file in a run's folder, without the path of the folder."""
    return str(error).removeprefix(f"{run}/")


def read_study(study: Path) -> list[Row]:
    """The metrics of every complete run of a study, with ``run``: its folder below the study."""
    rows, refused = scan(study)
    for name, reason in refused.items():
        log.warning("left out: %s/%s: %s", study, name, reason)
    return rows


def write_results(study: Path, say: bool = True) -> Path:
    """Rebuild ``results.csv`` of a study from its runs' metrics: accuracies in [0, 1].

    Args:
        study: its folder.
        say: which runs are left out.
    """
    path = study / RESULTS
    with lock(study / LOCKS / "results.lock"):  # read within: the last to write knows all
        rows = read_study(study) if say else scan(study)[0]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        remove_leftovers(path)
        with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    return path
