"""Rows of Arrow's formats: numbers as they are written, and objects without what a table fills in."""

import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskpgm_ray.config import TaskSpec
from taskpgm_ray.tasks.files import Files


def read(folder, columns):
    pq.write_table(pa.table(columns), folder / "a.parquet")
    (source,) = Files.expand(TaskSpec(source=f"files:{folder}/a.parquet"), f"{folder}/a.parquet", [])
    return source.read(100, 0)


@pytest.mark.parametrize(
    ("values", "kind", "texts"),
    [
        ([3.8, 0.1, 2.0, 1e-7], pa.float32(), ["3.8", "0.1", "2.0", "1e-07"]),
        ([3.8, 0.1], pa.float16(), ["3.8", "0.1"]),
        ([3.8, 2.0], pa.float64(), ["3.8", "2.0"]),
        ([[3.8, 0.1], [2.5]], pa.list_(pa.float32()), ["[3.8, 0.1]", "[2.5]"]),
        ([{"x": 3.8, "y": None}], pa.struct({"x": pa.float16(), "y": pa.float32()}), ['{"x": 3.8, "y": null}']),
        ([[("a", 0.1)], [("b", 2)]], pa.map_(pa.string(), pa.float32()), ['{"a": 0.1}', '{"b": 2.0}']),
        ([[("a", 1)]], pa.map_(pa.string(), pa.int64()), ['{"a": 1}']),
        (["0", "0.00000012"], pa.decimal128(38, 9), ["0.000000000", "0.000000120"]),
        ([{"x": "1.50"}], pa.struct({"x": pa.decimal128(9, 2)}), ['{"x": 1.50}']),
    ],
)
def test_numbers_are_written_as_the_file_has_them(tmp_path, values, kind, texts):
    if "decimal" in str(kind):
        values = [{k: decimal.Decimal(v) for k, v in v.items()} if isinstance(v, dict) else decimal.Decimal(v)
                  for v in values]  # fmt: skip
    found = read(tmp_path, {"prompt": list("pqrs")[: len(values)], "response": pa.array(values, kind)})
    assert [example.response for example in found.examples] == texts


def test_calls_have_the_arguments_that_they_were_written_with(tmp_path):
    calls = [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "stock", "arguments": {"sku": 3}}]
    talks = [
        [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [{"function": call}]}]
        for call in calls
    ]
    tools = [[{"name": "weather", "city": "text"}], [{"name": "stock", "sku": 1}]]
    found = read(tmp_path, {"messages": pa.array(talks), "tools": pa.array(tools)}).examples
    assert [example.reply()["tool_calls"][0]["function"] for example in found] == calls
    assert [example.tools() for example in found] == tools
    assert found[1].response == '{"name": "stock", "arguments": {"sku": 3}}'
