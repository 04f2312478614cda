"""Trainers that read token ids: OLMo-core's source mixtures, and the weighted data paths of Megatron and NeMo.

They train every token of a document: what a study masks, the prompts, is learned as well.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.export.recipe import Recipe
from taskpgm_ray.export.registry import exporter, file_name, write_tasks, write_yaml
from taskpgm_ray.tasks.tokens import leading


@exporter("olmo-core", "sources.yaml (SourceMixtureList) for OLMo-core, and the tasks' token ids")
def _olmo(bundle: Bundle, folder: Path) -> list[Path]:
    (folder / "data").mkdir(exist_ok=True)
    counted = [task.count * _mean_tokens(task) for task in bundle.tasks]
    total, sources, files = sum(counted), [], []
    for number, (task, tokens) in enumerate(zip(bundle.tasks, counted, strict=True)):
        ids = [token for line in task.lines for token in (*line.prompt_ids, *line.completion_ids)]
        file = folder / "data" / f"{file_name(task, number)}.npy"
        # Raw ids without a header, as OLMo-core maps them.
        np.asarray(ids, dtype=np.uint32).tofile(file)
        files.append(file)
        sources.append(
            {
                "source_name": task.name,
                "target_ratio": tokens / total,
                "paths": [str(file.resolve())],
                "max_repetition_ratio": max(1.0, float(np.ceil(task.count / len(task.lines)))),
            }
        )
    note = f"Ratios are shares of tokens; {round(total):,} tokens are this mixture once. The ids are uint32."
    return [write_yaml(folder / "sources.yaml", {"sources": sources}, note), *files]


@exporter("megatron", "data_path.txt (weights and prefixes) and preprocess.sh for Megatron-LM, and the tasks' texts")
def _megatron(bundle: Bundle, folder: Path) -> list[Path]:
    files, prefixes, script = _texts(bundle, folder)
    path = folder / "data_path.txt"
    parts = [f"{weight!r} {prefix}" for weight, prefix in zip(_by_tokens(bundle), prefixes, strict=True)]
    path.write_text("--data-path " + " ".join(parts) + "\n", encoding="utf-8")
    return [path, script, *files]


@exporter("nemo", "blend.yaml (data_prefix with weights) and preprocess.sh for NeMo, and the tasks' texts")
def _nemo(bundle: Bundle, folder: Path) -> list[Path]:
    files, prefixes, script = _texts(bundle, folder)
    blend = [part for pair in zip(_by_tokens(bundle), prefixes, strict=True) for part in pair]
    settings = {"model": {"data": {"data_prefix": blend}}}
    return [write_yaml(folder / "blend.yaml", settings, "Weights are shares of tokens."), script, *files]


def _by_tokens(bundle: Bundle) -> list[float]:
    """Shares of tokens: these trainers draw sequences of one length, not examples."""
    counted = [task.count * _mean_tokens(task) for task in bundle.tasks]
    return [tokens / sum(counted) for tokens in counted]


def _mean_tokens(task: object) -> float:
    lines = task.lines  # type: ignore[attr-defined]
    return sum(len(line.prompt_ids) + len(line.completion_ids) for line in lines) / len(lines)


def _texts(bundle: Bundle, folder: Path) -> tuple[list[Path], list[str], Path]:
    """(files of texts, prefixes of what the script makes of them, the script)."""
    tokenizer = bundle.tokenizer
    files = write_tasks(bundle, folder, lambda line: {"text": _text(line, tokenizer)})
    if others := bundle.found(lambda line: not _comes_back(line, tokenizer)):
        bundle.tell(
            f"as text, some examples are other tokens than those that the study trained: {others} (where it cut a "
            "prompt, the ends that are left may join)"
        )
    prefixes = [str(file.resolve().with_suffix("")) + "_text_document" for file in files]
    recipe = Recipe.of(bundle.config)
    script = folder / "preprocess.sh"
    lines = [
        shlex.join(
            [
                *("python", "tools/preprocess_data.py", "--input", str(file.resolve())),
                *("--output-prefix", str(file.resolve().with_suffix("")), "--tokenizer-type", "HuggingFaceTokenizer"),
                *("--tokenizer-model", recipe.name, "--append-eod", "--workers", "8"),
            ]
        )
        for file in files
    ]
    revision = f" (the study's tokenizer is of revision {recipe.revision})" if recipe.revision else ""
    script.write_text(f"# In Megatron-LM's folder{revision}:\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return files, prefixes, script


def _text(line: Line, tokenizer: Any) -> str:
    """What the ids say, a chat's template included, without what the script adds: begin and end of the text."""
    if line.messages is None and not line.cut:
        return line.prompt + line.completion
    return str(tokenizer.decode(_inner(line, tokenizer), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _comes_back(line: Line, tokenizer: Any) -> bool:
    """Whether the text is tokenised to the study's ids."""
    ids = tokenizer(_text(line, tokenizer))["input_ids"]
    return bool(ids == [*leading(tokenizer), *_inner(line, tokenizer)])


def _inner(line: Line, tokenizer: Any) -> list[int]:
    ids, front = line.ids, leading(tokenizer)
    ids = ids[len(front) :] if ids[: len(front)] == front else ids
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
