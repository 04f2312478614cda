"""Files that any program reads: the weights as CSV, the counted examples as JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.export.registry import exporter, messages, plain_or_chat, write_counted


@exporter("csv", "mixture.csv: one row a task")
def _csv(bundle: Bundle, folder: Path) -> list[Path]:
    path = folder / "mixture.csv"
    columns = ["name", "weight", "count", "available", "epochs", "source"]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(bundle.document["tasks"])
    return [path]


@exporter("jsonl", "mixture.jsonl: the counted examples themselves, shuffled", text=True)
def _jsonl(bundle: Bundle, folder: Path) -> list[Path]:
    return [write_counted(bundle, folder / "mixture.jsonl")]


@exporter("parquet", "mixture.parquet: the counted examples themselves, shuffled; chats as messages in JSON", text=True)
def _parquet(bundle: Bundle, folder: Path) -> list[Path]:
    path = folder / "mixture.parquet"
    # Conversations differ in what they hold; as JSON a column has one type.
    columns = ("messages", "tools", "task") if bundle.chat else ("prompt", "completion", "task")
    schema = pa.schema([(column, pa.string()) for column in columns])
    form = _conversation if bundle.chat else plain_or_chat
    rows = [form(line) | {"task": task} for task, line in bundle.counted()]
    pq.write_table(pa.Table.from_pylist(rows, schema), path, compression="zstd")
    return [path]


def _conversation(line: Line) -> dict[str, Any]:
    said = messages(line)
    return said | {"messages": json.dumps(said["messages"], ensure_ascii=False)}
