"""The search split that chooses and the report split that judges: disjoint, seeded, and checked.

MMLU validation searches and MMLU test reports; tasks without splits of their own are halved by content hash. A
question that occurs on both sides is dropped from the search side; a task that then lacks a side is left out and named
in the manifests. Each split is a finished unit of the study, and a `Split` reads the items of its own unit only. The
search split's unit also lists every item of the report side, drawn or not, and a file that holds one is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import exemplars, harness, pool_items
from taskpgm_ray.evaluation.items import POOL, Item, Items, TaskItems, parse_lines, stored_item
from taskpgm_ray.evaluation.scores import check_weights
from taskpgm_ray.evaluation.sources import load_items, source_identity
from taskpgm_ray.storage import Storage, Unit, fingerprint
from taskpgm_ray.tasks.prepare import Task

FORMAT = 2
"""Raised when items are hashed, halved, drawn or stored in another way: old splits are then not found."""
HELD_OUT = "held_out.json"
"""Ids of the whole report side, beside the search split."""


@dataclass(frozen=True)
class Split:
    """The items of one side, and nothing else: what an evaluation is given. Cheap to pickle."""

    name: str
    """``search`` or ``report``."""
    storage: Storage
    path: str
    """Folder of the split's unit in the study."""

    def items(self) -> list[Item]:
        """The items to be asked, by benchmark, task and draw.

        Raises:
            EvaluationError: The unit is not this split's, or holds an item that was not drawn for it.
            StorageError: The unit is missing or damaged.
        """
        manifest = self.manifest()
        found = [item for name in manifest["counts"] for item in self._read(name, f"{name}.jsonl")]
        self._refuse_held_out(found)
        drawn = set(manifest["items"])
        for item in found:
            if item.id not in drawn:
                raise EvaluationError(
                    f"{self.path} holds item {item.id} ({item.benchmark}/{item.task}), which does not belong to the "
                    f"{self.name} split; remove that folder, and the splits are prepared again"
                )
        if len(found) != len(drawn):
            raise EvaluationError(
                f"{self.path} holds {len(found)} items, its manifest {len(drawn)}; remove it to prepare it again"
            )
        return found

    def dev(self) -> dict[tuple[str, str], list[Item]]:
        """Solved examples by benchmark and task, which may be shown before a question; in neither split."""
        examples: dict[tuple[str, str], list[Item]] = {}
        for benchmark in self.manifest()["dev"]:
            for item in self._read(benchmark, f"{benchmark}.dev.jsonl"):
                examples.setdefault((benchmark, item.task), []).append(item)
        return examples

    def require(self, name: str) -> None:
        """Refuse to be used as the other side: an `EvaluationError` unless this is the ``name`` split."""
        if self.name != name:
            raise EvaluationError(f"{self.path} is the {self.name} split, where only the {name} split may be read")
        self.manifest()

    def manifest(self) -> dict[str, Any]:
        """What the split holds: ``items`` (ids), ``counts`` by benchmark and task, what was dropped and why."""
        manifest = Unit(self.storage, self.path).manifest()
        if manifest.get("split") != self.name:
            raise EvaluationError(
                f"{self.path} is the {manifest.get('split')} split and cannot be read as the {self.name} split"
            )
        return manifest

    def _refuse_held_out(self, items: Sequence[Item]) -> None:
        if self.name != "search":
            return
        held_out = set(Unit(self.storage, self.path).files.read_json(HELD_OUT))
        for item in items:
            if item.id in held_out:
                raise EvaluationError(
                    f"{self.path} holds item {item.id} ({item.benchmark}/{item.task}) of the report split: what "
                    "chooses the mixture must not judge it; remove that folder, and the splits are prepared again"
                )

    def _read(self, benchmark: str, file: str) -> list[Item]:
        files = Unit(self.storage, self.path).files
        text = files.read_bytes(file).decode("utf-8")
        return [stored_item(benchmark, record, where) for record, where in parse_lines(text, f"{files.uri}/{file}")]


