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
    ours = build_tasks(sets.search, mmlu_shots=num_fewshot)["mmlu", "subject_1"]
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
        build_tasks(sets.search, mmlu_shots=4)


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


@pytest.mark.parametrize("answers", ["likelihood", "generation"])
def test_bbh_with_examples_is_lm_evals_own_bbh_fewshot(tmp_path: Path, answers: Any) -> None:
    """Every task: a question of ours goes through lm-eval's own YAML, and the prompts are the same to the letter."""
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask

    from taskpgm_ray.evaluation import exemplars
    from taskpgm_ray.evaluation.tasks import Documents, build_tasks

    shown = exemplars.solved()
    assert len(shown) == 27
    assert all(len(items) == 3 for items in shown.values())
    for name, items in shown.items():
        # Other questions with the same options, so that closed answers stay closed.
        rows = [{"input": f"Once more: {item.question}", "target": item.target} for item in items]
        write_lines(tmp_path / "data" / "bbh" / f"{name}.jsonl", rows)
    config = EvaluationConfig(data=str(tmp_path / "data"), mmlu=False, num_fewshot={"bbh": 3}, bbh_answers=answers)
    sets = prepare(config, 0, Storage(str(tmp_path / "study")))
    tasks = build_tasks(sets.report, bbh_shots=3, bbh_answers=answers)
    folder = Path(lm_eval.tasks.__file__).parent / "bbh" / "fewshot"
    template = yaml.safe_load((folder / "_fewshot_template_yaml").read_text())
    compared = 0
    for (_, name), task in tasks.items():
        docs = {"test": Documents(item.to_record() for item in sets.report.items() if item.task == name)}

        class Theirs(ConfigurableTask):
            def download(self, *args: Any, docs: Any = docs, **kwargs: Any) -> None:
                self.dataset = docs

        own = yaml.safe_load((folder / f"{name}.yaml").read_text())
        own.pop("include")
        theirs = Theirs(config={**template, **own, "dataset_path": None, "dataset_name": None})
        expected = contexts(theirs)
        assert list(dict.fromkeys(contexts(task))) == list(dict.fromkeys(expected)), name
        compared += len(expected)
    assert compared >= 27


def test_bbh_with_examples_asks_no_example_and_needs_enough_of_them(tmp_path: Path) -> None:
    from taskpgm_ray.evaluation import exemplars

    shown = exemplars.solved()["boolean_expressions"]
    rows = [{"input": item.question, "target": item.target} for item in shown]
    rows += [{"input": f"not ( {i} ) is", "target": "True"} for i in range(4)]
    write_lines(tmp_path / "data" / "bbh" / "boolean_expressions.jsonl", rows)

    def made(shots: int) -> EvaluationSets:
        config = EvaluationConfig(data=str(tmp_path / "data"), mmlu=False, num_fewshot={"bbh": shots})
        return prepare(config, 0, Storage(str(tmp_path / f"study{bool(shots)}")))

    asked = {item.id for side in (made(3).search, made(3).report) for item in side.items()}
    assert len(asked) == 4
    assert not asked & {item.id for item in shown}
    assert len(made(0).search.items()) + len(made(0).report.items()) > 3
    with pytest.raises(EvaluationError, match=r"bbh/boolean_expressions has 3 solved examples .* asks for 4"):
        made(4)
    with pytest.raises(ValueError, match="with data: exemplars they are what is asked"):
        EvaluationConfig(num_fewshot={"bbh": 3})
    assert EvaluationConfig(data="hub", num_fewshot={"bbh": 2}).shots("mmlu") == 0
    assert EvaluationConfig(data="hub", num_fewshot=5).shots("bbh") == 0
