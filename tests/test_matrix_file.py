"""Matrices as people keep them in files."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.errors import InputError
from taskpgm_ray.matrix_file import complete, read_matrix

S = np.array([[1.0, 0.25, -0.5], [0.25, 2.0, 0.125], [-0.5, 0.125, 1.5]])
NAMES = ["sums", "words", "code"]
NUMBERS = ["0", "1", "2"]


def table(delimiter=",", header=(), index=(), end="\n", tail="", write=str):
    lines = [delimiter.join(header) + tail] if header else []
    for i, row in enumerate(S):
        cells = [write(value) for value in row]
        lines.append(delimiter.join([*([index[i]] if index else []), *cells]) + tail)
    return end.join(lines) + end


def percent(value):
    return f"{100 * value:g}%"


def decimal_comma(value):
    return str(value).replace(".", ",")


TABLES = {
    "commas": ("S.csv", table(), NUMBERS),
    "an upper-case suffix": ("S.CSV", table(), NUMBERS),
    "commas and spaces": ("S.txt", table(", "), NUMBERS),
    "tabs": ("S.tsv", table("\t"), NUMBERS),
    "tabs in a csv": ("S.csv", table("\t"), NUMBERS),
    "spaces": ("S.csv", table("  "), NUMBERS),
    "bars": ("S.txt", table("|"), NUMBERS),
    "semicolons and decimal commas": ("S.csv", table(";", write=decimal_comma), NUMBERS),
    "Windows": ("S.csv", "\ufeff" + table(end="\r\n"), NUMBERS),
    "empty lines and a comment": ("S.csv", "# affinities\n\n" + table(end="\n\n"), NUMBERS),
    "commas at the ends": ("S.csv", table(tail=","), NUMBERS),
    "per cent": ("S.csv", table(write=percent), NUMBERS),
    "exponents": ("S.csv", table(write="{:.6e}".format), NUMBERS),
    "a header": ("S.csv", table(header=NAMES), NAMES),
    "a quoted header": ("S.csv", table(header=[f'"{name}"' for name in NAMES]), NAMES),
    "names in front": ("S.csv", table(index=NAMES), NAMES),
    "both": ("S.csv", table(header=["", *NAMES], index=NAMES), NAMES),
    "both, with a word in the corner": ("S.csv", table(header=["task", *NAMES], index=NAMES), NAMES),
    "both, without a corner": ("S.txt", table(" ", header=NAMES, index=NAMES), NAMES),
    "numbers as names": ("S.csv", table(header=["", "7", "8", "9"], index=["7", "8", "9"]), ["7", "8", "9"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    file, text, names = TABLES[name]
    (tmp_path / file).write_bytes(text.encode())
    found, matrix = read_matrix(str(tmp_path / file))
    assert found == names
    np.testing.assert_allclose(matrix, S, rtol=1e-12)


@pytest.mark.parametrize("triangle", ["upper", "lower"])
@pytest.mark.parametrize("names", [NAMES, []], ids=["names", "none"])
def test_one_triangle_with_empty_cells(tmp_path, triangle, names):
    half = np.triu(S) if triangle == "upper" else np.tril(S)
    cells = [[str(value) if value else "" for value in row] for row in half]
    if names:
        cells = [["", *names], *([name, *row] for name, row in zip(names, cells, strict=True))]
    (tmp_path / "S.csv").write_text("".join(",".join(row) + "\n" for row in cells))
    found, matrix = read_matrix(str(tmp_path / "S.csv"))
    assert found == (names or NUMBERS)
    np.testing.assert_array_equal(complete(matrix, triangle), S)
    with pytest.raises(InputError, match=r"3 entries are no numbers, .* --triangle upper \| lower mirrors it"):
        complete(matrix)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), None])
@pytest.mark.parametrize("column", ["task", "__index_level_0__"])
def test_parquet_with_names_in_front_or_without(tmp_path, kind, column):
    columns = {name: S[:, i] for i, name in enumerate(NAMES)}
    front = {} if kind is None else {column: pa.array(NAMES).cast(kind)}
    pq.write_table(pa.table({**front, **columns}), tmp_path / "S.parquet")
    names, matrix = read_matrix(str(tmp_path / "S.parquet"))
    assert names == NAMES
    np.testing.assert_array_equal(matrix, S)
    if front:
        pq.write_table(pa.table({column: pa.array(NAMES[::-1]).cast(kind), **columns}), tmp_path / "S.parquet")
        with pytest.raises(InputError, match="its rows are called code, words, sums, but its columns sums, words"):
            read_matrix(str(tmp_path / "S.parquet"))


@pytest.mark.parametrize("cut", [0, 100, -30])
@pytest.mark.parametrize("file", ["S.npy", "S.npz"])
def test_files_of_numpy_that_are_damaged(tmp_path, file, cut):
    np.save(tmp_path / "S.npy", S)
    np.savez(tmp_path / "S.npz", S=S)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:cut])
    with pytest.raises(InputError, match=rf"{file} is not a readable matrix"):
        read_matrix(str(tmp_path / file))


def test_files_of_numpy_and_json(tmp_path):
    np.save(tmp_path / "S.npy", S)
    np.savez(tmp_path / "S.npz", S=S, names=np.array(NAMES))
    (tmp_path / "S.json").write_text(json.dumps(S.tolist()))
    for suffix in ("npy", "npz", "json"):
        names, matrix = read_matrix(str(tmp_path / f"S.{suffix}"))
        assert names == (NAMES if suffix == "npz" else NUMBERS)
        np.testing.assert_array_equal(matrix, S)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("S.csv", "", "it is empty"),
        ("S.csv", "a,b\n", "it has a header and no rows"),
        ("S.csv", "1,2\n3\n", "not a readable matrix"),
        ("S.csv", "1,2\n3,4,5\n", "line 2 has 3 numbers, the line before it 2"),
        ("S.csv", "1,0\n0,one\n", "line 2: 'one' is no number"),
        ("S.csv", ",a,b\na,1,0\nc,0,1\n", "its rows are called a, c, but its columns a, b"),
        ("S.json", "[[1, 2], [3]]", "not a readable matrix"),
        ("S.json", '{"a": 1}', "not a readable matrix"),
        ("absent.csv", None, "No such file"),
    ],
)
def test_what_is_no_matrix(tmp_path, file, text, message):
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_matrix(str(tmp_path / file))


def test_two_matrices_in_one_file(tmp_path):
    np.savez(tmp_path / "S.npz", a=S, b=S)
    with pytest.raises(InputError, match=r"it holds 2 matrices \(a, b\)"):
        read_matrix(str(tmp_path / "S.npz"))


def test_names_are_printed(tmp_path, capsys):
    (tmp_path / "S.csv").write_text(table(header=["", *NAMES], index=NAMES))
    assert main(["solve", str(tmp_path / "S.csv"), "--tau", "0.5"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == NAMES
    assert sum(float(line[1]) for line in lines) == pytest.approx(1)
