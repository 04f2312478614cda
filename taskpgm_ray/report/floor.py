"""What the affinity rests on, in words: the noise floor (docs/mathematics.md, section 15), or a repair."""

from __future__ import annotations

import numpy as np

from taskpgm_ray.report.data import ReportData
from taskpgm_ray.report.text import number

SYMMETRIC = (
    "In a pool of two tasks the mixture is uniform at every balance, by symmetry: more tasks are needed to choose."
)


def sentence(data: ReportData) -> str:
    """What the bandwidth rests on, or how S was mended; nothing where neither is known."""
    if len(data.tasks) == 2 and data.path_weights is not None and np.allclose(data.path_weights, 0.5):
        return SYMMETRIC
    found = data.noise
    if found is None:
        return data.repair
    unit = "squared nats" if str(data.mixture.get("affinity", "jsd")).startswith("pmi") else "nats"
    n = len(data.tasks)
    floor = (
        f"Two adapters of one task, which differ in their seed alone, are {number(found.floor)} ± "
        f"{number(found.floor_se)} {unit} apart (mean and standard error, {found.measured} tasks fine-tuned twice)"
    )
    if not found.contrast:
        more = "scoring.probes_precision" if data.spared else "pool.probes_per_task"
        return (
            f"{floor}. The adapters of different tasks do not stand out of that: as far as this study can tell they "
            "differ by luck, nothing is known of how alike the tasks are, and the mixture is uniform. Longer "
            f"fine-tunes (finetune.steps) or more probes ({more}) may tell them apart."
        )
    text = (
        f"{floor}; {found.clear} of the {n * (n - 1) // 2} pairs of tasks are more than twice as far apart, and count "
        f"as different. {number(found.taken_off)} was taken off every pair"
    )
    if found.taken_off < found.floor:
        text += ", less than the floor, because some pairs lie below it and more would leave no valid affinity"
    seen = f" The affinity sees {number(data.effective_tasks)} distinct tasks." if data.effective_tasks else ""
    return f"{text}.{seen}"
