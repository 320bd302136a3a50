"""What hurts: the cells whose students are significantly worse than the student alone."""

from kd.report import stats
from kd.report.comparison import cell_label
from kd.report.drawings import signed
from kd.report.page import one_line
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
    tested = [cell for cell, c in found.items() if c.gain.n > 1 and not c.is_control]
    worse = {cell.T for cell in cells}
    levels = sorted({cell.T for cell in tested})
    high = len(worse) < len(levels) and worse == {*levels[-len(worse) :]}
    gain = found[cells[0]].gain
    return (
        f"{'High temperatures hurt' if high else 'Some settings hurt'}: "
        f"{signed(100 * gain.mean)} points at {one_line(cell_label(study, cells[0]))} "
        f"(95 % interval {signed(100 * gain.low)} to {signed(100 * gain.high)}). "
        f"{len(cells)} of {len(tested)} cells {'is' if len(cells) == 1 else 'are'} significantly "
        "worse than the student alone."
    )
