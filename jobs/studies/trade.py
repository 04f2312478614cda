"""What a study's winner wins and loses on each data set of its pool: ``python jobs/studies/trade.py STUDY``.

One line for each data set whose held-out examples the report split asks, the worst first: the winner's gold
log-probability above uniform's in nats, over all their fine-tunes, and its share of training beside its uniform share.
Then the same for all data sets below and above their uniform share.
"""

import re
import sys
from collections import defaultdict
from math import log
from pathlib import Path
from statistics import correlation, fmean
from typing import Any

from taskpgm_ray.storage import Storage

MODEL = re.compile(r"(.+)-seed\d+-[0-9a-f]{16}")


def main(folder: str) -> None:
    """Print the lines."""
    storage = Storage(str(Path(folder)))
    models: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for unit in storage.names("reported"):
        if named := MODEL.fullmatch(unit):
            models[named[1]].append(storage.read_json(f"reported/{unit}/manifest.json")["summary"]["benchmarks"])
    mixture = storage.read_json("mixture.json")
    winner = f"{mixture['affinity']}-tau-{mixture['tau']:.4g}"
    if winner not in models:
        raise SystemExit(f"{folder}: no model of {winner} was judged; there are {', '.join(models)}")
    gain = {task: mean(models[winner], task) - mean(models["uniform"], task) for task in own(models["uniform"][0])}
    share, uniform = {}, {}
    for task in gain:
        # A data set may be several tasks, its parts.
        parts = [one["weight"] for one in mixture["tasks"] if re.fullmatch(rf"{re.escape(task)}(\.\d+)?", one["name"])]
        share[task], uniform[task] = sum(parts), len(parts) / len(mixture["tasks"])
    for task in sorted(gain, key=gain.__getitem__):
        print(f"{gain[task]:+7.3f}  {share[task]:6.1%} {uniform[task]:6.1%}  {task}")
    print(f"{fmean(gain.values()):+7.3f}  {winner} against uniform, {len(gain)} data sets")
    for side, chosen in (
        ("below", [task for task in gain if share[task] < uniform[task]]),
        ("above", [task for task in gain if share[task] > uniform[task]]),
    ):
        print(f"{fmean(gain[task] for task in chosen):+7.3f}  the {len(chosen)} {side} their uniform share")
    ratios = [log(share[task] / uniform[task]) for task in gain]
    print(f"{correlation(ratios, list(gain.values())):7.2f}  correlation of the gain with the logarithm of their ratio")


def own(benchmarks: dict[str, Any]) -> dict[str, Any]:
    """The pool's own data sets among the benchmarks."""
    (name,) = set(benchmarks) - {"mmlu", "bbh"}
    return benchmarks[name]["tasks"]


def mean(models: list[dict[str, Any]], task: str) -> float:
    """Gold log-probability over fine-tunes."""
    return fmean(own(model)[task]["gold_logprob"] for model in models)


if __name__ == "__main__":
    main(sys.argv[1])
