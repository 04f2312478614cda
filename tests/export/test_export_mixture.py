import json

import numpy as np
import pytest

from taskpgm_ray.errors import InputError, StorageError
from taskpgm_ray.export import MixtureDocument, MixtureTask, check_mixture, load_mixture
from taskpgm_ray.export.mixture import take, weighted

RECORDED = """\
{
 "version": 1,
 "study": "demo",
 "fingerprint": "0123456789abcdef",
 "chosen": "taskpgm",
 "recommended": "taskpgm",
 "tau": 2.0,
 "beta_over_lambda": 0.5,
 "beta": null,
 "lambda": null,
 "energy": -0.25,
 "gap": 1e-16,
 "affinity": "jsd",
 "gamma": 3.5,
 "noise_floor": null,
 "share": "examples",
 "prompt_format": "plain",
 "separator": null,
 "examples": 100,
 "tasks": [
  {
   "name": "boolq",
   "weight": 0.5,
   "count": 50,
   "available": 40,
   "epochs": 1.25,
   "source": "jsonl:boolq.jsonl",
   "recommended_weight": 0.5,
   "recommended_count": 50,
   "tokens": null,
   "held_by": [],
   "low": null,
   "high": null,
   "inclusion": null,
   "unit": null,
   "withheld": null
  },
  {
   "name": "mawps",
   "weight": 0.3,
   "count": 30,
   "available": 100,
   "epochs": 0.3,
   "source": "jsonl:mawps.jsonl",
   "recommended_weight": 0.3,
   "recommended_count": 30,
   "tokens": null,
   "held_by": [],
   "low": null,
   "high": null,
   "inclusion": null,
   "unit": null,
   "withheld": null
  },
  {
   "name": "unused",
   "weight": 0.0,
   "count": 0,
   "available": 10,
   "epochs": 0.0,
   "source": "jsonl:unused.jsonl",
   "recommended_weight": 0.0,
   "recommended_count": 0,
   "tokens": null,
   "held_by": [],
   "low": null,
   "high": null,
   "inclusion": null,
   "unit": null,
   "withheld": null
  },
  {
   "name": "sst2",
   "weight": 0.2,
   "count": 20,
   "available": 20,
   "epochs": 1.0,
   "source": "jsonl:sst2.jsonl",
   "recommended_weight": 0.2,
   "recommended_count": 20,
   "tokens": null,
   "held_by": [],
   "low": null,
   "high": null,
   "inclusion": null,
   "unit": null,
   "withheld": null
  }
 ]
}"""


def test_document_derives_what_follows_from_its_arguments(document):
    assert document["examples"] == 100
    assert document["beta_over_lambda"] == 0.5  # tau / n
    assert document["beta"] is None
    assert [task["epochs"] for task in document["tasks"]] == [1.25, 0.3, 0.0, 1.0]
    assert document["tasks"][1]["source"] == "jsonl:mawps.jsonl"


def test_the_document_is_written_as_it_always_was(document):
    """Recorded with the first version of the schema, but for keys that came later: other programs read this file."""
    assert json.dumps(document, indent=1) == RECORDED


def test_what_a_search_by_merges_found_stands_in_the_document():
    tasks = (MixtureTask(name="a", weight=1.0, count=1, available=5, source=""),)
    found = {"scored": 100, "used": True, "proposed": ["tau-1"]}
    made = MixtureDocument(study="s", fingerprint="f", tasks=tasks, tau=1.0, merges=found).as_json()
    assert made["merges"] == found
    check_mixture(made, "here")


def test_numpy_values_become_plain_numbers():
    weights, counts, available = np.array([0.1, 0.2, 0.7]), np.array([1, 2, 7]), np.array([5, 5, 3])
    tasks = tuple(
        MixtureTask(name=name, weight=w, count=c, available=a, source="")
        for name, w, c, a in zip("abc", weights, counts, available, strict=True)
    )
    document = MixtureDocument(
        study="s", fingerprint="f", tasks=tasks, tau=np.float64(1 / 3), gap=0, beta=1, lambda_=np.float32(9)
    ).as_json()
    assert json.loads(json.dumps(document)) == document
    assert (document["beta"], document["lambda"], document["tasks"][2]["epochs"]) == (1.0, 9.0, 7 / 3)