@dataclass(frozen=True)
class EvaluationSets:
    """Both sides of one evaluation. Hand a search trial ``search`` only."""

    search: Split
    report: Split


def prepare(
    config: EvaluationConfig, seed: int, storage: Storage, tasks: Sequence[Task] = (), lift: bool = False
) -> EvaluationSets:
    """Write the search and the report split, unless they are there, and check that they share no item.

    Args:
        config: What to evaluate on, and how many items of each task to draw.
        seed: Draws subjects, tasks and items. The halves of a task do not depend on it.
        storage: The study's folder; the units are ``evaluation/search-<fingerprint>`` and ``evaluation/report-...``.
        tasks: The prepared pool, for ``config.own_tasks``: its held-out examples become the benchmark ``pool``.
        lift: Whether adapters are compared on the search split, too.

    Raises:
        EvaluationError: The data are missing, no task has items for both sides, the two sides share an item, a
            benchmark has a single item where systems are compared, or a subject or task has fewer examples than
            ``num_fewshot`` asks for.
        DataError: A record is damaged.
    """
    own_tasks = tasks if config.own_tasks else ()
    benchmarks = [name for name in ("mmlu", "bbh") if getattr(config, name)]
    benchmarks += [harness.benchmark(entry) for entry in config.lm_eval] + ([POOL] if own_tasks else [])
    if len(set(benchmarks)) < len(benchmarks):
        raise EvaluationError(f"two benchmarks have one name: {', '.join(benchmarks)}; rename or drop one in lm_eval")
    if not benchmarks:
        raise EvaluationError("nothing to evaluate on: set evaluation.mmlu, bbh, lm_eval or own_tasks")
    common: list[Any] = [FORMAT, source_identity(config.data) if config.mmlu or config.bbh else None, benchmarks, seed]
    common += [
        config.max_subjects,
        config.max_bbh_tasks,
        harness.identity(config.lm_eval),
        pool_items.identity(own_tasks),
    ]
    if config.bbh and config.shots("bbh"):
        common.append(["bbh examples", exemplars.identity()])
    sizes = {side: _sizes(config, side, benchmarks) for side in ("search", "report")}
    splits = {
        name: Split(name, storage, f"evaluation/{name}-{fingerprint(name, common, size)}")
        for name, size in sizes.items()
    }
    missing = [split for split in splits.values() if not Unit(storage, split.path).done()]
    if missing:
        items = _load(config, own_tasks)
        separated, dropped = _separate(items.tasks)
        usable, left_out = _usable(separated, benchmarks)
        chosen = _choose_tasks(usable, {"mmlu": config.max_subjects, "bbh": config.max_bbh_tasks}, seed)
        held_out = sorted(item.id for task in separated for item in task.report)
        for split in missing:
            notes = {"dropped": dropped, "left_out": left_out, "skipped": items.skipped}
            _write(split, chosen, sizes[split.name], seed, notes, held_out)
    _check_disjoint(splits["search"], splits["report"])
    counts = splits["report"].manifest()["counts"]
    # The pool's data sets are not known before the pool is; `Study.prepare` looks at theirs.
    later = [(POOL, "")] if config.own_tasks and not own_tasks else []
    weights = {name: w for name, w in config.weights.items() if not (later and name.startswith(f"{POOL}/"))}
    check_weights(weights, [*((benchmark, task) for benchmark, inside in counts.items() for task in inside), *later])
    for side in ("report", "search") if lift else ("report",):
        _check_comparable(splits[side])
    for benchmark in ("mmlu", "bbh"):
        if getattr(config, benchmark):
            _check_examples(splits["report"], benchmark, config.shots(benchmark))
    return EvaluationSets(splits["search"], splits["report"])


