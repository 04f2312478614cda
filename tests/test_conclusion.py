"""The document of a conclusion: its counts are those that the constraints were made for."""

from types import SimpleNamespace

import numpy as np

from taskpgm_ray.conclusion import Conclusion
from taskpgm_ray.config import load_config
from taskpgm_ray.mixture import constraints_of
from taskpgm_ray.mrf import Limits
from taskpgm_ray.search.families import Family


def test_shares_of_tokens_become_a_document_of_the_documented_size():
    """All weight on the long task was more examples than it may give; most of it was five times as many tokens."""
    mixture = {"share": "tokens", "examples": 1000, "constraints": {"max_epochs": 4}}
    given = {"study": "s", "model": {"path": "m"}, "pool": {"tasks": ["files:a"]}, "finetune": {"steps": 1}}
    config = load_config(given | {"mixture": mixture})
    names, sizes, lengths = ["long", "short"], [100, 10_000], [1000.0, 10.0]
    facts = [SimpleNamespace(available=a, tokens_per_example=t, source="") for a, t in zip(sizes, lengths, strict=True)]
    unit = SimpleNamespace(path="")
    tasks = [SimpleNamespace(name=n, facts=f, unit=unit, withheld=None) for n, f in zip(names, facts, strict=True)]
    limits = constraints_of(config.mixture, names, sizes, lengths)
    family = Family("jsd", "jsd", np.eye(2), None, None, True, limits=Limits.none(2))
    for weights, counts in (([1.0, 0.0], [20, 0]), ([0.9, 0.1], [18, 198])):
        reached = Conclusion(family, 0.0, np.array(weights))
        document = reached.document(config, tasks, SimpleNamespace(fingerprint="f"), limits).as_json()
        assert [task["count"] for task in document["tasks"]] == counts
        assert document["examples"] == sum(counts)
