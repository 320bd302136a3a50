"""What a reader must know besides the answer: what is missing, has changed, or is left out."""

import shlex

import pandas as pd

from kd.config.schema import Config
from kd.report.page import Section
from kd.report.study import Method, Study, views_of
from kd.report.teachers import taught_by
from kd.training.results import Run


def notes(study: Study, config: Config) -> list[str]:
    """What stands in the way of an answer, and what to do about it."""
    parts = []
    for sha, paths in study.taught.changed.items():
        count = sum(sha in {s for _, s in taught_by(run)} for run in study.runs)
        parts.append(
            f"Note: the teacher has changed. {paths[0]} is gone or is no longer the network "
            f"({sha[:8]}) that taught {count} of the runs, so their agreement with it and "
            "divergence from it cannot be measured anew: put it back, or train these runs again "
            "with overwrite=true, or all in a study of their own (study=NEW)."
        )
    lacking: dict[str, list[Method]] = {}
    for method in study.methods:
        if method.unpaired:
            lacking.setdefault(control_command(study, method, config), []).append(method)
    for command, methods in lacking.items():
        of = f" of {'; '.join(m.label for m in methods)}" if len(study.methods) > 1 else ""
        seeds = ", ".join(map(str, methods[0].unpaired))
        parts.append(
            f"Seeds{of} without a student alone: {seeds}; run {command} "
            "(only seeds in common are compared)."
        )
    if study.failed:
        one = len(study.failed) == 1
        runs = "1 run is" if one else f"{len(study.failed)} runs are"
        parts.append(f"{runs} not complete: {', '.join(study.failed)}.")
    if study.left_out:
        parts.append(
            f"Distilled runs with other settings are listed, not compared: {study.left_out}."
        )
    if study.refused:
        count = len(study.refused)
        said = "1 run is" if count == 1 else f"{count} runs are"
        parts.append(f"{said} left out; which and why is listed below.")
    return parts


def control_command(study: Study, method: Method, config: Config) -> str:
    """The command that trains the students alone which a method lacks."""
    words = ["python", "train.py", "-m", "stage=student"]
    words.append("seed=" + ",".join(map(str, method.unpaired)))
    run = next(iter(next(iter(method.cells.values())).values()))
    words += words_in_common(run)
    words += [f"data.augment.{key}={value:g}" for key, value in views_of(run).items()]
    if config.study != "main":
        words.append(f"study={config.study}")
    if config.output_dir != "outputs":
        words.append(f"output_dir={config.output_dir}")
    return shlex.join(words)


def words_in_common(run: Run) -> list[str]:
    """The words of a distilled run's command that its student alone shares, if they are known."""
    words = run.read_hydra("overrides.yaml")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    own = [
        "stage=",
        "seed=",
        "kd",
        "teacher",
        "study=",
        "output_dir=",
        "overwrite=",
        "keep_epochs=",
    ]
    own += ["data.augment", "hydra"]
    if views_of(run):  # which an experiment may bring along
        own.append("+experiment=")
    return [word for word in words if not word.startswith(tuple(own))]


def left_out(study: Study, config: Config) -> list[Section]:
    """The runs that cannot be used, and why."""
    if not study.refused:
        return []
    table = pd.DataFrame(study.refused.items(), columns=["run", "reason"])
    return [Section("left_out", "Left out", "Runs that nothing here counts, and why.", table=table)]
