"""A small study whose fine-tunes may end early: what is trained, going on from there, and being found again."""

import io
import json
import re

import pytest
from rich.console import Console

from taskpgm_ray import Study
from taskpgm_ray.config import load_config

pytestmark = [pytest.mark.integration, pytest.mark.long]
STEPS = 8


@pytest.fixture(scope="module")
def study(local_ray, tiny_config, tmp_path_factory):
    """(overrides of the config) -> (the study, what it says); all in one folder."""
    root = tmp_path_factory.mktemp("early")

    def made(*overrides, offline=False):
        raw = tiny_config(root / "runs")
        raw["finetune"]["steps"] = STEPS
        raw["scoring"]["scorer"] = "hf"
        # Lanes and engines have room side by side, and rounds take turns.
        raw["finetune"]["lanes"]["idle_seconds"] = raw["scoring"]["engines"]["idle_seconds"] = 60
        raw |= {"search": {"balances": 0}, "mixture": {"tau": 1.5}, "affinity": {"gamma": "median"}}
        console = Console(file=io.StringIO(), width=300)
        return Study(load_config(raw, overrides), console, offline), console.file

    return made


def steps(storage):
    """Steps that were computed, of each fine-tune."""
    return {
        name: len(storage.read_bytes(f"adapters/{name}/metrics.jsonl").splitlines())
        for name in storage.names("adapters")
    }


def test_it_goes_on_where_tasks_have_not_settled_and_computes_no_step_twice(study):
    early = "finetune.early={share: 0.5, until: 0.9}"
    first, file = study(early)
    cut, said = first.run(), file.getvalue()
    assert re.search(r"at 50% of their budget \d of 4 tasks still change what they are near to", said)
    spent = steps(cut.storage)
    assert set(spent.values()) <= {STEPS // 2, STEPS}
    ended = [name for name in spent if not cut.storage.exists(f"adapters/{name}/manifest.json")]
    assert {name for name, count in spent.items() if count < STEPS} == set(ended)
    assert ("of the budget, which is" in said) == bool(ended)
    assert study(early, offline=True)[0].run().affinities.fingerprint == cut.affinities.fingerprint

    # The same study with the whole budget: what had ended goes on from there.
    whole, _ = study()
    with whole.driving():
        whole.finetune(whole.prepare())
    assert set(steps(whole.storage).values()) == {STEPS}
    for name in whole.storage.names("adapters"):
        assert json.loads(whole.storage.read_bytes(f"adapters/{name}/manifest.json"))["steps"] == STEPS
