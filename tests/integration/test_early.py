"""A small study whose fine-tunes may end early: what is trained, going on from there, and being found again."""

import io
import json
import re

import pytest
from rich.console import Console

from taskpgm_ray import Study
from taskpgm_ray.config import load_config

pytestmark = pytest.mark.integration
STEPS = 8


@pytest.fixture(scope="module")
def run(local_ray, tiny_config, tmp_path_factory):
    """(study, overrides of the config) -> (result of the study, what it said)."""
    root = tmp_path_factory.mktemp("early")

    def made(study, *overrides, offline=False):
        raw = tiny_config(root / "runs", study)
        raw["finetune"]["steps"] = STEPS
        raw["scoring"]["scorer"] = "hf"
        raw |= {"search": {"balances": 0}, "mixture": {"tau": 1.5}, "affinity": {"gamma": "median"}}
        console = Console(file=io.StringIO(), width=300)
        return Study(load_config(raw, overrides), console, offline).run(), console.file.getvalue()

    return made


def steps(storage):
    """Steps that were computed, of each fine-tune."""
    return {
        name: len(storage.read_bytes(f"adapters/{name}/metrics.jsonl").splitlines())
        for name in storage.names("adapters")
    }


def test_it_ends_where_tasks_have_settled_and_goes_on_to_what_the_whole_one_is(run):
    # Any order counts as kept: all end at the first share.
    lax, said = run("cut", "finetune.early={share: 0.25, until: 1e-9}")
    assert re.search(r"at 25% of their budget \d of 4 tasks still change what they are near to", said)
    spent = steps(lax.storage)
    assert set(spent.values()) <= {STEPS // 4, STEPS // 2, STEPS}
    assert min(spent.values()) == STEPS // 4
    assert "of the budget, which is" in said

    # None may keep its order for good: all go on to the end, and no step is computed twice.
    strict, said = run("cut", "finetune.early={share: 0.25, until: 1}")
    assert "at 50% of their budget" in said
    assert set(steps(strict.storage).values()) <= {STEPS // 4, STEPS // 2, STEPS}
    again, said = run("cut", "finetune.early={share: 0.25, until: 1}", offline=True)
    assert again.affinities.fingerprint == strict.affinities.fingerprint

    whole, said = run("cut")
    assert set(steps(whole.storage).values()) == {STEPS}
    anew, _ = run("anew")
    for name in anew.storage.names("adapters"):
        file = f"adapters/{name}/adapter_model.safetensors"
        assert whole.storage.read_bytes(file) == anew.storage.read_bytes(file), name
        assert json.loads(whole.storage.read_bytes(f"adapters/{name}/manifest.json"))["steps"] == STEPS
