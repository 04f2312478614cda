"""Files of many formats as records.

What is read: JSON lines, a JSON array, a JSON object with rows under a key, CSV, TSV, Parquet, Arrow, and the folders
that ``datasets`` saves; each file may be compressed. What a file is its content says, and its name only where content
cannot: an array in a ``.jsonl`` is read, and so are JSON lines in a ``.json``.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.arrow_rows import arrow, parquet, saved
from taskpgm_ray.tasks.blocks import Block, Entry
from taskpgm_ray.tasks.example import BadRow
from taskpgm_ray.tasks.json_text import loads
from taskpgm_ray.tasks.text_tables import PEEK, has_quotes, table

SUFFIXES = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
SUFFIXES |= {".parquet": "parquet", ".arrow": "arrow"}
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
ROWS_KEYS = ("Instances", "instances", "data", "rows", "examples", "train", "records", "items")
"""Where a JSON object with several lists of objects has its rows, the first that is there."""


def suffix_of(file: Path) -> str:
    """The ending that says what a file is, without that of its compression; empty when it is none that is read."""
    inner = file.with_suffix("") if file.suffix.lower() in COMPRESSED else file
    return inner.suffix.lower() if inner.suffix.lower() in SUFFIXES else ""


def is_saved_data_set(folder: Path) -> bool:
    """Whether ``datasets`` wrote this folder with ``save_to_disk`` (one data set, not a dictionary of them)."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


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
            yield from saved(file)
            return
        kind = SUFFIXES.get(suffix_of(file), "lines")
        packed = file.suffix.lower() in COMPRESSED
        quoted = kind != "tsv" or _has_quotes(file)
        with _opened(file) as stream:
            if kind in ("csv", "tsv"):
                yield from table(file, _text(stream, file), kind, quoted, bad)
            elif kind == "parquet":
                yield from parquet(file, stream if packed else None)
            elif kind == "arrow":
                yield from arrow(file, stream if packed else None)
            elif is_lines(file):
                yield from _lines(file, _text(stream, file))
            else:
                yield from _document(file, _text(stream, file))
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{file} cannot be decompressed: {error}") from error


def _has_quotes(file: Path) -> bool:
    with _opened(file) as stream:
        return has_quotes(_text(stream, file))


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

        return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(file)), "zstd"), PEEK))
    if magic.startswith(b"PK\x03\x04"):
        raise DataError(f"{file} is a zip archive; unpack it")
    return file.open("rb", buffering=PEEK)


def _text(stream: BinaryIO, file: Path) -> io.BufferedReader:
    """The same bytes without a UTF-8 byte order mark.

    Raises:
        DataError: It is UTF-16 or UTF-32.
    """
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(cast(Any, stream), PEEK)
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
        value = loads(stream.read().decode("utf-8"))
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
    """The rows of an object; what it says about all of them becomes a column of each."""
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
    shared = {key: value[key] for key in ("Definition", "definition", "system") if key in value}
    return [{**shared, **row} for row in lists[keys[0]]]
