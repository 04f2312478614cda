from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from taskpgm_ray.errors import DataError, EvaluationError
from taskpgm_ray.evaluation import exemplars, hub
from taskpgm_ray.evaluation.items import Item
from taskpgm_ray.evaluation.sources import load_items, source_identity

from .helpers import mmlu_record, write_lines


def by_name(data: str, **which: bool) -> dict[str, Any]:
    return {f"{task.benchmark}/{task.task}": task for task in load_items(data, **which).tasks}


def test_a_folder_gives_each_split_its_use(folder: Path) -> None:
    tasks = by_name(str(folder))
    assert list(tasks) == ["mmlu/subject_0", "mmlu/subject_1", "mmlu/subject_2", "bbh/task_0", "bbh/task_1"]
    subject = tasks["mmlu/subject_1"]
    assert [item.question for item in subject.search[:2]] == ["What is val 1 0?", "What is val 1 1?"]
    assert subject.report[1].question == "What is test 1 1?"
    assert [item.target for item in subject.dev] == ["A", "B", "C"]
    assert subject.dev[2].answer == 2
    assert [item.target for item in tasks["bbh/task_0"].shared[:2]] == ["False", "True"]
    assert set(by_name(str(folder), mmlu=False)) == {"bbh/task_0", "bbh/task_1"}


def test_identity_of_an_item_is_its_content() -> None:
    item = Item("mmlu", "anatomy", "Which  bone?", "A", ("a", "b", "c", "d"))
    assert re.fullmatch("[0-9a-f]{16}", item.id)
    same = Item("mmlu", "virology", "which bone?\n", "D", ("d", "c", "b", "A"))
    assert same.id == item.id
    assert Item("mmlu", "anatomy", "Which bone?", "A", ("a", "b", "c", "e")).id != item.id
    assert Item("bbh", "anatomy", "Which bone?", "A").id != Item("bbh", "anatomy", "Which bones?", "A").id


