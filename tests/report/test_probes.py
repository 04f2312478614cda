"""What the report says of the probes that were scored, and of the precision that they gave."""

from dataclasses import replace

import pytest

from taskpgm_ray.affinity.precision import Precision
from taskpgm_ray.report.html import render
from taskpgm_ray.report.markdown import study_table
from taskpgm_ray.report.probes import MOST_PROBES, falls_short, needed, sentence

FOUND = Precision(0.0072, 0.0675)


@pytest.fixture
def data(report_data):
    """Six tasks of 16 probes."""
    return report_data(6, precision=FOUND, probes_scored=96)


def test_all_probes_at_once(data):
    assert sentence(data) == (
        "All 96 probes were scored. The standard error of a divergence is 0.00720 nats (root mean square over pairs), "
        "10.7\u00a0% of what divergences differ by (standard deviation 0.0675)."
    )
    assert not falls_short(data)
    assert "All 96 probes were scored" in render(data)
    assert "6 tasks, 96 probes;" in study_table(data, "command")


def test_fewer_that_were_enough(data):
    fewer = replace(data, probes_scored=48, wanted_precision=0.2)
    assert sentence(fewer).startswith("48 of the 96 probes were scored. The standard error")
    assert sentence(fewer).endswith("which is enough for the 20.0\u00a0% of scoring.probes_precision.")
    assert fewer.spared == 48
    assert "6 tasks, 48 of 96 probes;" in study_table(fewer, "command")


def test_all_that_were_too_few(data):
    short = replace(data, wanted_precision=0.1)
    assert falls_short(short)
    assert sentence(short).startswith("All 96 probes were scored.")
    assert sentence(short).endswith("scoring.probes_precision asked for 10.0\u00a0%, for which they are too few.")
    # Errors fall with the root of the number of probes.
    assert needed(short, 16) == 19
    assert needed(replace(short, wanted_precision=0.02), 16) == 456
    assert needed(replace(short, precision=Precision(0.00676, 0.0675)), 16) == 17
    assert needed(replace(short, wanted_precision=0.001), 16) is None
    assert MOST_PROBES == 1000


def test_nothing_is_said_where_nothing_differs_or_nothing_is_known(data, report_data):
    assert sentence(report_data(6)) == ""
    two = replace(data, precision=Precision(0.01, 0.0), wanted_precision=0.1)
    assert sentence(two) == ""
    assert not falls_short(two)
