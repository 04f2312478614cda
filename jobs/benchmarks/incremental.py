"""Two tasks added to a finished study of eight (SmolLM2-135M, as jobs/quickstart.yaml, without its search).

Against the study of ten tasks anew, which is given the same supports: units of work done, seconds, and whether S and
the mixture are the same. ``TASKPGM_BENCH_STEPS`` (default 12) optimizer steps a task.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from jobs.benchmarks._common import row
from taskpgm_ray import Study, load_config

STEPS = os.environ.get("TASKPGM_BENCH_STEPS", "12")
ADDED = [
    {"source": "reasoning_gym:base_conversion", "prompt": "{question}\nAnswer:"},
    {"source": "reasoning_gym:fraction_simplification", "prompt": "{question}\nAnswer:"},
]
QUICKSTART = Path(__file__).resolve().parents[1] / "quickstart.yaml"


def run():
    """Measure; rows as in jobs/benchmark.py."""
    with tempfile.TemporaryDirectory() as folder:
        study(folder, "grown", [])
        before = units(folder, "grown")
        grown, seconds = study(folder, "grown", ADDED)
        after = units(folder, "grown")
        shutil.copytree(f"{folder}/grown/segments", f"{folder}/anew/segments")
        anew, whole = study(folder, "anew", ADDED)
        made, all_units = after - before, units(folder, "anew")
    segments = sum(name.startswith("segments/") for name in after)
    new_segments = sum(name.startswith("segments/") for name in made)
    least = 2 * (segments - new_segments) + 11 * new_segments
    apart = max(
        float(np.abs(grown.affinity.S - anew.affinity.S).max()),
        *(abs(a["weight"] - b["weight"]) for a, b in zip(grown.mixture["tasks"], anew.mixture["tasks"], strict=True)),
    )
    return [
        row("two tasks more, seconds", seconds, whole, "the study of ten tasks anew"),
        counted("fine-tunes", "adapters/", made, all_units, 2),
        counted("units of scoring", "scores/", made, all_units, least),
        row("largest difference of S and of the weights", apart, None, "the study anew", 1e-12, apart <= 1e-12),
    ]


def counted(what, folder, made, all_units, target):
    """A row on the number of units made."""
    ours, peer = (sum(name.startswith(folder) for name in names) for names in (made, all_units))
    return row(what, ours, peer, "the study anew", target, ours == target)


def study(folder, name, added):
    """Run the study; (its result, seconds)."""
    # Which tasks are fine-tuned twice may change with two more; the median rule asks for none.
    overrides = [
        f"finetune.steps={STEPS}",
        "search.balances=0",
        "mixture.tau=1.5",
        "affinity.gamma=median",
        "affinity.halfway_tasks=0",
    ]
    config = load_config(QUICKSTART, [f"storage={folder}", f"study={name}", *overrides]).model_dump(by_alias=True)
    config["pool"]["tasks"] = [*config["pool"]["tasks"], *added]
    started = time.perf_counter()
    return Study(load_config(config), Console(quiet=True)).run(), time.perf_counter() - started


def units(folder, name):
    """Every finished unit of a study."""
    root = Path(folder, name)
    return {str(file.parent.relative_to(root)) for file in root.rglob("manifest.json")}
