"""The metrics of packed runs as views of their pack's table.

Dictionaries of a hundred thousand runs would fill gigabytes: most values are those of all runs.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kd._startup import lazy

pa: Any = lazy("pyarrow")


class Columns(NamedTuple):
    """The metrics of a pack's runs by column, what all have in common once."""

    pack: Any
    keys: list[str]
    same: dict[str, Any]
    own: dict[str, list[Any]]  # one value per run


class Row(Mapping[str, Any]):
    """The metrics of a packed run with ``run``.

    Args:
        columns: of the run's pack.
        number: of the run.
    """

    __slots__ = ("columns", "number")

    def __init__(self, columns: Columns, number: int) -> None:
        self.columns, self.number = columns, number

    def __getitem__(self, key: str) -> Any:
        """The value of a metric."""
        values = self.columns.own.get(key)
        return self.columns.same[key] if values is None else values[self.number]

    def __iter__(self) -> Iterator[str]:
        """The metrics' keys."""
        return iter(self.columns.keys)

    def __len__(self) -> int:
        """How many metrics there are."""
        return len(self.columns.keys)


def view_rows(table: Any, pack: Any) -> list[Row]:
    """The rows of a pack's ``pyarrow.Table``."""
    columns, texts = Columns(pack, table.schema.names, {}, {}), dict[str, str]()
    for key in columns.keys:
        if len(distinct := table[key].unique()) == 1:
            columns.same[key] = distinct[0].as_py()
            continue
        values = table[key].to_pylist()
        if key == "run":
            values = pack.names
        elif table.schema.field(key).type == pa.string():
            values = [texts.setdefault(value, value) for value in values]
        columns.own[key] = values
    return [Row(columns, number) for number in range(len(table))]