def test_a_document_that_would_be_invalid_is_not_made():
    tasks = tuple(MixtureTask(name="a", weight=0.5, count=1, available=5, source="") for _ in range(2))
    with pytest.raises(InputError, match="the mixture: the task 'a' occurs twice"):
        MixtureDocument(study="s", fingerprint="f", tasks=tasks, tau=1.0).as_json()
    with pytest.raises(InputError, match="tasks must be a list with at least one task"):
        MixtureDocument(study="s", fingerprint="f", tasks=(), tau=1.0).as_json()


def test_round_trip_through_a_file_changes_nothing(document, tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(document))
    assert load_mixture(path) == document
    assert load_mixture(str(path)) == document
    assert load_mixture(f"file://{path}") == document


def test_a_relative_path_is_read_from_the_working_folder(document, tmp_path, monkeypatch):
    (tmp_path / "mixture.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    assert load_mixture("mixture.json") == document


def test_a_baseline_has_no_balance():
    tasks = tuple(MixtureTask(name=name, weight=0.5, count=1, available=5, source="") for name in "ab")
    document = MixtureDocument(study="s", fingerprint="f", tasks=tasks, tau=None, chosen="uniform").as_json()
    assert (document["tau"], document["beta_over_lambda"], document["chosen"]) == (None, None, "uniform")


def test_rounding_within_the_tolerance_is_accepted_and_beyond_it_refused(document, tmp_path):
    path = tmp_path / "mixture.json"
    document["tasks"][0]["weight"] = 0.5 + 5e-10
    path.write_text(json.dumps(document))
    load_mixture(path)
    document["tasks"][0]["weight"] = 0.5 + 2e-9
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"the weights sum to 1\.000000002"):
        load_mixture(path)


def task(**changes):
    return lambda document: document["tasks"][1].update(changes)


def top(**changes):
    return lambda document: document.update(changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (task(weight=0.4), r"mixture.json: the weights sum to 1\.1"),
        (task(weight=-0.3), r"tasks\[1\].weight of 'mawps' must be a number >= 0, not -0.3"),
        (task(weight="0.3"), r"tasks\[1\].weight of 'mawps' must be a number"),
        (task(weight=True), r"tasks\[1\].weight of 'mawps' must be a number"),
        (task(weight=float("nan")), r"tasks\[1\].weight of 'mawps' must be a number"),
        (task(weight=0), "'mawps' has weight 0 but is to give 30 examples"),
        (task(count=31), "the counts sum to 101, but examples is 100"),
        (task(count=30.0), r"tasks\[1\].count of 'mawps' must be a whole number"),
        (task(count=-1), r"tasks\[1\].count of 'mawps' must be a whole number"),
        (task(available=None), r"tasks\[1\].available of 'mawps' must be a whole number"),
        (task(available=0), "'mawps' is to give 30 examples but has none"),
        (task(name="boolq"), "the task 'boolq' occurs twice"),
        (task(name=""), r"tasks\[1\].name must be a non-empty string"),
        (top(tasks=[]), "tasks must be a list with at least one task"),
        (top(tasks=["a"]), r"tasks\[0\] must be an object, not 'a'"),
        (top(version=2), "schema version 2; this program reads version 1"),
        (top(study=None), "study must be a string"),
        (top(tau="much"), "tau must be a number or null, not 'much'"),
        (lambda document: document.pop("gap"), "gap must be a number or null"),
    ],
)
def test_a_damaged_document_is_refused_with_what_is_wrong(document, tmp_path, damage, message):
    damage(document)
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        load_mixture(path)


