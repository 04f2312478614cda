"""lm-eval tasks from a user's YAML file on local data, the pool's own examples, and generated answers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import evaluate, prepare
from taskpgm_ray.evaluation.tasks import ITEM, build_tasks
from taskpgm_ray.storage import Storage

from .helpers import ConstantClient, HFClient, write_folder, write_lines

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{validation: {folder}/validation.jsonl, test: {folder}/test.jsonl, train: {folder}/train.jsonl}}
validation_split: validation
test_split: test
fewshot_split: train
num_fewshot: 2
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{options}}}}"
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""

GENERATED = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/test.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{options[right]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def docs(split: str, count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"Is {split} {i} blue?", "options": ["yes", "no", "red"], "right": i % 3} for i in range(count)
    ]


@pytest.fixture
def task_file(tmp_path: Path) -> Any:
    def make(template: str, name: str) -> str:
        for split in ("train", "validation", "test"):
            write_lines(tmp_path / "docs" / f"{split}.jsonl", docs(split, 6))
        file = tmp_path / f"{name}.yaml"
        file.write_text(template.format(name=name, folder=tmp_path / "docs"))
        return str(file)

    return make


def only(**changes: Any) -> EvaluationConfig:
    return EvaluationConfig(mmlu=False, bbh=False, **changes)


def test_a_users_choice_task_equals_lm_evals_own_run(
    task_file: Any, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    import numpy as np
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    file = task_file(CHOICE, "colours")
    config = only(lm_eval=(file,), search_items_per_task=9, report_items_per_task=9)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    assert all("validation" in item.question for item in sets.search.items())
    assert all("test" in item.question for item in sets.report.items())
    rows = evaluate(sets.report, HFClient(model, tokenizer), tokenizer, config=config, max_length=500)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu", max_length=500)
    tasks = TaskManager(include_defaults=False).load([file])["tasks"]
    found = evaluator.evaluate(lm=theirs, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0)
    expected = {s["doc"]["question"]: s for s in found["samples"]["colours"]}
    asked = {item.id: json.loads(json.dumps(item.doc))["question"] for item in sets.report.items()}
    assert len(rows) == len(expected) == 6
    # The same few-shot examples are drawn only where the document's place is the same; without them all is equal.
    zero = {**config.model_dump(), "lm_eval": config.lm_eval}
    text = Path(file).read_text()
    Path(file).write_text(text.replace("num_fewshot: 2", "num_fewshot: 0"))
    tasks = TaskManager(include_defaults=False).load([file])["tasks"]
    found = evaluator.evaluate(lm=theirs, task_dict={"tasks": tasks, "groups": {}}, bootstrap_iters=0)
    expected = {s["doc"]["question"]: s for s in found["samples"]["colours"]}
    config = EvaluationConfig(**zero)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    for row in evaluate(sets.report, HFClient(model, tokenizer), tokenizer, config=config, max_length=500):
        sample = expected[asked[row.item]]
        logprobs = np.array([response[0] for response in sample["filtered_resps"]])
        assert row.accuracy == sample["acc"]
        assert row.gold_logprob == pytest.approx(logprobs[sample["target"]] - np.logaddexp.reduce(logprobs), abs=1e-4)


def test_shown_documents_are_never_asked(task_file: Any, tokenizer: Any, tmp_path: Path) -> None:
    config = only(lm_eval=(task_file(CHOICE, "colours"),))
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    client = ConstantClient()
    evaluate(sets.search, client, tokenizer, config=config)
    asked = [tokenizer.decode(prompt) for prompt in client.prompts]
    assert all(text.count("Question: Is train") == 2 for text in asked)
    assert all(text.count("Question:") == 3 for text in asked)


def prompts_of(sets: Any, config: EvaluationConfig, chat: bool = False) -> dict[str, str]:
    """The question of each item of the report split -> the prompt that asks it."""
    asked = {item.id: json.loads(json.dumps(item.doc))["question"] for item in sets.report.items()}
    (task,) = build_tasks(sets.report, lm_eval=config.lm_eval, chat=chat).values()
    task.build_requests(SimpleNamespace(tokenizer_name="t"), chat)
    return {asked[request.doc[ITEM]]: request.args[0] for request in task.instances}


def test_every_system_is_shown_the_same_examples(task_file: Any, tmp_path: Path) -> None:
    config = only(lm_eval=(task_file(CHOICE, "colours"),), report_items_per_task=9)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    first = prompts_of(sets, config)
    assert prompts_of(sets, config) == first
    # And not the same of all items.
    assert len({prompt.replace(question, "") for question, prompt in first.items()}) > 1


@pytest.mark.parametrize(
    ("left_out", "shown"),
    [("fewshot_split: train\n", "train"), ("fewshot_split: train\nvalidation_split: validation\n", "test")],
)
def test_without_a_split_for_examples_no_asked_item_is_shown(
    task_file: Any, tmp_path: Path, left_out: str, shown: str
) -> None:
    file = Path(task_file(CHOICE, "colours"))
    text = file.read_text()
    for line in left_out.splitlines(True):
        text = text.replace(line, "training_split: train\n" if line.startswith("few") and shown == "train" else "")
    file.write_text(text)
    config = only(lm_eval=(str(file),), search_items_per_task=9, report_items_per_task=9)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    prompts = prompts_of(sets, config)
    assert prompts
    for question, prompt in prompts.items():
        assert prompt.count("Question:") == 3
        assert prompt.count(f"Question: {question}") == 1
        assert prompt.count(f"Question: Is {shown} ") == (2 if shown == "train" else 3)
    asked = {item.question for one in (sets.search, sets.report) for item in one.items()}
    examples = {line for prompt in prompts.values() for line in prompt.splitlines()[:-2]}
    assert not {f"{line}\nAnswer:" for line in examples} & asked


def test_a_column_of_a_document_may_be_called_item(task_file: Any, tmp_path: Path) -> None:
    file = Path(task_file(CHOICE, "prices"))
    for split in ("train", "validation", "test"):
        of_split = [doc | {"item": f"{split} {i}"} for i, doc in enumerate(docs(split, 6))]
        write_lines(tmp_path / "docs" / f"{split}.jsonl", of_split)
    text = file.read_text().replace("num_fewshot: 2", "num_fewshot: 0")
    file.write_text(text.replace("Question: {{question}}", "What does {{item}} cost?"))
    config = only(lm_eval=(str(file),), report_items_per_task=9)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    expected = {f"Is test {i} blue?": f"What does test {i} cost?\nAnswer:" for i in range(6)}
    assert prompts_of(sets, config) == expected


def test_in_a_chat_a_generated_answer_follows_without_a_space(task_file: Any, tokenizer: Any, tmp_path: Path) -> None:
    config = only(lm_eval=(task_file(GENERATED, "free"),), report_items_per_task=9)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[a]"
    for chat, space in ((True, ""), (False, " ")):
        client = Scripted("no")
        evaluate(sets.report, client, tokenizer, config=config, apply_chat_template=chat)
        whole = {tokenizer.decode(prompt) for prompt in client.prompts}
        begins = ["[a]" if chat else "blue?"]
        golds = {text.rpartition(begins[0])[2] for text in whole}
        assert {gold[:1] for gold in golds if gold} <= ({"y", "n", "r"} if chat else {space})


def test_a_task_with_one_split_is_halved(task_file: Any, tmp_path: Path) -> None:
    sets = prepare(only(lm_eval=(task_file(GENERATED, "free"),), search_items_per_task=9), 0, Storage(str(tmp_path)))
    assert len(sets.search.items()) == 3
    assert not {i.id for i in sets.search.items()} & {i.id for i in sets.report.items()}


class Scripted(ConstantClient):
    """Says what it is told to say."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    def generate(self, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        return [self.said] * len(prompts)


