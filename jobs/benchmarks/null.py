"""Null studies: no mixture differs, and seeds are as noisy as in the real study. How often is one called
better, or worse? With a fixed number of report seeds, and with ``auto`` at several smallest effects.

``ratio`` is the larger share of the two among the simulated studies of a setting; see `_simulated`.
"""

from jobs.benchmarks._simulated import SPREAD, Setting, Tally, tally

STUDIES = 500
MOST = 0.025


def run():
    """A row per setting."""
    rows = []
    for report in (1, 3, 5, 10):
        for search in (1, 3):
            found = tally(Setting(report, search), STUDIES)
            interval = "no interval" if report == 1 else f"coverage {found.coverage:.1%}"
            rows.append(_row(f"report seeds {report}, search seeds {search}: {interval}", found))
    for spreads in (2, 4):
        found = tally(Setting("auto", smallest_effect=spreads * SPREAD), STUDIES)
        what = f"report seeds auto ({found.seeds:.1f}), smallest effect {spreads} of their spread"
        rows.append(_row(f"{what}: coverage {found.coverage:.1%}", found))
    return rows


def _row(what: str, found: Tally) -> dict[str, object]:
    return {
        "what": f"{what}, mean difference {found.mean:+.4f} ± {found.error:.4f}",
        "ours": found.better,
        "peer": found.worse,
        "peer_name": "better | worse",
        "ratio": max(found.better, found.worse),
        "target": MOST,
        "met": max(found.better, found.worse) <= MOST,
    }
