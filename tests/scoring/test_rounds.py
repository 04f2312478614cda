"""Scoring in rounds: when it ends, that nothing is scored twice, and that all probes give what one round gives.

Segments, scores and sums are real; the engine is made up, and what Ray does otherwise is done at once.
"""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from taskpgm_ray.affinity import rounds
from taskpgm_ray.affinity.distributed import PartOf, probe_counts, read_part, summed
from taskpgm_ray.affinity.pool_sums import PoolSums
from taskpgm_ray.affinity.precision import LEAST_PROBES, Precision, precision
from taskpgm_ray.affinity.stage import affinity_unit
from taskpgm_ray.affinity.stored import read, store
from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.scoring import stage
from taskpgm_ray.scoring.score import build_segment, score_units
from taskpgm_ray.scoring.stage import ScoredSegment, score_pool
from taskpgm_ray.storage import Unit, fingerprint

ALL = ScoringConfig(scorer="hf", top_k=5, answer_tokens=1, positions_per_probe=2)
ADAPTIVE = ALL.model_copy(update={"probes": "adaptive", "probes_start": 4})
NAMES = ("a", "b", "c", "d", "e")
PROBES, VOCABULARY = 48, 12


class Engine:
    """Distributions that depend on the prompt and the adapter, and a record of the units that were scored."""

    method = "made up"

    def check(self, adapter):
        pass

    def top_tokens(self, prompts, k):
        return np.stack([np.argsort(-self.distribution(prompt, None))[:k] for prompt in prompts]).astype(np.int32)

    def score(self, queries):
        return [self.distribution(q.prompt, q.adapter)[q.tokens].astype(np.float32) for q in queries]

    def distribution(self, prompt, adapter):
        logits = np.random.default_rng(prompt).normal(size=VOCABULARY)
        if adapter is not None:
            # What the adapter is, and what it makes of this prompt.
            own = ord(adapter.path[-1])
            logits += np.random.default_rng(own).normal(size=VOCABULARY) * (1 + own % 5) / 2
            logits += np.random.default_rng([*prompt, own]).normal(size=VOCABULARY)
        return logits - np.log(np.exp(logits).sum())


class Pool:
    """Answers at once."""

    def __init__(self):
        self.engine, self.scored = Engine(), []

    def build_segment(self, work, tokens):
        return Answer(build_segment(self.engine, work))

    def score(self, works, tokens):
        self.scored += [work.unit.path for work in works]
        return Answer(score_units(self.engine, works))

    def note(self):
        return ""


class Answer:
    """In place of an object reference."""

    def __init__(self, value):
        self.value = value


def collect(progress, references, on_done, *_, **__):
    for reference, work in references.items():
        on_done(work, reference.value)


def compare(segments, tasks, run):
    """`affinity.stage.compare` in this process."""
    identity = fingerprint([summed(s, tasks, [s.base, *(s.scores[t] for t in tasks)]) for s in segments])
    unit = affinity_unit(run.storage, identity)
    if not unit.done():
        run.compared.append(identity)
        sums = PoolSums.empty(tasks, probe_counts(segments, tasks))
        for segment in segments:
            sums.add(read_part(PartOf(segment, 0, 10_000), tasks))
        store(unit, sums)
    return read(unit, identity)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr(stage, "collect", collect)
    monkeypatch.setattr(rounds, "compare", compare)


@pytest.fixture
def study(make_task, storage, model):
    """(config, names of tasks) -> its affinities, how often it was scored and compared, what it said."""

    def run(scoring, names=NAMES, changed=()):
        tasks = [
            make_task(name, [([ord(name), i], [i % 7, 1]) for i in range(PROBES)], [([5], [8 + (name in changed)])])
            for name in names
        ]
        jobs = [SimpleNamespace(name=name, unit=Unit(storage, f"adapters/{name}")) for name in names]
        console = Console(file=io.StringIO(), width=200)
        engines = SimpleNamespace(batch_positions=2048, max_loras=4)
        config = SimpleNamespace(
            scoring=SimpleNamespace(**dict(scoring) | {"rounds": scoring.rounds, "support": scoring.support}),
            model=SimpleNamespace(max_length=64),
        )
        config.scoring.engines = engines
        made = SimpleNamespace(
            config=config, model=model, storage=storage, pool=Pool(), compared=[], connect=lambda: None,
            progress=Progress(storage, console),
        )  # fmt: skip
        segments, found = rounds.compare_in_rounds(lambda probes: score_pool(jobs, tasks, made, probes), tasks, made)
        return SimpleNamespace(
            segments=segments, found=found, scored=made.pool.scored, compared=made.compared,
            said=[line.strip() for line in console.file.getvalue().splitlines() if "probes" in line],
        )  # fmt: skip

    return run


