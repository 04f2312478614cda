"""Plans of trials, what they may read, and the continuous search space: no Ray, no model."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import ItemScore, Split
from taskpgm_ray.judge.hand_over import model_card
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.search.candidates import Candidate, balance
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.optuna_space import PathSpace, points_folder
from taskpgm_ray.search.stage import Outcome, winner
from taskpgm_ray.search.trials import Planner, asked_base, finish_run, read_items
from taskpgm_ray.storage import Storage, fingerprint


@pytest.fixture
def planner(tmp_path):
    def make(split="search", **search):
        config = load_config(
            {
                "study": "s",
                "pool": {"tasks": ["jsonl:a", "jsonl:b", "jsonl:c"]},
                "finetune": {"steps": 90},
                "search": {"tau": [0.0, 3.0], **search},
            }
        )
        storage = Storage(str(tmp_path))
        tasks = tuple(
            SimpleNamespace(name=name, facts=SimpleNamespace(train_content=name, probe_content=name)) for name in "abc"
        )
        model = BaseModelRef("model", None, "fp", "float32")
        return Planner(tasks, Split(split, storage, f"evaluation/{split}"), config, model, storage)

    return make


def candidate(name="tau-0.5", kind="balance", tau=0.5, weights=(0.5, 0.3, 0.2), method="jsd"):
    return Candidate(name, kind, tau, np.array(weights), method)


def rows(value):
    return [ItemScore("mmlu", "t", f"item{i}", 1.0, value - i, 0) for i in range(3)]


def finish(plan, value):
    for run in plan.runs:
        finish_run(plan, run, rows(value), {"tokens": 7}, 1.0)


def test_a_trial_that_would_read_the_report_split_cannot_be_planned(planner):
    with pytest.raises(EvaluationError, match=r"tau-0\.5 would read the report split; trials .* search split only"):
        planner("report").plan(candidate())


def test_the_evaluator_refuses_the_report_split_to_a_trial(planner):
    from taskpgm_ray.evaluation.evaluator import EvaluatorActor

    evaluator = EvaluatorActor.__new__(EvaluatorActor)
    with pytest.raises(EvaluationError, match="is the report split, where only the search split may be read"):
        evaluator.evaluate(None, planner("report").search_split, 0, "search")


def test_rungs_are_budgets_and_baselines_have_the_full_one_only(planner):
    make = planner(rungs=3, reduction=3, seeds=2)
    plan = make.plan(candidate())
    assert [[run.job.recipe.steps for run in runs] for runs in plan.rungs] == [[10, 10], [30, 30], [90, 90]]
    assert plan.budgets == (1, 3, 9)
    assert [run.seed for run in plan.runs] == [0, 1]
    assert len({run.unit.path for runs in plan.rungs for run in runs}) == 6
    baseline = make.plan(candidate("uniform", "baseline", None, method="uniform"))
    assert [[run.job.recipe.steps for run in runs] for runs in baseline.rungs] == [[90, 90]]
    assert baseline.budgets == (9,)


def test_the_base_model_is_asked_in_the_studys_format(planner):
    """An adapter's name says how its examples were written; the base model has none that would."""
    plain = planner()
    chat = replace(
        plain, config=load_config(plain.config.model_dump(by_alias=True) | {"model": {"prompt_format": "chat"}})
    )
    assert asked_base(plain) == "fp"
    assert fingerprint(asked_base(chat)) != fingerprint(asked_base(plain))


def test_ashas_milestones_are_the_rungs():
    from taskpgm_ray.config import SearchConfig
    from taskpgm_ray.search.tuner import scheduler

    for rungs in (2, 3, 4):
        asha = scheduler(SearchConfig(rungs=rungs, reduction=3))
        milestones = sorted(milestone for milestone, _ in asha._brackets[0]._rungs)
        assert milestones == [3**k for k in range(rungs)]


def test_a_finished_trial_keeps_its_scores(planner):
    plan = planner(seeds=2).plan(candidate())
    assert not plan.done()
    finish(plan, -1.0)
    assert plan.done()
    assert plan.score("gold_logprob") == pytest.approx(-2.0)
    assert read_items(plan.runs[0].unit) == rows(-1.0)


