"""What the report says of the number of steps."""

import io

import pytest
from rich.console import Console

from taskpgm_ray.insight.stability import Stability
from taskpgm_ray.report.halfway import sentence
from taskpgm_ray.report.html import render
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.next_steps import next_steps
from taskpgm_ray.report.terminal import summary

MOVED = Stability(8, 0.48, 0.31)
CONFIG = "study: demo\nstorage: runs\nfinetune: {steps: 24}\n"


def printed(data):
    console = Console(width=600, record=True, file=io.StringIO())
    console.print(summary(data))
    return console.export_text()


def test_a_mixture_that_hangs_on_the_steps_is_said_to_and_what_to_do(report_data):
    data = report_data(6, stability=MOVED, config_yaml=CONFIG)
    for text in (sentence(data), render(data), study_table(data, "command"), printed(data)):
        assert "the adapters of 8 tasks put their 28 distances in an order" in text
        assert "31.0\u00a0% elsewhere (total variation): it hangs on the number of steps." in text
    assert "finetune.steps=48" in [step.command for step in next_steps(data)]


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ("finetune: {tokens: 1000}", "finetune.tokens=2000"),
        ("finetune: {steps: 24}\naffinity: {finetune: {steps: 10}}", "affinity.finetune.steps=20"),
        ("finetune: {steps: 24}\naffinity: {finetune: null}", "finetune.steps=48"),
    ],
)
def test_the_budget_is_that_of_the_adapters_that_are_compared(report_data, config, command):
    data = report_data(6, stability=MOVED, config_yaml=f"study: demo\n{config}\n")
    assert command in [step.command for step in next_steps(data)]


def test_one_that_holds_is_told_in_the_report_alone(report_data):
    data = report_data(6, stability=Stability(8, 0.97, 0.02), config_yaml=CONFIG)
    assert sentence(data).endswith("would then have been 2.0\u00a0% elsewhere (total variation).")
    assert "distances in an order" in render(data)
    assert "distances in an order" not in printed(data)
    assert "finetune.steps=48" not in [step.command for step in next_steps(data)]


def test_nothing_measured_nothing_said(report_data):
    assert sentence(report_data(6)) == ""
    assert sentence(report_data(6, stability=Stability(5, 0.9, None))).endswith("by 0.90 (Spearman).")
