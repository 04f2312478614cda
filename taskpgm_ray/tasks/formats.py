"""Files of many formats as records, and a uniform draw of these that fits into memory.

What is read: JSON lines, a JSON array, a JSON object with rows under a key, CSV, TSV, Parquet, Arrow, and the folders
that ``datasets`` saves; each file may be compressed. What a file is its content says, and its name only where content
cannot: an array in a ``.jsonl`` is read, and so are JSON lines in a ``.json``.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.example import BadRow
from taskpgm_ray.tasks.values import Written

Record = dict[str, Any]
Entry = tuple[str, Record | bytes]
"""Where a row stands, and its record, or its line of JSON that is yet to be parsed."""
SUFFIXES = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
SUFFIXES |= {".parquet": "parquet", ".arrow": "arrow"}
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
ROWS_KEYS = ("Instances", "instances", "data", "rows", "examples", "train", "records", "items")
"""Where a JSON object with several lists of objects has its rows, the first that is there."""
_BATCH = 1024
_PEEK = 1 << 18
"""Bytes that are looked at to know a file: the header of a table has to fit."""


@dataclass(frozen=True)
class Block:
    """Rows that lie together."""

    rows: int
    take: Callable[[list[int]], list[Entry]]
    """(indices in the block, ascending) -> these rows; only they are converted."""


def suffix_of(file: Path) -> str:
    """The ending that says what a file is, without that of its compression; empty when it is none that is read."""
    inner = file.with_suffix("") if file.suffix.lower() in COMPRESSED else file
    return inner.suffix.lower() if inner.suffix.lower() in SUFFIXES else ""


def is_saved_data_set(folder: Path) -> bool:
    """Whether ``datasets`` wrote this folder with ``save_to_disk`` (one data set, not a dictionary of them)."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def draw(blocks: Iterable[Block], limit: int, seed: int) -> tuple[list[tuple[str, Record]], int]:
    """At most ``limit`` rows, and how many there are.

    All rows, where these are no more; else each subset of ``limit`` is equally likely (Vitter 1985, algorithm R). In
    the file's order; no more than ``limit`` rows and one block are in memory. Lines of JSON are parsed when drawn.

    Raises:
        DataError: A file cannot be read, or a drawn line is no JSON object.
    """
    dice = random.Random(seed)
    kept: dict[int, tuple[int, Entry]] = {}
    size = 0
    for block in blocks:
        entering: dict[int, int] = {}
        for index in range(block.rows):
            slot = size + index if size + index < limit else dice.randrange(size + index + 1)
            if slot < limit:
                entering[slot] = index
        if entering:
            indices = sorted(entering.values())
            taken = dict(zip(indices, block.take(indices), strict=True))
            kept |= {slot: (size + index, taken[index]) for slot, index in entering.items()}
        size += block.rows
    drawn = (entry for _, entry in sorted(kept.values(), key=lambda numbered: numbered[0]))
    return [(where, parse_line(row, where) if isinstance(row, bytes) else row) for where, row in drawn], size


def blocks_of(file: Path, bad: list[BadRow]) -> Iterator[Block]:
    """The rows of one file, or of a folder that ``datasets`` saved.

    Args:
        file: Of any format that this module knows.
        bad: Takes the rows that could not even be told apart: those of a CSV with too few or too many fields.

    Raises:
        DataError: It cannot be decompressed, is not UTF-8, or is not what it seems to be.
        OSError: It cannot be read.
    """
    try:
        if file.is_dir():
            yield from _saved(file)
            return
        kind = SUFFIXES.get(suffix_of(file), "lines")
        with _opened(file) as stream:
            if kind in ("csv", "tsv"):
                yield from _table_text(file, _text(stream, file), kind, bad)
            elif kind == "parquet":
                yield from _parquet(file, stream)
            elif kind == "arrow":
                yield from _arrow(file, stream)
            elif is_lines(file):
                yield from _lines(file, _text(stream, file))
            else:
                yield from _document(file, _text(stream, file))
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file} cannot be decompressed: {error}") from error


