"""The error rate of several looks: simulated t tests of equal mixtures with 3, 5, 8, ... seeds.

``ours``: the larger share of "better" and "worse" where each look's error rate is the whole one (5 %) divided by the
number of looks to the power that the product takes, and a look ends the study by a verdict or by an interval narrower
than the smallest effect. ``peer``: the same at the whole rate in each look. Both at the smallest effect that is worst
for them, of ten between 0 and 6 standard deviations over seeds. Then whole null studies with ``report_seeds: auto``,
as in `null`.
"""

import numpy as np
from scipy.stats import t

from jobs.benchmarks._common import row
from jobs.benchmarks._simulated import SPREAD, Setting, tally
from jobs.benchmarks.null import STUDIES, null_row
from taskpgm_ray.judge.looks import SPENDING

TESTS = 400_000
SMALLEST = (0.01, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0)
LOOKS = (3, 5, 8, 12, 18)
WHOLE = 0.05


def run():
    """A row per number of looks."""
    draws = np.random.default_rng(0).normal(size=(TESTS, LOOKS[-1]))
    rows = []
    for most in range(2, len(LOOKS) + 1):
        looks = LOOKS[:most]
        ours, peer = (
            max(error_rate(draws, looks, smallest, level) for smallest in SMALLEST)
            for level in (WHOLE / most**SPENDING, WHOLE)
        )
        what = f"looks at {', '.join(map(str, looks))} seeds"
        rows.append({**row(what, ours, peer, "5 % in each look"), "target": WHOLE / 2, "met": ours <= 1.02 * WHOLE / 2})
    for spreads in (2, 4):
        found = tally(Setting("auto", smallest_effect=spreads * SPREAD), STUDIES)
        what = f"report seeds auto ({found.seeds:.1f}), smallest effect {spreads} of their spread"
        rows.append(null_row(f"{what}: coverage {found.coverage:.1%}", found))
    return rows


def error_rate(draws, looks, smallest, level):
    """The larger share of studies that call one of two equal mixtures better."""
    open_, verdicts = np.ones(len(draws), dtype=bool), np.zeros(len(draws))
    for number, seeds in enumerate(looks):
        mean = draws[:, :seeds].mean(axis=1)
        half = t.ppf(1 - level / 2, seeds - 1) * draws[:, :seeds].std(axis=1, ddof=1) / np.sqrt(seeds)
        shown = np.where(np.abs(mean) > half, np.sign(mean), 0)
        ends = open_ & ((shown != 0) | (2 * half < smallest) | (number == len(looks) - 1))
        verdicts[ends] = shown[ends]
        open_ &= ~ends
    return float(max((verdicts > 0).mean(), (verdicts < 0).mean()))