def test_a_trial_is_found_again_under_the_name_that_it_had(planner):
    """With a second family every balance is called by its family as well; nothing of it is another."""
    alone = planner().plan(candidate("tau-0.5"))
    assert alone.runs[0].job.unit.path.startswith("mixtures/tau-0.5-seed0-")
    named = planner().plan(candidate("jsd-tau-0.5"))
    assert not named.done()
    assert named.runs[0].job.unit.path.startswith("mixtures/jsd-tau-0.5-seed0-")
    alone.runs[0].job.unit.finish({})
    finish(alone, -1.0)
    again = planner().plan(candidate("jsd-tau-0.5"))
    assert again.done()
    assert again.name == "jsd-tau-0.5"
    assert [(run.job.unit, run.unit) for run in again.runs] == [(run.job.unit, run.unit) for run in alone.runs]
    other = planner().plan(candidate("jsd-tau-0.6", weights=(0.4, 0.4, 0.2)))
    assert not other.done()
    assert (
        planner(seeds=2).plan(candidate("jsd-tau-0.5")).runs[1].job.unit.path.startswith("mixtures/jsd-tau-0.5-seed1-")
    )


def test_points_are_found_whatever_is_finished(planner):
    families = (Family("jsd", "jsd", np.eye(3), 1.0, None, contender=True),)
    before = points_folder(families, planner())
    # Of strangers every balance is the same mixture.
    other = planner().plan(balance(families[0], 2.0, families))
    other.runs[0].job.unit.finish({})
    finish(other, -1.0)
    assert planner().plan(balance(families[0], 1.0, families)).done()
    assert points_folder(families, planner()) == before


def test_other_weights_change_the_score_of_a_finished_trial(planner):
    trials = planner()
    scored = [ItemScore("mmlu", "t", "1", 1.0, -1.0), ItemScore("bbh", "u", "2", 0.0, -4.0)]
    plan = trials.plan(candidate())
    finish_run(plan, plan.runs[0], scored, {"tokens": 7}, 1.0)
    evaluation = trials.config.evaluation.model_copy(update={"weights": {"bbh": 2.0}})
    config = trials.config.model_copy(update={"evaluation": evaluation})
    weighted = replace(trials, config=config).plan(candidate())
    assert weighted.done()
    assert (plan.score("gold_logprob"), weighted.score("gold_logprob")) == (-2.5, -3.0)


def test_the_winner_is_a_balance_and_each_method_has_its_best(planner):
    make = planner()
    scores = {"uniform": -1.0, "jsd-tau-0": -3.0, "jsd-tau-2": -2.5, "pmi-tau-0": -2.8, "jsd-tau-3": -2.5}
    plans = []
    for i, (name, value) in enumerate(scores.items()):
        kind = "baseline" if name == "uniform" else "balance"
        tau = None if name == "uniform" else float(name[-1])
        weights = np.array([0.2 + 0.1 * i, 0.4, 0.4 - 0.1 * i])
        plans.append(make.plan(candidate(name, kind, tau, weights, name.split("-")[0])))
        finish(plans[-1], value)
    unfinished = make.plan(candidate("jsd-tau-1", weights=(1, 0, 0)))
    outcome = Outcome([*plans, unfinished], {"jsd-tau-1": "the loss became NaN"}, [])
    # Equal scores: the balance nearer to uniform claims less.
    assert winner(outcome, "gold_logprob").name == "jsd-tau-2"
    best = {method: plan.name for method, plan in outcome.best("gold_logprob").items()}
    assert best == {"uniform": "uniform", "jsd": "jsd-tau-2", "pmi": "pmi-tau-0"}


def test_points_of_a_search_space_are_mixtures_at_equal_distances_and_are_remembered(planner, tmp_path):
    make = planner(balances=4)
    S = np.array([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]])
    families = (Family("jsd", "jsd", S, 1.0, None, contender=True),)
    space = PathSpace(families, make, make.storage / points_folder(families, make))
    points = [{"family": "jsd", "position": x} for x in (0.0, 0.5, 1.0)]
    ends = [space.candidate(point) for point in points]
    assert [ends[0].tau, ends[2].tau] == [0.0, 3.0]
    halves = [np.abs(a.weights - b.weights).sum() for a, b in ((ends[0], ends[1]), (ends[1], ends[2]))]
    assert halves[0] == pytest.approx(halves[1], rel=0.05)
    assert space.points() == []
    for point in points:
        assert space.propose(point).candidate.name == space.candidate(point).name
    again = PathSpace(families, make, make.storage / points_folder(families, make))
    assert sorted(p["position"] for p in again.points()) == [0.0, 0.5, 1.0]


def test_the_model_card_says_what_was_trained(planner):
    card = model_card(candidate(), "Better than uniform.", [5], planner(), {"steps": 90, "tokens": 123})
    assert card.startswith("---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\nlibrary_name: peft\n")
    assert "Better than uniform." in card
    assert "| a | 0.5000 | – |\n| b | 0.3000 | – |" in card
