"""What has been exported of a study: what the networks cost, and what is compressed of them.

``stage=export`` measures and writes it down; here it is read back.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kd.config.schema import Config
from kd.report.figures import BLUE, GREY, ORANGE
from kd.report.page import Section
from kd.report.study import Study

MEASURED = "compression.json"  # in the folder of an export
MOST_BYTES = 2**20  # of it, which has some kB
WORTH = 1.5  # times less: from here on something is called compressed
# The latency that stands for all others: of a single image, by onnxruntime with one thread.
SHOWN = {"engine": "onnxruntime", "threads": 1, "batch": 1}
TITLES = {
    "peak_bytes": "peak memory, bytes",
    "p50_us": "p50, µs",
    "p99_us": "p99, µs",
}


def read_exports(study: Path) -> list[dict[str, Any]]:
    """Read what was measured of a study's exports; one that is damaged is left out."""
    found = []
    for path in sorted(study.glob(f"export/*/{MEASURED}")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if path.stat().st_size <= MOST_BYTES:
                measured = json.loads(path.read_text(encoding="utf-8"))
                tabulate(measured), say_compression(measured)  # of the right form
                found.append(measured)
    return found


def tabulate(measured: dict[str, Any]) -> pd.DataFrame:
    """The table of networks, with the latency of a single image."""
    networks, latency = pd.DataFrame(measured["networks"]), shown_latency(measured)
    networks["p50_us"] = networks["network"].map(latency).astype(float)
    networks["agreement"] = networks["agreement"].astype(float)
    networks["peak_bytes"] = networks["peak_bytes"].astype(float)
    return networks


def shown_latency(measured: dict[str, Any]) -> pd.Series:
    """The median latency of a single image by network, in microseconds."""
    rows = pd.DataFrame(measured["latency"])
    for column, value in SHOWN.items():
        rows = rows[rows[column] == value]
    return rows.set_index("network")["p50_us"]


def say_compression(measured: dict[str, Any]) -> str:
    """Say what is compressed, from the teacher to the student and to eight bits, and what is not."""
    table = tabulate(measured).set_index("network")
    student = str(measured["about"]["what"])
    parts = []
    if "teacher" in table.index and student != "teacher":
        parts.append(compare(table.loc["teacher"], table.loc[student], "From teacher to student"))
    eight = [name for name in table.index if name.startswith(f"{student}, int8")]
    parts += [compare(table.loc[student], table.loc[name], "By int8") for name in eight]
    return " ".join(parts) or "There is nothing to compare it with."


COSTS = {
    "multiplications": ("multiplications", "fewer", "more"),
    "parameters": ("parameters", "fewer", "more"),
    "bytes": ("bytes of the ONNX file", "fewer", "more"),
    "peak_bytes": ("peak memory", "less", "more"),
    "p50_us": ("time for one image", "less", "more"),
}


def compare(large: pd.Series, small: pd.Series, what: str) -> str:
    """Say of which costs there is much less, and of which there is not."""
    less, same = [], []
    for key, (name, fewer, more) in COSTS.items():
        if not (large[key] > 0 and small[key] > 0):
            continue
        ratio = large[key] / small[key]
        if ratio >= WORTH:
            less.append(f"{name} ({ratio:.1f} times {fewer})")
        elif large[key] != small[key]:
            share = 100 * abs(1 - small[key] / large[key])
            same.append(f"{name} ({share:.0f} % {fewer if ratio > 1 else more})")
        else:
            same.append(f"{name} (the same)")
    said = f"{what}, compressed: {', '.join(less) or 'nothing'}; not compressed: "
    return f"{said}{', '.join(same) or 'nothing'}."


def show_compression(study: Study, config: Config) -> list[Section]:
    """The exported networks side by side: costs, accuracy, latencies, and what is worth its price."""
    exports = read_exports(study.folder)
    if not exports:
        return []
    tables = [tabulate(each).assign(size=each["shape"]) for each in exports]
    table = pd.concat(tables, ignore_index=True).drop_duplicates(["network", "size"])
    latency = pd.concat(
        [pd.DataFrame(each["latency"]).assign(size=each["shape"]) for each in exports]
    )
    best = max(exports, key=lambda each: each["about"].get("val_acc") or 0)
    text = f"{len(exports)} exported. {best['name']}: {say_compression(best)} {HOW}"
    cost = table[["network", "size", *[c for c in table.columns if c not in ("network", "size")]]]
    told = f"Microseconds per batch, on {best['machine']}; the 99th percentile of 100 passes up."
    points = table.dropna(subset="p50_us")
    frontier = f"Networks that no other beats in both: by latency {name_frontier(points, 'p50_us')}"
    frontier += f"; by bytes {name_frontier(points, 'bytes')}."
    return [
        Section("compression", "What is compressed, and what is not", text, table=titled(cost)),
        Section("latency", "Latency of the exported networks", told, table=titled(latency)),
        Section(
            "pareto", "Accuracy against latency and bytes", frontier, draw_pareto(points), frontier
        ),
    ]


HOW = (
    "Bytes are those of the ONNX file, peak memory that of onnxruntime with the largest batch, "
    "p50 the median latency of one image by onnxruntime with one thread."
)


def titled(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its units in the names of its columns."""
    return table.rename(columns=TITLES)


def frontier(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The networks that no other beats in both cost and accuracy, the cheapest first."""
    ordered = table.sort_values([cost, "test_accuracy"], ascending=[True, False])
    better = ordered["test_accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["test_accuracy"] > better]


def name_frontier(table: pd.DataFrame, cost: str) -> str:
    """Name the networks of the frontier."""
    found = frontier(table, cost)
    return ", ".join(
        row.network if row.network == "teacher" else f"{row.network} {row.size}"
        for row in found.itertuples()
    )


def draw_pareto(table: pd.DataFrame) -> Figure:
    """Draw accuracy against latency and against bytes; a line joins what no other beats."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    costs = {"p50_us": "median latency of one image, µs (onnxruntime, one thread)"}
    costs |= {"bytes": "bytes of the ONNX file"}
    for axes, (cost, label) in zip(figure.subplots(1, 2), costs.items(), strict=True):
        best = frontier(table, cost)
        axes.step(best[cost], 100 * best["test_accuracy"], where="post", color=GREY, lw=0.8)
        for kind, (colour, marker) in KINDS.items():
            rows = table[[kind_of(name) == kind for name in table["network"]]]
            axes.scatter(
                rows[cost], 100 * rows["test_accuracy"], c=colour, marker=marker, label=kind, s=36
            )
        for row in best.itertuples():
            place = getattr(row, cost), 100 * row.test_accuracy
            words = str(row.size).split(" ", 1)[-1] if row.network != "teacher" else ""
            axes.annotate(words, place, (4, -9), textcoords="offset points", fontsize=7)
        axes.set(xscale="log", xlabel=label, ylabel="test accuracy, %")
        axes.legend(fontsize=8)
    return figure


KINDS = {
    "teacher": (GREY, "s"),
    "distilled": (BLUE, "o"),
    "distilled, int8": (BLUE, "v"),
    "student alone": (ORANGE, "o"),
    "student alone, int8": (ORANGE, "v"),
}


def kind_of(name: str) -> str:
    """What a network is, without whether it was refused."""
    return name.removesuffix(" (refused)")
