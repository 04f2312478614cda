"""Where MMLU and BBH come from (`EvaluationConfig.data`): lm-eval's exemplars, the hub, or a local folder."""

from __future__ import annotations

from taskpgm_ray.evaluation import exemplars, folder, hub
from taskpgm_ray.evaluation.items import Items


def source_identity(data: str) -> dict[str, str]:
    """What the items of a source depend on. Cheap: reads a local folder, touches neither network nor lm-eval.

    Raises:
        EvaluationError: There is no such folder.
    """
    if data == "exemplars":
        return exemplars.identity()
    if data == "hub":
        return hub.identity()
    return folder.identity(data)


def load_items(data: str, *, mmlu: bool = True, bbh: bool = True) -> Items:
    """Read every item of a source.

    Raises:
        DataError: A record is damaged; the message names file and line.
        EvaluationError: The source does not exist or lacks a benchmark that was asked for.
    """
    if data == "exemplars":
        return exemplars.load(mmlu=mmlu, bbh=bbh)
    if data == "hub":
        return hub.load(mmlu=mmlu, bbh=bbh)
    return folder.load(data, mmlu=mmlu, bbh=bbh)