def at(wanted):
    return ADAPTIVE.model_copy(update={"probes_precision": wanted})


def test_a_lax_precision_ends_early_and_a_strict_one_scores_all(study):
    lax = study(at(0.9))
    # Four probes of five tasks are too few to be judged.
    assert lax.found.probes == 5 * 8
    assert len(lax.compared) == 1
    assert "4 probes a task, 20 in all, are too few to judge; more are scored" in lax.said[0]
    assert "8 of 48 probes a task: standard error" in lax.said[1]
    assert lax.said[-1].endswith("; enough")
    # Six models on a segment of each round.
    assert len(lax.scored) == 6 * 2
    strict = study(at(1e-6))
    assert strict.found.probes == 5 * PROBES
    # 4, 8, 16, 32 and 48: three more segments, and nothing scored once more.
    assert len(strict.scored) == 6 * 3
    assert not set(strict.scored) & set(lax.scored)
    assert "all 48 probes a task" in strict.said[-1]
    assert strict.said[-1].endswith("; not 1e-06, and no more are kept")


def test_all_rounds_together_are_one_round_to_the_bit(study):
    strict, whole = study(at(1e-6)), study(ALL)
    assert not set(strict.scored) & set(whole.scored)
    assert whole.said == []
    assert len(whole.segments) == 1
    for what in ("divergence", "divergence_se"):
        np.testing.assert_array_equal(getattr(strict.found, what), getattr(whole.found, what), what)
    # Of these a sum is rounded once a segment, to 2^-40.
    for what in ("divergence_upper", "pmi", "lift", "gram", "answers", "coverage"):
        np.testing.assert_allclose(getattr(strict.found, what), getattr(whole.found, what), rtol=0, atol=1e-11)


def test_a_second_run_finds_everything_and_says_the_same(study):
    first, again = study(at(0.12)), study(at(0.12))
    assert 8 < first.found.probes / 5 < PROBES
    assert (again.scored, again.compared) == ([], [])
    assert again.said == first.said
    assert again.found.fingerprint == first.found.fingerprint
    # A laxer one goes back to what it needs, and finds it.
    lax = study(at(0.9))
    assert (lax.scored, lax.compared) == ([], [])
    assert lax.found.probes == 5 * 8


class Ended(Exception):
    pass


def test_scoring_goes_on_from_wherever_it_was_ended(study, monkeypatch):
    score, scored = stage._score_missing, []

    def until(round_):
        calls = iter(range(9))

        def scoring(works, run):
            if next(calls) == round_:
                raise Ended
            scored.extend(work.unit.path for work in works if not work.unit.done())
            score(works, run)

        return scoring

    for round_ in range(5):
        monkeypatch.setattr(stage, "_score_missing", until(round_))
        with pytest.raises(Ended):
            study(at(1e-6))
        assert len(scored) == 6 * round_
    monkeypatch.setattr(stage, "_score_missing", until(9))
    last = study(at(1e-6))
    assert len(scored) == len(set(scored)) == 6 * 5
    np.testing.assert_array_equal(last.found.divergence, study(ALL).found.divergence)


def test_a_task_that_comes_later_goes_through_all_rounds(study):
    before = study(at(1e-6), NAMES[:4])
    grown = study(at(1e-6))
    old = {path.split("/")[1] for path in before.scored}
    # The new adapter on every old segment, and all six models on the new task's segment of each round.
    assert sum(path.split("/")[1] in old for path in grown.scored) == 5
    assert len(grown.scored) == 5 + 5 * 6
    assert not set(grown.scored) & set(before.scored)
    np.testing.assert_array_equal(grown.found.divergence, study(ALL).found.divergence)


