"""A small study with adaptive probes: it ends when divergences are precise, or with all probes and what they give."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from taskpgm_ray import Study
from taskpgm_ray.config import load_config

pytestmark = [pytest.mark.integration, pytest.mark.long]
KEPT, MODELS = 24, 13
"""Probes of each task; the base model, four adapters, as they were half-way, and four second ones."""


@pytest.fixture(scope="module")
def run(local_ray, tiny_config, tmp_path_factory):
    """(overrides of the config) -> (result of the study, its new scores, what it said); all in one folder."""
    root = tmp_path_factory.mktemp("adaptive")
    raw = tiny_config(root / "runs")
    raw["pool"]["probes_per_task"] = KEPT
    raw["scoring"]["scorer"] = "hf"
    raw |= {"search": {"balances": 0}, "mixture": {"tau": 1.5}}
    known = set()

    def scores():
        return {path.parent for path in Path(root).rglob("scores/*/*/manifest.json")}

    def made(*overrides, offline=False):
        known.update(scores())
        before = {path: path.stat().st_mtime_ns for path in known}
        console = Console(file=io.StringIO(), width=200)
        result = Study(load_config(raw, overrides), console, offline).run()
        assert {path: path.stat().st_mtime_ns for path in before} == before
        return result, scores() - known, console.file.getvalue()

    return made


def test_it_ends_early_or_with_what_all_probes_give_and_is_found_again(run):
    adaptive = ("scoring.probes=adaptive", "scoring.probes_start=6")
    strict, scored, said = run(*adaptive, "scoring.probes_precision=1e-6")
    assert "6 probes a task, 24 in all, are too few to judge" in said
    assert strict.affinities.probes == 4 * KEPT
    assert len(scored) == 3 * MODELS
    assert "more are scored" in said
    assert "1e-06, and no more are kept" in said
    assert "as precise as that they cannot be made" in said

    whole, scored, said = run()
    assert len(scored) == MODELS
    assert "a task:" not in said
    for gamma in (None, 20.0):
        S = [result.affinities.view("jsd", gamma) for result in (strict, whole)]
        np.testing.assert_allclose(*S, rtol=0, atol=1e-12)
    assert strict.affinities.noise.divergence == pytest.approx(whole.affinities.noise.divergence, abs=1e-12)

    # Who asks for less has it by the rounds of the first run.
    lax, scored, said = run(*adaptive, "scoring.probes_precision=0.99")
    assert re.search(
        r"12 of 24 probes a task: standard error [\d.]+ nats, [\d.]+ of the spread of [\d.]+; enough\n", said
    )
    assert (lax.affinities.probes, scored) == (4 * 12, set())
    assert "48 of the 96 probes were scored" in lax.storage.read_bytes("report.html").decode()
    # Where something were left to do, this would refuse.
    again, scored, said = run(*adaptive, "scoring.probes_precision=1e-6", offline=True)
    assert (again.affinities.fingerprint, scored) == (strict.affinities.fingerprint, set())
    assert not re.search(r"\d to do$", said, re.M)
