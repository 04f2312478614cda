"""The linear layers of a base model that is never loaded, and which of them adapters attach to."""

from __future__ import annotations

import re
from typing import Any

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import ModelError


def text_part(config: Any) -> Any:
    """Of a configuration with sections for text, images and so on, that of the text; else the configuration itself."""
    return config.get_text_config(decoder=True)


def linear_layers(config: Any, trust_remote_code: bool = False) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer of a model that is never loaded, see `layers_of` and `skeleton`."""
    return layers_of(skeleton(config, trust_remote_code))


def skeleton(config: Any, trust_remote_code: bool = False) -> Any:
    """The model without its weights.

    Args:
        config: The model's own configuration (transformers ``PretrainedConfig``).
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ModelError: transformers has no language model for this configuration.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # every architecture checks its configuration in its own way
        reason = str(error).partition("\n")[0][:300]
        raise ModelError(
            f"model.path is a {config.model_type!r} model, which transformers does not make a language model of "
            f"(AutoModelForCausalLM: {type(error).__name__}: {reason}); take a text-only model of that family"
        ) from error


def layers_of(model: Any) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer but the output head, by its path in the model.

    GPT-2's ``Conv1D`` is a linear layer as well. Of a model that also sees or hears, only the language model counts:
    no image ever gets to the other layers.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    inside = ""
    if text_part(model.config) is not model.config:
        decoder = model.get_decoder()
        inside = next((f"{path}." for path, module in model.named_modules() if module is decoder and path), "")
    head = model.get_output_embeddings()
    shapes: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if module is head or not path.startswith(inside):
            continue
        if isinstance(module, torch.nn.Linear):
            shapes[path] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            shapes[path] = (module.nx, module.nf)
    return shapes


def adapted_layers(layers: dict[str, tuple[int, int]], lora: LoraSection) -> dict[str, tuple[int, int]]:
    """Those of a model's linear layers that an adapter of this shape attaches to.

    PEFT's rule: a string is a regular expression for whole paths, an entry of a list is a path or the end of one, from
    a dot on. Training, its checks and the engines all ask here.

    Raises:
        ModelError: An entry fits no layer; the message says what there is.
    """
    wanted = lora.target_modules
    names = ", ".join(sorted({path.rpartition(".")[2] for path in layers})) or "none"
    if isinstance(wanted, str):
        if wanted == "all-linear":
            found = layers
        else:
            found = {path: shape for path, shape in layers.items() if re.fullmatch(wanted, path)}
        if not found:
            example = next(iter(layers), "")
            raise ModelError(
                f"finetune.lora.target_modules is the regular expression {wanted!r}, which fits the whole path of no "
                f"linear layer of the base model (paths are such as {example!r}; names go into a list); it has: {names}"
            )
        return found
    for module in wanted:
        if not any(_ends(path, module) for path in layers):
            raise ModelError(
                f"finetune.lora.target_modules names {module!r}, which is no linear layer of the base model; "
                f"it has: {names}"
            )
    return {path: shape for path, shape in layers.items() if any(_ends(path, module) for module in wanted)}


def _ends(path: str, module: str) -> bool:
    return f".{path}".endswith(f".{module}")
