"""The lines that a sweep ends with: what validation chooses, beside the student alone."""

from collections.abc import Iterator, Sequence
from statistics import fmean

from kd.files import COMMAND
from kd.sweeps.job_configs import Job
from kd.training.complete import find_alone


def answers(jobs: Sequence[Job]) -> Iterator[str]:
    """A line per study that has distilled runs among the jobs."""
    studies: dict[str, list[Job]] = {}
    for job in jobs:
        if not job.error and job.config.stage == "distill" and job.config.kd.alpha < 1:
            studies.setdefault(job.config.study, []).append(job)
    for study, distilled in studies.items():
        settings: dict[str, list[Job]] = {}
        for job in distilled:
            settings.setdefault(",".join(_words(job)), []).append(job)
        most = max(map(len, settings.values()))  # means over different seeds are no comparison
        among = [some for some in settings.values() if len(some) == most]
        chosen = max(among, key=lambda some: fmean(j.outcome.metrics["val/acc"] for j in some))
        yield f"{_choice(chosen, distilled)}; next: {_report(study, chosen[0])}"


def _words(job: Job) -> list[str]:
    """The words of a run's name, without its seed."""
    return [w for w in job.name.partition("/")[2].split(",") if not w.startswith("seed=")]


def _choice(chosen: Sequence[Job], distilled: Sequence[Job]) -> str:
    """The chosen setting and its accuracy, beside that of the student alone."""
    kd, shared = chosen[0].config.kd, set[str].intersection(*(set(_words(j)) for j in distilled))
    told = [w for w in _words(chosen[0]) if w not in shared and not w.startswith(("T=", "alpha="))]
    label = ", ".join([f"T = {kd.T:g}", f"alpha = {kd.alpha:g}", *told])
    alone = [find_alone(j.config, j.study, j.hydra.overrides.task) for j in chosen]
    pairs = [(j.accuracy, its["test/acc"]) for j, its in zip(chosen, alone, strict=True) if its]
    said = f"chosen on validation {label}: "
    if not pairs:
        accuracy = fmean(job.accuracy for job in chosen)
        return f"{said}{100 * accuracy:.2f} %; its student alone is not there to compare"
    mine, its = (100 * fmean(values) for values in zip(*pairs, strict=True))
    seeds = f" (test, mean of {len(pairs)} seeds)" if len(pairs) > 1 else ""
    return f"{said}{mine:.2f} %; student alone {its:.2f} %{seeds}"


def _report(study: str, job: Job) -> str:
    """The command that reports a study."""
    words = [f"{COMMAND} stage=report"]
    words += [f"study={study}"] if study != "main" else []
    folder = job.config.output_dir
    return " ".join([*words, f"output_dir={folder}"] if folder != "outputs" else words)
