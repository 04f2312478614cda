"""Parquet, Arrow and what ``datasets`` saves as records, with names for classes and numbers as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.blocks import Block, Entry, Record
from taskpgm_ray.tasks.json_text import Written

_BATCH = 1024
_CALLS = ("tool_calls", "function_call")


def parquet(file: Path, packed: BinaryIO | None) -> Iterator[Block]:
    """The rows of a Parquet file; ``packed`` has its content where the file itself is compressed.

    Raises:
        DataError: It is none.
    """
    import pyarrow.parquet as pq

    try:
        # Parquet is read from its end, so that a compressed file has to be unpacked first.
        source = pq.ParquetFile(file if packed is None else pa.BufferReader(packed.read()))
        yield from _batches(file, source.iter_batches(batch_size=_BATCH), labels_in(source.schema_arrow))
    except pa.ArrowException as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def arrow(file: Path, packed: BinaryIO | None) -> Iterator[Block]:
    """The rows of an Arrow file or stream; ``packed`` as in `parquet`.

    Raises:
        DataError: It is none.
    """
    try:
        source = pa.memory_map(str(file)) if packed is None else pa.BufferReader(packed.read())
        try:
            opened = pa.ipc.open_file(source)
            batches: Iterable[Any] = (opened.get_batch(i) for i in range(opened.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            opened = batches = pa.ipc.open_stream(source)
        yield from _batches(file, batches, labels_in(opened.schema))
    except pa.ArrowException as error:
        raise DataError(f"{file} cannot be read as Arrow: {error}") from error


def saved(folder: Path) -> Iterator[Block]:
    """The rows of a folder that ``datasets`` saved.

    Raises:
        DataError: It cannot be read.
    """
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(folder))
    except Exception as error:  # datasets raises many unrelated classes
        raise DataError(f"{folder} cannot be read as a saved data set: {type(error).__name__}: {error}") from error
    labels = labels_of(data.features)
    yield from _batches(folder, (t for t in data.with_format("arrow").iter(_BATCH)), labels)


def _batches(file: Path, batches: Iterable[Any], labels: dict[str, list[str]]) -> Iterator[Block]:
    """Blocks of Arrow's batches or tables."""
    before = 0
    for batch in batches:
        names = list(batch.schema.names)
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise DataError(f"{file}: the column {min(twice)!r} is there twice; rename one")

        def take(indices: list[int], batch: Any = batch, before: int = before) -> list[Entry]:
            rows = batch.take(indices) if len(indices) < batch.num_rows else batch
            return [
                (f"{file}, row {before + i + 1}", restored(row, batch.schema, labels))
                for i, row in zip(indices, rows.to_pylist(maps_as_pydicts="strict"), strict=True)
            ]

        yield Block(batch.num_rows, take)
        before += batch.num_rows


def restored(record: Record, schema: Any, labels: dict[str, list[str]]) -> Record:
    """A row as it was before Arrow, or ``datasets``, held it.

    Integers that stand for names of classes become these (-1, which stands for none, is null), numbers of 16 and 32
    bits are written with the digits that they have, and calls and descriptions of tools lose the nulls with which a
    table gives all objects the same keys.

    Args:
        record: Of Python's values.
        schema: Of Arrow, for the record's columns.
        labels: Column -> names of its classes.
    """
    made = {column: _spelled(value, schema.field(column).type) for column, value in record.items()}
    made |= {column: _name(made[column], names) for column, names in labels.items() if column in made}
    return {column: _without_nulls(v) if column == "tools" else _without_fill(v) for column, v in made.items()}


def _spelled(value: Any, kind: Any) -> Any:
    """A value with the numbers of few bits, which Python widens (3.8 to 3.799999952316284), as they are written."""
    types = pa.types
    if value is None:
        return None
    if types.is_float32(kind):
        return Written.of(str(np.float32(value)))
    if types.is_float16(kind):
        return Written.of(str(np.float16(value)))
    if types.is_struct(kind):
        return {key: _spelled(one, kind.field(key).type) for key, one in value.items()}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_spelled(one, kind.value_type) for one in value]
    if types.is_map(kind):
        return {key: _spelled(one, kind.item_type) for key, one in value.items()}
    return value


def _without_fill(value: Any) -> Any:
    """Messages without the nulls inside of their calls."""
    if not isinstance(value, list):
        return value
    return [
        {key: _without_nulls(one) if key in _CALLS else one for key, one in entry.items()}
        if isinstance(entry, dict)
        else entry
        for entry in value
    ]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value


def _name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_name(one, names) for one in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def labels_in(schema: Any) -> dict[str, list[str]]:
    """Column -> names of its classes, as ``datasets`` notes them in a file's schema."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            found[column] = inner["names"]
    return found


def labels_of(features: Any) -> dict[str, list[str]]:
    """The same for the features of a loaded data set; none for what has no features."""
    found = {}
    for column, feature in (features or {}).items():
        inner = getattr(feature, "feature", feature)
        if type(inner).__name__ == "ClassLabel":
            found[column] = list(inner.names)
    return found
