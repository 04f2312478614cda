"""Prepared tasks without a tokenizer, for planning and scoring without a model."""

from dataclasses import asdict

import pyarrow as pa
import pytest

from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.prepare import EXAMPLES, Task, TaskFacts

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
        facts = TaskFacts(
            name=name,
            source="JsonLines",
            group=name,
            train=len(train),
            probes=len(probe),
            train_tokens=0,
            train_content=fingerprint(train),
            probe_content=fingerprint(probe),
            heldout_content="",
            read=len(train) + len(probe),
            repeats=0,
            too_long=0,
            evaluated=0,
            cut=0,
        )
        unit.finish(asdict(facts))
        return Task(name, unit)

    return make


@pytest.fixture
def model():
    return MODEL
