"""``MODEL_CARD.md``: what an exported network is, what it can do, and how it is run."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from torch import Tensor

from kd.export.formats import INT8, ONNX
from kd.export.subject import Subject
from kd.files import file_hash
from kd.report.compression import HOW, TITLES, say_compression, tabulate
from kd.report.evaluation import per_class, reliability
from kd.report.page import COLUMNS, escape_markdown, format_figure
from kd.report.predictions import Predictions

CARD = "MODEL_CARD.md"


def write_card(subject: Subject, tested: Tensor, measured: dict[str, Any], folder: Path) -> None:
    """Write the card of an exported network.

    Args:
        subject: that was exported.
        tested: its logits of the test images.
        measured: what it costs, beside what it is compared with.
        folder: with its files.
    """
    found = Predictions(tested, subject.test.labels, subject.test.indices)
    classes = per_class(found, subject.names).rename_axis("class").reset_index()
    files = [path for path in sorted(folder.iterdir()) if path.name != CARD]
    templates = Environment(
        loader=PackageLoader("kd.export"), trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    templates.filters["markdown"] = escape_markdown
    networks = tabulate(measured)
    mine = networks.set_index("network").loc[subject.kind]
    text = templates.get_template(CARD).render(
        subject=subject,
        facts=subject.facts,
        about=measured["about"],
        measured=measured,
        mine=mine,
        int8=measured["int8"],
        small=INT8,
        networks=as_markdown(networks),
        latency=as_markdown(pd.DataFrame(measured["latency"])),
        compression=say_compression(measured),
        how=HOW,
        classes=as_markdown(classes),
        sure=reliability(found).tail(1).iloc[0],
        files=[(path.name, path.stat().st_size, file_hash(path)) for path in files],
        onnx=ONNX,
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def as_markdown(table: pd.DataFrame) -> str:
    """Write a table in Markdown, its numbers in the units of the report."""
    heads = [TITLES.get(name, COLUMNS.get(name, (name,))[0]) for name in table.columns]
    lines = [heads, ["---"] * len(heads)]
    for row in table.replace({np.nan: None}).itertuples(index=False):
        cells = zip(row, table.columns, strict=True)
        lines.append([escape_markdown(format_figure(value, name)) for value, name in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
