"""The command to run next: what would add most to this study."""

import shlex
from collections.abc import Iterable
from typing import Any

from kd.config.schema import Config
from kd.report.comparison import control_command, seeds_word
from kd.report.hints import MILD, first_run
from kd.report.page import spread
from kd.report.study import Cell, Study

FEW, MANY = 5, 20  # seeds: what a study should have, and where more of them stop being the answer
MOST_SWEPT = 100  # temperatures, or alphas, of a command
SWEPT = ("stage=", "seed=", "kd.T=", "kd.alpha=", "study=", "output_dir=", "overwrite=", "hydra")


def suggest_command(study: Study, config: Config) -> tuple[str, str]:
    """Suggest what to run next: why, in words, and the command."""
    if not study.cells:
        if study.teacher is None:
            return "Train a teacher first.", command(config, ["stage=teacher"])
        grid = ["-m", "stage=student,distill", "kd.T=1,2,5,10", "kd.alpha=0,0.25,0.5,0.75"]
        words = known_words(study.teacher.read_hydra("overrides.yaml"), ("model", "optim"))
        return "Distil the teacher.", command(config, [*grid, "seed=0,1,2,3,4", *words])
    cell = study.verdict.chosen or study.cells[0]
    if study.verdict.chosen is None and cell.method.unpaired:
        return "Train the students alone.", control_command(study, cell.method, config)
    seeds = sorted(cell.runs)
    if study.verdict.word == "cannot tell" and len(seeds) < MANY:
        more = range(seeds[-1] + 1, seeds[-1] + 1 + max(FEW - len(seeds), len(seeds)))
        why = (
            "More seeds may decide it."
            if len(seeds) > 1
            else "One seed cannot be tested; more can."
        )
        return why, sweep(study, config, cell, more, study.cells_of(cell.method))
    if study.verdict.word == "works":
        fresh = range(seeds[-1] + 1, seeds[-1] + 1 + max(FEW, len(seeds)))
        return "See whether it holds for seeds that took no part in the choice.", sweep(
            study, config, cell, fresh, [cell], f"{config.study}-again"
        )
    return try_another(study, config, cell)


def try_another(study: Study, config: Config, cell: Cell) -> tuple[str, str]:
    """Suggest another setting: no dropout, mild temperatures, or a wider student."""
    found, cells = first_run(cell).metrics, study.cells_of(cell.method)
    if found.get("model/dropout"):
        other = {"model.dropout": 0}
        why, name = "Try a student without dropout, which can match the teacher.", "no-dropout"
    elif not any(MILD[0] <= c.T <= MILD[1] for c in cells):
        why, name, other = "Try mild temperatures.", "mild", {"kd.T": "2,3,4"}
    else:
        width = found.get("model/hidden")
        other = {"model.hidden": 4 * width} if isinstance(width, int) else {"kd": "dkd"}
        why = "Try a wider student." if "model.hidden" in other else "Try another method."
        name = "wider" if "model.hidden" in other else "dkd"
    return why, sweep(study, config, cell, cell.runs, cells, f"{config.study}-{name}", other)


def sweep(
    study: Study,
    config: Config,
    like: Cell,
    seeds: Iterable[int],
    cells: list[Cell],
    study_name: str | None = None,
    other: dict[str, Any] | None = None,
) -> str:
    """Build the command of a sweep over cells and seeds, students alone included.

    Args:
        study: whose teacher teaches in another study too.
        config: of the report.
        like: whose other settings the sweep has.
        seeds: to train.
        cells: whose T and alpha are swept.
        study_name: of the new runs; None for this study.
        other: settings that replace the cell's.
    """
    changed = other or {}
    words = ["-m", "stage=student,distill"]
    swept = {"kd.T": {c.T for c in cells}, "kd.alpha": {c.alpha for c in cells if c.alpha < 1}}
    own_values = {"kd.T": like.T, "kd.alpha": like.alpha}
    for key, values in swept.items():
        if key not in changed and values:
            shown = sorted(values)
            if len(shown) > MOST_SWEPT:
                shown = spread(
                    shown, MOST_SWEPT, own_values[key] if own_values[key] in values else None
                )
            words.append(f"{key}={','.join(f'{value:g}' for value in shown)}")
    words.append(seeds_word({*seeds}))
    own = known_words(first_run(like).read_hydra("overrides.yaml"), tuple(changed))
    words += own + [f"{key}={value}" for key, value in changed.items()]
    if study_name and study.teacher and not any(w.startswith("teacher.checkpoint") for w in own):
        words.append(f"teacher.checkpoint={study.teacher.checkpoint}")
    return command(config, words, study_name)


def known_words(found: Any, without: tuple[str, ...] = ()) -> list[str]:
    """The words of a run's own command that are not swept anew; none if they are not known."""
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        return []
    return [word for word in found if not word.startswith((*SWEPT, *without))]


def command(config: Config, words: list[str], study_name: str | None = None) -> str:
    """Build a command for this study, or for another beside it."""
    if (name := study_name or config.study) != "main":
        words = [*words, f"study={name}"]
    if config.output_dir != "outputs":
        words = [*words, f"output_dir={config.output_dir}"]
    return shlex.join(["python", "train.py", *words])
