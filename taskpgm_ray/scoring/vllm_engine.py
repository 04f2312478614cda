"""The vLLM engine: next-token scoring with hot-loaded LoRA adapters.

Three ways in which vLLM 0.32 returns wrong numbers without a word are guarded here:

* base-model requests in one batch with adapter requests can be served with an adapter (CPU build): the base model's
  queries are a batch of their own, and each batch is executed to its end before the next one starts;
* requests for the top k tokens in one batch with requests for given tokens come back as garbage: the two have methods
  of their own, and an answer whose token ids are not the requested ones is refused;
* a LoRA id used before returns the weights it first stood for: ids are handed out once per adapter in an engine's life.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.errors import ScoringError
from taskpgm_ray.scoring import cpu_lora
from taskpgm_ray.scoring.engine import MAX_TOKEN_IDS, Answer, EngineSpec, Query, before_stop
from taskpgm_ray.storage import Unit

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment variables that must be set before vLLM is imported."""
    return {
        # One engine is one actor: its process holds the model, and its death is the actor's death.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if spec.config.tensor_parallel == 1 else "1",
        "VLLM_CPU_KVCACHE_SPACE": str(spec.config.kv_cache_gib),
        # Binding to cores is for a machine with one engine and nothing else; here lanes and engines share nodes.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }


class VLLMEngine:
    """See `taskpgm_ray.scoring.engine.Engine`."""

    def __init__(self, spec: EngineSpec) -> None:
        os.environ.update(engine_environment(spec))
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            cpu_lora.install()
        config, lora = spec.config, spec.lora
        self._llm: Any = LLM(
            model=spec.model.local(),
            revision=spec.model.revision,
            dtype="float32" if spec.model.dtype == "float32" else "bfloat16",
            trust_remote_code=spec.model.trust_remote_code,
            tensor_parallel_size=config.tensor_parallel,
            max_model_len=spec.model.window(config.max_model_length),
            max_num_batched_tokens=max(config.max_batched_tokens, config.max_sequences),
            max_num_seqs=config.max_sequences,
            block_size=config.block_size,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enable_prefix_caching=True,
            enforce_eager=True,
            disable_log_stats=True,
            max_logprobs=-1,
            enable_lora=True,
            max_loras=config.max_loras,
            max_lora_rank=next((rank for rank in _RANKS if rank >= lora.r), lora.r),
            # Without the list the output head is wrapped as well, which breaks its log-probabilities.
            lora_target_modules=(
                spec.model.linear_modules() if lora.target_modules == "all-linear" else list(lora.target_modules)
            ),
        )
        self._tokenizer = spec.model.tokenizer()
        self._lora_ids: dict[str, int] = {}

    def next_token(self, queries: list[Query]) -> list[Answer]:
        """See `Engine.next_token`."""
        answers: dict[int, Answer] = {}
        for base in (True, False):
            batch = [index for index, query in enumerate(queries) if (query.adapter is None) == base]
            if batch:
                answers |= zip(batch, self._next_token([queries[index] for index in batch]), strict=True)
        return [answers[index] for index in range(len(queries))]

    def _next_token(self, queries: list[Query]) -> list[Answer]:
        from vllm import SamplingParams

        longest = max((len(query.tokens) for query in queries), default=0)
        if longest > MAX_TOKEN_IDS:
            raise ScoringError(f"a query asks for {longest} tokens; at most {MAX_TOKEN_IDS} can be scored at once")
        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprob_token_ids=query.tokens,
                flat_logprobs=True,
                detokenize=False,
            )
            for query in queries
        ]
        outputs = self._run([query.adapter for query in queries], [query.prompt for query in queries], params)
        return [_answer(query, output) for query, output in zip(queries, outputs, strict=True)]

    def top_tokens(self, prompts: list[list[int]], k: int) -> NDArray[np.int32]:
        """See `Engine.top_tokens`."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=k, flat_logprobs=True, detokenize=False)
        outputs = self._run([None] * len(prompts), prompts, [params] * len(prompts))
        # The first entry is the sampled token, which the k most likely ones repeat.
        return np.array([output.logprobs.token_ids[1 : k + 1] for output in outputs], dtype=np.int32)

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """See `Engine.generate`."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop=stop)
        outputs = self._run([adapter] * len(prompts), prompts, [params] * len(prompts))
        # Decoded from the tokens: vLLM's own text repeats parts of the prompt where bytes do not form a character.
        texts = (self._tokenizer.decode(output.token_ids, skip_special_tokens=True) for output in outputs)
        return [before_stop(text, stop) for text in texts]

    def _run(self, adapters: list[Unit | None], prompts: list[list[int]], params: list[Any]) -> list[Any]:
        """Run one batch to its end."""
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            params,
            use_tqdm=False,
            lora_request=[self._lora(adapter) for adapter in adapters],
        )
        return [output.outputs[0] for output in outputs]

    def _lora(self, adapter: Unit | None) -> Any:
        if adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        name = f"{adapter.storage.uri}/{adapter.path}"
        number = self._lora_ids.setdefault(name, len(self._lora_ids) + 1)
        folder = adapter.storage.local_copy(adapter.path)
        return LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(folder))


def _answer(query: Query, output: Any) -> Answer:
    flat = output.logprobs
    # vLLM puts the sampled token, here the greedy one, in front of the requested ones.
    if list(flat.token_ids[1:]) != list(query.tokens):
        raise ScoringError("the engine returned log-probabilities of other tokens than those asked for")
    values = np.asarray(flat.logprobs[1:], dtype=np.float32)
    if not np.isfinite(values).all():
        raise ScoringError(f"the engine returned {int((~np.isfinite(values)).sum())} non-finite log-probabilities")
    return Answer(values, int(output.token_ids[0]))
