"""The page of a report: its sections, and how they become files."""

import base64
import io
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter


@dataclass
class Section:
    """One part of the report."""

    slug: str
    title: str
    text: str
    figure: Figure | None = None
    alt: str = ""
    table: pd.DataFrame | None = None
    files: dict[str, pd.DataFrame] = field(default_factory=dict)  # tables beside the page
    image: str = ""  # the figure as base64 PNG, once drawn


def write_page(sections: Sequence[Section], target: Path, study: str) -> None:
    """Write ``index.html``, ``report.md``, every figure and every table, in place of old ones.

    Args:
        sections: of the page, in their order.
        target: the folder.
        study: its name, for the title.
    """
    fresh = target.with_name(f".{target.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    board = SummaryWriter(str(fresh))
    for section in sections:
        if section.figure is not None:
            drawn = io.BytesIO()
            section.figure.savefig(drawn, format="png", dpi=110)
            pixels = np.asarray(Image.open(drawn).convert("RGB"))
            board.add_image(f"report/{section.slug}", pixels, dataformats="HWC")
            (fresh / f"{section.slug}.png").write_bytes(drawn.getvalue())
            section.image = base64.b64encode(drawn.getvalue()).decode()
        shown = {} if section.table is None else {section.slug: section.table}
        for name, table in {**section.files, **shown}.items():
            table.to_csv(fresh / f"{name}.csv", index=False)
    board.close()
    environment = Environment(
        loader=PackageLoader("kd"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell_text
    for template, name in (("report.html", "index.html"), ("report.md", "report.md")):
        text = environment.get_template(template).render(sections=sections, study=study)
        (fresh / name).write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def cell_text(value: Any) -> str:
    """A table's value for the eye."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return (
        f"{value:,}" if isinstance(value, int | np.integer) and abs(value) >= 10_000 else str(value)
    )
