"""Kinds of runs: what runs have in common that differ in seed, T, alpha and figures alone.

A sweep has many runs of few kinds. Their settings are looked at once per kind.
"""

from collections.abc import Mapping
from typing import Any

from kd.training.pack_rows import Columns, Row

# Of runs older than these settings.
OLDER = {"optim/name": "adam", "teacher/control": "none", "trainer/precision": "32"}
LESSONS = ("teacher/control", "teacher/clip")  # what is taught of a teacher's logits
GROUPS = ("callbacks", "checkpoint", "code/m", "data/", "device", "kd/", "model/", "optim/")
GROUPS += ("trainer/", *LESSONS)
FREE = ("kd/T", "kd/alpha", "trainer/accelerator")


class Kind:
    """The settings that runs must share to be compared; found once, not to be changed.

    Args:
        metrics: of one of the runs.
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        known = sorted({**OLDER, **metrics}.items())
        self._settings = {k: v for k, v in known if is_compared(k) and v and v != "none"}
        self._without: dict[tuple[str, ...], dict[str, Any]] = {}

    def settings(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """The settings, but for those that begin with one of these prefixes."""
        if not without:
            return self._settings
        if without not in self._without:
            kept = {k: v for k, v in self._settings.items() if not k.startswith(without)}
            self._without[without] = kept
        return self._without[without]


def is_compared(key: str) -> bool:
    """Whether runs that differ in this setting are of different kinds."""
    return key.startswith(GROUPS) and not key.startswith(FREE)


class Kinds:
    """The kinds of a study's runs, one object for each."""

    def __init__(self) -> None:
        self._known: dict[str, Kind] = {}
        self._packed: dict[tuple[Any, ...], Kind] = {}
        self._varying: dict[int, list[list[Any]]] = {}

    def of(self, metrics: Mapping[str, Any]) -> Kind:
        """The kind of a run."""
        if not isinstance(metrics, Row):
            return self._share(metrics)
        columns = metrics.columns
        varying = self._varying.get(id(columns))
        if varying is None:
            varying = self._varying[id(columns)] = find_varying(columns)
        key = (id(columns), *(values[metrics.number] for values in varying))
        if key not in self._packed:
            self._packed[key] = self._share(metrics)
        return self._packed[key]

    def _share(self, metrics: Mapping[str, Any]) -> Kind:
        own = Kind(metrics)
        return self._known.setdefault(repr(own.settings()), own)


def find_varying(columns: Columns) -> list[list[Any]]:
    """The columns of a pack that tell kinds apart."""
    return [values for key, values in columns.own.items() if is_compared(key)]
