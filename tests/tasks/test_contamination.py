"""Examples that repeat evaluation items, and tasks that are parts of one data set."""

import json
import random
from pathlib import Path

import pytest

from taskpgm_ray.config import PoolConfig, load_config
from taskpgm_ray.evaluation.items import bbh_item, mmlu_item, parse_lines
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.contamination import NOTHING, EvaluationTexts
from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units
from taskpgm_ray.tasks.sources import data_set, task_sources

ITEM = "Which of the following planets has the largest number of known moons in orbit?"
BENCHMARKS = Path(__file__).parents[3] / "shared" / "data"


def items_of(benchmark, file):
    """The items of a file of MMLU or BBH, as the folder source reads them."""
    read = {"mmlu": mmlu_item, "bbh": bbh_item}[benchmark]
    for record, where in parse_lines(file.read_text(), file.name):
        yield read(file.stem, record, where)


def test_ten_words_in_a_row_are_a_repeat_and_nine_are_not():
    texts = EvaluationTexts.of([(ITEM, "Saturn")])
    words = ITEM.split()
    assert texts.shares_a_run_with("Answer. which OF the following planets: has the largest number of known things")
    assert not texts.shares_a_run_with(" ".join([*words[:9], "bright", *words[9:18]]))
    assert not NOTHING.shares_a_run_with(ITEM)
    assert (
        EvaluationTexts.of([(ITEM.upper(), "")]).identity
        == texts.identity
        != EvaluationTexts.of([(ITEM[6:], "")]).identity
    )


SHORT = [
    ("The trachea", "divides at the thoracic inlet."),
    ("not ( True ) and ( True ) is", "False"),
    ("2 - -3 =", "5"),
]


@pytest.mark.parametrize(
    ("prompt", "response", "found"),
    [
        ("Question: THE  trachea\nA. lies deep\nB. divides at the thoracic inlet.\nAnswer:", "B", True),
        ("Complete: The trachea ...", "divides at the thoracic inlet", True),
        ("the trachea?", "is a tube", True),
        ("Tell me of the trachea of birds", "It lies deep to the oesophagus", False),
        ("the tracheas", "divides at the thoracic inlet", False),
        ("Evaluate not (True) and (True) is", "False", True),
        ("Evaluate not True and True is", "False", False),
        ("What is 2 - -3 = ?", "5", True),
        ("What is 2 + 3 = ?", "5", False),
        ("What is 2 - -3 = ?", "15", False),
    ],
)
def test_a_short_question_counts_with_its_right_answer_or_alone(prompt, response, found):
    texts = EvaluationTexts.of(SHORT)
    assert not texts.runs
    assert texts.holds_short(prompt, response) is found
    assert not NOTHING.holds_short(prompt, response)
    assert texts.short_identity != EvaluationTexts.of(SHORT[1:]).short_identity


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs MMLU and BBH")
def test_verbatim_copies_of_short_benchmark_items_are_all_found():
    """200 questions without a run, copied with and without the choices, and another case and white space."""
    items = [
        item
        for benchmark in ("mmlu", "bbh")
        for file in sorted((BENCHMARKS / benchmark).glob("*.jsonl"))
        for item in items_of(benchmark, file)
    ]
    texts = EvaluationTexts.of((item.question, item.right_answer) for item in items)
    short = [item for item in items if not EvaluationTexts.of([(item.question, "")]).runs]
    assert len(short) > 1000
    planted = random.Random(0).sample(short, 200)
    for item in planted:
        choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", item.choices, strict=False))
        assert texts.holds_short(item.question, "?")
        assert texts.holds_short(f"Question:\n{item.question.upper()} \n{choices}\nAnswer:", item.right_answer), item
        assert texts.holds_short("Answer. " + item.question.replace(" ", "\n "), f"It is {item.right_answer}."), item


def test_repeats_of_evaluation_items_are_dropped_and_counted(tiny_llama, tmp_path):
    records = [{"prompt": f"{i} plus {i} =", "response": str(2 * i)} for i in range(20)]
    records.append({"prompt": f"Question {ITEM}", "response": "Saturn"})
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    other = tmp_path / "other.jsonl"
    other.write_text(file.read_text())
    config = load_config(
        {
            "study": "s",
            "model": {"path": str(tiny_llama), "dtype": "float32", "max_length": 128},
            "pool": {"tasks": [f"jsonl:{file}", f"jsonl:{other}"], "probes_per_task": 4, "heldout_per_task": 5},
            "finetune": {"steps": 1},
        }
    )
    storage = Storage(str(tmp_path / "study"))
    model = resolve(config.model, storage)
    evaluated = EvaluationTexts.of([(ITEM, "Saturn")])
    ((source, unit), _) = task_units(config, model, storage, evaluated)
    assert unit.path != task_units(config, model, storage)[0][1].path
    prepare_one(source, unit, config, model, evaluated)
    task = Task(source.name, unit)
    assert (task.facts.evaluated, task.facts.probes, task.facts.train) == (1, 4, 11)
    splits = {name: set(task.table(name)["id"].to_pylist()) for name in ("train", "probe", "heldout")}
    assert [len(ids) for ids in splits.values()] == [11, 4, 5]
    assert len(set.union(*splits.values())) == 20


def test_parts_share_no_example_and_are_the_whole(tmp_path):
    file = tmp_path / "news.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"news {i}", "response": "x"}) + "\n" for i in range(200)))
    entry = {"source": f"jsonl:{file}", "parts": 4}
    sources = task_sources(PoolConfig(tasks=[entry]))
    assert [source.name for source in sources] == ["news.1", "news.2", "news.3", "news.4"]
    assert {data_set(source).name for source in sources} == {"news"}
    found = [[e.turns for e in source.read(200, 0).examples] for source in sources]
    assert sum(map(len, found)) == len({turns for part in found for turns in part}) == 200
    assert min(map(len, found)) > 30
    assert len({json.dumps(source.identity()) for source in sources}) == 4
