"""What of the quickstart is waiting: each stage of it, and the same study with next to no work in it.

The second one starts what the first one starts (Ray, lanes, engines, Tune, the evaluation) and trains one step of
one example; what is left of a stage there is start-up, at least: it may find no finalist to train. Minutes each, in a
process of its own, as a user starts them; on a machine that is otherwise quiet.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs.benchmarks._common import row

ROOT = Path(__file__).resolve().parents[2]
NO_WORK = (
    "pool.max_examples=48",
    "pool.probes_per_task=2",
    "finetune.steps=1",
    "finetune.batch_size=1",
    "scoring.positions_per_probe=1",
    "evaluation.max_subjects=2",
    "evaluation.max_bbh_tasks=2",
)
TARGET = 240.0
"""Seconds of the quickstart on two quiet cores."""


def run():
    """Measure; rows as in jobs/benchmark.py."""
    with tempfile.TemporaryDirectory() as folder:
        whole, stages = study(folder, "quickstart")
        once_more, _ = study(folder, "quickstart")
        least, start_ups = study(folder, "no-work", *NO_WORK)
    nothing = "one step of one example"
    return [
        row("the quickstart", whole, least, nothing, TARGET, whole <= TARGET),
        *(row(f"its stage {name}", seconds, start_ups.get(name), nothing) for name, seconds in stages.items()),
        row("outside of stages", whole - sum(stages.values()), least - sum(start_ups.values()), nothing),
        row("finished, the same command once more", once_more),
    ]


def study(folder, name, *overrides):
    """Run it; its seconds, and those of each of its stages."""
    line = ["jobs/optimize.py", "--config", "jobs/quickstart.yaml", f"storage={folder}", f"study={name}", *overrides]
    started = time.perf_counter()
    subprocess.run([sys.executable, *line], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    stages = json.loads(Path(folder, name, "stages.json").read_text())
    return seconds, {stage: spent["seconds"] for stage, spent in stages.items()}
