"""Adapters on an engine's node."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import ModelError
from taskpgm_ray.layers import adapted_layers
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.scoring.folders import Folders
from taskpgm_ray.storage import Unit

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class AdapterFolders(Folders):
    """See `taskpgm_ray.scoring.folders.Folders`."""

    def __init__(self, model: BaseModelRef, lora: LoraSection, most: int) -> None:
        super().__init__(most)
        self._lora = lora
        # Now, not with the first adapter: vLLM changes classes of transformers once it has loaded a model of them
        # (GPT-NeoX), and then they make no skeleton any more.
        self._expected = expected_shapes(model, lora)

    def _files(self, unit: Unit) -> Iterable[str]:
        return (SETTINGS, WEIGHTS)

    def _check(self, folder: Path, name: str) -> None:
        check_adapter(folder, name, self._lora, self._expected)


def expected_shapes(model: BaseModelRef, lora: LoraSection) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in an adapter of this model and configuration."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, (inputs, outputs) in adapted_layers(model.linear_shapes(), lora).items():
        shapes[f"{_PREFIX}{path}.lora_A.weight"] = (lora.r, inputs)
        shapes[f"{_PREFIX}{path}.lora_B.weight"] = (outputs, lora.r)
    return shapes


def check_adapter(folder: Path, name: str, lora: LoraSection, expected: dict[str, tuple[int, ...]]) -> None:
    """Compare an adapter with what the study's adapters are.

    Raises:
        ModelError: What is missing, damaged or different, and what to do.
    """
    from safetensors import SafetensorError, safe_open

    try:
        settings = json.loads((folder / SETTINGS).read_bytes())
        with safe_open(folder / WEIGHTS, framework="np") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"adapter {name} is not usable: {error}; remove its folder, and the same command trains it again"
        ) from error
    remedy = "it is not one of this study's adapters; remove its folder, and the same command trains it again"
    if settings.get("r") != lora.r or settings.get("lora_alpha") != lora.alpha:
        raise ModelError(
            f"adapter {name} has rank {settings.get('r')} and alpha {settings.get('lora_alpha')}, the study's adapters "
            f"have {lora.r} and {lora.alpha}: {remedy}"
        )
    if settings.get("use_dora") or settings.get("modules_to_save") or settings.get("bias", "none") != "none":
        raise ModelError(f"adapter {name} trains more than LoRA matrices (DoRA, bias or whole modules): {remedy}")
    for key in sorted(expected.keys() | shapes.keys()):
        if expected.get(key) != shapes.get(key):
            raise ModelError(
                f"adapter {name} is of another base model: {key} has shape {shapes.get(key, 'none')}, this study's "
                f"base model needs {expected.get(key, 'none')}; {remedy}"
            )
