"""Examples as the token ids that the study trained, for trainers that take ids instead of text.

Text would be tokenised anew by each trainer's own rule. Most tokenise prompt and response apart, which gives other ids
at the border, and cut at an end, or drop, what the study has cut in the middle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.storage import fingerprint

NOT_LEARNED = -100
"""The label of a token that gives no loss, in every trainer built on torch."""
COLUMNS = ("input_ids", "attention_mask", "labels")
ROWS = 1_000
"""Rows of a batch that is written at once."""


def labelled(line: Line) -> dict[str, Any]:
    """Ids, their attention mask, and the labels, which are the completion's ids."""
    labels = [NOT_LEARNED] * len(line.prompt_ids) + line.completion_ids
    return dict(zip(COLUMNS, (line.ids, [1] * len(line.ids), labels), strict=True))


def write_dataset(bundle: Bundle, folder: Path) -> list[Path]:
    """The counted mixture, shuffled, as Hugging Face's ``load_from_disk`` reads it: of the columns above.

    Written by hand, and its columns in the spelling of datasets 2 and 3 (``Sequence``), which datasets 4 reads as well:
    what it would save itself only its own version and later ones could read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data-00000-of-00001.arrow"
    schema = pa.schema([(name, pa.list_(pa.int32())) for name in COLUMNS])
    with pa.OSFile(str(data), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for rows in _batches(bundle):
            stream.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    kind = {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "Sequence"}
    info = {"citation": "", "description": "", "features": dict.fromkeys(COLUMNS, kind), "homepage": "", "license": ""}
    state: dict[str, Any] = {
        "_data_files": [{"filename": data.name}],
        # Caches of what is computed from the rows go by it.
        "_fingerprint": content_of(bundle),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    paths = [data]
    for name, content in (("dataset_info.json", info), ("state.json", state)):
        paths.append(folder / name)
        paths[-1].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return paths


def content_of(bundle: Bundle) -> str:
    """16 hex digits that name what `write_dataset` writes."""
    return fingerprint(bundle.document, bundle.seed)


def _batches(bundle: Bundle) -> Iterator[list[dict[str, Any]]]:
    rows = (labelled(line) for _, line in bundle.counted())
    while batch := list(islice(rows, ROWS)):
        yield batch