def _load(config: EvaluationConfig, own_tasks: Sequence[Task]) -> Items:
    items = load_items(config.data, mmlu=config.mmlu, bbh=config.bbh) if config.mmlu or config.bbh else Items([])
    if config.bbh and config.shots("bbh"):
        shown = exemplars.solved()
        for task in items.tasks:
            if task.benchmark == "bbh":
                task.dev = shown.get(task.task, [])
    for part in (*(harness.load(entry) for entry in config.lm_eval), pool_items.load(own_tasks)):
        items.tasks += part.tasks
        items.skipped += part.skipped
    return items


def _sizes(config: EvaluationConfig, side: str, benchmarks: Sequence[str]) -> dict[str, int]:
    """Most items of each task that are drawn, by benchmark."""
    fields = {"mmlu": "items_per_subject", POOL: "items_per_data_set"}
    return {name: getattr(config, f"{side}_{fields.get(name, 'items_per_task')}") for name in benchmarks}


def _separate(tasks: list[TaskItems]) -> tuple[list[TaskItems], dict[str, int]]:
    """Every item on exactly one side, once: the whole pools, before any draw. Also how many were dropped, and why."""
    # An example that is shown with its answer must not be asked. It stays an example: few-shot prompts need their five.
    shown = {item.id for task in tasks for item in task.dev}
    seen = set(shown)
    halves = [_halve(_new(task.shared, seen)) for task in tasks]
    report = [half[1] + _new(task.report, seen) for task, half in zip(tasks, halves, strict=True)]
    judged = {item.id for items in report for item in items}
    # After the report side, so that a question on both sides stays there only.
    search = [half[0] + _new(task.search, seen) for task, half in zip(tasks, halves, strict=True)]
    read = [item for task in tasks for item in (*task.shared, *task.report, *task.search)]
    dropped = {
        "items that are also dev examples": sum(item.id in shown for item in read),
        "search items that are also report items": sum(item.id in judged for task in tasks for item in task.search),
    }
    kept = sum(len(items) for side in (search, report) for items in side)
    dropped["items that occur twice"] = len(read) - kept - sum(dropped.values())
    separated = [
        TaskItems(task.benchmark, task.task, search=s, report=r, dev=task.dev)
        for task, s, r in zip(tasks, search, report, strict=True)
    ]
    return separated, dropped


def _new(items: Iterable[Item], seen: set[str]) -> list[Item]:
    """The items whose content was not seen before; they are marked as seen."""
    fresh = []
    for item in items:
        if item.id not in seen:
            seen.add(item.id)
            fresh.append(item)
    return fresh


