from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import EvaluationSets, prepare
from taskpgm_ray.storage import Storage

from .helpers import write_lines


@pytest.fixture
def sets(folder: Path, tmp_path: Path) -> EvaluationSets:
    return prepare(EvaluationConfig(data=str(folder)), 0, Storage(str(tmp_path / "study")))


def contexts(task: Any, **kwargs: Any) -> list[str]:
    task.build_all_requests(**kwargs)
    return [instance.args[0] for instance in task.instances]


@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_mmlu_prompts_are_those_of_lm_eval(sets: EvaluationSets, num_fewshot: int) -> None:
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask

    from taskpgm_ray.evaluation.tasks import Documents, build_tasks

    items = [item for item in sets.search.items() if item.task == "subject_1"]
    docs = {
        "test": Documents(item.to_record() for item in items),
        "dev": Documents(item.to_record() for item in sets.search.dev()["mmlu", "subject_1"]),
    }

    class Theirs(ConfigurableTask):
        def download(self, *args: Any, **kwargs: Any) -> None:
            self.dataset = docs

    template = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default" / "_default_template_yaml"
    config = yaml.safe_load(template.read_text())
    config |= {
        "task": "theirs",
        "num_fewshot": num_fewshot,
        "description": "The following are multiple choice questions (with answers) about subject 1.\n\n",
    }
    theirs = Theirs(config=config)
    ours = build_tasks(sets.search, num_fewshot=num_fewshot)["mmlu", "subject_1"]
    assert contexts(ours) == contexts(theirs)
    assert [i.args for i in ours.instances] == [i.args for i in theirs.instances]
    context, continuation = ours.instances[3].args
    assert context.startswith("The following are multiple choice questions (with answers) about subject 1.\n\nWhat is ")
    assert context.endswith("\nAnswer:")
    assert context.count("Answer:") == num_fewshot + 1
    assert continuation == " D"


def test_bbh_asks_directly(sets: EvaluationSets) -> None:
    from taskpgm_ray.evaluation.tasks import build_tasks

    item = next(item for item in sets.report.items() if item.task == "task_1")
    for chat, target in ((False, f" {item.target}"), (True, item.target)):
        task = build_tasks(sets.report, chat=chat)["bbh", "task_1"]
        task.build_all_requests()
        asked = {instance.args for instance in task.instances}
        assert (f"Q: {item.question}\nA:", target) in asked
        delimiter = target.removesuffix(item.target)
        assert {answer for _, answer in asked} == {f"{delimiter}True", f"{delimiter}False"}


def test_texts_that_look_like_code_are_not_evaluated(tmp_path: Path) -> None:
    from taskpgm_ray.evaluation.tasks import build_tasks

    rows = [("{{ 7 * 7 }} [ [", "] ]"), ("41", "[1]"), ("{% if x %}", "1 + 1"), ("__import__('os')", "{}")]
    write_lines(tmp_path / "data" / "bbh" / "dyck.jsonl", [{"input": q, "target": a} for q, a in rows])
    config = EvaluationConfig(data=str(tmp_path / "data"), mmlu=False)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    asked = set()
    for split in (sets.search, sets.report):
        task = build_tasks(split)["bbh", "dyck"]
        task.build_all_requests()
        asked |= {instance.args for instance in task.instances}
    assert asked == {(f"Q: {question}\nA:", f" {answer}") for question, answer in rows}


def test_too_few_examples_to_show_is_an_error(sets: EvaluationSets) -> None:
    from taskpgm_ray.evaluation.tasks import build_tasks

    with pytest.raises(EvaluationError, match=r"mmlu/subject_0 has 3 dev examples, but evaluation\.num_fewshot is 4"):
        build_tasks(sets.search, num_fewshot=4)


def test_building_requests_shows_no_progress_and_restores_lm_eval(
    sets: EvaluationSets, capfd: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.api.task

    from taskpgm_ray.evaluation.tasks import build_tasks

    bar = lm_eval.api.task.tqdm
    for task in build_tasks(sets.search).values():
        task.build_all_requests()
    assert lm_eval.api.task.tqdm is bar
    assert capfd.readouterr() == ("", "")
