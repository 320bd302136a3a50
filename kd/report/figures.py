"""The report's figures, in colours safe for the colour-blind: Okabe and Ito's. Blue is good."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from pandas import DataFrame

matplotlib.rcParams["text.parse_math"] = False  # a dollar in a path is a dollar

MOST_NAMES, MOST_LETTERS = 20, 12  # of classes beside a confusion matrix

MOST_ROWS = 100  # or columns, of a heat map that shows its numbers
FEW_ROWS = 40  # that a larger one is as high, or wide, as

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def draw_heat_map(
    table: DataFrame,
    title: str,
    unit: str,
    fmt: str = "{:.2f}",
    doubtful: DataFrame | None = None,
    good: int = 1,
) -> Figure:
    """Draw a T × alpha map with its numbers.

    Args:
        table: temperatures down, alphas across; NaN where there is no run.
        title: the title above the map.
        unit: the label of the colour bar.
        fmt: the format of the numbers.
        doubtful: for a table of differences, whose colours are centred on 0: a table of the same
            shape, where True puts the number in brackets.
        good: 1 where more is better, −1 where less is.
    """
    many = max(table.shape) > MOST_ROWS  # colours alone
    rows, columns = (size if size <= MOST_ROWS else FEW_ROWS for size in table.shape)
    figure = Figure(figsize=(max(4.5, 0.75 * columns + 2), 0.45 * rows + 1.8), layout="constrained")
    axes = figure.subplots()
    values = table.to_numpy(dtype=float)
    norm, colours = Normalize(), ["white", BLUE][::good]
    if doubtful is not None:
        largest = np.nanmax(np.abs(values)) or 1
        norm, colours = Normalize(-largest, largest), [ORANGE, "white", BLUE]
    scale = LinearSegmentedColormap.from_list("good", colours)
    image = axes.imshow(values, aspect="auto", norm=norm, cmap=scale)
    for set_ticks, names in ((axes.set_xticks, table.columns), (axes.set_yticks, table.index)):
        places = range(0, len(names), -(-len(names) // FEW_ROWS) if len(names) > MOST_ROWS else 1)
        set_ticks(places, [f"{names[place]:g}" for place in places])
    axes.set(xlabel="alpha (weight of the labels)", ylabel="temperature T", title=title)
    for (row, column), value in np.ndenumerate(values):
        if many or np.isnan(value):
            continue
        text = fmt.format(value)
        if doubtful is not None and doubtful.iat[row, column]:
            text = f"({text})"
        brightness = np.dot(image.cmap(image.norm(value))[:3], (0.3, 0.6, 0.1))
        colour = "white" if brightness < 0.5 else "black"
        size = 9 if len(table.columns) <= 6 else 7
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    figure.colorbar(image, label=unit)
    return figure


def draw_learning_curves(curves: Mapping[str, DataFrame]) -> Figure:
    """Draw each network's training and validation loss by epoch; mark the best validation epoch."""
    figure, row = _row(len(curves), 4.2, 3.2)
    for axes, (name, frame) in zip(row, curves.items(), strict=True):
        axes.plot(frame.index, frame["train/loss"], color=ORANGE, ls="--", label="training")
        axes.plot(frame.index, frame["val/loss"], color=BLUE, label="validation")
        best = frame["val/loss"].idxmin()
        axes.axvline(best, color=GREY, ls=":", label=f"best fit: epoch {best}")
        axes.set(title=name, xlabel="epoch", ylabel="loss (nats)")
        axes.legend()
    return figure


def draw_confusion_matrices(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Draw actual by predicted class; colours show errors only, the diagonal is blank.

    Args:
        matrices: counts (classes, classes), by the network's name.
        names: of the classes.
    """
    figure, row = _row(len(matrices), 5.2, 4.8)
    places = range(0, len(names), -(-len(names) // MOST_NAMES))
    shown = [names[place][:MOST_LETTERS] for place in places]
    turn = 90 if max(map(len, shown)) > 2 else 0
    for axes, (name, matrix) in zip(row, matrices.items(), strict=True):
        errors = matrix.astype(float)
        np.fill_diagonal(errors, 0)
        axes.imshow(errors, cmap="Blues")
        for (actual, predicted), count in np.ndenumerate(matrix):
            if len(names) > MOST_NAMES:
                break  # the numbers would cover each other
            colour = "white" if errors[actual, predicted] > 0.6 * errors.max() else "black"
            axes.text(predicted, actual, count, ha="center", va="center", fontsize=7, color=colour)
        axes.set(title=name, xlabel="predicted", ylabel="actual")
        axes.set_xticks(places, shown, rotation=turn)
        axes.set_yticks(places, shown)
    return figure


def draw_reliability_diagrams(tables: Mapping[str, DataFrame]) -> Figure:
    """Draw accuracy by confidence; a network on the diagonal is right as often as it is sure."""
    figure, row = _row(len(tables), 3.8, 3.6)
    for axes, (title, table) in zip(row, tables.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, ls=":")
        sizes = 15 + 150 * table["images"] / table["images"].max()
        axes.scatter(table["confidence"], table["accuracy"], s=sizes, color=BLUE, alpha=0.7)
        axes.set(title=title, xlabel="confidence", ylabel="accuracy")
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03))
    return figure


def draw_shares(tables: Mapping[str, DataFrame]) -> Figure:
    """Draw the parts of a gain as bars with their intervals, one panel below the other.

    Args:
        tables: by the panel's title: ``mean``, ``low`` and ``high`` of every part, as shares of the
            images. The first and the last part are the gain before and after the others. Infinite
            intervals are not drawn.
    """
    rows = max(len(table) for table in tables.values())
    figure = Figure(figsize=(8, len(tables) * (0.45 * rows + 1.1)), layout="constrained")
    panels = figure.subplots(len(tables), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        mean, *limits = 100 * table[["mean", "low", "high"]].to_numpy().T
        reach = np.abs(limits - mean)
        reach[np.isinf(reach)] = np.nan
        colours = [GREY, *[BLUE] * (len(table) - 2), ORANGE]
        axes.barh(range(len(table)), mean, xerr=reach, color=colours, ecolor="black", capsize=3)
        axes.set_yticks(range(len(table)), [name.replace(", ", ",\n") for name in table.index])
        axes.invert_yaxis()
        axes.axvline(0, color="black", lw=0.8)
        axes.set(title=title)
    panels[-1].set(xlabel="points of test accuracy")
    return figure


def _row(count: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def draw_images(images: np.ndarray, captions: Sequence[str]) -> Figure:
    """Draw images in rows of eight, with a caption above each.

    Args:
        images: (n, channels, height, width) in [0, 1]: of three channels in colour, else the first.
        captions: of each.
    """
    colour = images.shape[1] == 3
    drawn = images.transpose(0, 2, 3, 1) if colour else images[:, 0]
    columns = 8
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(1.35 * columns, 1.75 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, caption in zip(figure.axes, drawn, captions, strict=False):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(caption, fontsize=8)
    return figure