def _halve(items: list[Item]) -> tuple[list[Item], list[Item]]:
    """The lower half of the content hashes searches, the upper half (and the odd one) reports."""
    # By rank, not by a bit of the hash: of the three or five exemplars of a task each side gets some.
    ranked = sorted(items, key=lambda item: item.id)
    return ranked[: len(ranked) // 2], ranked[len(ranked) // 2 :]


def _usable(tasks: list[TaskItems], benchmarks: list[str]) -> tuple[list[TaskItems], list[str]]:
    """The tasks with items on both sides, and the names of those without (their questions repeat another task's)."""
    usable = [task for task in tasks if task.search and task.report]
    left_out = sorted({f"{t.benchmark}/{t.task}" for t in tasks} - {f"{t.benchmark}/{t.task}" for t in usable})
    for benchmark in benchmarks:
        if not any(task.benchmark == benchmark for task in usable):
            raise EvaluationError(
                f"no {benchmark} task has items for both splits (questions that occur twice count once; a task without "
                f"splits of its own needs two); add items, or leave {benchmark} out of the evaluation"
            )
    return usable, left_out


def _choose_tasks(tasks: list[TaskItems], most: dict[str, int | None], seed: int) -> list[TaskItems]:
    chosen = []
    for benchmark in dict.fromkeys(task.benchmark for task in tasks):
        of_benchmark = [task for task in tasks if task.benchmark == benchmark]
        ranked = sorted(of_benchmark, key=lambda task: _rank(seed, "task", benchmark, task.task))
        chosen += sorted(ranked[: most.get(benchmark)], key=lambda task: task.task)
    return chosen


def _write(
    split: Split,
    tasks: list[TaskItems],
    sizes: dict[str, int],
    seed: int,
    notes: dict[str, Any],
    held_out: list[str],
) -> None:
    files = Unit(split.storage, split.path).files
    counts: dict[str, dict[str, int]] = {}
    drawn: dict[str, list[Item]] = {}
    for task in tasks:
        pool = getattr(task, split.name)
        found = sorted(pool, key=lambda item: _rank(seed, split.name, item.id))[: sizes[task.benchmark]]
        drawn.setdefault(task.benchmark, []).extend(found)
        counts.setdefault(task.benchmark, {})[task.task] = len(found)
    # One file a benchmark, not one a task: on an object store each of hundreds of small files costs a round trip.
    for benchmark, items in drawn.items():
        files.write_bytes(f"{benchmark}.jsonl", _lines(items))
    dev: dict[str, dict[str, int]] = {}
    for benchmark in drawn:
        examples = [item for task in tasks if task.benchmark == benchmark for item in task.dev]
        if examples:
            files.write_bytes(f"{benchmark}.dev.jsonl", _lines(examples))
            dev[benchmark] = {t.task: len(t.dev) for t in tasks if t.benchmark == benchmark and t.dev}
    if split.name == "search":
        files.write_json(HELD_OUT, held_out)
    manifest = {
        "split": split.name,
        "counts": counts,
        "available": {
            name: {t.task: len(getattr(t, split.name)) for t in tasks if t.benchmark == name} for name in counts
        },
        "dev": dev,
        **notes,
        "items": [item.id for items in drawn.values() for item in items],
    }
    Unit(split.storage, split.path).finish(manifest)


def _check_disjoint(search: Split, report: Split) -> None:
    both = set(search.manifest()["items"]) & set(report.manifest()["items"])
    if both:
        raise EvaluationError(
            f"{search.path} and {report.path} share {len(both)} items (such as {min(both)}): what chooses the mixture "
            "must not judge it; remove both folders to prepare them again"
        )


def _check_comparable(split: Split) -> None:
    """One item shows no spread over items: no comparison, after every fine-tune was paid for."""
    for benchmark, inside in split.manifest()["counts"].items():
        if sum(inside.values()) < 2:
            (task,) = inside
            field = {"mmlu": "subject", POOL: "data_set"}.get(benchmark, "task")
            raise EvaluationError(
                f"the {split.name} split has one item of {benchmark} ({task}), and systems are compared on two or more "
                f"of a benchmark: raise evaluation.{split.name}_items_per_{field}, add items, or leave {benchmark} out"
            )


def _check_examples(split: Split, benchmark: str, shots: int) -> None:
    """Now rather than after hours of fine-tuning."""
    manifest = split.manifest()
    for task in manifest["counts"].get(benchmark, {}):
        available = manifest["dev"].get(benchmark, {}).get(task, 0)
        if available < shots:
            raise EvaluationError(too_few_examples(benchmark, task, available, shots))


def too_few_examples(benchmark: str, task: str, available: int, wanted: int) -> str:
    """The message for a subject or task that cannot be asked with so many examples."""
    if benchmark == "bbh":
        return (
            f"bbh/{task} has {available} solved examples (those of lm-eval's bbh_fewshot), but evaluation.num_fewshot "
            f"asks for {wanted}; lower it"
        )
    return (
        f"mmlu/{task} has {available} dev examples, but evaluation.num_fewshot is {wanted}; lower it (to 0 with "
        "'exemplars', which have none) or add examples to the subject's dev file"
    )


def _lines(items: list[Item]) -> bytes:
    return "".join(json.dumps(item.to_record(), ensure_ascii=True) + "\n" for item in items).encode()


def _rank(seed: int, *parts: str) -> str:
    """A pseudo-random order that no other item influences: a larger draw contains the smaller one."""
    return hashlib.sha256("\x00".join([str(seed), *parts]).encode()).hexdigest()
