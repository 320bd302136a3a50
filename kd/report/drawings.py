"""The page's drawings: inline SVG and HTML tables, coloured by the page, readable on a phone.

Numbers are those of the tables; a drawing needs no script. All are 340 units wide, so that their
text keeps its size on a narrow screen.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from pandas import DataFrame

from kd.report.stats import signed

WIDTH, ROW = 340, 24
NAMES, NUMBERS = 118, 52  # units that a forest plot leaves for its names and its numbers
SHORT, MOST_LETTERS = 19, 54  # of a name that fits beside its bar, or above it
TINY = 1e-12


class Axis(NamedTuple):
    """Maps values to units of a drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)


class Bar(NamedTuple):
    """A row of a forest plot: a mean with its interval, or a mean alone."""

    name: str
    mean: float
    low: float = -math.inf
    high: float = math.inf
    tone: str = "plain"  # or good, or bad: significantly so


def markup(template: str, *values: object, **named: object) -> Markup:
    """Fill a template; every value that is no markup is escaped."""
    return Markup(template).format(*values, **named)


def join(parts: Iterable[Markup]) -> Markup:
    """Join pieces of markup."""
    return Markup("").join(parts)


def draw(height: float, label: str, *parts: Markup) -> Markup:
    """An SVG of the usual width with its description."""
    start = '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>'
    return markup(start, WIDTH, round(height), label, label, join(parts))


def text(x: float, y: float, words: object, kind: str = "") -> Markup:
    """A text of a drawing; ``kind`` is end, middle, or empty for start."""
    return markup('<text x="{}" y="{}" class="{}">{}</text>', round(x, 1), round(y, 1), kind, words)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A line of a drawing."""
    form = '<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>'
    return markup(form, *(round(v, 1) for v in (x1, y1, x2, y2)), kind)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Choose round values between two others, at most as many as given."""
    span = max(high - low, TINY)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * s for s in (1, 2, 5, 10, 20) if span / (power * s) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) + 0.0 for n in range(first, last + 1)]


def draw_forest(bars: Sequence[Bar], label: str, unit: str = "points") -> Markup:
    """Draw means with their intervals, one below the other, beside a line at 0."""
    ends = [e for bar in bars for e in (bar.mean, bar.low, bar.high) if math.isfinite(e)]
    low, high = min([0, *ends]), max([0, *ends])
    room = 0.08 * (high - low) or 1
    above = max(len(bar.name) for bar in bars) > SHORT  # names stand above their bars
    axis = Axis(low - room, high + room, 8 if above else NAMES, WIDTH - NUMBERS)
    row = ROW + 16 * above
    bottom = row * len(bars) + 6
    parts = []
    for number, bar in enumerate(bars):
        y = row * (number + 1) - 9
        parts.append(line(axis(0), y - (8 if above else 15), axis(0), y + 9, "zero"))
        parts.append(text(0, y - 11 if above else y + 4, shorten(bar.name, MOST_LETTERS)))
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            parts.append(line(axis(bar.low), y, axis(bar.high), y, f"whisker {bar.tone}"))
            for end in (bar.low, bar.high):
                parts.append(line(axis(end), y - 4, axis(end), y + 4, f"whisker {bar.tone}"))
        dot = '<circle cx="{}" cy="{}" r="4.5" class="dot {}"/>'
        parts.append(markup(dot, axis(bar.mean), y, bar.tone))
        parts.append(text(WIDTH, y + 4, signed(bar.mean), "end strong"))
    parts += [text(axis(v), bottom + 12, plain(v), "middle faint") for v in ticks(low, high, 4)]
    parts.append(text(WIDTH, bottom + 12, unit, "end faint"))
    return draw(bottom + 16, label, *parts)


def plain(value: float) -> str:
    """A number beside an axis, a true minus."""
    return f"{value:g}".replace("-", "−")


