"""What hurts: the cells whose students are significantly worse than the student alone."""

from kd.report import stats
from kd.report.comparison import cell_label
from kd.report.study import Cell, Study


def harmful_cells(study: Study) -> list[Cell]:
    """The tested cells with a significant loss (Holm, 5 %), the largest loss first."""
    found = study.comparisons
    worse = [
        cell
        for cell, c in found.items()
        if c.gain.n > 1 and not c.is_control and c.gain.mean < 0 and c.p_holm < 1 - stats.LEVEL
    ]
    return sorted(worse, key=lambda cell: found[cell].gain.mean)


def describe_hurts(study: Study) -> str:
    """Say which setting hurts most and how many do; empty if none is significantly worse."""
    cells = harmful_cells(study)
    if not cells:
        return ""
    found = study.comparisons
    tested = sum(c.gain.n > 1 and not c.is_control for c in found.values())
    least_T = min(cell.T for cell in cells)
    mild = {c.T for c in found if not c.is_control and c.T < least_T}
    hot = mild and all(cell.T >= least_T for cell in cells)
    gain = found[cells[0]].gain
    return (
        f"{f'From T = {least_T:g} on it hurts' if hot else 'It hurts'}: "
        f"{100 * gain.mean:+.2f} points at {cell_label(study, cells[0])} "
        f"(95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f}). "
        f"{len(cells)} of {tested} cells {'is' if len(cells) == 1 else 'are'} significantly worse "
        "than the student alone."
    ).replace("-", "−")
