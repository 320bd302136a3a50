"""Packs: what many runs of a large sweep came to, in one folder instead of one each.

``<study>/packs/NAME/`` is written whole or not at all:

* ``runs.parquet``: one row per run with what its ``metrics.json`` would hold, ``run`` (its folder
  below the study), ``words`` (of its command, as JSON) and ``settings`` (those in which it differs
  from ``pack.json``, as JSON);
* ``history.parquet``: one row per epoch, ``row`` being the run's number in ``runs.parquet``;
* ``predictions.parquet``: one row per test image with its index and label, and the class that each
  run names for it, a byte per run in their order (two above 256 classes);
* ``weights.safetensors``: the networks stacked, ``rows`` saying of which runs;
* ``pack.json``: settings and Hydra's node of one run, and why runs have failed;
* ``dropped.json``, where some of the runs were to be trained again: their names.

A folder of a run's own counts before a pack that has the run too, and of packs the latest.
"""

import contextlib
import copy
import fnmatch
import functools
import json
import os
import shutil
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd._startup import lazy
from kd._torch import Tensor
from kd.errors import UserError
from kd.files import replacing
from kd.training.pack_rows import Row, view_rows
from kd.training.unfinished import below_study

pa: Any = lazy("pyarrow")
pc: Any = lazy("pyarrow.compute")
pq: Any = lazy("pyarrow.parquet")

FOLDER = "packs"
NOTE = "pack.json"
DROPPED = "dropped.json"  # names of runs that count no more
RUNS, HISTORY = "runs.parquet", "history.parquet"
PREDICTIONS, WEIGHTS = "predictions.parquet", "weights.safetensors"
OURS = ["words", "settings"]  # columns of RUNS that are no metrics


class NotKept(UserError):
    """The weights of a packed run have not been kept."""