def test_unreadable_files(tmp_path):
    with pytest.raises(StorageError, match=r"mixture.json is missing"):
        load_mixture(tmp_path / "mixture.json")
    (tmp_path / "mixture.json").write_text("{")
    with pytest.raises(StorageError, match="is not JSON"):
        load_mixture(tmp_path / "mixture.json")
    (tmp_path / "mixture.json").write_text("[]")
    with pytest.raises(InputError, match="a JSON object, not a list"):
        load_mixture(tmp_path / "mixture.json")


def test_a_recommended_mixture_is_held_beside_the_chosen_one(document):
    tasks = tuple(
        MixtureTask(name=name, weight=weight, count=count, available=available, source="s")
        for name, weight, count, available in zip("abc", (0.7, 0.3, 0.0), (7, 3, 0), (5, 5, 5), strict=True)
    )
    made = MixtureDocument(
        study="s", fingerprint="f", tasks=tasks, tau=1.0, recommended="uniform", recommended_weights=np.full(3, 1 / 3)
    ).as_json()
    assert (made["chosen"], made["recommended"]) == ("taskpgm", "uniform")
    assert [task["weight"] for task in made["tasks"]] == [0.7, 0.3, 0.0]
    assert [task["recommended_weight"] for task in made["tasks"]] == pytest.approx([1 / 3] * 3)
    assert sorted(task["recommended_count"] for task in made["tasks"]) == [3, 3, 4]
    taken = take(made, "recommended")
    assert [task["weight"] for task in taken["tasks"]] == pytest.approx([1 / 3] * 3)
    assert [task["epochs"] for task in taken["tasks"]] == [task["count"] / 5 for task in taken["tasks"]]
    check_mixture(taken, "taken")
    assert take(made, "chosen") == made
    # Documents of earlier versions know no recommendation.
    del made["recommended"]
    assert take(made, "recommended") == made


@pytest.mark.parametrize(
    "wrong", [{"recommended_weight": -0.1}, {"recommended_weight": 0.9}, {"recommended_count": 1.5}]
)
def test_a_recommendation_that_is_none_is_refused(document, wrong):
    document["tasks"][0] |= wrong
    with pytest.raises(InputError, match="recommended"):
        check_mixture(document, "here")


def test_weights_that_are_shares_of_tokens_have_counts_of_examples():
    """All mixtures of a study have as many tokens, and as many examples as these are."""
    tasks = tuple(
        MixtureTask(name=name, weight=0.5, count=count, available=100, source="", tokens=tokens)
        for name, count, tokens in (("short", 80, 10.0), ("long", 20, 40.0))
    )
    document = MixtureDocument(
        study="s",
        fingerprint="f",
        tasks=tasks,
        tau=1.0,
        share="tokens",
        recommended="uniform",
        recommended_weights=np.array([0.2, 0.8]),
    ).as_json()
    assert document["examples"] == 100
    # 0.2 and 0.8 of 1,600 tokens.
    assert [task["recommended_count"] for task in document["tasks"]] == [32, 32]
    assert [task["count"] for task in take(document, "recommended")["tasks"]] == [32, 32]
    # 40 examples of the pool's mean length, 25 tokens, half of them for either task.
    other = weighted(document, None, 40)
    assert [task["count"] for task in other["tasks"]] == [50, 12]
    assert other["examples"] == 62
    check_mixture(other, "here")
    assert weighted(document, None, 1)["examples"] >= 1


def test_another_mixture_of_tokens_has_as_many_tokens(tmp_path):
    tasks = tuple(
        MixtureTask(name=name, weight=0.5, count=count, available=100, source="", tokens=tokens)
        for name, count, tokens in (("short", 80, 10.0), ("long", 20, 40.0))
    )
    document = MixtureDocument(study="s", fingerprint="f", tasks=tasks, tau=1.0, share="tokens").as_json()
    (tmp_path / "other.csv").write_text("short,0.1\nlong,0.9\n")
    other = weighted(document, str(tmp_path / "other.csv"))
    assert [task["count"] for task in other["tasks"]] == [16, 36]
    assert other["examples"] == 52