def shorten(name: str, most: int) -> str:
    """Cut a long name."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def draw_frame(x: Axis, y: Axis, names: tuple[str, str], logs: bool = False) -> list[Markup]:
    """Draw the axes of a plot with their ticks and names; ``logs``: x has logarithms to base 10."""
    parts = [line(x.start, y.start, x.end, y.start, "axis")]
    for value in ticks(x.low, x.high, 4 if logs else 6):
        said = f"{10**value:.2g}" if logs else plain(value)
        parts.append(text(x(value), y.start + 14, said, "middle faint"))
    for value in ticks(y.low, y.high):
        parts.append(line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(text(x.start - 5, y(value) + 4, plain(value), "end faint"))
    parts.append(text((x.start + x.end) / 2, y.start + 29, names[0], "middle faint"))
    parts.append(text(2, 11, names[1], "faint"))
    return parts


def draw_curves(
    curves: Mapping[str, Sequence[float]], label: str, names: tuple[str, str], first: int = 1
) -> Markup:
    """Draw values by epoch, a line for each name; lines differ in colour and dashes.

    Args:
        curves: finite values of every epoch, by name.
        label: the drawing in words.
        names: of the axes.
        first: the number of the first epoch.
    """
    values = [value for curve in curves.values() for value in curve]
    last = max(first + 1, first + max(map(len, curves.values())) - 1)
    x, y = Axis(first, last, 44, WIDTH - 8), Axis(min(values), max(values), 178, 22)
    parts = draw_frame(x, y, names)
    for number, (name, curve) in enumerate(curves.items()):
        points = " ".join(f"{x(first + n)},{y(value)}" for n, value in enumerate(curve))
        parts.append(markup('<polyline points="{}" class="curve c{}"/>', points, number))
        top = 225 + 16 * number
        parts += [line(44, top - 4, 70, top - 4, f"curve c{number}"), text(76, top, name)]
    return draw(225 + 16 * len(curves), label, *parts)


class Dot(NamedTuple):
    """A point of a scatter plot."""

    name: str
    x: float
    y: float
    kind: str = "plain"
    size: float = 4.5


def draw_dots(
    dots: Sequence[Dot],
    label: str,
    names: tuple[str, str],
    diagonal: bool = False,
    logs: bool = False,
) -> Markup:
    """Draw points, those of a kind other than "plain" with their names.

    Args:
        dots: the points.
        label: the drawing in words.
        names: of the axes.
        diagonal: draws the line of equal shares, from 0 to 1.
        logs: places them by the logarithm of x.
    """
    if logs:
        dots = [dot._replace(x=math.log10(dot.x)) for dot in dots]
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    limits = (0, 1, 0, 1) if diagonal else (*widened(xs), *widened(ys))
    x, y = Axis(*limits[:2], 58, WIDTH - 16), Axis(*limits[2:], 186, 42)
    parts = draw_frame(x, y, names, logs)
    if diagonal:
        parts.append(line(x(0), y(0), x(1), y(1), "zero"))
    form = '<circle cx="{}" cy="{}" r="{}" class="dot {}"><title>{}</title></circle>'
    for dot in dots:
        place = x(dot.x), y(dot.y)
        parts.append(markup(form, *place, round(dot.size, 1), dot.kind, dot.name))
        if dot.kind != "plain":
            right = place[0] > WIDTH / 2
            kind = "end strong" if right else "strong"
            parts.append(text(place[0] + (-8 if right else 8), place[1] - 6, dot.name, kind))
    return draw(222, label, *parts)


def widened(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest of some values, with room for a dot at either."""
    low, high = min(values), max(values)
    room = (high - low) / 20 or max(abs(high), 1) / 100
    return low - room, high + room


def draw_bars(shares: Mapping[str, float], label: str) -> Markup:
    """Draw shares from 0 to 1 as bars, one below the other."""
    axis = Axis(0, max(shares.values()), NAMES, WIDTH - NUMBERS)
    form = '<rect x="{}" y="{}" width="{}" height="12" class="bar true"/>'
    parts = []
    for number, (name, share) in enumerate(shares.items()):
        y = ROW * number + 15
        parts.append(text(0, y + 4, shorten(name, 17)))
        parts.append(markup(form, NAMES, y - 6, round(axis(share) - NAMES, 1)))
        parts.append(text(WIDTH, y + 4, f"{100 * share:.0f} %", "end strong"))
    return draw(ROW * len(shares) + 6, label, *parts)