def _load(path: Path, columns: list[str] | None = None) -> Any:
    """The table of a file.

    Raises:
        UserError: it is missing or damaged.
    """
    with _reading(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


@contextlib.contextmanager
def _reading(path: Path) -> Generator[None]:
    """Raise a UserError where a file is missing or damaged."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        told = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: cannot be read ({told}); delete its folder to train again"
        ) from error


class Images(NamedTuple):
    """The test images of a pack's runs."""

    indices: np.ndarray  # (images,)
    labels: np.ndarray  # (images,)


class Answers(NamedTuple):
    """What the runs of a pack answer to the test images."""

    indices: np.ndarray  # (images,)
    labels: np.ndarray  # (images,)
    classes: np.ndarray  # (images, runs)


class Pack:
    """A pack, read as it is asked for.

    Args:
        folder: of the pack.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def study(self) -> Path:
        """The folder of its study."""
        return self.folder.parents[1]

    @cached_property
    def note(self) -> dict[str, Any]:
        """``config`` and ``hydra`` of one run, and ``failed``.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = self.folder / NOTE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return {key: dict(content[key]) for key in ("config", "hydra", "failed")}
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete its folder to train again"
            ) from error

    @cached_property
    def dropped(self) -> set[str]:
        """The runs that count no more: they were to be trained again."""
        path = self.folder / DROPPED
        return set(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else set()

    @cached_property
    def names(self) -> list[str]:
        """The runs' folders below the study, in the order of the pack."""
        path = self.folder / RUNS
        return _load(path, ["run"])["run"].to_pylist() if path.exists() else []

    @cached_property
    def schema(self) -> Any:
        """Names and types of the columns of :meth:`table`."""
        with _reading(path := self.folder / RUNS):
            found = pq.read_schema(path)
        for name in OURS:
            found = found.remove(found.get_field_index(name))
        return found.remove_metadata()

    def table(self, columns: list[str] | None = None) -> Any:
        """``runs.parquet`` as a ``pyarrow.Table``, without ``words`` and ``settings``.

        Args:
            columns: those that are wanted; of those it lacks there are none.
        """
        known = self.schema.names
        wanted = known if columns is None else [key for key in known if key in columns]
        return _load(self.folder / RUNS, wanted)

    def rows(self) -> list[Row]:
        """One row per run with its metrics and ``run``."""
        if not self.names:
            return []
        return view_rows(self.table(), self)

    def row(self, name: str) -> dict[str, Any]:
        """The metrics of a run."""
        row = _rows(self)[self.names.index(name)]
        return {key: value for key, value in row.items() if key != "run"}

    def words(self, name: str) -> list[str]:
        """The words of a run's command."""
        return json.loads(self._own(name, "words"))

    def settings(self, name: str) -> dict[str, Any]:
        """A run's settings by their keys, flat, as far as they differ from ``note``'s."""
        return json.loads(self._own(name, "settings"))

    def config(self, name: str) -> dict[str, Any]:
        """All settings of a run."""
        found = copy.deepcopy(self.note["config"])
        for key, value in self.settings(name).items():
            *groups, last = key.split(".")
            functools.reduce(dict.__getitem__, groups, found)[last] = value
        return found

    @cached_property
    def written(self) -> float:
        """When it was written, in seconds since 1970."""
        return (self.folder / NOTE).stat().st_mtime

    def _own(self, name: str, column: str) -> str:
        return _load(self.folder / RUNS, [column])[column][self.names.index(name)].as_py()

    def history(self, name: str) -> list[dict[str, float]]:
        """The figures of every epoch of a run by their tags."""
        table = _load(self.folder / HISTORY)
        rows = table.filter(pc.equal(table["row"], self.names.index(name))).to_pylist()
        kept = ({k: v for k, v in row.items() if v is not None} for row in rows)
        return [{k: v for k, v in row.items() if k not in ("row", "epoch")} for row in kept]

    def curves(self, tag: str) -> list[np.ndarray]:
        """A figure by epoch, of every run."""
        table = _load(self.folder / HISTORY, ["row", tag])
        ends = np.searchsorted(table["row"].to_numpy(), np.arange(1, len(self.names)))
        return np.split(table[tag].to_numpy(), ends)

    @cached_property
    def images(self) -> Images:
        """The test images."""
        table = _load(self.folder / PREDICTIONS, ["index", "label"])
        return Images(table["index"].to_numpy(), table["label"].to_numpy())

    @property
    def answers(self) -> Answers:
        """The answers of all runs, read anew: of a thousand on MNIST's test images 10 MB."""
        values, runs = self._bytes("classes"), len(self.names)
        kind = np.uint8 if values.itemsize == runs else np.uint16
        return Answers(*self.images, values.view(kind).reshape(len(values), runs))

    def logits(self, name: str) -> np.ndarray | None:
        """The logits of a run, (images, classes) in float16; None if none have been kept."""
        with _reading(path := self.folder / PREDICTIONS):
            if "logits" not in pq.read_schema(path).names:
                return None
        values = self._bytes("logits")
        by_run = values.view(np.float16).reshape(len(values), len(self.names), -1)
        return by_run[:, self.names.index(name)]

    def _bytes(self, name: str) -> np.ndarray:
        """A column of predictions: of every image the bytes of all runs."""
        column = _load(self.folder / PREDICTIONS, [name])[name].combine_chunks()
        kind = np.dtype((np.void, column.type.byte_width))
        return np.frombuffer(column.buffers()[1], kind)[column.offset :][: len(column)]

    def weights(self, name: str) -> dict[str, Tensor] | None:
        """The weights of a run; None if they have not been kept.

        Raises:
            UserError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path, row = self.folder / WEIGHTS, self.names.index(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                rows = json.loads((file.metadata() or {})["rows"])
                if row not in rows:
                    return None
                at = rows.index(row)
                return {key: file.get_slice(key)[at] for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise UserError(f"{path}: cannot be read ({error}); train its runs again") from error


@functools.lru_cache(maxsize=2)  # a sweep that goes on asks for run after run
def _rows(pack: Pack) -> list[Row]:
    return pack.rows()


@dataclass
class _Study:
    """What is known of a study's packs."""

    stamp: int  # of its folder of packs
    packs: dict[tuple[Path, int], Pack]  # by folder and its time, the latest last
    latest: dict[str, Pack]  # by a run's name: the pack whose figures count


_known: dict[Path, _Study] = {}  # by the study's folder, the one that was read last at the end
MOST_STUDIES = 8


def _read(study: Path) -> _Study:
    """Read which packs a study has; of those that were there before nothing is read again."""
    study = study.absolute()
    try:
        stamp = (study / FOLDER).stat().st_mtime_ns
    except OSError:
        return _Study(0, {}, {})
    before = _known.pop(study, _Study(0, {}, {}))
    if before.stamp != stamp:
        folders = [path.parent for path in (study / FOLDER).glob(f"[!.]*/{NOTE}")]
        keys = sorted((f.stat().st_mtime_ns, f) for f in folders if f.is_dir())
        packs = {(f, time): before.packs.get((f, time)) or Pack(f) for time, f in keys}
        added = [pack for key, pack in packs.items() if key not in before.packs]
        latest = before.latest
        if [*packs][: len(before.packs)] != [*before.packs]:  # some went, or are others now
            latest, added = {}, [*packs.values()]
        latest |= {name: pack for pack in added for name in pack.names if name not in pack.dropped}
        before = _Study(stamp, packs, latest)
    _known[study] = before
    while len(_known) > MOST_STUDIES:
        del _known[next(iter(_known))]
    return before


def packs_of(study: Path) -> list[Pack]:
    """The packs of a study, the latest last."""
    return [*_read(study).packs.values()]


def pack_of(directory: Path) -> Pack | None:
    """The pack that has a run.

    Args:
        directory: that the run would have as a folder of its own.
    """
    return _read(directory.parents[1]).latest.get(below_study(directory))


def why_failed(study: Path) -> dict[str, str]:
    """The runs that failed in a study's packs, by name: why."""
    found = _read(study)
    failed = {
        name: why
        for pack in found.packs.values()
        for name, why in pack.note["failed"].items()
        if name not in pack.dropped
    }
    return {name: why for name, why in failed.items() if name not in found.latest}


def drop(study: Path, names: Collection[str]) -> None:
    """Have runs count no more that lie in packs, as if they had never been trained."""
    wanted = set(names)
    for pack in packs_of(study):
        content = {*pack.names, *pack.note["failed"]} - pack.dropped
        if not content & wanted:
            continue
        if content <= wanted:
            (pack.folder / NOTE).unlink()  # first: what has no note is no pack
            shutil.rmtree(pack.folder)
        else:
            with replacing(pack.folder / DROPPED) as beside:
                beside.write_text(json.dumps(sorted(pack.dropped | content & wanted)) + "\n")
        os.utime(study / FOLDER)  # whoever has read the packs sees it


def current(study: Path) -> Iterator[tuple[Pack, list[bool]]]:
    """A study's packs, the latest last, and which of the runs of each count."""
    found = _read(study)
    for pack in found.packs.values():
        if pack.names:
            yield pack, [found.latest.get(name) is pack for name in pack.names]


def rows_of(study: Path, runs: Sequence[str]) -> Iterator[Row]:
    """The metrics of a study's packed runs with ``run``, those whose names match a pattern."""
    for pack, valid in current(study):
        wanted = {name for pattern in runs for name in fnmatch.filter(pack.names, pattern)}
        if wanted:
            for row, is_valid in zip(pack.rows(), valid, strict=True):
                if is_valid and row["run"] in wanted:
                    yield row


def frame_of(study: Path, columns: list[str]) -> Any:
    """Columns of a study's packed runs as a ``pandas.DataFrame``; those that none has are empty."""
    import pandas as pd

    parts = [pack.table(columns).to_pandas()[valid] for pack, valid in current(study)]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    return found.reindex(columns=columns)
