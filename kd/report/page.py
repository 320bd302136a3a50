"""The page of a report: its sections, and how they become files."""

import base64
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from PIL import Image

from kd.files import lock
from kd.training.curves import Curves


@dataclass
class Section:
    """One part of the report; its texts are single lines, whatever the names in them."""

    slug: str
    title: str
    text: str
    figure: Figure | None = None
    alt: str = ""  # what the figure shows, in words
    table: pd.DataFrame | None = None
    files: dict[str, pd.DataFrame] = field(default_factory=dict)  # tables beside the page
    said: list[str] = field(default_factory=list)  # lines for the terminal
    image: str = ""  # the figure as base64 PNG, once drawn

    def __post_init__(self) -> None:
        """Keep line breaks and control characters of foreign names out of page and terminal."""
        self.title, self.text, self.alt = map(one_line, (self.title, self.text, self.alt))


def write_page(sections: list[Section], target: Path, study: str) -> None:
    """Write ``index.html``, ``report.md``, every figure and every table; replace an old report.

    One process at a time writes. The old report stays until the new one is whole.

    Args:
        sections: the page's sections in their order.
        target: the report's folder.
        study: the study's name, for the title.
    """
    fresh, old = target.with_name(".report.new"), target.with_name(".report.old")
    with lock(target.parent / ".locks" / "report.lock"):
        for leftover in target.parent.glob(".report*"):  # of a process that was killed
            remove(leftover)
        try:
            fresh.mkdir()
            write_files(sections, fresh, study)
            if target.exists() or target.is_symlink():
                target.rename(old)
            fresh.rename(target)
        finally:
            remove(fresh)
            remove(old)


def remove(path: Path) -> None:
    """Remove a folder with its content, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_files(sections: list[Section], folder: Path, study: str) -> None:
    """Write the files of a report into an empty folder."""
    board = Curves(folder)
    for section in sections:
        if section.figure is not None:
            path = folder / f"{section.slug}.png"
            section.figure.savefig(path, dpi=110)
            board.add_picture(f"report/{section.slug}", np.asarray(Image.open(path).convert("RGB")))
            section.image = base64.b64encode(path.read_bytes()).decode()
        for name, table in {section.slug: section.table, **section.files}.items():
            if table is not None:
                finite = table.replace([np.inf, -np.inf], np.nan)
                finite.to_csv(folder / f"{name}.csv", index=False)
    templates = Environment(
        loader=PackageLoader("kd.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"readable": format_value, "markdown": escape_markdown}
    for name in ("index.html", "report.md"):
        text = templates.get_template(name).render(sections=sections, study=study)
        (folder / name).write_text(text, encoding="utf-8")


def one_line(text: str) -> str:
    """Replace every run of white space or unprintable characters by a single space."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# What Markdown takes for markup: anywhere, around a word, at the beginning of a block.
ANYWHERE = r"[\\`*\[\]|~$]"
AROUND = r"(?<![^\W_])_|_(?![^\W_])"
BEGINNING = r"^(?:#{1,6}|[+-])(?= )|^-(?=[-=])|(?<=^\d)[.)](?= )"


def escape_markdown(text: Any) -> str:
    """Escape a text so that Markdown shows it as it is, in a paragraph or a table."""
    escaped = re.sub(f"{ANYWHERE}|{AROUND}|{BEGINNING}", r"\\\g<0>", one_line(str(text)))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("://", ":\\/\\/")  # otherwise Markdown makes it a link


def format_value(value: Any) -> str:
    """Format a value of a table for reading: a dash for what is missing or not finite."""
    if value is None or (isinstance(value, float | np.floating) and not np.isfinite(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    large = isinstance(value, int | np.integer) and abs(value) >= 10_000
    return f"{value:,}" if large else one_line(str(value))
