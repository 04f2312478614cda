"""A cheap stand-in for training on a mixture: the weighted merge of the single-task adapters.

Merging costs seconds, training minutes to hours. Whether the merge ranks mixtures as training does is measured, not
assumed: `rank_correlation` (in `taskpgm_ray.search.ranks`) over mixtures that have both scores. Where it does,
`predicted_best` says what training could make of a mixture that has been merged only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from taskpgm_ray.errors import InputError
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.runtime import scratch
from taskpgm_ray.storage import Unit


def merge_adapters(
    model: BaseModelRef, adapters: Sequence[Unit], weights: npt.ArrayLike, rank: int, unit: Unit
) -> None:
    """Write the weighted merge of these adapters as an adapter of the same rank.

    The weighted sum of the adapters' updates has a rank up to the sum of theirs; its best approximation of ``rank``
    (a singular value decomposition of each layer, by PEFT) is kept, so that it can be served like any other adapter.

    Args:
        model: The base model that all of them belong to.
        adapters: One unit per task.
        weights: [n] mixture on the simplex; tasks without weight are left out.
        rank: LoRA rank of the result.
        unit: Where it goes.

    Raises:
        InputError: The numbers of adapters and weights differ, or no weight is positive.
    """
    from peft import PeftModel

    shares = np.asarray(weights, dtype=np.float64)
    if shares.shape != (len(adapters),) or not (shares > 0).any() or (shares < 0).any():
        raise InputError(f"a merge of {len(adapters)} adapters needs as many weights >= 0, not {shares.tolist()}")
    used = {f"task{i}": (adapters[i], float(share)) for i, share in enumerate(shares) if share > 0}
    merged: PeftModel | None = None
    for name, (adapter, _) in used.items():
        folder = str(adapter.storage.local_copy(adapter.path))
        if merged is None:
            merged = PeftModel.from_pretrained(model.load(), folder, adapter_name=name)
        else:
            merged.load_adapter(folder, name)
    assert merged is not None, "at least one weight is positive"
    merged.add_weighted_adapter(
        list(used), [share for _, share in used.values()], "merged", combination_type="svd", svd_rank=rank
    )
    with scratch.temporary("merge") as saved:
        merged.save_pretrained(str(saved), selected_adapters=["merged"], safe_serialization=True)
        unit.storage.upload(saved / "merged", unit.path)
    unit.finish({"weights": shares.tolist(), "rank": rank})


def predicted_best(
    merged: npt.ArrayLike, trained: npt.ArrayLike, new: npt.ArrayLike, confidence: float = 0.95
) -> npt.NDArray[np.float64]:
    """Upper end of what training is predicted to score [r], for mixtures of which only the merge was scored.

    The one-sided prediction interval of a straight line through the mixtures that have both scores; it widens with the
    line's own uncertainty and with the distance from the mixtures it rests on.

    Args:
        merged: [m] scores of merges, of mixtures that were trained too; at least three, not all equal.
        trained: [m] their scores after training.
        new: [r] scores of the other merges.
        confidence: Of each interval.

    Raises:
        InputError: No line goes through the scores.
    """
    from scipy.stats import t

    x, y, at = (np.asarray(values, dtype=np.float64) for values in (merged, trained, new))
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3 or np.ptp(x) == 0:
        raise InputError(f"three mixtures with different merges are the least for a line, not {len(x)}")
    spread = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / spread
    residuals = y - y.mean() - slope * (x - x.mean())
    error = np.sqrt((residuals**2).sum() / (len(x) - 2) * (1 + 1 / len(x) + (at - x.mean()) ** 2 / spread))
    return np.asarray(y.mean() + slope * (at - x.mean()) + t.ppf(confidence, len(x) - 2) * error)
