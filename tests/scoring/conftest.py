"""Prepared tasks without a tokenizer, for planning and scoring without a model."""

import pyarrow as pa
import pytest

from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.prepare import EXAMPLES, Task

MODEL = BaseModelRef(source="none", revision=None, fingerprint="model-0", dtype="float32")


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "study"))


@pytest.fixture
def make_task(storage):
    """(name, probe pairs, train pairs) -> a prepared task of these token ids."""

    def make(name, probe, train=(([9], [1]),)):
        unit = Unit(storage, f"tasks/{name}-{fingerprint(name, probe, train)}")
        rows = [
            {"id": f"{split}{i}", "split": split, "prompt_ids": list(prompt), "response_ids": list(response)}
            for split, pairs in (("probe", probe), ("train", train))
            for i, (prompt, response) in enumerate(pairs)
        ]
        unit.files.write_table(EXAMPLES, pa.Table.from_pylist(rows))
        unit.finish(
            {
                "name": name,
                "train": len(train),
                "probes": len(probe),
                "train_content": fingerprint(train),
                "probe_content": fingerprint(probe),
            }
        )
        return Task(name, unit)

    return make


@pytest.fixture
def model():
    return MODEL
