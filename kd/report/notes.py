"""What a reader must know besides the answer: what is missing, has changed, or is left out."""

import shlex

import pandas as pd

from kd.config.schema import Config
from kd.report.cells import Method, views_of
from kd.report.page import Section
from kd.report.runs import Run
from kd.report.study import Study
from kd.report.teachers import teacher_checkpoints

# The beginnings of the words of a distillation's command that its student alone does not share.
NOT_SHARED = ("stage=", "seed=", "kd", "teacher", "study=", "output_dir=", "overwrite=")
NOT_SHARED += ("keep_epochs=", "data.augment", "hydra")


def list_notes(study: Study, config: Config) -> list[str]:
    """List what stands in the way of an answer, and what to do about it."""
    notes = []
    for sha256, paths in study.checkpoints.changed.items():
        count = sum(sha256 in {s for _, s in teacher_checkpoints(run)} for run in study.runs)
        notes.append(
            f"Note: the teacher has changed. {paths[0]} is gone or is no longer the network "
            f"({sha256[:8]}) that taught {count} of the runs, so their agreement with it and "
            "divergence from it cannot be measured anew: put it back, or train these runs again "
            "with overwrite=true, or all in a study of their own (study=NEW)."
        )
    unpaired: dict[str, list[Method]] = {}
    for method in study.methods:
        if method.unpaired:
            unpaired.setdefault(control_command(study, method, config), []).append(method)
    for command, methods in unpaired.items():
        of = f" of {'; '.join(m.label for m in methods)}" if len(study.methods) > 1 else ""
        seeds = ", ".join(map(str, methods[0].unpaired))
        notes.append(
            f"Seeds{of} without a student alone: {seeds}; run {command} "
            "(only seeds in common are compared)."
        )
    if study.incomplete:
        notes.append(
            f"{count_runs(len(study.incomplete))} not complete: {', '.join(study.incomplete)}."
        )
    if study.not_compared:
        notes.append(
            f"Distilled runs with other settings are listed, not compared: {study.not_compared}."
        )
    if study.refused:
        notes.append(f"{count_runs(len(study.refused))} left out; which and why is listed below.")
    return notes


def count_runs(count: int) -> str:
    """Subject and verb of a sentence about some runs."""
    return "1 run is" if count == 1 else f"{count} runs are"


def control_command(study: Study, method: Method, config: Config) -> str:
    """Build the command that trains the controls which a method lacks."""
    run = next(iter(study.cells_of(method)[0].runs.values()))
    words = ["python", "train.py", "-m", "stage=student"]
    words.append("seed=" + ",".join(map(str, method.unpaired)))
    words += shared_words(run)
    words += [f"data.augment.{key}={value:g}" for key, value in views_of(run).items()]
    if config.study != "main":
        words.append(f"study={config.study}")
    if config.output_dir != "outputs":
        words.append(f"output_dir={config.output_dir}")
    return shlex.join(words)


def shared_words(run: Run) -> list[str]:
    """The words of a distilled run's command that its student alone shares, if they are known."""
    words = run.read_hydra("overrides.yaml")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    # An experiment may bring the views along, which the command names by themselves.
    own = (*NOT_SHARED, "+experiment=") if views_of(run) else NOT_SHARED
    return [word for word in words if not word.startswith(own)]


def show_left_out(study: Study, config: Config) -> list[Section]:
    """The runs that cannot be used, and why."""
    if not study.refused:
        return []
    table = pd.DataFrame(study.refused.items(), columns=["run", "reason"])
    text = "No number in this report counts these runs."
    return [Section("left_out", "Left out", text, table=table)]
