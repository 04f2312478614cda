"""Files that any program reads: the weights as CSV, the counted examples as JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from taskpgm_ray.export.examples import Bundle
from taskpgm_ray.export.registry import exporter, messages, write_counted


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


@exporter("parquet", "mixture.parquet: the counted examples themselves, shuffled; chats as JSON", text=True)
def _parquet(bundle: Bundle, folder: Path) -> list[Path]:
    path = folder / "mixture.parquet"
    rows = [
        {"prompt": line.prompt, "completion": line.completion, "task": task}
        | ({"messages": json.dumps(messages(line)["messages"], ensure_ascii=False)} if bundle.chat else {})
        for task, line in bundle.counted()
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    return [path]
