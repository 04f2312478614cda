"""Square matrices as people keep them in files: NumPy's, JSON, and tables of text, with names or without.

Nothing but NumPy and the standard library: ``taskpgm solve`` works without the rest of the package's needs.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError

STUDY = "affinity.csv"
"""The affinities that a study's mixture rests on, in its folder."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*%?|[-+]?(nan|inf|infinity)", re.IGNORECASE)


def read_matrix(path: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The names of the rows and the matrix, not checked further; without names the rows' numbers, from 0.

    A study's folder stands for its ``affinity.csv``. ``.npy``, ``.npz`` with one matrix (and perhaps ``names``),
    ``.json`` (a list of rows), ``.parquet`` (a column a task), and text with a row a line: cells apart by commas,
    semicolons, tabs, bars or spaces; decimal commas where commas do not part the cells; per cent; a header, a column of
    names, or both; empty cells (NaN), empty lines, a byte-order mark and separators at the ends of lines.

    Raises:
        InputError: The file cannot be read as a matrix; it says where and why.
    """
    names: list[str] = []
    if Path(path).is_dir():
        path = str(Path(path) / STUDY)
    kind = Path(path).suffix.lower()
    try:
        if kind in (".npy", ".npz"):
            names, matrix = _numpy(np.load(path, allow_pickle=False))
        elif kind == ".parquet":
            names, matrix = _parquet(path)
        elif kind == ".json":
            matrix = np.array(json.loads(Path(path).read_text(encoding="utf-8-sig")), dtype=np.float64)
        else:
            names, matrix = parse_table(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is not a readable matrix: {error}") from error
    return names or [str(i) for i in range(len(np.atleast_1d(matrix)))], matrix


def affinity_table(names: Sequence[str], S: npt.NDArray[np.float64]) -> str:
    """A matrix as CSV with a header and a column of names, as pandas writes it; every digit is kept."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["", *names])
    writer.writerows([name, *map(repr, row)] for name, row in zip(names, S.tolist(), strict=True))
    return written.getvalue()


def complete(
    matrix: npt.NDArray[np.float64], triangle: str | None = None, diagonal: float | None = None
) -> npt.NDArray[np.float64]:
    """The whole matrix of one of which only a triangle, or everything but the diagonal, is known.

    Args:
        matrix: As it was read.
        triangle: ``upper`` or ``lower``: the other one is its mirror image, whatever stands there.
        diagonal: In the place of a diagonal that is not a number, or zero where only a triangle was given.

    Raises:
        InputError: It is not square, or holds what is no number; it says where.
    """
    made = np.array(matrix, dtype=np.float64)
    if made.ndim != 2 or made.shape[0] != made.shape[1]:
        raise InputError(f"a square matrix is needed, this one has the shape {made.shape}")
    if triangle is not None:
        half = np.triu(made, 1) if triangle == "upper" else np.tril(made, -1)
        made = half + half.T + np.diag(np.diag(made))
    own = np.diag(made)
    if diagonal is not None and (np.isnan(own).any() or not own.any()):
        np.fill_diagonal(made, diagonal)
    holes = np.argwhere(~np.isfinite(made))
    if len(holes):
        i, j = holes[0]
        advice = (
            "--diagonal VALUE fills the diagonal"
            if i == j
            else "is only one triangle filled in? --triangle upper | lower mirrors it"
        )
        raise InputError(f"{len(holes)} entries are no numbers, the first in row {i + 1}, column {j + 1}; {advice}")
    return made


def to_affinity(matrix: npt.NDArray[np.float64], distance: str | None) -> npt.NDArray[np.float64]:
    """The affinities S = exp(-gamma d) of distances; the matrix itself where ``distance`` is ``None``.

    Args:
        matrix: [n, n].
        distance: gamma, or ``median`` for ln 2 / median off-diagonal distance.

    Raises:
        InputError: A distance is negative, or gamma cannot be used; or similarities look like distances.
    """
    if distance is None:
        if len(matrix) > 1 and not np.diag(matrix).any() and (matrix >= 0).all() and matrix.any():
            raise InputError("the diagonal is zero and nothing is negative: are these distances? --distance says so")
        return matrix
    if (matrix < 0).any():
        raise InputError("distances must not be negative")
    try:
        gamma = (
            float(np.log(2) / np.median(matrix[np.triu_indices(len(matrix), 1)]))
            if distance == "median"
            else float(distance)
        )
    except ValueError:
        raise InputError(f"--distance takes gamma, a number, or nothing; not {distance!r}") from None
    if not (np.isfinite(gamma) and gamma > 0):
        raise InputError(f"gamma is {gamma:g}; it must be positive (is the median distance 0? give gamma)")
    return np.asarray(np.exp(-gamma * matrix))


def _parquet(path: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, types = pq.read_table(path), pa.types
    named = [
        name
        for name, kind in zip(table.column_names, table.schema.types, strict=True)
        if types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)
    ]
    numbers = table.drop_columns([name for name in table.column_names if name in named or name.startswith("__index")])
    matrix = np.column_stack([np.asarray(column, np.float64) for column in numbers.columns])
    if len(named) == 1:
        _check_names(table[named[0]].to_pylist(), numbers.column_names, matrix)
    return list(numbers.column_names), matrix


def _check_names(index: list[str], columns: list[str], matrix: npt.NDArray[np.float64]) -> None:
    """Refuse a square matrix whose rows and columns have different names, or another order of them."""
    if columns != index and matrix.shape[0] == matrix.shape[1]:
        raise ValueError(f"its rows are called {', '.join(index[:5])}, but its columns {', '.join(columns[:5])}")


def _numpy(loaded: Any) -> tuple[list[str], npt.NDArray[np.float64]]:
    if isinstance(loaded, np.ndarray):
        return [], loaded
    with loaded:
        square = [name for name in loaded.files if loaded[name].ndim == 2]
        if len(square) != 1:
            raise ValueError(f"it holds {len(square)} matrices ({', '.join(loaded.files)}); keep one, as .npy")
        names = loaded["names"].tolist() if "names" in loaded.files else []
        return [str(name) for name in names], np.asarray(loaded[square[0]])


def parse_table(text: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The names of the rows, if there are any, and the matrix, of text with a row a line: see `read_matrix`.

    Raises:
        ValueError: It is no table of numbers.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError("it is empty")
    delimiter = next((mark for mark in "\t;|," if all(mark in line for _, line in lines)), None)
    rows = [(number, _cells(line, delimiter)) for number, line in lines]
    # Of a separator at the end of every line.
    if all(len(cells) > 1 and not cells[-1] for _, cells in rows):
        rows = [(number, cells[:-1]) for number, cells in rows]
    # Tables that pandas writes have an empty corner, and may have numbers as names.
    corner = rows[0][1][0] == ""
    header = rows[0][1] if corner or any(map(_is_name, rows[0][1][1:])) else []
    body = rows[1:] if header else rows
    if not body:
        raise ValueError("it has a header and no rows")
    named = corner or (all(_is_name(cells[0]) for _, cells in body) and len(body[0][1]) > 1)
    index = [cells[0] for _, cells in body] if named else []
    if named:
        body = [(number, cells[1:]) for number, cells in body]
    for (_, first), (number, cells) in pairwise([body[0], *body]):
        if len(cells) != len(first):
            raise ValueError(f"line {number} has {len(cells)} numbers, the line before it {len(first)}")
    matrix = np.array([[_number(cell, number) for cell in cells] for number, cells in body])
    columns = header[-matrix.shape[1] :] if header else index
    if index:
        _check_names(index, columns, matrix)
    return columns, matrix


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    return cells if delimiter == "," else [re.sub(r"^([-+]?\d+),(\d+)", r"\1.\2", cell) for cell in cells]


def _is_name(cell: str) -> bool:
    return bool(cell) and not _NUMBER.fullmatch(cell)


def _number(cell: str, line: int) -> float:
    # What is not filled in: `complete` says what to do about it.
    if not cell:
        return float("nan")
    if not _NUMBER.fullmatch(cell):
        raise ValueError(f"line {line}: {cell!r} is no number")
    return float(cell.rstrip("% ")) / (100 if cell.endswith("%") else 1)
