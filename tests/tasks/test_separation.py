"""What one task probes or holds out, no task trains."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import DataError
from taskpgm_ray.models import resolve
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.contamination import EvaluationTexts
from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units
from taskpgm_ray.tasks.separation import plain, separate


class Run:
    """What `separate` asks of a run."""

    def __init__(self, storage):
        self.storage = storage
        self.printed = io.StringIO()
        self.progress = Progress(storage, Console(file=self.printed, width=2000))


def pool_of(tmp_path, model, **files):
    """The prepared, not yet separated tasks of files with these prompts, and a run in their study."""
    entries = []
    for name, prompts in files.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(
            "".join(json.dumps({"prompt": p, "response": str(i % 5)}) + "\n" for i, p in enumerate(prompts))
        )
        entries.append(f"jsonl:{file}")
    config = load_config(
        {
            "study": "s",
            "model": {"path": str(model), "dtype": "float32", "max_length": 128},
            "pool": {"tasks": entries, "probes_per_task": 6, "heldout_per_task": 8},
            "finetune": {"steps": 1},
        }
    )
    storage = Storage(str(tmp_path / "study"))
    base = resolve(config.model, storage)
    tasks = []
    for source, unit in task_units(config, base, storage):
        if not unit.done():
            prepare_one(source, unit, config, base)
        tasks.append(Task(source.name, unit))
    return Run(storage), tasks


def prompts_of(task, *splits):
    """The prompts of these splits, spelled alike."""
    return {plain(p) for split in splits for p in task.table(split)["prompt"].to_pylist()}


SUMS = [f"What is {i} plus {i}?" for i in range(40)]
SHOUTED = [text.upper().replace(" ", " \n ") for text in SUMS]
OTHER = [f"Which colour has number {i}?" for i in range(60)]


def test_no_prompt_that_is_asked_is_trained_anywhere(tiny_llama, tmp_path):
    run, tasks = pool_of(tmp_path, tiny_llama, sums=SUMS, mix=SHOUTED + OTHER, own=SUMS[:30] + [s + " " for s in SUMS])
    asked = set().union(*(prompts_of(task, "probe", "heldout") for task in tasks))
    before = [len(prompts_of(task, "train") & asked) for task in tasks]
    assert min(before) > 0, "the tasks must overlap, or this shows nothing"
    apart = separate(run, tasks)
    assert [len(prompts_of(task, "train") & asked) for task in apart] == [0, 0, 0]
    for earlier, now in zip(tasks, apart, strict=True):
        trained, facts = now.table("train"), now.facts
        assert facts.train == trained.num_rows == len(now.examples("train"))
        assert facts.withheld == earlier.facts.train - facts.train > 0
        assert facts.train_tokens == sum(len(p) + len(r) for p, r in now.examples("train"))
        assert facts.train_content != earlier.facts.train_content
        # Everything else is as it was: nothing that no task asks is lost.
        kept = [
            i
            for i, p in zip(*(earlier.table("train")[c].to_pylist() for c in ("id", "prompt")), strict=True)
            if plain(p) not in asked
        ]
        assert trained["id"].to_pylist() == kept
        for split in ("probe", "heldout"):
            assert now.table(split).equals(earlier.table(split))
    assert "mix" in run.printed.getvalue()


def test_short_questions_of_the_evaluation_are_withheld_and_counted(tiny_llama, tmp_path):
    run, (sums, other) = pool_of(tmp_path, tiny_llama, sums=SUMS, other=OTHER)
    row = sums.table("train").to_pylist()[0]
    evaluated = EvaluationTexts.of([(row["prompt"].upper(), "never said"), ("Which colour has", "never said either")])
    apart, same = separate(run, [sums, other], evaluated)
    assert same == other
    assert apart.facts.withheld == 1
    assert row["id"] not in apart.table("train")["id"].to_pylist()
    assert "sums 1 (the evaluation (1))" in run.printed.getvalue()
    assert separate(run, [sums, other]) == [sums, other], "another evaluation is another unit"


def test_tasks_without_overlap_keep_their_facts_and_so_their_adapters(tiny_llama, tmp_path):
    run, tasks = pool_of(tmp_path, tiny_llama, sums=SUMS, other=OTHER)
    assert separate(run, tasks) == tasks
    assert [task.facts.withheld for task in separate(run, tasks)] == [0, 0]


def test_a_finished_separation_is_read_and_an_added_task_changes_only_what_it_asks(tiny_llama, tmp_path):
    run, tasks = pool_of(tmp_path, tiny_llama, sums=SUMS, mix=SHOUTED + OTHER)
    first = separate(run, tasks)
    assert separate(Run(run.storage), tasks) == first
    (unit,) = (tmp_path / "study" / "separation").iterdir()
    (unit / "withheld.json").write_text("{}")
    assert separate(run, tasks) == tasks, "the unit was made again"
    run, more = pool_of(tmp_path, tiny_llama, sums=SUMS, mix=SHOUTED + OTHER, colours=OTHER)
    sums, mix, colours = separate(run, more)
    assert sums == first[0]
    assert mix.facts.withheld > first[1].facts.withheld
    # The split ranks prompts by their hash, so what a part of this task asks it asks itself.
    assert colours == more[2]


def test_a_task_of_which_nothing_is_left_is_refused_by_name(tiny_llama, tmp_path):
    _, (sums, _) = pool_of(tmp_path, tiny_llama, sums=SUMS, other=OTHER)
    asked = sorted(prompts_of(sums, "probe", "heldout"))
    run, tasks = pool_of(tmp_path, tiny_llama, sums=SUMS, few=[*map(str.upper, asked), asked[0]])
    assert tasks[1].facts.train == 1
    with pytest.raises(DataError, match=r"task 'few': all 1 training examples are asked by (sums|few) \(1\)"):
        separate(run, tasks)
    assert not (tmp_path / "study" / "separation").exists()


@given(st.text(max_size=60))
def test_spelling_does_not_matter_and_is_settled_at_once(text):
    assert plain(plain(text)) == plain(text)
    assert plain(f"  {text}\r\n") == plain(text)
    assert plain(text.replace(" ", "\n\t")) == plain(text)


def test_other_words_are_other_prompts():
    assert plain("x + y") != plain("x - y")
    assert plain("Straße\u00a0\uff11") == "strasse 1"
