"""Studies in which every mixture of TaskPGM is truly better by one standard deviation over seeds: is it shown?

``ours`` is the share of simulated studies that call it better, with search and report seeds as named; see `_simulated`.
"""

from jobs.benchmarks._simulated import SPREAD, Setting, tally

STUDIES = 300


def run():
    """A row per setting; ``peer`` is the share that calls it worse."""
    rows = []
    for report, smallest in ((3, None), (5, None), (10, None), ("auto", SPREAD)):
        for shared in (0.0, 0.5):
            setting = Setting(report, effect=SPREAD, shared=shared, smallest_effect=smallest)
            found = tally(setting, STUDIES)
            rows.append(
                {
                    "what": f"report seeds {report} ({found.seeds:.1f}), seeds share {shared:.0%} of their luck: "
                    f"recommended {found.recommended:.1%}, coverage {found.coverage:.1%}",
                    "ours": found.better,
                    "peer": found.worse,
                    "peer_name": "better | worse",
                    "ratio": None,
                    "target": None,
                    "met": None,
                }
            )
    return rows
