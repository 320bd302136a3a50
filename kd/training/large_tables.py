"""``results.csv`` and ``results.parquet`` of a study with packs."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd._startup import lazy
from kd.training.packs import Pack, current

pa: Any = lazy("pyarrow")
pc: Any = lazy("pyarrow.compute")
pq: Any = lazy("pyarrow.parquet")
pacsv: Any = lazy("pyarrow.csv")


def write_tables(
    study: Path,
    rows: Sequence[Mapping[str, Any]],
    refused: Collection[str],
    csv: Path,
    parquet: Path,
) -> None:
    """Write a study's runs as two tables, a pack at a time: a million need no more memory.

    Args:
        study: its folder.
        rows: of the runs with folders of their own.
        refused: names of those whose folder cannot be used.
        csv: where one table is written.
        parquet: where the other is.
    """
    own, parts = {*refused, *(row["run"] for row in rows)}, [*current(study)]
    keys = dict.fromkeys(key for row in rows for key in row)  # from_pylist has the first row's
    alone = pa.table({key: _column([row.get(key) for row in rows]) for key in keys})
    schema = _schema([alone.schema, *(pack.schema for pack, _ in parts)])
    no_header = pacsv.WriteOptions(include_header=False)
    with pq.ParquetWriter(parquet, schema, compression="zstd") as file, csv.open("wb") as lines:
        lines.write(",".join(f'"{name}"' for name in schema.names).encode() + b"\n")
        for table in (alone, *(_without(own, *part) for part in parts)):
            if not len(table):
                continue
            known = set(table.schema.names)
            columns = [
                table[field.name].cast(field.type) if field.name in known
                else pa.nulls(len(table), field.type)
                for field in schema
            ]  # fmt: skip
            whole = pa.table(columns, schema)
            file.write_table(whole)
            pacsv.write_csv(_with_words(whole), lines, no_header)


def _column(values: list[Any]) -> Any:
    """Values as a column; of several types as text."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else str(value) for value in values])


def _schema(schemas: Sequence[Any]) -> Any:
    """Names and types of all columns; what has several types that do not fit is text."""
    found: dict[str, Any] = {}
    for field in (field for schema in schemas for field in schema):
        parts = [pa.schema([known]) for known in (found.get(field.name), field) if known]
        try:
            found[field.name] = pa.unify_schemas(parts, promote_options="permissive").field(0)
        except pa.ArrowException:
            found[field.name] = pa.field(field.name, pa.string())
    return pa.schema([*found.values()])


def _without(own: Collection[str], pack: Pack, valid: Sequence[bool]) -> Any:
    """The table of a pack's valid runs but those with folders of their own."""
    pairs = zip(pack.names, valid, strict=True)
    return pack.table().filter(pa.array([good and name not in own for name, good in pairs]))


def _with_words(table: Any) -> Any:
    """The table with ``True`` and ``False`` as Python's writer has them."""
    for at, column in enumerate(table.schema):
        if column.type == pa.bool_():
            words = pc.if_else(table[column.name], "True", "False")
            table = table.set_column(at, column.name, words)
    return table