def is_lines(file: Path) -> bool:
    """Whether a file has a JSON value a line, rather than one value in all."""
    kind = SUFFIXES.get(suffix_of(file), "lines")
    if kind not in ("lines", "json") or file.is_dir():
        return False
    with _opened(file) as stream:
        lines = (line for line in _text(stream, file) if line.strip())
        first, second = next(lines, b""), next(lines, b"")
    if first.lstrip()[:1] == b"[":
        # Many lists in a file of lines are wrong lines; one is an array of records.
        return kind == "lines" and bool(second) and _is_json(first) and second.lstrip()[:1] in (b"[", b"{")
    return kind == "lines" or not first or (bool(second) and _is_json(first))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def parse_line(line: bytes, where: str) -> Record:
    """One line of JSON as a record.

    Raises:
        DataError: It is not UTF-8, no JSON, or no object.
    """
    try:
        record = json.loads(line.decode("utf-8"), parse_float=Written.of)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}); re-encode the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a JSON object is expected, not {type(record).__name__}")
    return record


def _opened(file: Path) -> BinaryIO:
    """The file's bytes, decompressed; how it is compressed its first bytes say."""
    with file.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(file, "rb"))
    if magic.startswith(b"\xfd7zXZ"):
        return cast(BinaryIO, lzma.open(file, "rb"))
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(file, "rb"))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(file)), "zstd"), _PEEK))
    if magic.startswith(b"PK\x03\x04"):
        raise DataError(f"{file} is a zip archive; unpack it")
    return file.open("rb", buffering=_PEEK)


def _text(stream: BinaryIO, file: Path) -> io.BufferedReader:
    """The same bytes without a UTF-8 byte order mark.

    Raises:
        DataError: It is UTF-16 or UTF-32.
    """
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(Any, stream), _PEEK)
    head = buffered.peek(4)[:4]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(head) == 4 and 0 in head):
        kind = "UTF-32" if head == b"\xff\xfe\0\0" or head.count(0) == 3 else "UTF-16"
        raise DataError(f"{file}: this is {kind}, and only UTF-8 is read: iconv -f {kind} -t UTF-8 {file.name} > new")
    if head.startswith(b"\xef\xbb\xbf"):
        buffered.read(3)
    return buffered


def _lines(file: Path, stream: BinaryIO) -> Iterator[Block]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            entry: Entry = (f"{file}, line {number}", line)
            yield Block(1, lambda _, entry=entry: [entry])  # type: ignore[misc]  # mypy infers no default


def _document(file: Path, stream: BinaryIO) -> Iterator[Block]:
    try:
        value = json.loads(stream.read().decode("utf-8"), parse_float=Written.of)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}); re-encode the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON ({error})") from None
    rows = value if isinstance(value, list) else _rows_under_a_key(file, value)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{file}, record {number}: a JSON object is expected, not {type(row).__name__}")
    yield Block(len(rows), lambda indices: [(f"{file}, record {i + 1}", rows[i]) for i in indices])


def _rows_under_a_key(file: Path, value: Any) -> list[Any]:
    """The rows of an object; Super-NaturalInstructions' ``Definition`` becomes a column of each."""
    if not isinstance(value, dict):
        raise DataError(f"{file}: an array or object of JSON is expected, not {type(value).__name__}")
    lists = {k: v for k, v in value.items() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)}
    keys = [key for key in ROWS_KEYS if key in lists] or list(lists)
    # An object with a list of objects may also be one record: a conversation.
    if not keys or {"messages", "conversations"} & lists.keys():
        return [value]
    if len(keys) > 1 and keys[0] not in ROWS_KEYS:
        raise DataError(
            f"{file}: rows under {', '.join(keys)}, and it is not clear which are meant; keep one, or write JSON lines"
        )
    definition = {"Definition": value["Definition"]} if "Definition" in value else {}
    return [{**definition, **row} for row in lists[keys[0]]]


