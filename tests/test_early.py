"""Fine-tunes that end early: which go on, that none begins anew, and what is left where one fails."""

import numpy as np
import pytest

from taskpgm_ray import early as module
from taskpgm_ray.config import EarlySection
from taskpgm_ray.early import finetune_early, settled
from taskpgm_ray.errors import InputError
from taskpgm_ray.report.halfway import how_far

TASKS = ("copy", "parity", "sum")
CALM = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0.0]])
TURNED = np.array([[0, 2, 1], [2, 0, 3], [1, 3, 0.0]])
"""Of `CALM` the first task's row is turned round; those of the other two keep their order."""


class Said:
    """Stands for a run that only prints."""

    def __init__(self):
        self.progress = self.console = self
        self.lines = []

    def print(self, text, **options):
        self.lines.append(text)


@pytest.fixture
def pool(tiny_jobs, monkeypatch):
    """train(divergences at 0.125, 0.25, 0.5, 1; jobs that fail) -> (those kept, what was trained, lines)."""

    def train(study, divergences, failing=()):
        jobs = [tiny_jobs[1](study, task) for task in TASKS]
        left, trained, run = list(divergences), [], Said()
        train.compared = []

        def pool(some, run, before=None):
            kept = []
            for job in some:
                if job.unit.done():
                    kept.append(job)
                elif (job.name, job.until) not in failing:
                    for part in job.parts:
                        if not part.unit.done():
                            part.unit.finish({"tokens": round(1000 * part.share)})
                    trained.append((job.name, job.until, (before or {}).get(job.name)))
                    job.unit.finish({"tokens": round(1000 * job.until)})
                    kept.append(job)
            return kept

        def compare(some, run):
            D = left.pop(0)
            train.compared.append(far(some))
            assert len(some) == len(D)
            return D

        monkeypatch.setattr(module, "finetune_pool", pool)
        monkeypatch.setattr(module, "_divergences", compare)
        return finetune_early(jobs, EarlySection(share=0.25), run), trained, run.lines

    return train


def far(kept):
    return {job.name: job.until for job in kept}


def test_who_has_settled_at_the_first_share_goes_no_further(pool):
    kept, trained, lines = pool("settled", [CALM, CALM + 1 - np.eye(3)])
    assert far(kept) == dict.fromkeys(TASKS, 0.25)
    assert trained == [(task, 0.25, None) for task in TASKS]
    assert [part.share for job in kept for part in job.parts] == [0.125] * 3
    assert "0 of 3 tasks" in lines[0]


def test_who_has_not_goes_on_from_there_until_it_has(pool):
    kept, trained, lines = pool("moving", [TURNED, CALM, TURNED, TURNED])
    assert far(kept) == {"copy": 1.0, "parity": 0.25, "sum": 0.25}
    assert trained[3:] == [("copy", 0.5, 250), ("copy", 1.0, 500)]
    assert [line.strip().partition(" of their")[0] for line in lines] == ["at 25%", "at 50%", "at 100%"]
    assert kept[0].unit == kept[0].home
    # What it was half-way is there as well, from the round before.
    assert kept[0].cut(0.5).unit.done()


def test_at_the_end_of_the_budget_it_ends_whatever_moves(pool):
    kept, _, lines = pool("ever", [TURNED, CALM, TURNED, CALM])
    assert far(kept)["copy"] == 1.0
    assert "1 of 3 tasks" in lines[-1]


def test_one_that_fails_on_its_way_leaves_the_pool(pool):
    kept, *_ = pool("failing", [TURNED, CALM, CALM[1:, 1:]], failing=[("copy", 0.5)])
    assert far(kept) == {"parity": 0.25, "sum": 0.25}


def test_a_second_run_trains_nothing(pool):
    first = pool("again", [TURNED, CALM, TURNED, TURNED])[0]
    compared = pool.compared
    kept, trained, _ = pool("again", [TURNED, CALM, TURNED, TURNED])
    assert (far(kept), trained) == (far(first), [])
    # One that went on to its end is compared as it was on the way, as in the first run: of others there are no scores.
    assert pool.compared == compared
    assert compared[0] == dict.fromkeys(TASKS, 0.125)


def test_what_was_trained_in_full_before_is_taken_as_it_is(pool, tiny_jobs):
    whole = tiny_jobs[1]("in-full", "copy")
    whole.unit.finish({"tokens": 1000})
    kept, trained, _ = pool("in-full", [CALM, CALM])
    assert far(kept) == {"copy": 1.0, "parity": 0.25, "sum": 0.25}
    assert [name for name, *_ in trained] == ["parity", "sum"]


def test_another_share_than_that_of_an_earlier_run_is_refused(pool, tiny_jobs):
    tiny_jobs[1]("other-share", "copy").cut(0.25).unit.finish({"tokens": 250})
    with pytest.raises(InputError, match=r"of copy went farther in an earlier run than finetune\.early\.share"):
        pool("other-share", [CALM, CALM])


def test_divergences_without_an_order_have_not_kept_it(tiny_jobs):
    jobs = [tiny_jobs[1]("order", task) for task in TASKS]
    flat = 1.0 - np.eye(3)
    assert settled(flat, CALM, jobs, 0.95) == []
    assert settled(CALM, 5 * CALM, jobs, 1.0) == list(TASKS)
    assert settled(TURNED, CALM, jobs, 0.95) == ["parity", "sum"]


def test_the_report_says_how_far_they_went():
    assert how_far([1.0, 1.0]) == ""
    text = how_far([0.25, 1.0, 0.25, 0.5])
    assert "2 at 25\u00a0%, 1 at 50\u00a0%, 1 at 100\u00a0% of the budget, which is 50\u00a0% of all its steps" in text
