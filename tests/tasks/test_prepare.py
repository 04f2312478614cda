"""Preparing a task: the split into train and probe, repeats, counts, and what the unit's name depends on."""

import json
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray import load_config
from taskpgm_ray.errors import DataError
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.prepare import Task, TaskFacts, bad_rows, prepare_one, task_units


def config_of(tiny_llama, *files, **pool):
    return load_config(
        {
            "study": "s",
            "model": {"path": str(tiny_llama), "dtype": "float32", "max_length": 48},
            "pool": {"tasks": [f"jsonl:{file}" for file in files], "probes_per_task": 5, **pool},
            "finetune": {"steps": 1},
        }
    )


class SameTokenizer:
    """A base model whose tokenizer is loaded once, for tests that prepare hundreds of tasks."""

    def __init__(self, model):
        self.fingerprint = model.fingerprint
        self._tokenizer = model.tokenizer()

    def tokenizer(self):
        return self._tokenizer


@pytest.fixture(scope="module")
def model(tiny_llama, tmp_path_factory):
    return SameTokenizer(resolve(config_of(tiny_llama, "a").model, Storage(str(tmp_path_factory.mktemp("root")))))


@pytest.fixture(scope="module")
def prepared(tiny_llama, model, tmp_path_factory):
    """(records) -> the prepared task of a file that holds them."""

    def prepare(records, answers=None, **pool):
        root = tmp_path_factory.mktemp("task")
        for name in ("task", "other"):
            (root / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        config = config_of(tiny_llama, root / "task.jsonl", root / "other.jsonl", **pool)
        if answers:
            config = load_config(config.model_dump(mode="json", by_alias=True), [f"pool.tasks.0.answers={answers}"])
        source, unit = task_units(config, model, Storage(str(root / "study")))[0]
        prepare_one(source, unit, config, model)
        return Task(source.name, unit)

    return prepare


def records(count):
    return [{"prompt": f"question {i}", "response": f"answer {i % 3}"} for i in range(count)]


def test_counts_columns_and_manifest(prepared):
    task = prepared(records(20))
    assert (task.facts.train, task.facts.probes, task.facts.read) == (15, 5, 20)
    probe, train = task.table("probe"), task.table("train")
    assert (len(probe), len(train)) == (5, 15)
    assert set(probe.column_names) == {"id", "split", "prompt", "response", "prompt_ids", "response_ids", "cut"}
    tokens = sum(len(p) + len(r) for p, r in task.examples("train"))
    assert task.facts.train_tokens == tokens
    assert task.examples("probe") == list(
        zip(probe["prompt_ids"].to_pylist(), probe["response_ids"].to_pylist(), strict=True)
    )


@settings(max_examples=25)
@given(
    prompts=st.lists(st.integers(0, 40), min_size=12, max_size=60).filter(lambda p: len(set(p)) > 5),
    seed=st.integers(0, 3),
)
def test_train_and_probe_share_no_prompt_and_do_not_depend_on_the_order(prepared, prompts, seed):
    rows = [{"prompt": f"question {p}", "response": f"answer {p % 3}"} for p in prompts]
    task = prepared(rows)
    random.Random(seed).shuffle(rows)
    again = prepared(rows)
    probe, train = (set(task.table(split)["prompt"].to_pylist()) for split in ("probe", "train"))
    assert not probe & train
    assert len(probe) == 5
    assert probe | train == {row["prompt"] for row in rows}
    assert again.facts.probe_content == task.facts.probe_content
    assert again.facts.train_content == task.facts.train_content
    assert again.table("probe").equals(task.table("probe"))
    assert task.facts.repeats == len(prompts) - len(set(prompts))


@pytest.mark.parametrize("split", ["train", "probe", "heldout"])
def test_a_mended_answer_is_another_content(prepared, split):
    """Adapters, segments and items are named by these fingerprints: with the same ones, old answers would stay."""
    rows = records(20)
    before = prepared(rows, heldout_per_task=4)
    (question, *_) = before.table(split)["prompt"].to_pylist()
    mended = [{**row, "response": "mended"} if row["prompt"] == question else row for row in rows]
    after = prepared(mended, heldout_per_task=4)
    changed = {name for name in ("train", "probe", "heldout") if before.table(name) != after.table(name)}
    assert changed == {split}
    for name in ("train", "probe", "heldout"):
        same = getattr(before.facts, f"{name}_content") == getattr(after.facts, f"{name}_content")
        assert same == (name != split)


def test_more_examples_only_add(prepared):
    """A probe of the smaller file that is still a probe, or moved to train, is not duplicated."""
    small, large = prepared(records(20)), prepared(records(40))
    assert set(small.table("probe")["id"].to_pylist()) <= set(
        large.table("probe")["id"].to_pylist() + large.table("train")["id"].to_pylist()
    )
    assert large.facts.train == 35


def test_a_question_with_two_answers_is_on_one_side(prepared):
    rows = [{"prompt": f"question {i // 2}", "response": "yes" if i % 2 else "no"} for i in range(40)]
    one = prepared(rows, duplicates="one")
    assert one.facts.repeats == 20
    assert set(one.table("train")["response"].to_pylist()) | set(one.table("probe")["response"].to_pylist()) == {"no"}
    both = prepared(rows)
    train, probe = both.table("train").to_pylist(), both.table("probe").to_pylist()
    # A question is learned with both answers, or asked once.
    assert (len(train), len(probe), both.facts.repeats) == (30, 5, 5)
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in probe)
    answers = {
        prompt: {row["response"] for row in train if row["prompt"] == prompt} for prompt in (r["prompt"] for r in train)
    }
    assert set(map(frozenset, answers.values())) == {frozenset({"yes", "no"})}
    assert len({row["id"] for row in train}) == 30


