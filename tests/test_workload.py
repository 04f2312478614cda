"""The number of fine-tunes of a study; that a real study makes as many is counted in test_finished_study.py."""

import pytest

from taskpgm_ray.config import load_config
from taskpgm_ray.workload import (
    FineTunes,
    candidates,
    contenders,
    fine_tunes,
    merge_pilots,
    merges,
    methods,
    noise_tasks,
    report_seeds,
    scored_adapters,
    search_seeds,
)


def study(search=None, **changes):
    return load_config(
        {
            "study": "s",
            "pool": {"tasks": ["jsonl:x"]},
            "finetune": {"steps": 10},
            "search": {"balances": 4, **(search or {})},
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("search", "families", "tried", "judged"),
    [
        ({}, 1, 4 + 2, 1 + 2),
        ({"affinities": ["jsd", "pmi"]}, 2, 8 + 2, 2 + 2),
        # The text affinity has no bandwidth.
        ({"affinities": ["jsd", "pmi", "text"], "gammas": [0.5, 1, 2]}, 7, 28 + 2, 7 + 2),
        ({"utilities": ["rows", "targeted"]}, 2, 8 + 2, 2 + 2),
        # A text baseline is a family that cannot win.
        ({"baselines": ["uniform", "text"]}, 1, 8 + 1, 2 + 1),
        ({"affinities": ["text"], "baselines": ["uniform", "text"]}, 1, 4 + 1, 1 + 1),
        ({"baselines": ["uniform", "text", "paper"]}, 1, 12 + 1, 3 + 1),
        ({"baselines": ["uniform", "paper", "laplacian"]}, 1, 12 + 1, 3 + 1),
        # A trial like any other, although its mixture is not known beforehand.
        ({"baselines": ["uniform", "regression"]}, 1, 4 + 2, 1 + 2),
    ],
)
def test_families_candidates_and_methods(search, families, tried, judged):
    config = study(search)
    assert (contenders(config), candidates(config), methods(config)) == (families, tried, judged)


def test_a_study_in_numbers():
    config = study({"seeds": 2, "task_counts": [2, 9], "budget_fractions": [0.5]}, evaluation={"report_seeds": 5})
    assert fine_tunes(config, 7) == [
        FineTunes("adapters", 7),
        FineTunes("noise", 4),
        FineTunes("trials", 6 * 2),
        FineTunes("finalists", 3 * 5),
        FineTunes("budgets", 3 * 5),
        FineTunes("budgets", 2 * 5, 0.5),
        FineTunes("final", 1),
    ]


def test_no_seed_of_a_search_is_among_those_of_the_report():
    config = study({"seeds": 4}, evaluation={"report_seeds": 3})
    assert list(search_seeds(config)) == [0, 1, 2, 3]
    assert list(report_seeds(config)) == [4, 5, 6]
    assert [row.kind for row in fine_tunes(config, 3)] == ["adapters", "noise", "trials", "finalists", "final"]
    few = study({}, evaluation={"report_seeds": 10, "other_seeds": 4})
    assert FineTunes("finalists", 10 + 10 + 4) in fine_tunes(few, 9)


def test_asha_gives_fewer_and_fewer_the_larger_budgets():
    config = study({"balances": 9, "rungs": 3, "reduction": 3})
    trials = [row for row in fine_tunes(config, 3) if row.kind == "trials"]
    # The baselines have the full budget only.
    assert [(row.jobs, row.share) for row in trials] == [(9, 1 / 9), (3, 1 / 3), (1 + 2, 1.0)]


def test_a_search_by_merges_trains_the_grid_at_most():
    grid = study({"affinities": ["jsd", "pmi"], "baselines": ["uniform", "random", "text"], "seeds": 2})
    merging = study(grid.search.model_dump() | {"algorithm": "merge", "merges": 40})
    assert fine_tunes(merging, 5) == fine_tunes(grid, 5)
    # Three families of four balances, of which text cannot win, two baselines, and a second draw of one of them.
    assert merge_pilots(merging) == 2 * 2 + 4 + 2 + 1
    assert merges(merging) == 3 * 4 + 2 + 1 + 40
    assert merges(grid) == 0
    assert merges(study({"screen": "measure"})) == 4 + 2
    assert merges(study({"algorithm": "merge"}, mixture={"tau": 1.5})) == 0
    assert merges(study({"algorithm": "merge", "balances": 0}, mixture={"tau": 1.5})) == 0


def test_a_given_balance_is_tried_alone_and_without_a_search_there_are_adapters_only():
    assert candidates(study(mixture={"tau": 1.5})) == 1 + 2
    alone = study({"balances": 0}, mixture={"tau": 1.5}, affinity={"gamma": "median"})
    assert fine_tunes(alone, 3) == [FineTunes("adapters", 3)]


@pytest.mark.parametrize(
    ("search", "affinity", "tasks", "measured"),
    [
        ({}, {}, 9, 4),
        ({}, {"noise_tasks": 6}, 5, 5),
        ({}, {}, 2, 0),
        ({}, {"gamma": "median"}, 9, 0),
        ({"affinities": ["pmi", "text"]}, {"gamma": 2.5}, 9, 0),
        ({"affinities": ["text"]}, {}, 9, 0),
        ({"affinities": ["text", "pmi"]}, {}, 9, 4),
    ],
)
def test_tasks_are_fine_tuned_twice_where_the_noise_floor_is_asked_for(search, affinity, tasks, measured):
    assert noise_tasks(study(search, affinity=affinity), tasks) == measured


@pytest.mark.parametrize(
    ("changes", "adapters"),
    [
        ({}, 10 + 4 + 8),
        ({"affinity": {"halfway_tasks": 2}}, 10 + 4),
        ({"affinity": {"halfway_tasks": 50, "gamma": "median"}}, 10 + 10),
        # At an eighth, a quarter, a half and at the end.
        ({"finetune": {"steps": 8, "early": {"share": 0.25}}}, 4 * 10 + 4),
    ],
)
def test_the_adapters_that_the_probe_set_is_scored_with(changes, adapters):
    assert scored_adapters(study(**changes), 10) == adapters
