"""The report's figures, in colours safe for the colour-blind: cividis, PuOr, Okabe and Ito's."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

matplotlib.use("Agg")
matplotlib.rcParams["text.parse_math"] = False  # a dollar in a path is a dollar

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def heat_map(
    grid: pd.DataFrame,
    title: str,
    unit: str,
    fmt: str = "{:.2f}",
    marks: pd.DataFrame | None = None,
    centred: bool = False,
) -> Figure:
    """A T × alpha map with its numbers in the cells.

    Args:
        grid: temperatures down, alphas across; NaN where no run is.
        title: above the map.
        unit: of the colour bar.
        fmt: of the numbers.
        marks: same shape, True where the cell is not significant: its number is in brackets.
        centred: colours around 0 instead of from least to most.
    """
    width = max(4.5, 0.75 * len(grid.columns) + 2)
    figure = Figure(figsize=(width, 0.45 * len(grid) + 1.8), layout="constrained")
    axes = figure.subplots()
    values = grid.to_numpy(dtype=float)
    largest = np.nanmax(np.abs(values)) or 1
    scale = {"vmin": -largest, "vmax": largest, "cmap": "PuOr"} if centred else {"cmap": "cividis"}
    image = axes.imshow(values, aspect="auto", **scale)
    axes.set_xticks(range(len(grid.columns)), [f"{alpha:g}" for alpha in grid.columns])
    axes.set_yticks(range(len(grid)), [f"{T:g}" for T in grid.index])
    axes.set(xlabel="alpha (weight of the labels)", ylabel="temperature T", title=title)
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        said = fmt.format(value)
        if marks is not None and marks.iat[row, column]:
            said = f"({said})"
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        size = 9 if len(grid.columns) <= 6 else 7
        colour = "white" if dark else "black"
        axes.text(column, row, said, ha="center", va="center", color=colour, fontsize=size)
    figure.colorbar(image, label=unit)
    return figure


def learning_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Training and validation loss of each network by epoch, the best validation epoch marked."""
    figure, row = _row(len(curves), 4.2, 3.2)
    for axes, (name, frame) in zip(row, curves.items(), strict=True):
        axes.plot(frame.index, frame["train/loss"], color=ORANGE, ls="--", label="training")
        axes.plot(frame.index, frame["val/loss"], color=BLUE, label="validation")
        best = frame["val/loss"].idxmin()
        axes.axvline(best, color=GREY, ls=":", label=f"best fit: epoch {best}")
        axes.set(title=name, xlabel="epoch", ylabel="loss (nats)")
        axes.legend()
    return figure


def confusion_matrices(matrices: Mapping[str, np.ndarray]) -> Figure:
    """Actual by predicted class, side by side; colours show errors only, the diagonal is blank."""
    figure, row = _row(len(matrices), 5.2, 4.8)
    for axes, (name, matrix) in zip(row, matrices.items(), strict=True):
        errors = matrix.astype(float)
        np.fill_diagonal(errors, 0)
        axes.imshow(errors, cmap="Blues")
        for (actual, predicted), count in np.ndenumerate(matrix):
            colour = "white" if errors[actual, predicted] > 0.6 * errors.max() else "black"
            axes.text(predicted, actual, count, ha="center", va="center", fontsize=7, color=colour)
        digits = range(len(matrix))
        axes.set(title=name, xlabel="predicted", ylabel="actual", xticks=digits, yticks=digits)
    return figure


def reliability_diagrams(tables: Mapping[str, tuple[pd.DataFrame, float]]) -> Figure:
    """Accuracy by confidence; on the diagonal a network is as right as it is sure."""
    figure, row = _row(len(tables), 3.8, 3.6)
    for axes, (name, (table, error)) in zip(row, tables.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, ls=":")
        sizes = 15 + 150 * table["images"] / table["images"].max()
        axes.scatter(table["confidence"], table["accuracy"], s=sizes, color=BLUE, alpha=0.7)
        axes.set(title=f"{name}\nECE {error:.4f}", xlabel="confidence", ylabel="accuracy")
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03))
    return figure


def _row(count: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def digits(images: np.ndarray, captions: Sequence[str]) -> Figure:
    """Images (n, 28, 28) in a row or several, with a caption above each."""
    columns = 8
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(1.35 * columns, 1.75 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, image, caption in zip(figure.axes, images, captions, strict=False):
        axes.imshow(image, cmap="gray_r")
        axes.set_title(caption, fontsize=8)
    return figure
