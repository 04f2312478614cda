"""``taskpgm merge``: the study's final adapter folded into its base model, as one model that needs no adapter."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import InputError, MissingFileError, StorageError
from taskpgm_ray.export.examples import study_config
from taskpgm_ray.export.registry import local_folder
from taskpgm_ray.judge.hand_over import ADAPTER, CARD, MODEL
from taskpgm_ray.models import BaseModelRef, prepare, resolve
from taskpgm_ray.runtime import scratch
from taskpgm_ray.storage import Storage


def merge_final(study: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Write the merged model, its tokenizer and the model card.

    Args:
        study: Folder of a finished study whose search has handed over an adapter.
        folder: Where to write; made when it is not there.

    Returns:
        The folder.

    Raises:
        InputError: The study has no final adapter (nothing was searched), its base model is another one by now, or the
            folder is not on a disk.
        ModelError: The base model cannot be loaded.
        StorageError: A file cannot be read or written.
    """
    target = local_folder(folder)
    storage = Storage(os.fspath(study))
    config = study_config(storage)
    if config.finetune.adapter is None:
        raise InputError(f"{os.fspath(study)} trained all weights: its folder {MODEL} is a whole model")
    names = storage.names(ADAPTER)
    if not names:
        raise InputError(f"{os.fspath(study)} has no final adapter: a study without a search hands none over")
    model = resolve(config.model, Storage(config.storage))
    prepare(model)
    # What an adapter learned on 4-bit weights is added to the whole ones.
    whole = replace(model, quantization=None)
    try:
        card = storage.read_bytes(f"{ADAPTER}/{CARD}").decode()
    except MissingFileError as error:
        raise InputError(f"the final adapter is incomplete: {error}; run the study again") from error
    _check_base(card, model, config)
    # Which says at its import what it would compute faster with, of 4-bit weights: there are none here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Here, as it takes ten seconds: what is wrong is said at once.
    from peft import PeftModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with scratch.temporary("merge") as local:
        for name in names:
            (local / name).write_bytes(storage.read_bytes(f"{ADAPTER}/{name}"))
        merged = PeftModel.from_pretrained(whole.load(), str(local)).merge_and_unload()
    try:
        target.mkdir(parents=True, exist_ok=True)
        merged.save_pretrained(str(target), safe_serialization=True)
        model.tokenizer().save_pretrained(str(target))
        (target / CARD).write_text(
            card.replace("library_name: peft", "library_name: transformers").replace(
                "A LoRA adapter of", "A LoRA adapter merged into"
            ),
            encoding="utf-8",
        )
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}") from error
    return target


def _check_base(card: str, model: BaseModelRef, config: StudyConfig) -> None:
    if model.fingerprint not in card:
        raise InputError(
            f"the adapter was trained on other weights than those in {config.model.path!r} now; put them back"
        )
