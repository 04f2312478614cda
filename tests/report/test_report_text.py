import numpy as np
import pytest

from taskpgm_ray.report.text import amount, balance, duration, number, percent, score


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (float("nan"), "nan"), (float("inf"), "inf"), (np.int64(3000), "3,000"),
        (np.float32(0.5), "0.500"), (0, "0"), (12345, "12,345"), (0.0, "0.00"), (0.0833, "0.0833"),
        (1.6666, "1.67"), (123.456, "123"), (99999.4, "99999"), (1e-15, "1.00e-15"), (-0.1234, "-0.123"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert number(value) == text


def test_units():
    assert percent(0.0333, 2) == "3.33\u00a0%"
    assert balance(0.5) == "0.5"
    assert balance(None) == "–"
    assert score("mmlu_accuracy", 0.345) == "34.5\u00a0%"
    assert score("accuracy", -0.031, signed=True) == "-3.1\u00a0points"
    assert score("gold_logprob", 0.061, signed=True) == "+0.0610"
    assert [duration(s) for s in (None, 3.21, 59.96, 61, 3600, 90_000)] == [
        "–", "3.2 s", "60.0 s", "1 min 01 s", "1 h 00 min", "25 h 00 min",
    ]  # fmt: skip
    assert [amount(k) for k in (None, 950, 12_000, 1_400_000, 2.5e9)] == ["–", "950", "12.0 k", "1.4 M", "2.5 G"]
