"""The head and the foot of the page: the answer in a picture and a few figures, and where from."""

import os
import platform
import shlex
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from kd.config.schema import Config
from kd.report import drawings, stats
from kd.report.comparison import cell_label
from kd.report.evaluation import Run, mean_metric
from kd.report.next_step import suggest_command
from kd.report.page import one_line
from kd.report.study import Cell, Study

MOST_BARS = 4


@dataclass(frozen=True)
class Headline:
    """What the top of the page says."""

    words: str
    picture: Markup | None  # the gains with their intervals
    hurts: str
    figures: list[tuple[str, str]]  # what, and how much
    why: str  # the next command
    command: str


def make_headline(study: Study, config: Config) -> Headline:
    """Say the answer in a few words, figures and a picture."""
    words = "No distilled student yet"
    if study.cells:
        words = f"Distillation here: {study.verdict.word}"
    why, command = suggest_command(study, config)
    picture = draw_gains(study)
    hurts = name_harm(study) if study.verdict.harmful else ""
    return Headline(words, picture, hurts, list_figures(study), why, command)


def name_harm(study: Study) -> str:
    """Name the cell that hurts most; the verdict's sentence has the rest."""
    worst, *_ = harmful = study.verdict.harmful
    tested = sum(map(stats.is_tested, study.comparisons.values()))
    gain = stats.signed(100 * study.comparisons[worst].gain.mean)
    cells = f"{len(harmful)} of {tested} cells {'hurts' if len(harmful) == 1 else 'hurt'}"
    return one_line(f"{cells}, most of all {cell_label(study, worst)}: {gain} points")


def draw_gains(study: Study) -> Markup | None:
    """Draw the gain of the chosen cell, and those of the cells that hurt most."""
    chosen = study.verdict.chosen
    if chosen is None:
        return None
    cells = [chosen, *(cell for cell in study.verdict.harmful if cell is not chosen)][:MOST_BARS]
    several = len(study.methods) > 1
    bars = [gain_bar(study, cell, short_label(cell) if several else "") for cell in cells]
    spoken = "; ".join(f"{bar.name}: {speak(bar)}" for bar in bars)
    return drawings.draw_forest(bars, f"Gain over the student alone. {spoken}")


def gain_bar(study: Study, cell: Cell, name: str = "") -> drawings.Bar:
    """The gain of a cell in points, as a row of a forest plot."""
    label = one_line(name or f"T={cell.T:g} alpha={cell.alpha:g}")
    found = study.comparisons[cell]
    significant = found.gain.n > 1 and found.p_holm < 1 - stats.LEVEL
    tone = ("good" if found.gain.mean > 0 else "bad") if significant else "plain"
    mean, low, high = (100 * end for end in found.gain[:3])
    return drawings.Bar(label, mean, low, high, tone)


def short_label(cell: Cell) -> str:
    """A cell's name with its method, in few letters."""
    return f"{drawings.shorten(cell.method.label, 36)}, T={cell.T:g} alpha={cell.alpha:g}"


def speak(bar: drawings.Bar) -> str:
    """A gain and its interval in words."""
    words = f"{stats.signed(bar.mean)} points"
    interval = f", interval {stats.signed(bar.low)} to {stats.signed(bar.high)}"
    return words + interval if bar.high < float("inf") else words


def list_figures(study: Study) -> list[tuple[str, str]]:
    """The accuracies that matter: teacher, student alone, chosen student."""
    found = []
    if study.teacher:
        found.append(("teacher", percent(study.teacher.metrics["test/acc"])))
    chosen = study.verdict.chosen
    alone: list[Run] = []
    if chosen:
        alone = [run for seed, run in chosen.method.controls.items() if seed in chosen.runs]
    if runs := alone or [*study.students.values()]:
        found.append(("student alone", percent(mean_metric(runs, "test/acc"))))
    if cell := chosen or next(iter(study.cells), None):
        name = "chosen on validation" if chosen else "distilled"
        mean = percent(mean_metric(cell.runs.values(), "test/acc"))
        found.append((f"{name}: {one_line(cell_label(study, cell))}", mean))
        found.append(("seeds", str(len(cell.runs))))
    return found


def percent(share: float) -> str:
    """A share in %."""
    return f"{100 * share:.2f} %"


def make_footer(study: Study, config: Config) -> list[tuple[str, str]]:
    """Where the page comes from: its command, the code, the dates, the machine."""
    words = ["python", "train.py", "stage=report"]
    usual = {"study": "main", "output_dir": "outputs"}
    words += [f"{k}={v}" for k, usually in usual.items() if (v := getattr(config, k)) != usually]
    commits = sorted({str(run.metrics.get("git/commit") or "") for run in study.runs} - {""})
    shown = ", ".join(commit[:10] for commit in commits[:3]) or "unknown"
    more = f" and {len(commits) - 3} more" if len(commits) > 3 else ""
    changed = any(run.metrics.get("git/dirty") for run in study.runs)
    times = [run.ended for run in study.runs]
    trained = [f"{datetime.fromtimestamp(t):%Y-%m-%d %H:%M}" for t in (min(times), max(times))]
    devices = sorted({str(run.metrics.get("device") or "unknown") for run in study.runs})
    here = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return [
        ("command", shlex.join(words)),
        ("commit", one_line(f"{shown}{more}{', with changes' if changed else ''}")),
        ("trained", f"{' to '.join(dict.fromkeys(trained))}, on {', '.join(devices)}"),
        ("report made on", here),  # not when: of the same runs it is the same page
    ]
