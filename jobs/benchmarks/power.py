"""Studies in which every mixture of TaskPGM is truly better by one standard deviation over seeds: is it shown?

``ours`` is the share of simulated studies that call it better, with search and report seeds as named; see `_simulated`.
"""

from jobs.benchmarks._simulated import SPREAD, Setting, tally

STUDIES = 300


def run():
    """A row per setting; ``peer`` is the share that calls it worse."""
    rows = []
    for report in (3, 5, 10):
        for shared in (0.0, 0.5):
            found = tally(Setting(report, effect=SPREAD, shared=shared), STUDIES)
            rows.append(
                {
                    "what": f"report seeds {report}, seeds share {shared:.0%} of their luck: recommended "
                    f"{found.recommended:.1%}, coverage {found.coverage:.1%}",
                    "ours": found.better,
                    "peer": found.worse,
                    "peer_name": "better | worse",
                    "ratio": None,
                    "target": None,
                    "met": None,
                }
            )
    return rows
