"""What the report says of the noise floor."""

import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from taskpgm_ray.affinity.bandwidth import NoiseKernel
from taskpgm_ray.report.floor import SYMMETRIC, sentence
from taskpgm_ray.report.html import render
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.terminal import summary

FOUND = NoiseKernel(np.eye(6), 14.5, 0.021, 0.003, 0.0175, 12, 4)


def test_the_floor_what_stands_out_of_it_and_what_was_taken_off(report_data):
    data = report_data(6, noise=FOUND, effective_tasks=4.25)
    said = sentence(data)
    assert said.startswith(
        "Two adapters of one task, which differ in their seed alone, are 0.0210 ± 0.00300 nats apart (mean and "
        "standard error, 4 tasks fine-tuned twice); 12 of the 15 pairs of tasks are more than twice as far apart"
    )
    assert "0.0175 was taken off every pair, less than the floor, because" in said
    assert said.endswith("The affinity sees 4.25 distinct tasks.")
    whole = sentence(replace(data, noise=replace(FOUND, taken_off=0.021)))
    assert "0.0210 was taken off every pair. The" in whole
    assert "squared nats" in sentence(replace(data, mixture=data.mixture | {"affinity": "pmi-targeted"}))
    for text in (render(data), study_table(data, "command")):
        assert "12 of the 15 pairs of tasks" in text
    assert "noise floor 0.0175" in render(data)


def test_no_contrast_is_said_everywhere(report_data):
    data = report_data(6, noise=replace(FOUND, gamma=None), gamma=None)
    assert "nothing is known of how alike the tasks are, and the mixture is uniform" in sentence(data)
    assert "more probes (pool.probes_per_task)" in sentence(data)
    assert "more probes (scoring.probes_precision)" in sentence(replace(data, probes_scored=48))
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(summary(data))
    assert "do not stand out" in console.export_text()
    for text in (render(data), study_table(data, "command")):
        assert "do not stand out" in text


def test_two_tasks_are_mixed_uniformly_by_symmetry(report_data):
    data = report_data(2)
    even = replace(data, path_weights=np.full(np.shape(data.path_weights), 0.5))
    assert sentence(even) == SYMMETRIC
    assert "is uniform at every balance" in render(even)


def test_without_a_floor_nothing_is_said(report_data):
    assert sentence(report_data(6)) == ""
