"""Square matrices as people keep them in files: NumPy's, JSON, and tables of text, with names or without.

Nothing but NumPy and the standard library: ``taskpgm solve`` works without the rest of the package's needs.
"""

from __future__ import annotations

import csv
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*%?|[-+]?(nan|inf|infinity)", re.IGNORECASE)


def read_matrix(path: str) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The names of the rows and the matrix, not checked further; without names the rows' numbers, from 0.

    ``.npy``, ``.npz`` with one matrix, ``.json`` (a list of rows), and text with a row a line: cells apart by commas,
    semicolons, tabs, bars or spaces; decimal commas where commas do not part the cells; per cent; a header, a column of
    names, or both; empty lines, a byte-order mark and separators at the ends of lines.

    Raises:
        InputError: The file cannot be read as a matrix; it says where and why.
    """
    kind = Path(path).suffix.lower()
    names: list[str] = []
    try:
        if kind in (".npy", ".npz"):
            matrix = _numpy(np.load(path, allow_pickle=False))
        elif kind == ".json":
            matrix = np.array(json.loads(Path(path).read_text(encoding="utf-8-sig")), dtype=np.float64)
        else:
            names, matrix = _table(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a readable matrix: {error}") from error
    return names or [str(i) for i in range(len(np.atleast_1d(matrix)))], matrix


def _numpy(loaded: Any) -> npt.NDArray[np.float64]:
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        square = [name for name in loaded.files if loaded[name].ndim == 2]
        if len(square) != 1:
            raise ValueError(f"it holds {len(square)} matrices ({', '.join(loaded.files)}); keep one, as .npy")
        return np.asarray(loaded[square[0]])


def _table(text: str) -> tuple[list[str], npt.NDArray[np.float64]]:
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
    header = rows[0][1] if corner or any(not _NUMBER.fullmatch(cell) for cell in rows[0][1][1:]) else []
    body = rows[1:] if header else rows
    if not body:
        raise ValueError("it has a header and no rows")
    named = corner or (all(not _NUMBER.fullmatch(cells[0]) for _, cells in body) and len(body[0][1]) > 1)
    index = [cells[0] for _, cells in body] if named else []
    if named:
        body = [(number, cells[1:]) for number, cells in body]
    for (_, first), (number, cells) in pairwise([body[0], *body]):
        if len(cells) != len(first):
            raise ValueError(f"line {number} has {len(cells)} numbers, the line before it {len(first)}")
    matrix = np.array([[_number(cell, number) for cell in cells] for number, cells in body])
    columns = header[-matrix.shape[1] :] if header else index
    if index and columns != index and matrix.shape[0] == matrix.shape[1]:
        raise ValueError(f"its rows are called {', '.join(index[:5])}, but its columns {', '.join(columns[:5])}")
    return columns, matrix


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    return cells if delimiter == "," else [re.sub(r"^([-+]?\d+),(\d+)", r"\1.\2", cell) for cell in cells]


def _number(cell: str, line: int) -> float:
    if not _NUMBER.fullmatch(cell):
        raise ValueError(f"line {line}: {cell!r} is no number")
    return float(cell.rstrip("% ")) / (100 if cell.endswith("%") else 1)
