"""Data sets that the pool holds in several parts."""

from dataclasses import replace

import numpy as np
import pytest

from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.redundancy import planted


@pytest.fixture
def clones(report_data):
    """Three exact clones among six tasks of four data sets."""
    group = ["a", "a", "a", "b", "c", "d"]
    whole = np.array([[1.0, 0.3, 0.2, 0.1], [0.3, 1.0, 0.2, 0.1], [0.2, 0.2, 1.0, 0.1], [0.1, 0.1, 0.1, 1.0]])
    index = [0, 0, 0, 1, 2, 3]
    affinity = whole[np.ix_(index, index)]
    tasks = [replace(task, group=name) for task, name in zip(report_data(n=6).tasks, group, strict=True)]
    return report_data(n=6, affinity=affinity, divergence=np.abs(np.log(affinity)), tasks=tasks)


def test_clones_together_weigh_what_the_data_set_weighs_alone(clones):
    """The minimum of p'Sp gives them together the one task's share."""
    (row,) = planted(clones)
    assert (row.name, row.parts) == ("a", 3)
    assert row.share == pytest.approx(row.share_as_one, abs=1e-9)
    assert (row.within, row.nearest) == (0.0, pytest.approx(-np.log(0.3)))


def test_the_table_shows_both_weights_and_the_ratio(clones):
    (row,) = planted(clones)
    text = study_table(clones, "command")
    assert f"| a | 3 | 0.0000 | 1.2040 | {100 * row.share:.1f}\u00a0% | {100 * row.share:.1f}\u00a0% | 1.00 |" in text


def test_a_pool_of_one_data_set_has_no_other_near(report_data):
    tasks = [replace(task, group="a") for task in report_data(n=6).tasks]
    (row,) = planted(report_data(n=6, tasks=tasks))
    assert row.nearest == np.inf
    assert row.share_as_one == 1.0


def test_tasks_of_their_own_plant_nothing(report_data):
    assert planted(report_data(n=6)) == []