GOOD = json.dumps(mmlu_record("x"))
BAD_LINES = {
    "not JSON": ('{"question": ', "is not JSON"),
    "a key twice": ('{"question": "q", "question": "r"}', "is not JSON: the key 'question' is there twice"),
    "no object": ("[1, 2]", "must be a JSON object, not list"),
    "field missing": ('{"question": "q", "answer": 0}', "lacks 'choices'; it has answer, question"),
    "empty question": (json.dumps({**mmlu_record("x"), "question": " "}), "'question' must be a text"),
    "three choices": (json.dumps({**mmlu_record("x"), "choices": ["a", "b", "c"]}), "exactly 4 texts"),
    "numbers as choices": (json.dumps({**mmlu_record("x"), "choices": [1, 2, 3, 4]}), "exactly 4 texts"),
    "a letter as answer": (json.dumps({**mmlu_record("x"), "answer": "A"}), "0 to 3, not 'A'"),
    "answer out of range": (json.dumps({**mmlu_record("x"), "answer": 4}), "0 to 3, not 4"),
    "a boolean as answer": (json.dumps({**mmlu_record("x"), "answer": True}), "0 to 3, not True"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named_by_file_and_line(folder: Path, name: str) -> None:
    line, message = BAD_LINES[name]
    file = folder / "mmlu" / "subject_1.val.jsonl"
    file.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(DataError, match=rf"subject_1\.val\.jsonl:3.*{re.escape(message)}"):
        load_items(str(folder))


def test_bad_bbh_records_and_bytes(folder: Path) -> None:
    file = folder / "bbh" / "task_1.jsonl"
    write_lines(file, [{"input": "q", "target": "a"}, {"input": "q", "target": 3}])
    with pytest.raises(DataError, match=r"task_1\.jsonl:2: 'target' must be a text"):
        load_items(str(folder))
    file.write_bytes(b'{"input": "\xff"}\n')
    with pytest.raises(DataError, match=r"task_1\.jsonl is not UTF-8 \(byte 11\)"):
        load_items(str(folder))


def test_unicode_line_separators_do_not_end_a_line(folder: Path) -> None:
    file = folder / "bbh" / "task_1.jsonl"
    file.write_text(json.dumps({"input": "a\u2028b\x85c", "target": "t"}, ensure_ascii=False) + "\n", encoding="utf-8")
    (item,) = by_name(str(folder))["bbh/task_1"].shared
    assert item.question == "a\u2028b\x85c"


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "mmlu" / "subject_2.val.jsonl").unlink()
    with pytest.raises(EvaluationError, match=r"subject_2\.val\.jsonl is missing"):
        load_items(str(folder))
    (folder / "mmlu" / "subject_2.train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"subject_2\.train\.jsonl: MMLU files are named"):
        load_items(str(folder))


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nowhere' is no folder; give one with mmlu/ and bbh/"):
        load_items(str(tmp_path / "nowhere"))
    with pytest.raises(EvaluationError, match="nowhere' is no folder"):
        source_identity(str(tmp_path / "nowhere"))
    (tmp_path / "mmlu").mkdir()
    with pytest.raises(EvaluationError, match=r"mmlu holds no \.jsonl files; .* evaluation\.mmlu=false"):
        load_items(str(tmp_path))


def test_identity_of_a_folder_follows_names_and_content_only(folder: Path) -> None:
    before = source_identity(str(folder))
    (folder / "README.md").write_text("not data")
    assert source_identity(str(folder)) == before
    file = folder / "bbh" / "task_0.jsonl"
    content = file.read_text()
    file.write_text(content.replace("True", "true"))
    assert source_identity(str(folder)) != before
    file.write_text(content)
    assert source_identity(str(folder)) == before
    file.rename(file.with_name("task_9.jsonl"))
    assert source_identity(str(folder)) != before


ANSWERED = "The answer is (B)."


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A function that puts a wheel of lm-eval with these MMLU exemplars of anatomy in the place of the real one."""

    def make(*samples: dict[str, Any]) -> None:
        folder = tmp_path / "lm_eval" / "tasks" / "mmlu" / "flan_cot_fewshot"
        folder.mkdir(parents=True)
        content = {"dataset_name": "anatomy", "fewshot_config": {"samples": list(samples)}}
        (folder / "mmlu_anatomy.yaml").write_text(yaml.safe_dump(content))
        spec = SimpleNamespace(origin=str(tmp_path / "lm_eval" / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    return make


def test_exemplars_are_those_of_the_wheel() -> None:
    items = load_items("exemplars")
    mmlu = [task for task in items.tasks if task.benchmark == "mmlu"]
    bbh = [task for task in items.tasks if task.benchmark == "bbh"]
    assert len(mmlu) == 57
    assert sum(len(task.shared) for task in mmlu) == 281
    assert len(bbh) == 27
    assert all(len(task.shared) == 3 for task in bbh)
    assert len(items.skipped) == 1
    assert "mmlu_college_chemistry.yaml, sample 4: it has other than four choices" in items.skipped[0]
    assert set(exemplars.identity()) == {"source", "lm_eval"}


def test_exemplars_are_parsed_as_a_reader_would() -> None:
    tasks = by_name("exemplars")
    last = tasks["mmlu/abstract_algebra"].shared[-1]
    assert last.question == "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field."
    assert last.choices == ("0", "1", "2", "3")
    assert last.target == "B"
    several_lines = tasks["mmlu/high_school_computer_science"].shared[4]
    assert several_lines.question.endswith("so that the algorithm works as intended?")
    assert several_lines.choices[3].startswith("Step 3: Repeat step 2 until the value of position")
    assert several_lines.target == "B"
    assert [item.target for item in tasks["bbh/dyck_languages"].shared] == ["] } ]", "] ) )", "} ] >"]
    assert [item.target for item in tasks["bbh/multistep_arithmetic_two"].shared] == ["123", "3929", "-219"]
    assert [item.target for item in tasks["bbh/sports_understanding"].shared] == ["yes", "no", "yes"]
    assert tasks["bbh/word_sorting"].shared[0].target == "costume counterpart oven"
    letters = [item.target for task in tasks.values() if task.benchmark == "mmlu" for item in task.shared]
    assert {letters.count(letter) > 40 for letter in "ABCD"} == {True}
    assert all("(A)" not in choice for task in tasks.values() for item in task.shared for choice in item.choices)


@pytest.mark.parametrize(
    ("question", "worked", "message"),
    [
        ("What?\n(A) 1 (B) 2 (C) 3", "The answer is (A).", r"no choices \(A\) to \(D\)"),
        ("What?\n(A) 1 (B) 2 (C) 3 (D) 4", "It is A.", r"no 'The answer is"),
        ("What?\n(A) 1 (B) 2 (C) 3 (D) 4", None, "expected the texts 'question' and 'target'"),
    ],
)
def test_an_unknown_form_of_exemplar_is_an_error(
    wheel: Callable[..., None], question: str, worked: str | None, message: str
) -> None:
    wheel({"question": "What?\n(A) 1 (B) 2 (C) 3 (D) 4", "target": ANSWERED}, {"question": question, "target": worked})
    with pytest.raises(DataError, match=rf"mmlu_anatomy\.yaml, sample 2: .*{message}"):
        load_items("exemplars", bbh=False)


def test_an_exemplar_with_a_fifth_choice_is_left_out(wheel: Callable[..., None]) -> None:
    choices = "(A) 1 (B) 2 (C) 3 (D) 4"
    wheel(
        {"question": f"Which?\n{choices} (E) 5", "target": ANSWERED},
        {"question": f"What?\n{choices}", "target": ANSWERED},
    )
    items = load_items("exemplars", bbh=False)
    assert [item.question for task in items.tasks for item in task.shared] == ["What?"]
    assert items.skipped == ["mmlu_anatomy.yaml, sample 1: it has other than four choices"]


HUB_ROWS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("all", "validation"): [{**mmlu_record("v"), "subject": "virology"}],
    ("all", "test"): [{**mmlu_record("t"), "subject": "anatomy"}, {**mmlu_record("u"), "subject": "virology"}],
    ("all", "dev"): [{**mmlu_record("d"), "subject": "anatomy"}],
    ("snarks", "test"): [{"input": "q", "target": "(A)"}],
}


def test_hub_data_sets_are_read_at_their_pinned_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(repository: str, name: str, *, split: str, revision: str) -> Any:
        asked.append((repository, revision))
        return datasets.Dataset.from_list(HUB_ROWS[name, split])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda repository, revision: ["snarks"])
    tasks = by_name("hub")
    assert list(tasks) == ["mmlu/anatomy", "mmlu/virology", "bbh/snarks"]
    assert [len(getattr(tasks["mmlu/virology"], side)) for side in ("search", "report", "dev")] == [1, 1, 0]
    assert tasks["bbh/snarks"].shared[0].target == "(A)"
    assert set(asked) == {(hub.MMLU, hub.MMLU_REVISION), (hub.BBH, hub.BBH_REVISION)}
    assert source_identity("hub") == {
        "source": "hub",
        hub.MMLU: hub.MMLU_REVISION,
        hub.BBH: hub.BBH_REVISION,
    }


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(datasets, "get_dataset_config_names", fail)
    with pytest.raises(EvaluationError, match=r"cais/mmlu at c30699e cannot be loaded .*no route; .* local folder"):
        load_items("hub", bbh=False)
    with pytest.raises(EvaluationError, match="SaylorTwift/bbh at b5306be cannot be loaded"):
        load_items("hub", mmlu=False)