def draw_reliability(table: DataFrame, label: str) -> Markup:
    """Draw accuracy by confidence; on the diagonal a network is right as often as it is sure."""
    largest = table["images"].max()
    rows: Iterable = table.itertuples()
    dots = []
    for row in rows:
        size = 2 + 7 * (row.images / largest) ** 0.5
        dots.append(Dot(f"{row.images} images", row.confidence, row.accuracy, size=size))
    return draw_dots(dots, label, ("confidence", "accuracy"), diagonal=True)


def shade(value: float, low: float, high: float) -> int:
    """The strength of a colour in %, of a value between two others."""
    return round(60 * (value - low) / (high - low)) if high > low else 0


def draw_map(
    table: DataFrame, form: str, good: int = 1, doubtful: DataFrame | None = None
) -> Markup:
    """A T × alpha map as a table. Blue is good.

    Args:
        table: temperatures down, alphas across; NaN where there is no run.
        form: of the numbers.
        good: 1 where more is better, −1 where less is.
        doubtful: for a table of differences, coloured from bad to good: where brackets stand.
    """
    values = good * table.to_numpy(dtype=float)
    low, high = np.nanmin(values), np.nanmax(values)
    head = join(markup('<th scope="col">{:g}</th>', alpha) for alpha in table.columns)
    rows = []
    for row, T in enumerate(table.index):
        cells = []
        for column, value in enumerate(values[row]):
            if np.isnan(value):
                cells.append(Markup("<td>–</td>"))
                continue
            words = form.format(good * value + 0.0).replace("-", "−")
            tone, strength = "good", shade(value, low, high)
            if doubtful is not None:
                tone = "good" if value > 0 else "bad"
                strength = shade(abs(value), 0, max(-low, high))
                words = f"({words})" if doubtful.iat[row, column] else words
            cells.append(markup('<td class="{}" style="--s:{}%">{}</td>', tone, strength, words))
        rows.append(markup('<tr><th scope="row">{:g}</th>{}</tr>', T, join(cells)))
    corner = Markup('<th scope="col"><abbr title="temperature">T</abbr> \\ alpha</th>')
    return lay_table("map", corner + head, rows)


def lay_table(kind: str, head: Markup, rows: Iterable[Markup]) -> Markup:
    """A table that scrolls by itself where it is too wide."""
    table = '<table class="{}"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
    inner = markup(table, kind, head, join(rows))
    return markup('<div class="wide" tabindex="0">{}</div>', inner)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], most: int) -> Markup:
    """A confusion matrix as a table, errors coloured; a large one as its most frequent errors."""
    errors = matrix - np.diag(np.diag(matrix))
    if len(names) > most:
        pairs = sorted(np.argwhere(errors).tolist(), key=lambda p: -errors[p[0], p[1]])[:12]
        items = [
            markup("<li>{} taken for {}: {}</li>", names[i], names[j], errors[i, j])
            for i, j in pairs
        ]
        return markup("<ol>{}</ol>", join(items))
    head = join(markup('<th scope="col">{}</th>', shorten(name, 6)) for name in names)
    rows = []
    for actual, name in enumerate(names):
        cells = [
            markup('<td class="bad" style="--s:{}%">{}</td>', shade(count, 0, errors.max()), whole)
            for count, whole in zip(errors[actual], matrix[actual], strict=True)
        ]
        rows.append(markup('<tr><th scope="row">{}</th>{}</tr>', shorten(name, 6), join(cells)))
    corner = Markup('<th scope="col">is \\ named</th>')
    return lay_table("map small", corner + head, rows)


def beside(drawings: Mapping[str, Markup]) -> Markup:
    """Drawings side by side where there is room, each below its title."""
    caption = "<figcaption>{}</figcaption>"
    figures = [
        markup("<figure>{}{}</figure>", markup(caption, title) if title else "", drawing)
        for title, drawing in drawings.items()
    ]
    return markup('<div class="beside">{}</div>', join(figures))
