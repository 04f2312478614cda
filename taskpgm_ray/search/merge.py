"""A cheap stand-in for training on a mixture: the weighted merge of the single-task adapters.

Merging costs seconds, training minutes to hours. Whether the merge ranks mixtures as training does is measured, not
assumed: `rank_correlation` (in `taskpgm_ray.search.ranks`) over mixtures that have both scores. Where it does,
`predicted_best` says what training could make of a mixture that has been merged only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import InputError, ModelError
from taskpgm_ray.scoring.adapters import SETTINGS, WEIGHTS
from taskpgm_ray.storage import Unit

_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, eq=False)
class Merge:
    """One merge that is to be made."""

    weights: npt.ArrayLike
    """[n] mixture on the simplex; tasks without weight are left out."""
    unit: Unit
    """Where it goes."""


def merge_adapters(adapters: Sequence[Unit], merges: Sequence[Merge], lora: LoraSection) -> None:
    """Write weighted merges of these adapters as adapters of one rank; those that are finished are left alone.

    The weighted sum of the adapters' updates has a rank up to the sum of theirs; its best approximation of rank ``r``
    is kept, so that it can be served like any other adapter. It is that of PEFT's ``add_weighted_adapter`` with ``svd``
    to rounding, found without the base model and without any update in full: of a layer's matrices side by side, sum
    w_i s_i B_i A_i = [B_1 ... B_n] W [A_1; ...; A_n], the two outer ones are orthogonalised once for all merges, and
    the singular value decomposition of what stays between them, at most [n r, n r], is that of the whole. One layer
    after the other is read, so that memory holds one layer of all adapters and the merges, all in float32.

    Args:
        adapters: One unit per task [n]; all on the same layers.
        merges: What to make of them.
        lora: Rank and alpha of the merges, those of the study's adapters.

    Raises:
        InputError: The numbers of adapters and weights differ, a weight is negative, or none is positive.
        ModelError: An adapter cannot be read, or has other layers or shapes than the first one.
    """
    from safetensors.torch import save

    shares = [_checked(merge.weights, len(adapters)) for merge in merges]
    todo = [(merge.unit, share) for merge, share in zip(merges, shares, strict=True) if not merge.unit.done()]
    if not todo:
        return
    weights = np.array([share for _, share in todo])
    used = np.flatnonzero(weights.any(axis=0))
    sources = [_Source(adapters[i]) for i in used]
    made: list[dict[str, Any]] = [{} for _ in todo]
    for layer, factors in _layers(sources):
        for tensors, (A, B) in zip(made, _best(factors, weights[:, used], lora), strict=True):
            tensors[f"{layer}{_A}"], tensors[f"{layer}{_B}"] = A, B
    plain = {"r": lora.r, "lora_alpha": lora.alpha, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    settings = sources[0].settings | plain
    for (unit, share), tensors in zip(todo, made, strict=True):
        unit.files.write_bytes(WEIGHTS, save(tensors, metadata={"format": "pt"}))
        unit.files.write_json(SETTINGS, settings)
        unit.finish({"weights": share.tolist(), "rank": lora.r})


def _checked(weights: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    shares = np.asarray(weights, dtype=np.float64)
    if shares.shape != (n,) or not (shares > 0).any() or (shares < 0).any():
        raise InputError(f"a merge of {n} adapters needs as many weights >= 0, not {shares.tolist()}")
    return shares


class _Source:
    """An adapter that is read one layer at a time."""

    def __init__(self, unit: Unit) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = unit.path
        folder = unit.storage.local_copy(unit.path)
        try:
            self.settings: dict[str, Any] = json.loads((folder / SETTINGS).read_bytes())
            self._tensors = safe_open(folder / WEIGHTS, framework="pt")
            names = set(self._tensors.keys())
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(
                f"adapter {unit.path} cannot be merged: {error}; remove its folder, and the same command trains it "
                "again"
            ) from error
        self.layers = sorted(name.removesuffix(_A) for name in names if name.endswith(_A))
        if names != {f"{layer}{end}" for layer in self.layers for end in (_A, _B)}:
            raise ModelError(f"adapter {unit.path} cannot be merged: it holds more than pairs of LoRA matrices")

    def factors(self, layer: str) -> tuple[Any, Any]:
        """(A [r, inputs] times its scale, B [outputs, r]) in float32: their product B A is the layer's update."""
        A, B = (self._tensors.get_tensor(f"{layer}{end}").float() for end in (_A, _B))
        return self._scale(layer, len(A)) * A, B

    def _scale(self, layer: str, rank: int) -> float:
        """PEFT's: alpha over the rank, or over its root (rsLoRA), where alpha may be a layer's own."""
        alpha, own = self.settings["lora_alpha"], self.settings.get("alpha_pattern")
        if own:
            from peft.utils.other import get_pattern_key

            alpha = own.get(get_pattern_key(own.keys(), layer), alpha)
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def _layers(sources: Sequence[_Source]) -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
    """(layer, its factors in every adapter), one layer after the other."""
    for source in sources:
        if source.layers != sources[0].layers:
            raise ModelError(f"adapters {sources[0].path} and {source.path} are on different layers: no merge of them")
    for layer in sources[0].layers:
        factors = [source.factors(layer) for source in sources]
        shapes = {(A.shape[1], B.shape[0]) for A, B in factors}
        if len(shapes) > 1:
            raise ModelError(f"adapters of {layer} have different shapes ({sorted(shapes)}): no merge of them")
        yield layer, factors


def _best(
    factors: Sequence[tuple[Any, Any]], weights: npt.NDArray[np.float64], lora: LoraSection
) -> Iterator[tuple[Any, Any]]:
    """Of each mixture [m, n] the (A, B) of rank ``lora.r`` whose update is nearest to the sum of a layer's updates."""
    import torch
    from torch.nn.functional import pad

    left, above = torch.linalg.qr(torch.cat([B for _, B in factors], dim=1))
    right, below = torch.linalg.qr(torch.cat([A for A, _ in factors]).T)
    ranks = torch.tensor([len(A) for A, _ in factors])
    for mixture in weights:
        spread = torch.repeat_interleave(torch.tensor(mixture, dtype=torch.float32), ranks)
        U, S, Vh = torch.linalg.svd((above * spread) @ below.T, full_matrices=False)
        # Of a layer narrower than the rank there are fewer singular values.
        lacking = max(lora.r - len(S), 0)
        B = left @ (U[:, : lora.r] * S[: lora.r]) * (lora.r / lora.alpha)
        A = Vh[: lora.r] @ right.T
        yield pad(A, (0, 0, 0, lacking)).contiguous(), pad(B, (0, lacking)).contiguous()


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
