"""CSV and TSV as records. Every value stays the text that it is: 007 is no number here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.blocks import Block, Entry
from taskpgm_ray.tasks.example import BadRow

PEEK = 1 << 18
"""Bytes that are looked at to know the separator: the header has to fit."""
_BATCH = 1024
_WRONG = "that does not end where its field does"
# A field of Python's reader may have 128 KiB by default, and documents are longer; without any limit a quote that is
# not closed would take the whole file into memory. The limit counts for all of the process.
csv.field_size_limit(1 << 24)


def table(file: Path, stream: io.BufferedReader, kind: str, quoted: bool, bad: list[BadRow]) -> Iterator[Block]:
    """The rows of a table.

    Args:
        file: For messages.
        stream: Its text in UTF-8; of a CSV the header says the separator.
        kind: ``csv`` or ``tsv``.
        quoted: Whether quotes around a field are the format's and not the text's, see `has_quotes`.
        bad: Takes the rows with too few or too many fields, or a quote in the wrong place.

    Raises:
        DataError: A column is there twice, a quote takes other lines with it, or it is not UTF-8.
    """
    delimiter = "\t" if kind == "tsv" else _delimiter(stream.peek(PEEK))
    text = io.TextIOWrapper(stream, "utf-8", newline="")
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    found = _rows(file, csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True))
    header, _ = next(found, ([], 0))
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise DataError(f"{file}: the column {min(twice)!r} is there twice; rename one")
    rows = _whole(file, header, found, bad)
    while batch := list(islice(rows, _BATCH)):
        yield Block(len(batch), partial(_take, file, header, batch))


def has_quotes(stream: io.BufferedReader) -> bool:
    """Whether the quotes of a TSV are the format's.

    They are the text's where every line has as many tabs as the first, so that none is inside of quotes, and a line
    has a quote that would not end its field: ``"Hello" she said``.
    """
    tabs, broken = -1, False
    for line in io.TextIOWrapper(stream, "utf-8", errors="replace", newline=""):
        if line.strip("\r\n"):
            tabs = line.count("\t") if tabs < 0 else tabs
            if line.count("\t") != tabs:
                return True
            broken = broken or ('"' in line and not _is_row(line))
    return not broken


def _is_row(line: str) -> bool:
    try:
        return bool(next(csv.reader([line], delimiter="\t", strict=True)))
    except csv.Error:
        return False


def _delimiter(begin: bytes) -> str:
    """The separator in the first line that is not blank; names in quotes may hold others, and lines."""
    lines = re.split(rb"\r\n|\r|\n", re.sub(rb'"[^"]*"', b"name", begin))
    head = next((line for line in lines if line.strip()), b"")
    return next((mark for mark in ",;\t|" if mark.encode() in head), ",")


def _take(file: Path, header: list[str], batch: list[tuple[int, list[str]]], indices: list[int]) -> list[Entry]:
    rows = (batch[i] for i in indices)
    return [(f"{file}, row {number}", dict(zip(header, row, strict=True))) for number, row in rows]


def _whole(
    file: Path, header: list[str], found: Iterator[tuple[list[str], int]], bad: list[BadRow]
) -> Iterator[tuple[int, list[str]]]:
    """The rows with as many fields as the header, each with its number from 1."""
    for number, (row, line) in enumerate(found, start=1):
        if len(row) == len(header):
            yield number, row
            continue
        why = f"{len(row)} fields, where the header has {len(header)}" if row else f"line {line} has a quote {_WRONG}"
        bad.append(BadRow(f"{file}, row {number}", why))


def _rows(file: Path, reader: Any) -> Iterator[tuple[list[str], int]]:
    """The fields of each row that is not blank, and its first line; no fields where a quote is in the wrong place."""
    fields = 0
    while True:
        line = reader.line_num + 1
        try:
            row: list[str] = next(reader)
            wrong = bool(fields and row) and len(row) != fields
        except StopIteration:
            return
        except csv.Error:
            row, wrong = [], True
        except UnicodeDecodeError as error:
            # Text is decoded in pieces of several lines.
            where = f"{error.reason}, in line {line} or soon behind it"
            raise DataError(f"{file}: not UTF-8 ({where}); re-encode the file") from None
        more = reader.line_num - line
        if wrong and (more or not fields):
            raise DataError(
                f"{file}, line {line}: a quote opens here {_WRONG}, and {more} lines follow inside of it; close it, or "
                "double it and put its field into quotes where it is text"
            )
        # Before the header a row of empty cells is blank as well.
        if wrong or (row and (fields or any(cell.strip() for cell in row))):
            fields = fields or len(row)
            yield row, line