def _table_text(file: Path, stream: io.BufferedReader, kind: str, bad: list[BadRow]) -> Iterator[Block]:
    """CSV and TSV. Every value stays the text that it is: 007 is no number here."""
    import pyarrow as pa
    from pyarrow import csv

    begin = stream.peek(_PEEK)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(begin)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}); re-encode the file") from None
    if not begin.strip():
        return
    head = begin.partition(b"\n")[0]
    separators = [mark for mark in (b",", b";", b"\t", b"|") if mark in head]
    delimiter = "\t" if kind == "tsv" else (separators or [b","])[0].decode()
    header = next(_csv_header(head, delimiter), [])
    skipped: list[int] = []

    def odd(row: Any) -> str:
        # Arrow counts the header as the first.
        skipped.append(row.number - 1)
        why = f"{row.actual_columns} fields, where the header has {row.expected_columns}"
        bad.append(BadRow(f"{file}, row {row.number - 1}", why))
        return "skip"

    try:
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(block_size=1 << 24, use_threads=False),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=odd),
            convert_options=csv.ConvertOptions(column_types={name: pa.string() for name in header}),
        )
        yield from _batches(file, reader, {}, skipped)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file} cannot be read as {kind.upper()}: {error}") from error


def _csv_header(head: bytes, delimiter: str) -> Iterator[list[str]]:
    import csv

    return csv.reader([head.decode("utf-8", "replace").rstrip("\r")], delimiter=delimiter)


def _parquet(file: Path, stream: BinaryIO) -> Iterator[Block]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Parquet is read from its end, so that a compressed file has to be unpacked first.
        source = pq.ParquetFile(file if not _is_compressed(file) else pa.BufferReader(stream.read()))
        yield from _batches(file, source.iter_batches(batch_size=_BATCH), labels_in(source.schema_arrow))
    except pa.ArrowException as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _arrow(file: Path, stream: BinaryIO) -> Iterator[Block]:
    import pyarrow as pa

    try:
        source = pa.memory_map(str(file)) if not _is_compressed(file) else pa.BufferReader(stream.read())
        try:
            opened = pa.ipc.open_file(source)
            batches: Iterable[Any] = (opened.get_batch(i) for i in range(opened.num_record_batches))
        except pa.ArrowInvalid:
            source.seek(0)
            opened = batches = pa.ipc.open_stream(source)
        yield from _batches(file, batches, labels_in(opened.schema))
    except pa.ArrowException as error:
        raise DataError(f"{file} cannot be read as Arrow: {error}") from error


def _is_compressed(file: Path) -> bool:
    return file.suffix.lower() in COMPRESSED


def _saved(folder: Path) -> Iterator[Block]:
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(folder))
    except Exception as error:  # datasets raises many unrelated classes
        raise DataError(f"{folder} cannot be read as a saved data set: {type(error).__name__}: {error}") from error
    labels = labels_of(data.features)
    yield from _batches(folder, (t for t in data.with_format("arrow").iter(_BATCH)), labels)


def _batches(
    file: Path, batches: Iterable[Any], labels: dict[str, list[str]], skipped: Sequence[int] = ()
) -> Iterator[Block]:
    """Blocks of Arrow's batches or tables; integers that stand for names become these.

    ``skipped`` has the numbers of rows, from 1, that the batches lack; it may grow.
    """

    def number(place: int) -> int:
        for gap in skipped:
            place += gap <= place
        return place

    before = 0
    for batch in batches:
        names = list(batch.schema.names)
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise DataError(f"{file}: the column {min(twice)!r} is there twice; rename one")

        def take(indices: list[int], batch: Any = batch, before: int = before) -> list[Entry]:
            rows = batch.take(indices) if len(indices) < batch.num_rows else batch
            return [
                (f"{file}, row {number(before + i + 1)}", named(row, labels))
                for i, row in zip(indices, rows.to_pylist(), strict=True)
            ]

        yield Block(batch.num_rows, take)
        before += batch.num_rows


def named(record: Record, labels: dict[str, list[str]]) -> Record:
    """The record with the names of its classes; -1, which stands for none, is null."""
    return {k: _name(v, labels[k]) if k in labels else v for k, v in record.items()} if labels else record


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