def test_generated_answers_have_an_accuracy_and_a_gold_log_probability(
    task_file: Any, tokenizer: Any, tmp_path: Path
) -> None:
    import numpy as np

    config = only(lm_eval=(task_file(GENERATED, "free"),), report_items_per_task=9)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    rows = evaluate(sets.report, Scripted("no\nand more"), tokenizer, config=config)
    assert {row.item: row.accuracy for row in rows} == {
        item.id: float(item.target == "no") for item in sets.report.items()
    }
    assert [row.gold_logprob for row in rows] == pytest.approx([np.log(1 / 8)] * len(rows))


@pytest.mark.parametrize(
    ("said", "right"), [(" True", 1), ("\nTrue.\nQ", 1), ("True\nbecause", 1), (" False", 0), ("", 0)]
)
def test_bbh_by_generation_reads_the_first_line(tokenizer: Any, tmp_path: Path, said: str, right: int) -> None:
    folder = write_folder(tmp_path / "data", n_subjects=1, n_tasks=1, n_items=8)
    config = EvaluationConfig(data=str(folder), mmlu=False, bbh_answers="generation", report_items_per_task=9)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    rows = evaluate(sets.report, Scripted(said), tokenizer, config=config)
    true = {item.id for item in sets.report.items() if item.target == "True"}
    assert true
    assert {row.accuracy for row in rows if row.item in true} == {float(right)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [("no_such_task_anywhere.yaml", "neither a task or group of lm-eval nor a YAML file")],
)
def test_unknown_tasks_are_named(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        prepare(only(lm_eval=(entry,)), 0, Storage(str(tmp_path)))


def test_perplexity_tasks_are_refused(task_file: Any, tmp_path: Path) -> None:
    file = Path(task_file(GENERATED, "texts"))
    text = file.read_text().replace("generate_until", "loglikelihood_rolling").split("generation_kwargs")[0]
    file.write_text(text + "metric_list: [{metric: word_perplexity}]\n")
    with pytest.raises(EvaluationError, match="measures the perplexity of texts and asks for no answer"):
        prepare(only(lm_eval=(str(file),)), 0, Storage(str(tmp_path / "study")))


def prepared_task(name: str, group: str, count: int = 4) -> Any:
    rows = [
        {"prompt": f"{name} {i}?", "response": "blue", "prompt_ids": [5, 6, i + 7], "response_ids": [9, 1]}
        for i in range(count)
    ]
    table = pa.Table.from_pylist(rows) if rows else pa.table({"prompt": []})
    return SimpleNamespace(
        name=name, facts=SimpleNamespace(group=group, heldout_content=name), table=lambda split: table
    )


def test_the_pools_own_examples_are_scored_on_their_token_ids(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    import torch

    tasks = [prepared_task("a.1", "a"), prepared_task("a.2", "a"), prepared_task("b", "b")]
    config = only(own_tasks=True, search_items_per_data_set=2, report_items_per_data_set=2)
    sets = prepare(config, 0, Storage(str(tmp_path)), tasks)
    # The two parts of one data set are one task, with as many items as any other.
    assert sets.report.manifest()["counts"] == {"pool": {"a": 2, "b": 2}}
    assert sets.report.manifest()["available"] == {"pool": {"a": 4, "b": 2}}
    rows = evaluate(sets.report, HFClient(model, tokenizer), tokenizer, config=config)
    for item, row in zip(sets.report.items(), rows, strict=True):
        assert item.tokens is not None
        prompt, response = item.tokens
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(torch.tensor([prompt + response])).logits[0].float(), -1)
        gold = [float(logprobs[len(prompt) - 1 + k, token]) for k, token in enumerate(response)]
        assert row.gold_logprob == pytest.approx(sum(gold) / 2, abs=1e-4)
        assert (row.benchmark, row.task, row.item) == ("pool", item.task, item.id)


def test_tasks_without_held_out_examples_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"task 'b' has no held-out examples; set pool\.heldout_per_task"):
        prepare(only(own_tasks=True), 0, Storage(str(tmp_path)), [prepared_task("b", "b", 0)])


def test_a_search_split_refuses_to_be_the_report_split(tmp_path: Path) -> None:
    sets = prepare(only(own_tasks=True), 0, Storage(str(tmp_path)), [prepared_task("b", "b")])
    sets.search.require("search")
    with pytest.raises(EvaluationError, match="is the report split, where only the search split may be read"):
        sets.report.require("search")
