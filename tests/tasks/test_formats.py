"""Formats of files: the same records out of each, a uniform draw, and errors that name the place."""

import bz2
import collections
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.blocks import draw
from taskpgm_ray.tasks.formats import blocks_of, is_lines

RECORDS = [{"prompt": f"größe {i}?", "response": f'"{i}", mm'} for i in range(7)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in RECORDS).encode()


def zstd(content):
    return pa.Codec("zstd").compress(content).to_pybytes()


def csv(separator):
    rows = ["prompt" + separator + "response"]
    rows += [f'{row["prompt"]}{separator}"{row["response"].replace(chr(34), chr(34) * 2)}"' for row in RECORDS]
    return "\r\n".join(rows).encode()


def parquet():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(RECORDS), sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


def arrow(stream):
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(RECORDS)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def read(file, limit=1000, seed=0):
    """(records, where they stand, size, bad rows)"""
    bad = []
    drawn, size = draw(blocks_of(file, bad), limit, seed)
    return [record for _, record in drawn], [where for where, _ in drawn], size, bad


@pytest.mark.parametrize("compress", [None, gzip.compress, lzma.compress, bz2.compress, zstd])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES),
        ("crlf.jsonl", b"\r\n" + LINES.replace(b"\n", b"\r\n\r\n")),
        ("lines.json", LINES),
        ("array.json", json.dumps(RECORDS).encode()),
        ("indented.json", b"\xef\xbb\xbf" + json.dumps(RECORDS, indent=2).encode()),
        ("array.jsonl", json.dumps(RECORDS, indent=2).encode()),
        ("key.json", json.dumps({"version": 1, "tags": ["a"], "data": RECORDS}).encode()),
        ("a.csv", csv(",")),
        ("bom.csv", b"\xef\xbb\xbf" + csv(",")),
        ("semicolon.csv", csv(";")),
        ("a.tsv", csv("\t")),
        ("a.parquet", parquet()),
        ("file.arrow", arrow(False)),
        ("stream.arrow", arrow(True)),
    ],
)
def test_every_format_gives_the_same_records(tmp_path, name, content, compress):
    ending = {None: "", gzip.compress: ".gz", lzma.compress: ".xz", bz2.compress: ".bz2", zstd: ".zst"}[compress]
    file = tmp_path / f"{name}{ending}"
    file.write_bytes(compress(content) if compress else content)
    records, where, size, bad = read(file)
    assert records == RECORDS
    assert (size, bad) == (7, [])
    assert len(set(where)) == 7
    assert all(place.startswith(f"{file}, ") for place in where)


def test_a_saved_data_set(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "mood": ClassLabel(names=["sad", "glad"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], "mood": [1, 0, -1]}, features=features)
    data.save_to_disk(tmp_path / "mine")
    records, where, size, _ = read(tmp_path / "mine")
    assert records == [{"text": "a", "mood": "glad"}, {"text": "b", "mood": "sad"}, {"text": "c", "mood": None}]
    assert (size, where[2]) == (3, f"{tmp_path}/mine, row 3")
    data.to_parquet(tmp_path / "mine.parquet")
    assert read(tmp_path / "mine.parquet")[0] == records


def test_super_natural_instructions(tmp_path):
    file = tmp_path / "task.json"
    rows = [{"input": "fig", "output": ["green", "purple"]}]
    file.write_text(
        json.dumps(
            {"Definition": ["Say the colour."], "Positive Examples": [{"input": "x"}], "Instances": rows}, indent=4
        )
    )
    assert read(file)[0] == [{"Definition": ["Say the colour."], **rows[0]}]


def test_a_system_message_for_all_rows(tmp_path):
    file = tmp_path / "key.json"
    file.write_text(json.dumps({"system": "Answer in French.", "version": 1, "data": [{"a": 1}, {"system": "own"}]}))
    assert read(file)[0] == [{"system": "Answer in French.", "a": 1}, {"system": "own"}]


def test_one_object_is_one_record_and_two_lists_are_a_question(tmp_path):
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}, indent=1))
    assert len(read(file)[0]) == 1
    file.write_text(json.dumps({"good": [{"a": 1}], "better": [{"a": 2}]}))
    with pytest.raises(DataError, match=r"one\.json: rows under good, better, and it is not clear which"):
        read(file)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_other_unicode_is_named(tmp_path, coding, name):
    file = tmp_path / name
    file.write_bytes('[{"prompt": "p"}]'.encode(coding))
    with pytest.raises(DataError, match=rf"this is {coding[:6].upper()}, and only UTF-8 is read: iconv -f"):
        read(file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a"\n', r"a\.jsonl, line 2: not JSON \(Expecting"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"line 2: a JSON object is expected, not list"),
        ("a.jsonl", b'[1]\n{"a": 1}\n', r"line 1: a JSON object is expected, not list"),
        ("a.jsonl", b'{"a": "\xe9"}\n', r"line 1: not UTF-8"),
        ("a.json", b'[{"a": 1},\n{"a"]', r"a\.json: not JSON \(.*line 2"),
        ("a.json", b'[{"a": 1}, 3]', r"a\.json, record 2: a JSON object is expected, not int"),
        ("a.json", b'"text"', r"a\.json: an array or object of JSON is expected, not str"),
        ("a.csv", b"a,b\n\xe9,1\n", r"a\.csv: not UTF-8"),
        ("a.parquet", b"no parquet at all", r"a\.parquet cannot be read as Parquet"),
        ("a.arrow", b"no arrow at all, this", r"a\.arrow cannot be read as Arrow"),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], r"a\.jsonl\.gz cannot be decompressed"),
        ("a.jsonl", b"PK\x03\x04rest", r"a\.jsonl is a zip archive; unpack it"),
        ("a.jsonl", b'{"a": 1, "b": 2, "a": 3}\n', r"line 1: not JSON \(the key 'a' is there twice\)"),
        ("a.json", b'[{"a": {"b": 2, "b": 2}}]', r"a\.json: not JSON \(the key 'b' is there twice\)"),
    ],
)
def test_what_is_broken_is_named(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(file)


def test_which_files_are_lines(tmp_path):
    def lines(name, text):
        (tmp_path / name).write_text(text)
        return is_lines(tmp_path / name)

    assert lines("a.jsonl", '{"a": 1}\n')
    assert lines("a.json", '{"a": 1}\n{"a": 2}\n')
    assert not lines("a.json", '{"a": 1}\n')
    assert not lines("a.json", '{\n"a": 1}\n')
    assert not lines("a.jsonl", '[{"a": 1},\n{"a": 2}]')
    assert not lines("a.csv", "a\n1\n")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.json"])
def test_a_draw_is_uniform_seeded_and_in_the_files_order(tmp_path, name):
    file = tmp_path / name
    rows = [{"n": str(i)} for i in range(20)]
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=7)
    elif name.endswith("csv"):
        file.write_text("n\n" + "".join(f"{i}\n" for i in range(20)))
    else:
        file.write_text("\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows))
    assert read(file, 20)[0] == rows
    counts = collections.Counter()
    for seed in range(400):
        records, where, size, _ = read(file, 5, seed)
        drawn = [int(record["n"]) for record in records]
        assert drawn == sorted(drawn)
        assert [int(place.rpartition(" ")[2]) - 1 for place in where] == drawn
        assert (len(drawn), size) == (5, 20)
        counts.update(drawn)
    assert read(file, 5, 7)[0] == read(file, 5, 7)[0]
    # 400 draws of a quarter: 100 each, with a standard deviation of 8.7.
    assert min(counts[i] for i in range(20)) > 65
    assert max(counts.values()) < 135
