"""Null studies: no mixture differs, and seeds are as noisy as in the real study. How often is one called
better, or worse? (`looks` has ``report_seeds: auto``.)

``ratio`` is the larger share of the two among the simulated studies of a setting; see `_simulated`.
"""

from jobs.benchmarks._simulated import Setting, Tally, tally

STUDIES = 500
MOST = 0.025


def run():
    """A row per setting."""
    rows = []
    for report in (1, 3, 5, 10):
        for search in (1, 3):
            found = tally(Setting(report, search), STUDIES)
            interval = "no interval" if report == 1 else f"coverage {found.coverage:.1%}"
            rows.append(null_row(f"report seeds {report}, search seeds {search}: {interval}", found))
    return rows


def null_row(what: str, found: Tally) -> dict[str, object]:
    """Of the studies of one setting; better and worse stand in the places of ours and the peer's."""
    return {
        "what": f"{what}, mean difference {found.mean:+.4f} ± {found.error:.4f}",
        "ours": found.better,
        "peer": found.worse,
        "peer_name": "better | worse",
        "ratio": max(found.better, found.worse),
        "target": MOST,
        "met": max(found.better, found.worse) <= MOST,
    }
