"""What is wrong with a config, in the user's words: the field, what was given, what is expected, the right name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

HABITS = {
    "lr": "finetune.learning_rate",
    "lora_r": "finetune.lora.r",
    "lora_rank": "finetune.lora.r",
    "rank": "finetune.lora.r",
    "lora_alpha": "finetune.lora.alpha",
    "lora_dropout": "finetune.lora.dropout",
    "lora_target": "finetune.lora.target_modules",
    "lora_target_modules": "finetune.lora.target_modules",
    "max_steps": "finetune.steps",
    "per_device_train_batch_size": "finetune.batch_size (examples of a step over all workers)",
    "train_batch_size": "finetune.batch_size",
    "micro_batch_size": "finetune.lanes.micro_batch_tokens (tokens of a forward pass)",
    "gradient_accumulation_steps": "finetune.batch_size (the whole step; it is accumulated in parts by itself)",
    "warmup_ratio": "finetune.warmup_fraction",
    "warmup_steps": "finetune.warmup_fraction (a part of the budget)",
    "fp16": "model.dtype (bfloat16 or float32)",
    "bf16": "model.dtype (bfloat16 or float32)",
    "torch_dtype": "model.dtype",
    "max_seq_length": "model.max_length",
    "max_seq_len": "model.max_length",
    "model_max_length": "model.max_length",
    "max_model_len": "scoring.engines.max_model_length",
    "cutoff_len": "model.max_length",
    "sequence_len": "model.max_length",
    "base_model": "model.path",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "model_id": "model.path",
    "dataset": "pool.tasks",
    "datasets": "pool.tasks",
    "train_file": "pool.tasks",
    "output_dir": "storage (a folder for all studies) with study (the name of this one)",
    "num_gpus": "finetune.lanes.gpus and scoring.engines.gpus",
    "tensor_parallel_size": "scoring.engines.tensor_parallel",
    "loglikelihood": "evaluation.bbh_answers",
    "num_fewshot_examples": "evaluation.num_fewshot",
}
"""Names that other trainers have for fields of this config."""
_EPOCHS = "finetune.steps or finetune.tokens (every task gets the same budget, so it is not counted in epochs)"
HABITS |= dict.fromkeys(("epochs", "num_epochs", "num_train_epochs"), _EPOCHS)
_SHOWN = 120
"""Characters of a given value in a message, at most."""


def explain(error: Any, root: type[BaseModel]) -> str:
    """One of pydantic's validation errors in the user's words.

    Args:
        error: An entry of ``ValidationError.errors()``.
        root: The model of the whole config, whose fields may be named.
    """
    place = ".".join(str(part) for part in error["loc"]) or "the whole"
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"unknown key {place!r}; {right_name(error['loc'], root)}"
    message = error["msg"].removeprefix("Value error, ")
    if kind in ("tuple_type", "list_type"):
        inside = "a, b" if given is None or isinstance(given, dict) else _text(given)
        message = f"a list is expected: [{inside}]"
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        message = "fields are expected here: {name: value, ...}"
        fields = [] if kind == "dict_type" else fields_at(error["loc"], root)
        message += f", of {', '.join(fields)}" if fields else ""
    # Our own messages say what was given.
    shown = "" if kind in ("value_error", "missing") else f" (given: {_text(given, quoted=True)})"
    return f"{place}: {message}{shown}"


def right_name(location: Sequence[str | int], root: type[BaseModel]) -> str:
    """A hint for a key that is not there: what others call so, a near name of its section, or where it belongs."""
    key, known = str(location[-1]), fields_at(location[:-1], root)
    habit = habitual(key)
    if habit:
        return f"it is called {habit} here"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    # A name that is nearly right beats one that is right elsewhere.
    if near and difflib.SequenceMatcher(None, key, near[0]).ratio() > 0.75:
        return f"did you mean {near[0]!r}?"
    places = [path for path in all_fields(root) if path.rpartition(".")[2] == key]
    if places:
        return f"it belongs elsewhere: {' or '.join(places)}"
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"


def habitual(key: str) -> str | None:
    """What a name of other trainers is called here."""
    return HABITS.get(key.lower().replace("-", "_"))


def fields_at(location: Sequence[str | int], root: type[BaseModel]) -> list[str]:
    """The known field names of the section at ``location``."""
    section = root
    for part in location:
        # Numbers of list entries, and pydantic's names for the branches of a union, are no fields.
        if isinstance(part, str) and part in section.model_fields:
            inside = _models_in(section.model_fields[part].annotation)
            if not inside:
                return []
            section = inside[0]
    return [field.alias or name for name, field in section.model_fields.items()]


def all_fields(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields; those of list entries are left out."""
    for name, field in root.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        yield path
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from all_fields(field.annotation, f"{path}.")


def _text(value: Any, quoted: bool = False) -> str:
    text = repr(value) if quoted else str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in getattr(annotation, "__args__", ()) for m in _models_in(argument)]
