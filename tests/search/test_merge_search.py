"""Merges as optimiser: which mixtures are scored, what is proposed, and when it is refused. No Ray, no model."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from taskpgm_ray.config import SearchConfig, load_config
from taskpgm_ray.evaluation import ItemScore, Split
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.mrf import Limits
from taskpgm_ray.mrf.groups import Group
from taskpgm_ray.runtime.progress import Progress
from taskpgm_ray.search import merges as merges_module
from taskpgm_ray.search import stage as stage_module
from taskpgm_ray.search.candidates import candidates, distance
from taskpgm_ray.search.curve import fit
from taskpgm_ray.search.families import Family
from taskpgm_ray.search.merge_search import ROUGHNESS, around, best_balances, ends
from taskpgm_ray.search.merges import TOGETHER, Merges, Mixture, both
from taskpgm_ray.search.stage import search
from taskpgm_ray.search.trials import Planner, finish_run
from taskpgm_ray.storage import Storage, Unit

NAMES = "abcdefgh"


def family(name="jsd", seed=0, contender=True, limits=None):
    points = np.random.default_rng(seed).normal(size=(8, 3))
    distances = ((points[:, None] - points[None]) ** 2).sum(-1)
    return Family(name, name, np.exp(-0.3 * distances), 1.0, None, contender, limits=limits)


BOUNDS = Limits(np.full(8, 0.02), np.full(8, 0.3))
GROUPED = replace(BOUNDS, groups=(Group(np.array([0, 1]), low=0.3, high=0.4),))
FEW = replace(Limits.none(8), most=3)


class TestMixtures:
    def test_there_are_as_many_as_asked_for_and_the_same_again(self):
        config = SearchConfig(merges=40, tau=(0.0, 3.0))
        families = [family("jsd"), family("pmi", 1), family("text", 2, contender=False)]
        made = around(families, config, seed=3)
        assert len(made) == 40
        assert len({one.name for one in made}) == 40
        assert {one.name.partition("-")[0] for one in made} == {"jsd", "pmi"}
        again = around(families, config, seed=3)
        assert [one.name for one in again] == [one.name for one in made]
        np.testing.assert_array_equal([one.weights for one in again], [one.weights for one in made])
        other = around(families, config, seed=4)
        assert np.abs(np.array([o.weights for o in other]) - np.array([m.weights for m in made])).max() > 0.01

    @pytest.mark.parametrize("limits", [None, BOUNDS, GROUPED, FEW], ids=["simplex", "bounds", "groups", "few"])
    def test_all_of_them_are_mixtures_within_the_limits(self, limits):
        one = family(limits=limits)
        for made in around([one], SearchConfig(merges=30), 0):
            assert made.weights.sum() == pytest.approx(1)
            assert (made.weights >= -1e-12).all()
            if limits is not None:
                assert (made.weights >= limits.lower - 1e-9).all()
                assert (made.weights <= limits.upper + 1e-9).all()
                assert limits.most is None or (made.weights > 0).sum() <= limits.most
                assert all(0.3 - 1e-8 <= made.weights[g.members].sum() <= 0.4 + 1e-8 for g in limits.groups)

    def test_those_on_a_path_are_its_mixtures_within_tau(self):
        one = family()
        config = SearchConfig(merges=30, tau=(0.4, 0.9))
        on_path = [made.weights for made in around([one], config, 0) if "-path-" in made.name]
        assert len(on_path) == 10
        dense = one.path.at(np.linspace(0.4, 0.9, 2001))
        assert max(np.abs(dense - w).sum(axis=1).min() for w in on_path) < 1e-2
        assert np.abs(dense[0] - on_path[0]).max() < 1e-12
        assert np.abs(dense[-1] - on_path[-1]).max() < 1e-12

    def test_the_nearest_mixture_is_the_projection(self):
        rng = np.random.default_rng(0)
        q = rng.dirichlet(np.ones(8) / 4)
        limits = replace(BOUNDS, target=rng.dirichlet(np.ones(8)))
        p = limits.nearest(q)
        # The projection on bounds and the sum: q shifted by one number, and cut.
        free = (p > 0.02 + 1e-9) & (p < 0.3 - 1e-9)
        assert np.ptp((q - p)[free]) < 1e-9
        np.testing.assert_allclose(limits.nearest(p), p, atol=1e-12)


def surface_of(function, families, config):
    known = around(families, config, 0)
    weights = np.array([one.weights for one in known])
    return fit(weights, [[float(function(w))] for w in weights], ROUGHNESS)


class TestProposals:
    CONFIG = SearchConfig(balances=5, merges=60, tau=(0.0, 3.0), baselines=("uniform",))

    def test_they_are_on_the_paths_within_tau_and_apart(self):
        families = [family("jsd"), family("pmi", 1)]
        best = families[0].path.at(0.6)
        surface = surface_of(lambda w: -((w - best) ** 2).sum(), families, self.CONFIG)
        grid = candidates(families, pool(), self.CONFIG)
        tried = [one for one in grid if one.kind == "baseline" or one.tau in (0.0, 3.0)]
        made = best_balances(families, surface, tried, self.CONFIG)
        assert {one.method for one in made} == {"jsd", "pmi"}
        for one in made:
            assert one.kind == "balance"
            assert 0 <= one.tau <= 3
            own = next(f for f in families if f.name == one.method)
            np.testing.assert_allclose(one.weights, own.path.at(one.tau))
            assert all(distance(one, other) > self.CONFIG.merge_distance for other in [*tried, *made] if other != one)
        # Never more than the grid, and the first is at the maximum.
        for own in families:
            assert sum(one.method == own.name for one in made) <= 5 - 2
        first = next(one for one in made if one.method == "jsd")
        assert np.abs(first.weights - best).sum() / 2 < 0.03

    def test_more_than_a_peak_is_tried(self):
        one = family()
        taus = one.path.equal_arc(201, tau_min=0.0, tau_max=3.0)
        along = one.path.at(taus)
        arc = sum(np.abs(b - a).sum() / 2 for a, b in pairwise(along))
        surface = surface_of(lambda w: -((w - along[100]) ** 2).sum(), [one], self.CONFIG)
        made = best_balances([one], surface, [], self.CONFIG)
        assert len(made) == 5
        assert min(distance(a, b) for a in made for b in made if a is not b) >= arc / 10 - 1e-12

    def test_the_surface_through_a_hundred_merges_is_sound(self):
        """Points without noise, some nearly equal: the covariance is inverted, not regularised away."""
        rng = np.random.default_rng(0)
        weights = rng.dirichlet(np.ones(16), size=120)
        weights[60:80] = weights[:20] + 1e-4 * (1 / 16 - weights[:20])
        centre = rng.dirichlet(np.ones(16))

        def score(w):
            return -3.0 + 0.2 * np.sin(3 * w[..., 0]) - ((w - centre) ** 2).sum(-1)

        surface = fit(weights, score(weights)[:, None].tolist(), ROUGHNESS)
        new = rng.dirichlet(np.ones(16), size=400)
        mean, sd = surface.at(new)
        spread = score(weights).std()
        assert np.isfinite(mean).all()
        assert np.sqrt(((mean - score(new)) ** 2).mean()) < 0.1 * spread
        # What it says of its own error is of the right size.
        assert 0.5 < np.sqrt((((mean - score(new)) / sd) ** 2).mean()) < 2


def pool():
    from taskpgm_ray.search.candidates import Pool

    return Pool([10, 20, 30, 40, 50, 60, 70, 80], list(NAMES))


class Setting:
    """A study of eight tasks whose trials and merges are scored by a formula, at once, and counted."""

    def __init__(self, root, sign=1.0, **options):
        self.sign, self.trained, self.merged, self.asked = sign, [], [], []
        self.families = [family("jsd"), family("pmi", 1)]
        baselines = ["uniform", "proportional", "temperature", "random"]
        config = load_config(
            {
                "study": "s",
                "pool": {"tasks": ["jsonl:a"]},
                "finetune": {"steps": 90},
                "search": {
                    "algorithm": "merge", "balances": 5, "merges": 30, "tau": [0.0, 3.0], "baselines": baselines,
                } | options,
            }
        )  # fmt: skip
        storage = Storage(str(root))
        sizes = dict(zip(NAMES, pool().sizes, strict=True))
        tasks = tuple(
            SimpleNamespace(
                name=name, facts=SimpleNamespace(available=sizes[name], train_content=name, probe_content=name)
            )
            for name in NAMES
        )
        split = Split("search", storage, "evaluation/search")
        Unit(storage, split.path).finish({"split": "search"})
        self.planner = Planner(tasks, split, config, BaseModelRef("m", None, "f", "float32"), storage)
        self.console = Console(record=True, quiet=False, width=200)
        self.run = SimpleNamespace(
            connect=lambda: None, evaluator=self, pool=None, progress=Progress(storage, self.console)
        )
        self.jobs = []
        for name in NAMES:
            unit = Unit(storage, f"adapters/{name}")
            unit.finish({"heldout_loss_before": 2.0, "heldout_loss_after": 1.0})
            self.jobs.append(SimpleNamespace(name=name, unit=unit))
        # Half-way between two balances of the grid.
        path = self.families[0].path
        self.best = path.at(path.equal_arc(9, tau_min=0.0, tau_max=3.0)[3])

    def score(self, weights):
        return -float(np.abs(np.asarray(weights) - self.best).sum())

    def rows(self, value):
        return [ItemScore("mmlu", "t", f"i{i}", 1.0, value, 0) for i in range(2)]

    def grid(self, plans):
        """In the place of Ray Tune."""
        for plan in plans:
            self.trained.append(plan.name)
            for run in plan.runs:
                weights = plan.candidate.at_seed(run.seed)
                finish_run(plan, run, self.rows(self.score(weights)), {"tokens": 7}, 1.0)
        return {}

    def merge(self, batch):
        """In the place of the Ray task."""
        assert len(batch) <= TOGETHER
        for one in batch:
            self.merged.append(one.mixture.name)
            one.adapter.files.write_bytes("adapter_model.safetensors", b"x")
            one.adapter.finish({"weights": one.mixture.weights.tolist()})
        return Answer(None)

    def evaluate(self, adapter, split, seed, side):
        """In the place of the evaluator."""
        assert side == split.name == "search"
        self.asked.append(adapter.path)
        return Answer(self.rows(self.sign * self.score(adapter.manifest()["weights"])))

    def search(self, monkeypatch):
        monkeypatch.setattr(stage_module, "_tune", lambda planner, run, stage: self)
        monkeypatch.setattr(merges_module, "collect", at_once)
        monkeypatch.setattr(Merges, "_merged", self.merge)
        return search(self.families, self.jobs, self.planner, self.run)


class Answer:
    """An object reference whose value is there."""

    def __init__(self, value):
        self.value = value


def at_once(stage, references, on_done, status, **options):
    for reference, work in references.items():
        on_done(work, reference.value)


def test_where_merges_rank_as_training_does_only_what_they_propose_is_trained(tmp_path, monkeypatch):
    setting = Setting(tmp_path)
    outcome = setting.search(monkeypatch)
    found = outcome.merges
    assert found.used
    assert found.pilots.mixtures == 4 + 2 * 2
    assert found.pilots.correlation == pytest.approx(1)
    assert 2 <= len(found.proposed) <= 2 * 3
    assert set(setting.trained) == {plan.name for plan in outcome.finished}
    assert len(setting.trained) == 8 + len(found.proposed)
    assert found.scored == 30 + found.trained.mixtures == 30 + len(setting.trained)
    # What is proposed is nearer to the best than what a grid would have tried.
    tried = candidates(setting.families, pool(), setting.planner.config.search)
    grid = max(setting.score(one.weights) for one in tried if one.kind == "balance")
    assert max(setting.score(p.candidate.weights) for p in outcome.finished if p.name in found.proposed) > grid
    # Their adapters are not kept.
    assert setting.planner.storage.names("merges") == []
    assert len(setting.planner.storage.names("screens")) == found.scored
    assert "merges are not used" not in setting.console.export_text()


def test_where_they_do_not_the_grid_is_trained(tmp_path, monkeypatch):
    setting = Setting(tmp_path, sign=-1.0)
    outcome = setting.search(monkeypatch)
    assert not outcome.merges.used
    assert outcome.merges.proposed == ()
    assert outcome.merges.pilots.low < 0
    # Nothing beyond the trained mixtures was merged, and all of these were.
    assert outcome.merges.scored == outcome.merges.trained.mixtures == len(outcome.finished)
    grid = candidates(setting.families, pool(), setting.planner.config.search)
    assert {plan.name for plan in outcome.finished} == set(setting.trained) == {one.name for one in grid}
    text = setting.console.export_text()
    assert text.count("merges are not used: over 8 trained mixtures their rank correlation with training is") == 1


def test_a_search_that_goes_on_merges_scores_and_proposes_nothing_twice(tmp_path, monkeypatch):
    first = Setting(tmp_path)
    answers = []

    def interrupted(adapter, split, seed, side):
        answers.append(adapter)
        if len(answers) == 15:
            raise KeyboardInterrupt
        return Setting.evaluate(first, adapter, split, seed, side)

    first.evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        first.search(monkeypatch)
    # The batch that was being asked lies there, merged.
    assert len(first.planner.storage.names("merges")) > 0
    second = Setting(tmp_path)
    outcome = second.search(monkeypatch)
    assert not set(first.trained) & set(second.trained)
    done = first.asked[:8]  # the pilots' batch was scored, that in which it ended was not
    assert not set(done) & set(second.asked)
    third = Setting(tmp_path)
    again = third.search(monkeypatch)
    assert third.trained == third.merged == third.asked == []
    assert again.merges == outcome.merges
    assert [plan.name for plan in again.plans] == [plan.name for plan in outcome.plans]


def test_what_was_proposed_is_read_and_not_found_anew(tmp_path, monkeypatch):
    outcome = Setting(tmp_path).search(monkeypatch)

    def other(*arguments):
        raise AssertionError("proposed again")

    monkeypatch.setattr("taskpgm_ray.search.merge_search.best_balances", other)
    assert Setting(tmp_path).search(monkeypatch).merges == outcome.merges


def test_a_given_balance_is_not_searched(tmp_path, monkeypatch):
    setting = Setting(tmp_path)
    config = setting.planner.config
    fixed = config.model_copy(update={"mixture": config.mixture.model_copy(update={"tau": 0.5})})
    setting.planner = replace(setting.planner, config=fixed)
    outcome = setting.search(monkeypatch)
    assert outcome.merges is None
    assert setting.merged == []


def test_the_draws_of_every_seed_are_mixtures_of_their_own(tmp_path, monkeypatch):
    setting = Setting(tmp_path, seeds=3)
    outcome = setting.search(monkeypatch)
    mixtures, scores = both(outcome.finished, "gold_logprob")
    drawn = [one for one in mixtures if one.name.startswith("random")]
    assert [one.name for one in drawn] == ["random-seed0", "random-seed1", "random-seed2"]
    assert len({one.weights.tobytes() for one in drawn}) == 3
    assert len(mixtures) == len(scores) == len(outcome.finished) + 2
    for one, score in zip(mixtures, scores, strict=True):
        assert score == pytest.approx(setting.score(one.weights))


def test_the_ends_of_every_path_and_all_baselines_are_trained_in_any_case(tmp_path):
    setting = Setting(tmp_path)
    families = [*setting.families, family("text", 2, contender=False)]
    plans = [setting.planner.plan(one) for one in candidates(families, pool(), setting.planner.config.search)]
    first, others = ends(plans)
    assert [p.name for p in plans if p.candidate.method == "text"] == [
        p.name for p in first if p.candidate.method == "text"
    ]
    for name in ("jsd", "pmi"):
        taus = [plan.candidate.tau for plan in plans if plan.candidate.method == name]
        assert [plan.candidate.tau for plan in first if plan.candidate.method == name] == [taus[0], taus[-1]]
        assert [plan.candidate.tau for plan in others if plan.candidate.method == name] == taus[1:-1]
    assert {plan.name for plan in first} | {plan.name for plan in others} == {plan.name for plan in plans}


def test_merges_of_another_split_or_task_are_others(tmp_path):
    setting = Setting(tmp_path)
    one = [Mixture("m", np.full(8, 1 / 8))]
    merges = Merges(setting.jobs, setting.planner, setting.run)
    other = replace(setting.planner, search_split=Split("search", setting.planner.storage, "evaluation/search-other"))
    fewer = setting.jobs[:-1]
    found = {
        *merges.identity(one), *replace(merges, planner=other).identity(one), *replace(merges, jobs=fewer).identity(one)
    }  # fmt: skip
    assert len(found) == 3
