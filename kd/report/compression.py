"""What has been exported of a study: what the networks cost, and what is compressed of them.

``stage=export`` measures and writes it down; here it is read back.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from kd.config.schema import Config
from kd.report.figures import BLUE, GREY, ORANGE
from kd.report.page import Section
from kd.report.study import Study

MEASURED = "compression.json"  # in the folder of an export
MOST_BYTES = 2**20  # of it, which has some kB
WORTH = 1.5  # times less: from here on something is called compressed
TITLES = {"peak_bytes": "peak memory, bytes", "p50_us": "p50, µs", "p99_us": "p99, µs"}
HOW = (
    "Bytes are those of the ONNX file, peak memory that of onnxruntime with the largest batch, "
    "p50 the median latency of one image by onnxruntime with one thread."
)
# What a network costs: its name, and how less and more of it are called.
COSTS = {
    "multiplications": ("multiplications", "fewer", "more"),
    "parameters": ("parameters", "fewer", "more"),
    "bytes": ("bytes of the ONNX file", "fewer", "more"),
    "peak_bytes": ("peak memory", "less", "more"),
    "p50_us": ("time for one image", "less", "more"),
}
KINDS = {
    "teacher": (GREY, "s"),
    "distilled": (BLUE, "o"),
    "distilled, int8": (BLUE, "v"),
    "student alone": (ORANGE, "o"),
    "student alone, int8": (ORANGE, "v"),
}

ROUND = [digit * 10**power for power in range(10) for digit in (1, 2, 5)]

Row = dict[str, Any]  # a network: its name, its costs, how good it is


def read_exports(study: Path) -> list[dict[str, Any]]:
    """Read what was measured of a study's exports; one that is damaged is left out."""
    found = []
    for path in sorted(study.glob(f"export/*/{MEASURED}")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if path.stat().st_size <= MOST_BYTES:
                measured = json.loads(path.read_text(encoding="utf-8"))
                say_compression(measured)  # is of the right form
                found.append(measured)
    return found


def networks_of(measured: dict[str, Any]) -> list[Row]:
    """The networks of an export, with the median latency of a single image by onnxruntime."""
    latency = {
        row["network"]: row["p50_us"]
        for row in measured["latency"]
        if (row["engine"], row["threads"], row["batch"]) == ("onnxruntime", 1, 1)
    }
    return [
        {
            "network": row["network"],
            "size": "" if row["network"] == "teacher" else measured["shape"],
        }
        | row
        | {"p50_us": latency[row["network"]]}
        for row in measured["networks"]
    ]


def say_compression(measured: dict[str, Any]) -> str:
    """Say what is compressed, from teacher to student and to eight bits, and what is not."""
    rows = {row["network"]: row for row in networks_of(measured)}
    student = rows[measured["about"]["what"]]
    parts = []
    if (teacher := rows.get("teacher")) and teacher is not student:
        parts.append(compare(teacher, student, "From teacher to student"))
    eight = [row for name, row in rows.items() if ", int8" in name]
    parts += [compare(student, row, "By int8") for row in eight]
    return " ".join(parts) or "There is nothing to compare it with."


def compare(large: Row, small: Row, what: str) -> str:
    """Say of which costs there is much less, and of which there is not."""
    less, same = [], []
    for key, (name, fewer, more) in COSTS.items():
        if not large[key] or not small[key]:
            continue  # not known
        ratio = large[key] / small[key]
        if ratio >= WORTH:
            less.append(f"{name} ({ratio:.1f} times {fewer})")
        elif ratio <= 1 / WORTH:
            same.append(f"{name} ({1 / ratio:.1f} times {more})")
        elif ratio != 1:
            share = 100 * abs(1 - 1 / ratio)
            same.append(f"{name} ({share:.0f} % {fewer if ratio > 1 else more})")
        else:
            same.append(f"{name} (the same)")
    said = f"{what}, compressed: {', '.join(less) or 'nothing'}; not compressed: "
    return f"{said}{', '.join(same) or 'nothing'}."


def show_compression(study: Study, config: Config) -> list[Section]:
    """The exported networks side by side: costs, accuracy, and what is worth its price."""
    exports = read_exports(study.folder)
    if not exports:
        return []
    rows = list({label_of(row): row for each in exports for row in networks_of(each)}.values())
    rows.sort(key=lambda row: (row["network"] != "teacher", row["parameters"]))
    timed = [{"size": each["shape"], **row} for each in exports for row in each["latency"]]
    best = max(exports, key=lambda each: each["about"].get("val_acc") or 0)
    text = f"{best['name']}: {say_compression(best)} {HOW}"
    if len(exports) > 1:
        text = f"{len(exports)} networks are exported. The best on validation is {text}"
    told = f"Microseconds per batch, on {best['machine']}, measured side by side for each export."
    named = {cost: ", ".join(map(label_of, frontier(rows, cost))) for cost in ("p50_us", "bytes")}
    worth = f"No other network beats these in both: by latency {named['p50_us']}; by bytes "
    worth += f"{named['bytes']}. A line joins them."
    return [
        Section("compression", "What is compressed, and what is not", text, table=tabulate(rows)),
        Section("latency", "Latency of the exported networks", told, table=tabulate(timed)),
        Section("pareto", "Accuracy against latency and bytes", worth, draw_pareto(rows), worth),
    ]


def tabulate(rows: list[Row]) -> pd.DataFrame:
    """Tabulate rows, with units in the names of the columns."""
    return pd.DataFrame(rows).rename(columns=TITLES)


def frontier(rows: list[Row], cost: str) -> list[Row]:
    """Select the networks that no other beats in both cost and accuracy, the cheapest first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row["test_accuracy"])):
        if not found or row["test_accuracy"] > found[-1]["test_accuracy"]:
            found.append(row)
    return found


def label_of(row: Row) -> str:
    """Name a network with its size."""
    return f"{row['network']} {row['size']}".strip()


def draw_pareto(rows: list[Row]) -> Figure:
    """Draw accuracy against latency and against bytes; a line joins what no other beats."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_front(left, rows, "p50_us", "latency of one image, µs (onnxruntime, one thread, median)")
    draw_front(right, rows, "bytes", "ONNX file, kB", 1000)
    return figure


def draw_front(axes: Axes, rows: list[Row], cost: str, label: str, unit: int = 1) -> None:
    """Draw accuracy against one cost, in units of so many; the front with its networks' sizes."""
    best = frontier(rows, cost)
    axes.step(*places(best, cost, unit), where="post", color=GREY, lw=0.8, zorder=0)
    for kind, (colour, marker) in KINDS.items():
        if own := [row for row in rows if row["network"].removesuffix(" (refused)") == kind]:
            axes.scatter(*places(own, cost, unit), c=colour, marker=marker, label=kind, s=36)
    for size, row in {row["size"]: row for row in reversed(best)}.items():
        ((x,), (y,)) = places([row], cost, unit)
        words = size.partition(" ")[2]  # without the network's name
        axes.annotate(words, (x, y), (5, -9), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", xlabel=label, ylabel="test accuracy, %")
    low, high = axes.get_xlim()
    axes.set_xticks([value for value in ROUND if low <= value <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=8)


def places(rows: list[Row], cost: str, unit: int) -> tuple[list[float], list[float]]:
    """Where networks stand: their costs, and their accuracies in %."""
    return [row[cost] / unit for row in rows], [100 * row["test_accuracy"] for row in rows]