def test_a_task_that_changed_is_summed_once(study, storage):
    """Its old block lies in a segment that the other tasks still use."""
    before, after = study(ALL), study(ALL, changed=("e",))
    assert len(after.segments) == 2
    assert sorted(task for segment in after.segments for task in segment.tasks) == list(NAMES)
    summed_up = affinity_unit(storage, after.found.fingerprint).manifest()
    assert (summed_up["probes"], summed_up["positions"]) == (5 * PROBES, 5 * PROBES * 2)
    # The support of one task's positions is all that differs.
    np.testing.assert_allclose(after.found.divergence, before.found.divergence, rtol=0.05)


def test_a_block_that_does_not_count_is_passed_over_and_named(study):
    whole = study(ALL)
    (segment,) = whole.segments
    four = ScoredSegment(segment.unit, segment.base, segment.scores, NAMES[:4])
    assert probe_counts([four], NAMES[:4]) == [PROBES] * 4
    part = read_part(PartOf(four, 0, 10_000), NAMES)
    assert {NAMES[i] for i in part.task} == set(NAMES[:4])
    units = [segment.base]
    assert summed(segment, NAMES, units) == [segment.base.path]
    # A task that has left the pool is not named: its block never counted.
    assert summed(four, NAMES[:4], units) == [segment.base.path]
    assert summed(four, NAMES, units) == [segment.base.path, {"passed over": ["e"]}]


def test_the_precision_by_hand():
    D = np.array([[0, 0.1, 0.2], [0.1, 0, 0.4], [0.2, 0.4, 0]])
    errors = np.array([[0, 0.01, 0.02], [0.01, 0, 0.02], [0.02, 0.02, 0]])
    found = precision(D, errors)
    assert found.error == pytest.approx(np.sqrt((1 + 4 + 4) / 3) / 100)
    assert found.spread == pytest.approx(np.std([0.1, 0.2, 0.4]))
    assert found.ratio == found.error / found.spread
    # One pair differs from nothing, and one task has no pair.
    assert precision(D[:2, :2], errors[:2, :2]).ratio == np.inf
    assert precision(D[:1, :1], errors[:1, :1]) == Precision(0.0, 0.0)
    assert LEAST_PROBES == 2 * 20


def used(monkeypatch, ratio, kept, wanted, start, tasks=10):
    """Probes of each task that are scored where so many give the ratio ``ratio(probes)``."""
    scoring = ADAPTIVE.model_copy(update={"probes_start": start, "probes_precision": wanted})
    run = SimpleNamespace(
        config=SimpleNamespace(scoring=scoring), progress=SimpleNamespace(console=Console(file=io.StringIO()))
    )
    pool = [SimpleNamespace(name=str(i), facts=SimpleNamespace(probes=kept)) for i in range(tasks)]
    monkeypatch.setattr(rounds, "compare", lambda count, *_: SimpleNamespace(divergence=None, divergence_se=count))
    monkeypatch.setattr(rounds, "precision", lambda _, count: Precision(ratio(count), 1.0))
    return rounds.compare_in_rounds(lambda probes: probes, pool, run)[0]


@given(
    luck=st.integers(0, 999), kept=st.integers(1, 300), more=st.integers(0, 99), wanted=st.floats(0.001, 0.99),
    stricter=st.floats(0, 1), start=st.integers(1, 20),
)  # fmt: skip
def test_more_probes_or_a_stricter_precision_never_lower_the_count(luck, kept, more, wanted, stricter, start):
    """Whatever the standard errors do on the way, falling or not."""
    with pytest.MonkeyPatch.context() as patch:
        ratio = np.random.default_rng(luck).uniform(size=400).__getitem__
        count = used(patch, ratio, kept, wanted, start)
        assert count == kept or (ratio(count) <= wanted and 10 * count >= LEAST_PROBES)
        assert used(patch, ratio, kept + more, wanted, start) >= count
        assert used(patch, ratio, kept, wanted * stricter, start) >= count
