"""ms-swift: the tasks' examples as the study's token ids, and settings with a count for each (``path#count``).

swift's own files hold messages, which its templates turn into tokens. Here the messages hold the ids as numbers, and a
template of our own, which swift loads as a plugin, reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taskpgm_ray.export.examples import Bundle, Line
from taskpgm_ray.export.recipe import Adapter, Recipe
from taskpgm_ray.export.registry import exporter, write_tasks, write_yaml

TEMPLATE = "as_trained"
PLUGIN = '''"""A template for ms-swift (4.3 or later) that reads token ids, written as numbers, and adds nothing.

Only for the training: what was trained is used with the model's own template.
"""

from swift.template import Template, TemplateMeta, register_template


class AsTrained(Template):
    """Learns the ids of the reply."""

    def _encode(self, inputs):
        prompt, reply = ([int(token) for token in message["content"].split()] for message in inputs.messages)
        return {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}


register_template(
    TemplateMeta("@NAME@", prefix=[], prompt=["{{QUERY}}"], chat_sep=None, template_cls=AsTrained), exist_ok=True
)
'''


@exporter("swift", "exact.yaml and sampled.yaml for `swift sft`, and the tasks' examples as token ids")
def _swift(bundle: Bundle, folder: Path) -> list[Path]:
    recipe, files = Recipe.of(bundle.config), write_tasks(bundle, folder, _numbers)
    plugin = folder / "as_trained.py"
    plugin.write_text(PLUGIN.replace("@NAME@", TEMPLATE), encoding="utf-8")
    common: dict[str, Any] = {
        "model": recipe.name,
        **recipe.source,
        # Names are those of Hugging Face's hub, not of ModelScope's.
        "use_hf": True,
        "external_plugins": [str(plugin.resolve())],
        "template": TEMPLATE,
        **_adapter(recipe.adapter),
        "max_length": recipe.max_length,
        **recipe.training_arguments,
        # AdamW's own; swift's is 0.95.
        "adam_beta2": 0.999,
        "warmup_ratio": recipe.warmup,
        "gradient_accumulation_steps": 1,
        "torch_dtype": "bfloat16" if recipe.bf16 else "float32",
    }
    exact = common | {
        "dataset": [f"{file.resolve()}#{task.count}" for task, file in zip(bundle.tasks, files, strict=True)],
        "num_train_epochs": 1,
    }
    sampled = common | {
        "dataset": [str(file.resolve()) for file in files],
        "streaming": True,
        "interleave_prob": bundle.probabilities,
        "stopping_strategy": "all_exhausted",
        "max_steps": recipe.steps(bundle.document["examples"]),
    }
    return [
        write_yaml(
            folder / "exact.yaml",
            exact,
            "swift sft exact.yaml (ms-swift 4.3 or later): each task gives exactly its count.",
        ),
        write_yaml(
            folder / "sampled.yaml",
            sampled,
            "swift sft sampled.yaml (ms-swift 4.3 or later): tasks are sampled by weight from streams.",
            "max_steps is that of one device: divide it by the number of yours.",
        ),
        plugin,
        *files,
    ]


def _numbers(line: Line) -> dict[str, Any]:
    sides = {"user": line.prompt_ids, "assistant": line.completion_ids}
    return {"messages": [{"role": role, "content": " ".join(map(str, ids))} for role, ids in sides.items()]}


def _adapter(adapter: Adapter | None) -> dict[str, Any]:
    if adapter is None:
        return {"tuner_type": "full"}
    return {
        "tuner_type": "lora",
        "lora_rank": adapter.r,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        # Of target_modules it makes a list, in which an expression is the name of a layer.
        **({"target_regex": adapter.pattern} if adapter.pattern else {"target_modules": adapter.modules}),
        **({"quant_method": "bnb", "quant_bits": 4} if adapter.four_bits else {}),
    }
