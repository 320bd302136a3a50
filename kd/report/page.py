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
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from kd.files import lock
from kd.training.curves import Curves

MANY, BEST = 6000, 1000  # of more rows than many, the page shows the best


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
    drawing: Markup = field(default_factory=Markup)  # what the page shows in place of the figure
    image: str = ""  # the figure as base64 PNG, once drawn
    best: str = ""  # the column by which the page chooses rows of a very long table

    @property
    def rows(self) -> pd.DataFrame | None:
        """The rows of the table that the page shows: of very many the best, else the first."""
        if self.table is None or len(self.table) <= MANY:
            return self.table
        if not self.best:
            return self.table.head(BEST)
        places = self.table[self.best].to_numpy().argsort(kind="stable")[::-1][:BEST]
        return self.table.iloc[sorted(places)]

    def __post_init__(self) -> None:
        """Keep line breaks and control characters of foreign names out of page and terminal."""
        self.title, self.text, self.alt = map(one_line, (self.title, self.text, self.alt))


def spread(values: list[float], most: int, keep: float | None = None) -> list[float]:
    """Select at most so many values, evenly spaced, the first, the last and one more among them."""
    if len(values) <= most:
        return values
    places = np.linspace(0, len(values) - 1, max(1, most)).round().astype(int)
    kept = [values[place] for place in places]
    if keep is not None and keep not in kept:
        nearest = min(range(len(kept)), key=lambda n: abs(places[n] - values.index(keep)))
        kept[nearest] = keep
    return kept


def write_page(
    sections: list[Section], target: Path, study: str, frame: dict[str, Any] | None = None
) -> None:
    """Write ``index.html``, ``report.md``, every figure and every table; replace an old report.

    One process at a time writes. The old report stays until the new one is whole.

    Args:
        sections: the page's sections in their order.
        target: the report's folder.
        study: the study's name, for the title.
        frame: the ``headline``, the ``footer`` and the ``data`` of the page.
    """
    fresh, old = target.with_name(".report.new"), target.with_name(".report.old")
    with lock(target.parent / ".locks" / "report.lock"):
        for leftover in target.parent.glob(".report*"):  # of a process that was killed
            remove(leftover)
        try:
            fresh.mkdir()
            write_files(sections, fresh, study, frame or {})
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


def write_files(sections: list[Section], folder: Path, study: str, frame: dict[str, Any]) -> None:
    """Write the files of a report into an empty folder."""
    board = Curves(folder)
    for section in sections:
        if section.figure is not None:
            path = folder / f"{section.slug}.png"
            section.figure.savefig(path, dpi=110)
            board.add_picture(
                f"when_reported/{section.slug}", np.asarray(Image.open(path).convert("RGB"))
            )
            section.image = base64.b64encode(path.read_bytes()).decode()
        for name, table in {section.slug: section.table, **section.files}.items():
            if table is not None:
                finite = table.replace([np.inf, -np.inf], np.nan)
                finite.to_csv(folder / f"{name}.csv", index=False)
    templates = Environment(
        loader=PackageLoader("kd.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"readable": format_value, "markdown": escape_markdown}
    templates.filters |= {
        "heading": lambda column: COLUMNS.get(column, (column.replace("f1-score", "F1"),))[0]
    }
    templates.filters |= {"figure": format_figure}
    for name in ("index.html", "report.md"):
        text = templates.get_template(name).render(sections=sections, study=study, **frame)
        (folder / name).write_text(text, encoding="utf-8")


# The columns whose names are no words, and those in other units on the page: name, factor, form.
COLUMNS: dict[str, tuple[str, float, str]] = {
    "test_accuracy": ("test accuracy, %", 100, ".2f"),
    "validation_accuracy": ("validation accuracy, %", 100, ".2f"),
    "low": ("from", 100, ".2f"),
    "high": ("to", 100, ".2f"),
    "gain": ("gain, points", 100, "+.2f"),
    "gain_low": ("gain from", 100, "+.2f"),
    "gain_high": ("gain to", 100, "+.2f"),
    "p": ("p", 1, ".2g"),
    "p_holm": ("p after Holm", 1, ".2g"),
    "agreement": ("agreement with the teacher, %", 100, ".2f"),
    "own_agreement": ("agreement with its own teacher, %", 100, ".2f"),
    "kl": ("KL to the teacher, nats", 1, ".4f"),
    "own_kl": ("KL to its own teacher, nats", 1, ".4f"),
    "agreement_on_errors": ("agreement on its errors, %", 100, ".1f"),
    "floor": ("least agreement possible, %", 100, ".2f"),
    "position": ("agreement from least (0) to all (1)", 1, ".3f"),
    "test_nll": ("test loss, nats", 1, ".4f"),
    "test_ece": ("calibration error (ECE), %", 100, ".2f"),
    "macro_f1": ("mean F1", 1, ".4f"),
    "fit_s": ("training, s", 1, ".1f"),
    "train/loss": ("training loss, nats", 1, ".4f"),
    "val/loss": ("validation loss, nats", 1, ".4f"),
    "train/acc": ("training accuracy, %", 100, ".2f"),
    "val/acc": ("validation accuracy, %", 100, ".2f"),
}
# The columns of a network, whose name stands before.
RATES = {name: (name, 1, ".4f") for name in ("precision", "recall", "f1-score")}
ROWS = {
    "macs": "multiplications and additions per image",
    "file_bytes": "size on disk, bytes",
    "one_image_ms": "latency of a single image, ms",
}


def format_figure(value: Any, column: str) -> str:
    """Format a value of a table for the page, in the unit of its column; words for names."""
    if isinstance(value, str):
        batch = re.fullmatch(r"batch_(\d+)_ms", value)
        return f"latency of {batch[1]} images, ms" if batch else ROWS.get(value, one_line(value))
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    known = COLUMNS.get(column) or RATES.get(column.rpartition(" ")[2])
    if not known or not number or not np.isfinite(value):
        return format_value(value)
    _, factor, form = known
    return f"{factor * float(value):{form}}".replace("-", "−" if form[0] == "+" else "-")


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
