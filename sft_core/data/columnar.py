"""Arrow tables → rows, with nulls told apart as far as Arrow can.

A struct has all keys in every row, so a key that was never there reads as null, and tool arguments and schemas would
grow keys. Such keys are left out, and their paths are handed on with the row: where the null was meant, nobody can
see it any more. Maps, JSON columns (Arrow's `arrow.json`, `datasets.Json`) and JSON text keep their nulls exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa


class Told(NamedTuple):
    """One row of a table."""

    data: Mapping[str, Any]
    nulls: tuple[str, ...]  # dotted paths of the struct keys that were left out because they were null


def rows_of(table: pa.RecordBatch | pa.Table) -> Iterator[Told]:
    """The rows of a table in order. Null columns stay; null keys inside structs are left out and named."""
    nested = {field.name: field.type for field in table.schema if _is_nested(field.type)}
    for row in table.to_pylist():
        nulls: list[str] = []
        for name, kind in nested.items():
            row[name] = _told(row[name], kind, name, nulls)
        yield Told(row, tuple(nulls))


def _is_nested(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType)


def _told(value: Any, kind: pa.DataType, path: str, nulls: list[str]) -> Any:
    if value is None:
        return None
    if pa.types.is_struct(kind):
        nulls.extend(f"{path}.{field.name}" for field in kind if value[field.name] is None)
        return {field.name: _told(value[field.name], field.type, f"{path}.{field.name}", nulls) for field in kind
                if value[field.name] is not None}
    if pa.types.is_map(kind):
        return {key: _told(item, kind.item_type, f"{path}.{key}", nulls) for key, item in value}
    if pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        return [_told(item, kind.value_type, path, nulls) for item in value]
    return json.loads(value) if isinstance(kind, pa.JsonType) else value
