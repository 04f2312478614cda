"""Adapters on an engine's node: fetched ahead into a bounded cache, and checked before they are used."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import ModelError
from taskpgm_ray.models import BaseModelRef, adapted_layers
from taskpgm_ray.runtime import scratch
from taskpgm_ray.storage import Unit

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class AdapterFolders:
    """Local folders of checked adapters; one engine's. Of a storage on a mounted disk nothing is copied."""

    def __init__(self, model: BaseModelRef, lora: LoraSection, most: int) -> None:
        self._lora, self._most = lora, most
        # Now, not with the first adapter: vLLM changes classes of transformers once it has loaded a model of them
        # (GPT-NeoX), and then they make no skeleton any more.
        self._expected = expected_shapes(model, lora)
        self._folders: OrderedDict[str, Future[Path]] = OrderedDict()
        self._fetcher = ThreadPoolExecutor(1, "adapters")
        self._root: Path | None = None

    def fetch(self, adapters: Sequence[Unit]) -> None:
        """Start to fetch and check these adapters; the oldest ones leave when there are too many."""
        for adapter in adapters:
            name = name_of(adapter)
            if name not in self._folders:
                self._folders[name] = self._fetcher.submit(self._fetched, adapter)
            self._folders.move_to_end(name)
        while len(self._folders) > self._most:
            _, oldest = self._folders.popitem(last=False)
            # In the fetcher's thread: after whatever it is still to fetch into this folder.
            self._fetcher.submit(self._drop, oldest)

    def folder(self, adapter: Unit) -> Path:
        """The adapter's folder on this node.

        Raises:
            ModelError: Files are missing or damaged, or the adapter is of another base model, rank or kind.
            StorageError: The storage cannot be read.
        """
        self.fetch([adapter])
        try:
            return self._folders[name_of(adapter)].result()
        except BaseException:
            # What failed for a reason that passes (the network) is fetched again when it is asked for again.
            del self._folders[name_of(adapter)]
            raise

    def _fetched(self, adapter: Unit) -> Path:
        if adapter.storage.is_local:
            folder = Path(adapter.storage.path(adapter.path))
        else:
            self._root = self._root or scratch.new_folder("adapters")
            folder = self._root / adapter.path
            folder.mkdir(parents=True, exist_ok=True)
            for file in (SETTINGS, WEIGHTS):
                (folder / file).write_bytes(adapter.files.read_bytes(file))
        check_adapter(folder, adapter.path, self._lora, self._expected)
        return folder

    def _drop(self, fetched: Future[Path]) -> None:
        if self._root is not None and fetched.exception() is None:
            shutil.rmtree(fetched.result())


def name_of(adapter: Unit) -> str:
    """A name that stands for one adapter only: its path ends with the fingerprint of all that it depends on."""
    return f"{adapter.storage.uri}/{adapter.path}"


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
