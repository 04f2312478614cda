"""MMLU and BBH from the model hub: the data sets that lm-eval itself uses, at fixed revisions."""

from __future__ import annotations

from typing import Any

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation.items import Items, TaskItems, bbh_item, mmlu_item

MMLU, MMLU_REVISION = "cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe"
BBH, BBH_REVISION = "SaylorTwift/bbh", "b5306be6f827cfafbb545ff5a51f96916029b0fd"


def identity() -> dict[str, str]:
    """The pinned revisions, so that the same config names the same items for ever."""
    return {"source": "hub", MMLU: MMLU_REVISION, BBH: BBH_REVISION}


def load(*, mmlu: bool = True, bbh: bool = True) -> Items:
    """Download (or take from the hub's cache) every item: MMLU validation, test and dev, and BBH's only split.

    Raises:
        EvaluationError: The hub cannot be reached, or the data sets are not there.
        DataError: A record is not what the data set's own description says.
    """
    return Items((_mmlu() if mmlu else []) + (_bbh() if bbh else []))


def _mmlu() -> list[TaskItems]:
    # The configuration "all" is three files; the 57 single subjects would be 171 requests.
    rows = {split: _rows(MMLU, "all", split, MMLU_REVISION) for split in ("validation", "test", "dev")}
    tasks: dict[str, TaskItems] = {}
    for split, records in rows.items():
        for number, record in enumerate(records, 1):
            subject = record["subject"]
            task = tasks.setdefault(subject, TaskItems("mmlu", subject))
            item = mmlu_item(subject, record, f"{MMLU} {split}, row {number}")
            {"validation": task.search, "test": task.report, "dev": task.dev}[split].append(item)
    return [tasks[subject] for subject in sorted(tasks)]


def _bbh() -> list[TaskItems]:
    import datasets

    try:
        names = datasets.get_dataset_config_names(BBH, revision=BBH_REVISION)
    except Exception as error:  # the hub client's errors have no common base
        raise _unreachable(BBH, BBH_REVISION, error) from error
    tasks = []
    for name in sorted(names):
        rows = _rows(BBH, name, "test", BBH_REVISION)
        found = [bbh_item(name, record, f"{BBH} {name}, row {number}") for number, record in enumerate(rows, 1)]
        tasks.append(TaskItems("bbh", name, shared=found))
    return tasks


def _rows(repository: str, name: str, split: str, revision: str) -> list[dict[str, Any]]:
    import datasets

    try:
        return list(datasets.load_dataset(repository, name, split=split, revision=revision))
    except Exception as error:  # as above
        raise _unreachable(repository, revision, error) from error


def _unreachable(repository: str, revision: str, error: Exception) -> EvaluationError:
    return EvaluationError(
        f"data set {repository} at {revision[:7]} cannot be loaded from the hub: {type(error).__name__}: {error}; "
        "check the network, or set evaluation.data to a local folder or to 'exemplars'"
    )