def test_which_answer_is_asked_does_not_depend_on_the_order(prepared):
    rows = [{"prompt": f"question {i // 3}", "response": f"answer {i % 3}"} for i in range(60)]
    task, again = prepared(rows), prepared(rows[::-1])
    assert again.facts.probe_content == task.facts.probe_content
    assert again.facts.train_content == task.facts.train_content


def test_the_same_answer_counts_once(prepared):
    rows = [*records(20), *records(20)]
    for duplicates in ("keep", "one"):
        task = prepared(rows, duplicates=duplicates)
        assert (task.facts.train, task.facts.probes, task.facts.repeats) == (15, 5, 20)


def test_overlong_examples_are_counted_and_prompts_cut(prepared):
    rows = [*records(10), {"prompt": "long", "response": "word " * 60}, {"prompt": "word " * 100, "response": "r"}]
    with pytest.raises(DataError, match=r"1 of 12 rows cannot be used, .*line 11: the response is longer than"):
        prepared(rows)
    task = prepared(rows, max_bad_share=0.1)
    assert (task.facts.too_long, task.facts.cut, task.facts.read) == (1, 1, 12)
    (bad,) = bad_rows(task.unit)
    assert bad.where.endswith("task.jsonl, line 11")
    assert task.facts.train + task.facts.probes == 11
    assert all(len(p) + len(r) <= 48 for split in ("train", "probe") for p, r in task.examples(split))


def test_too_few_examples(prepared):
    with pytest.raises(DataError, match=r"task 'task' has 5 usable different examples \(2 repeats, 1 over-long"):
        prepared([*records(5), *records(2), {"prompt": "p", "response": "word " * 60}], max_bad_share=1)


def test_what_is_available_counts_the_rows_that_were_not_drawn(prepared):
    facts = prepared([*records(30), *records(2)], max_examples=16).facts
    assert (facts.read, facts.size) == (16, 32)
    assert facts.available == 32 - 16 + facts.train
    whole = prepared(records(30)).facts
    assert whole.available == whole.train == 25


def test_a_task_with_one_prompt_is_told_so(prepared):
    rows = [{"prompt": "Make up a name.", "response": f"name {i}"} for i in range(20)]
    with pytest.raises(DataError, match=r"its 20 rows have only 1 prompt, .* Put what tells the rows apart into"):
        prepared(rows)


def test_max_examples_limits_what_is_read_and_the_size_is_recorded(prepared):
    facts = prepared(records(30), max_examples=8).facts
    assert (facts.read, facts.size) == (8, 30)


def test_the_content_follows_the_responses(prepared):
    """Or an adapter that was trained on wrong answers would be found again for the right ones."""
    first = prepared(records(20)).facts
    other = prepared([{**row, "response": "other"} for row in records(20)]).facts
    assert first.train_content != other.train_content
    assert first.probe_content != other.probe_content


