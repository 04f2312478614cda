"""Models whose weights were all trained, on an engine's node."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from taskpgm_ray.errors import ModelError
from taskpgm_ray.models import BaseModelRef
from taskpgm_ray.scoring.folders import Folders
from taskpgm_ray.storage import Unit

PATTERN = "model*.safetensors"


class ModelFolders(Folders):
    """See `taskpgm_ray.scoring.folders.Folders`."""

    def __init__(self, model: BaseModelRef, most: int) -> None:
        super().__init__(most)
        # Now, as of adapters: vLLM changes classes of transformers.
        self._expected = model.weight_shapes()

    def _files(self, unit: Unit) -> Iterable[str]:
        return [name for name in unit.files.names() if name.startswith(("model", "config.json"))]

    def _check(self, folder: Path, name: str) -> None:
        from safetensors import SafetensorError

        remedy = "remove its folder, and the same command trains it again"
        try:
            shapes = _shapes(folder)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the model {name} is not usable: {error}; {remedy}") from error
        for key in sorted(self._expected.keys() | shapes.keys()):
            if self._expected.get(key) != shapes.get(key):
                raise ModelError(
                    f"the model {name} is no fine-tune of this study: {key} has shape {shapes.get(key, 'none')}, and "
                    f"the base model's is {self._expected.get(key, 'none')}; {remedy}"
                )


def read_weights(folder: Path) -> dict[str, Any]:
    """The tensors of a model's folder by name, on the CPU."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob(PATTERN)) for name, tensor in load_file(file).items()}


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in folder.glob(PATTERN):
        with safe_open(file, framework="np") as tensors:
            shapes |= {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    return shapes
