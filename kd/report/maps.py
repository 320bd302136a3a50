"""The page's maps of every method, and its plots of all cells: drawn without a script."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from kd.report import drawings, stats
from kd.report.comparison import tabulate_cells
from kd.report.drawings import Dot
from kd.report.evaluation import mean_metric
from kd.report.figures import MOST_ROWS
from kd.report.headline import gain_bar, speak
from kd.report.page import one_line, spread
from kd.report.study import Method, Study

# By the section's slug: the column, its factor, the form of its numbers, and whether more is good.
MAPS = {
    "accuracy": ("test_accuracy", 100, "{:.2f}", 1),
    "gain": ("gain", 100, "{:+.2f}", 1),
    "agreement": ("agreement", 100, "{:.2f}", 1),
    "kl": ("kl", 1, "{:.3f}", -1),
}
MOST_BARS = 24
MOST_METHODS = 50  # whose maps are drawn
MOST_SHOWN = 40  # temperatures, or alphas, of a map that has over 100
MOST_DOTS = 2000


def draw_for_page(study: Study) -> dict[str, Markup]:
    """Draw what the page shows of all cells, by the slug of the section that it belongs to."""
    if not study.cells:
        return {}
    tables = {
        method: tabulate_cells({cell: study.comparisons[cell] for cell in study.cells_of(method)})
        for method in study.methods[:MOST_METHODS]
    }
    drawn = {slug: draw_maps(study, tables, slug) for slug in MAPS}
    drawn["gain"] += draw_cells(study)
    drawn["kl"] += draw_accuracy_by_divergence(study)
    if len(study.methods) > 1:
        drawn["methods"] = draw_methods(study)
    return drawn


def draw_maps(study: Study, tables: dict[Method, pd.DataFrame], slug: str) -> Markup:
    """Draw the T × alpha map of methods; none of a method without such numbers.

    Args:
        study: whose cells.
        tables: the cells of each method that is drawn.
        slug: of the section.
    """
    column, factor, form, good = MAPS[slug]
    drawn, chosen = {}, study.verdict.chosen
    for method, cells in tables.items():
        found = cells.dropna(subset=column)
        if found.empty:
            continue
        here = chosen if chosen is not None and chosen.method is method else None
        found, part = thin(found, (here.T, here.alpha) if here else None)
        table: Any = factor * found.pivot(index="T", columns="alpha", values=column)
        doubtful = None
        if slug == "gain":
            tested = found.assign(p_holm=found["p_holm"].where(found["seeds"] > 1))
            doubtful = tested.pivot(index="T", columns="alpha", values="p_holm") >= 1 - stats.LEVEL
        name = one_line(method.label) if len(study.methods) > 1 else ""
        drawn[", ".join(filter(None, (name, part)))] = drawings.draw_map(
            table, form, good, doubtful
        )
    if len(study.methods) > len(tables):
        more = f"and {len(study.methods) - len(tables):,} methods more, with fewer runs"
        drawn[more] = Markup()
    return drawings.beside(drawn) if drawn else Markup()


def thin(cells: Any, chosen: tuple[float, float] | None) -> tuple[Any, str]:
    """Select evenly spaced temperatures and alphas where a map would have too many.

    Args:
        cells: a row each.
        chosen: T and alpha of the cell that is shown in any case.

    Returns:
        the cells that are left; and what part these are, in words, empty if it is all.
    """
    words = []
    for place, (axis, name) in enumerate({"T": "temperatures", "alpha": "alphas"}.items()):
        values = sorted(set(cells[axis]))
        if len(values) > MOST_ROWS:
            kept = spread(values, MOST_SHOWN, chosen[place] if chosen else None)
            words.append(f"{len(kept)} of {len(values):,} {name}")
            cells = cells[cells[axis].isin(kept)]
    return cells, ", ".join(words)


def draw_cells(study: Study) -> Markup:
    """Draw the gains of the chosen method's cells with their intervals, at the chosen alpha."""
    chosen = study.verdict.chosen
    if chosen is None:
        return Markup()
    cells = [cell for cell in study.cells_of(chosen.method) if cell.alpha == chosen.alpha]
    bars = [gain_bar(study, c, f"T = {c.T:g}") for c in cells if study.comparisons[c].gain.n][
        :MOST_BARS
    ]
    spoken = "; ".join(f"{bar.name}: {speak(bar)}" for bar in bars)
    title = f"Gain by temperature at alpha = {chosen.alpha:g}, with 95 % intervals"
    if all(np.isinf(bar.high) for bar in bars):
        title = f"Gain by temperature at alpha = {chosen.alpha:g}"
    return drawings.beside({title: drawings.draw_forest(bars, spoken)})


def draw_methods(study: Study) -> Markup:
    """Draw the gain of every method at the cell that validation chooses for it."""
    bars = []
    for method in study.methods:
        cell = stats.choose({c: study.comparisons[c] for c in study.cells_of(method)})
        if cell is not None:
            bars.append(gain_bar(study, cell, method.label))
    if not bars:
        return Markup()
    spoken = "; ".join(f"{bar.name}: {speak(bar)}" for bar in bars)
    titled = "Gain of every method over the student alone"
    return drawings.beside({titled: drawings.draw_forest(bars[:MOST_BARS], spoken)})


def draw_accuracy_by_divergence(study: Study) -> Markup:
    """Draw every cell by its divergence from its teacher and its accuracy."""
    chosen = study.verdict.chosen
    dots, count = [], len(study.cells)
    cells = study.cells[:: -(-count // MOST_DOTS)]
    if chosen is not None and chosen not in cells:
        cells = [*cells, chosen]
    for cell in cells:
        runs = cell.runs.values()
        name = f"T = {cell.T:g}, alpha = {cell.alpha:g}"
        place = mean_metric(runs, "fidelity/kl"), 100 * mean_metric(runs, "test/acc")
        dots.append(Dot(one_line(name), *place, "good" if cell is chosen else "plain"))
    dots.sort(key=lambda dot: dot.kind == "good")  # the chosen one on top
    label = "Every cell by its KL to the teacher and its test accuracy"
    drawing = drawings.draw_dots(dots, label, ("KL to the teacher, nats", "test accuracy, %"))
    of = "a dot per cell" if len(cells) == count else f"{len(cells):,} of {count:,} cells"
    return drawings.beside({f"Accuracy against divergence, {of}": drawing})