def test_all_answers_are_learned_and_one_of_them_is_probed(prepared):
    rows = [{"prompt": f"question {i}", "response": ["yes", "no"]} for i in range(20)]
    task = prepared(rows, answers="all")
    assert (task.facts.train, task.facts.probes, task.facts.repeats) == (30, 5, 5)
    probe, train = task.table("probe"), task.table("train")
    assert set(probe["response"].to_pylist()) == {"yes"}
    assert sorted(train["response"].to_pylist()) == ["no"] * 15 + ["yes"] * 15
    assert not set(probe["prompt"].to_pylist()) & set(train["prompt"].to_pylist())
    assert len(set(train["id"].to_pylist())) == 30


def test_all_answers_of_a_repeated_prompt_are_repeats(prepared):
    rows = [{"prompt": f"question {i // 2}", "response": ["yes", "no"] if i % 2 else ["a", "b"]} for i in range(40)]
    task = prepared(rows, answers="all", duplicates="one")
    assert set(task.table("train")["response"].to_pylist()) == {"a", "b"}
    # Two of each of 20 repeated rows, and one of each of five probes.
    assert task.facts.repeats == 45


def test_bad_rows_do_not_end_a_study(prepared):
    rows = [{"prompt": f"question {i}", "response": None if i in (3, 9) else "r"} for i in range(60)]
    task = prepared(rows)
    assert (task.facts.train, task.facts.bad, task.facts.read) == (53, 2, 60)
    assert [(bad.where.rpartition(", ")[2], bad.why) for bad in bad_rows(task.unit)] == [
        ("line 4", "the response is empty"),
        ("line 10", "the response is empty"),
    ]


def test_a_manifest_of_an_earlier_version_is_read(prepared):
    manifest = prepared(records(20)).unit.manifest()
    older = {key: value for key, value in manifest.items() if key not in ("bad", "size", "layout")}
    assert (TaskFacts.of(older).size, TaskFacts.of(older).bad) == (None, 0)
    assert TaskFacts.of(manifest).size == 20


def test_a_unit_depends_on_what_matters_to_it(tiny_llama, model, tiny_pool):
    files = [tiny_pool / "sum.jsonl", tiny_pool / "copy.jsonl"]
    storage = Storage("somewhere")
    config = config_of(tiny_llama, *files)

    def paths(config, model=model):
        return [unit.path for _, unit in task_units(config, model, storage)]

    original = paths(config)
    assert original[0].startswith("tasks/sum-")
    assert paths(config_of(tiny_llama, *reversed(files))) == original[::-1]
    assert not set(paths(config, SimpleNamespace(fingerprint="another model"))) & set(original)
    raw = config.model_dump(mode="json", by_alias=True)

    def altered(*overrides):
        return paths(load_config(raw, overrides))

    assert altered("finetune.steps=9", "mixture.tau=2", "search.seeds=4", "study=t", "scoring.top_k=5") == original
    for override in ("seed=1", "pool.probes_per_task=6", "pool.max_examples=50", "model.max_length=40"):
        assert not set(altered(override)) & set(original), override


def test_what_an_earlier_reading_gave_the_same_ids_keeps_its_content(tiny_llama, model, tmp_path):
    """Adapters and scores are named by it; a split that is read otherwise today gets a content of its own."""
    from taskpgm_ray.tasks import prepare

    for name in ("task", "other"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records(20)))
    config = config_of(tiny_llama, tmp_path / "task.jsonl", tmp_path / "other.jsonl")
    source, unit = task_units(config, model, Storage(str(tmp_path / "study")))[0]
    earlier = prepare._unit(source, unit.storage, config, model, prepare.NOTHING)
    assert earlier.path != unit.path
    prepare_one(source, unit, config, model)
    table, facts = unit.files.read_table(prepare.EXAMPLES), unit.manifest()
    changed = [row | {"response_ids": [7]} if row["split"] == "probe" else row for row in table.to_pylist()]
    earlier.files.write_table(prepare.EXAMPLES, prepare.pa.Table.from_pylist(changed))
    earlier.finish({**facts, "train_content": "old train", "probe_content": "old probe"})
    prepare_one(source, unit, config, model)
    again = Task(source.name, unit).facts
    assert (again.train_content, again.probe_content) == ("old train", facts["probe_content"])


def test_data_that_changed_since_the_unit_was_named_are_refused(tiny_llama, model, tmp_path):
    for name in ("task", "other"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records(20)))
    config = config_of(tiny_llama, tmp_path / "task.jsonl", tmp_path / "other.jsonl")
    source, unit = task_units(config, model, Storage(str(tmp_path / "study")))[0]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records(21)))
    with pytest.raises(DataError, match="task 'task': its data are not those that this run started with"):
        prepare_one(source, unit, config, model)
    assert not unit.done()
