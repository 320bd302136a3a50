"""``MODEL_CARD.md``: what an exported network is, what it can do, and how it is run."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from torch import Tensor

from kd.data.module import EVAL_BATCH
from kd.export.formats import INT8, ONNX
from kd.export.subject import Subject
from kd.files import file_hash
from kd.report.compression import HOW, networks_of, say_compression, tabulate
from kd.report.evaluation import count_answers, per_class, reliability
from kd.report.page import COLUMNS, escape_markdown, format_figure
from kd.report.predictions import Predictions
from kd.training.run_folder import teacher_paths

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
    labels, answers = found.labels.numpy(), found.classes.numpy()
    matrix = count_answers(labels, answers, tested.shape[1])
    classes = per_class(matrix, subject.names).rename_axis("class").reset_index()
    files = [path for path in sorted(folder.iterdir()) if path.name != CARD]
    templates = Environment(
        loader=PackageLoader("kd.export"), trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    templates.filters["markdown"] = escape_markdown
    networks = networks_of(measured)
    (mine,) = (row for row in networks if row["network"] == subject.kind)
    text = templates.get_template(CARD).render(
        subject=subject,
        facts=subject.facts,
        about=measured["about"],
        measured=measured,
        mine=mine,
        int8=measured["int8"],
        small=INT8,
        networks=as_markdown(tabulate(networks)),
        latency=as_markdown(tabulate(measured["latency"])),
        compression=say_compression(measured),
        how=HOW,
        classes=as_markdown(classes),
        teacher=teacher_words(subject.facts),
        limits=taught_words(subject.facts),
        sure=reliability(found).tail(1).iloc[0],
        files=[(path.name, path.stat().st_size, file_hash(path)) for path in files],
        onnx=ONNX,
        batch=EVAL_BATCH,
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def teacher_words(facts: dict[str, Any]) -> str:
    """Name a student's teachers by study and run: where these lie is nobody's business."""
    paths = teacher_paths(facts) if facts.get("teacher/checkpoint") else []
    return " and ".join("/".join(Path(path).parts[-4:-1]) for path in paths)


def taught_words(facts: dict[str, Any]) -> str:
    """Say which settings had a network taught other images than all for training as they are."""
    keys = ("train_size", "unlabelled", "label_noise", "omit", "views", "augment/")
    found = {k.removeprefix("data/"): v for k, v in facts.items() if k.startswith("data/")}
    words = [f"{k.replace('/', '.')}={v}" for k, v in found.items() if k.startswith(keys) and v]
    return ", ".join(word for word in words if not word.endswith("=none"))


def as_markdown(table: pd.DataFrame) -> str:
    """Write a table in Markdown, its numbers in the units of the report."""
    heads = [COLUMNS.get(name, (name,))[0] for name in table.columns]
    lines = [heads, ["---"] * len(heads)]
    for row in table.itertuples(index=False):
        cells = zip(row, table.columns, strict=True)
        lines.append([escape_markdown(format_figure(value, name)) for value, name in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
