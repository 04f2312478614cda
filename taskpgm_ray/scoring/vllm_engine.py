"""The vLLM engine: next-token scoring with hot-loaded LoRA adapters, or with exchanged weights.

Three ways in which vLLM 0.32 returns wrong numbers without a word are guarded here:

* base-model requests in one batch with adapter requests can be served with an adapter (CPU build): the base model's
  queries are a batch of their own, and each batch is executed to its end before the next one starts;
* requests for the top k tokens in one batch with requests for given tokens come back as garbage: the two have methods
  of their own, and an answer whose token ids are not the requested ones is refused;
* a LoRA id used before returns the weights it first stood for: ids are handed out once per adapter in an engine's life.

Where vLLM's V2 model runner is at work (on GPUs), all positions of an example are scored in one pass over its prompt
(``prompt_logprob_token_ids``), once both ways have been compared on the first queries.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from taskpgm_ray.config import MOST_TOKENS, LoraSection
from taskpgm_ray.errors import ScoringError
from taskpgm_ray.scoring import cpu_lora
from taskpgm_ray.scoring.adapters import AdapterFolders
from taskpgm_ray.scoring.engine import Answer, EngineSpec, Query, agree, before_stop, chains
from taskpgm_ray.scoring.folders import Folders, name_of
from taskpgm_ray.scoring.whole_models import ModelFolders
from taskpgm_ray.storage import Unit
from taskpgm_ray.tasks.chat import end_of_turn

_EXCHANGE = "taskpgm_ray.scoring.vllm_exchange.WeightExchange"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_COMPARED = 16
"""Examples on which the one-pass way has to agree with next-token scoring."""
T = TypeVar("T")


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
        # Nothing is sampled here, and FlashInfer's sampler is compiled at an engine's first start.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        # On GPUs, Triton's products of float32 (attention, adapters) are otherwise those of ten bits of mantissa.
        "TRITON_F32_DEFAULT": "ieee",
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
        # Before the model is loaded, see there.
        self._folders: Folders = (
            ModelFolders(spec.model, config.cached_adapters)
            if lora is None
            else AdapterFolders(spec.model, lora, config.cached_adapters)
        )
        self._llm: Any = LLM(
            model=spec.model.local(),
            revision=spec.model.revision,
            dtype="float32" if spec.model.dtype == "float32" else "bfloat16",
            trust_remote_code=spec.model.trust_remote_code,
            tensor_parallel_size=config.tensor_parallel,
            # Workers of one engine are its own processes, on its own node and GPUs; Ray placed the engine already.
            distributed_executor_backend="mp" if config.tensor_parallel > 1 else None,
            max_model_len=spec.model.window(config.max_model_length),
            max_num_batched_tokens=max(config.max_batched_tokens, config.max_sequences),
            max_num_seqs=config.max_sequences,
            block_size=config.block_size,
            gpu_memory_utilization=config.gpu_memory_utilization,
            enable_prefix_caching=True,
            enforce_eager=True,
            disable_log_stats=True,
            max_logprobs=-1,
            **({"worker_extension_cls": _EXCHANGE} if lora is None else _lora_options(spec, lora)),
        )
        self._spec = spec
        self._held: str | None = ""
        """Of whole models: whose weights the engine has; empty: the base model's; ``None``: not known."""
        self._tokenizer = spec.model.tokenizer()
        self._lora_ids: dict[str, int] = {}
        self._compared = False
        self.method = "vllm next-token"

    def fetch(self, adapters: Sequence[Unit]) -> None:
        """See `Engine.fetch`."""
        self._folders.fetch(adapters)

    def check(self, adapter: Unit) -> None:
        """See `Engine.check`."""
        self._folders.folder(adapter)

    def score(self, queries: list[Query]) -> list[NDArray[np.float32]]:
        """See `Engine.score`."""
        if not self._compared:
            self._compared = True
            if self._llm.llm_engine.vllm_config.use_v2_model_runner and self._one_pass_agrees(queries):
                self.method = "vllm one-pass"
        return self._apart(queries, self._one_pass if self.method == "vllm one-pass" else self._by_next_token)

    def next_token(self, queries: list[Query]) -> list[Answer]:
        """See `Engine.next_token`."""
        answers = self._apart(queries, self._next_token)
        if not all(np.isfinite(answer.logprobs).all() for answer in answers):
            raise ScoringError("the engine returned non-finite log-probabilities")
        return answers

    def _next_token(self, queries: list[Query]) -> list[Answer]:
        from vllm import SamplingParams

        longest = max((len(query.tokens) for query in queries), default=0)
        if longest > MOST_TOKENS:
            raise ScoringError(f"a query asks for {longest} tokens; at most {MOST_TOKENS} can be scored at once")
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
        return [_answer(query, output.outputs[0]) for query, output in zip(queries, outputs, strict=True)]

    def _by_next_token(self, queries: list[Query]) -> list[NDArray[np.float32]]:
        return [answer.logprobs for answer in self._next_token(queries)]

    def _one_pass(self, queries: list[Query]) -> list[NDArray[np.float32]]:
        """All prompts of a run in one request: row i of a prompt's log-probabilities predicts its token i + 1."""
        from vllm import SamplingParams

        # One token more than the longest prompt, and the one that is generated, have to fit.
        window = self._llm.llm_engine.vllm_config.model_config.max_model_len - 2
        fits = [run for run in chains(queries) if len(queries[run[-1]].prompt) <= window]
        longest = [queries[run[-1]] for run in fits]
        firsts = [len(queries[run[0]].prompt) - 1 for run in fits]
        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0.0,
                prompt_logprob_start=first,
                prompt_logprob_token_ids=_rows(run, queries, first),  # type: ignore[arg-type]  # lists are taken too
                detokenize=False,
            )
            for run, first in zip(fits, firsts, strict=True)
        ]
        # The last row predicts the token after the prompt: any token may stand there.
        prompts = [query.prompt + query.tokens[:1] for query in longest]
        outputs = self._run([query.adapter for query in longest], prompts, params)
        found: dict[int, NDArray[np.float32]] = {}
        for run, first, output in zip(fits, firsts, outputs, strict=True):
            if output.prompt_token_id_logprobs is None:
                raise ScoringError("the engine gave no log-probabilities of a prompt that it was asked for")
            table = np.asarray(output.prompt_token_id_logprobs, dtype=np.float32)
            for index in run:
                query = queries[index]
                found[index] = table[len(query.prompt) - 1 - first, : len(query.tokens)]
        rest = [index for index in range(len(queries)) if index not in found]
        found |= zip(rest, self._by_next_token([queries[index] for index in rest]), strict=True)
        return [found[index] for index in range(len(queries))]

    def _one_pass_agrees(self, queries: list[Query]) -> bool:
        """Whether both ways predict the same on some examples under every adapter of these queries."""
        taken: Counter[Unit | None] = Counter()
        sample: list[Query] = []
        for run in chains(queries):
            adapter = queries[run[0]].adapter
            if taken[adapter] < _COMPARED:
                taken[adapter] += 1
                sample += [queries[index] for index in run]
        one, other = (self._apart(sample, way) for way in (self._one_pass, self._by_next_token))
        return agree(one, other, self._spec.model.dtype)

    def top_tokens(self, prompts: list[list[int]], k: int) -> NDArray[np.int32]:
        """See `Engine.top_tokens`."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=k, flat_logprobs=True, detokenize=False)
        outputs = [output.outputs[0] for output in self._run([None] * len(prompts), prompts, [params] * len(prompts))]
        # The first entry is the sampled token, which the k most likely ones repeat.
        return np.array([output.logprobs.token_ids[1 : k + 1] for output in outputs], dtype=np.int32)

    def generate(self, adapter: Unit | None, prompts: list[list[int]], max_tokens: int, stop: list[str]) -> list[str]:
        """See `Engine.generate`."""
        from vllm import SamplingParams

        turn = end_of_turn(self._tokenizer)
        ends = [] if turn is None else [turn]
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop=stop, stop_token_ids=ends)
        outputs = self._run([adapter] * len(prompts), prompts, [params] * len(prompts))
        # Decoded from the tokens: vLLM's own text repeats parts of the prompt where bytes do not form a character.
        texts = (self._tokenizer.decode(o.outputs[0].token_ids, skip_special_tokens=True) for o in outputs)
        return [before_stop(text, stop) for text in texts]

    def _run(self, adapters: list[Unit | None], prompts: list[list[int]], params: list[Any]) -> list[Any]:
        """Run one batch to its end."""
        if not prompts:
            return []
        whole = self._spec.lora is None
        if whole:
            self._hold(adapters[0])
        return self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            params,
            use_tqdm=False,
            lora_request=None if whole else [self._lora(adapter) for adapter in adapters],
        )

    def _hold(self, unit: Unit | None) -> None:
        """Exchange the engine's weights for those of a fine-tune, or of the base model."""
        wanted = name_of(unit) if unit else ""
        if wanted != self._held:
            folder = self._folders.folder(unit) if unit else self._spec.model.folder()
            self._held = None
            kept = {
                kind for kinds in self._llm.collective_rpc("exchange_weights", args=(str(folder),)) for kind in kinds
            }
            if kept:
                raise ScoringError(
                    f"vLLM cannot exchange the weights of this model: {', '.join(sorted(kept))} kept those of another; "
                    "set scoring.scorer=hf"
                )
            # Keys and values of the weights before.
            if not self._llm.reset_prefix_cache():
                raise ScoringError("vLLM kept what it had cached under other weights")
            self._held = wanted

    def _lora(self, adapter: Unit | None) -> Any:
        if adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        name = name_of(adapter)
        number = self._lora_ids.setdefault(name, len(self._lora_ids) + 1)
        return LoRARequest(lora_name=name, lora_int_id=number, lora_path=str(self._folders.folder(adapter)))

    def _apart(self, queries: list[Query], ask: Callable[[list[Query]], list[T]]) -> list[T]:
        """The base model's queries in a batch of their own, apart from those of adapters; the answers in order.

        Of whole models each has a batch of its own.
        """
        whole = self._spec.lora is None
        batches: dict[Unit | bool | None, list[int]] = {None if whole else True: []}
        for index, query in enumerate(queries):
            batches.setdefault(query.adapter if whole else query.adapter is None, []).append(index)
        answers: dict[int, T] = {}
        for batch in filter(None, batches.values()):
            answers |= zip(batch, ask([queries[index] for index in batch]), strict=True)
        return [answers[index] for index in range(len(queries))]


def _lora_options(spec: EngineSpec, lora: LoraSection) -> dict[str, Any]:
    return {
        "enable_lora": True,
        "max_loras": spec.config.max_loras,
        "max_lora_rank": next((rank for rank in _RANKS if rank >= lora.r), lora.r),
        # Without the list the output head is wrapped as well, which breaks its log-probabilities.
        "lora_target_modules": spec.model.adapted_modules(lora),
    }


def _rows(run: list[int], queries: list[Query], first: int) -> list[list[int]]:
    """Token ids to score after every token from ``first`` to the end of the run's longest prompt."""
    wanted = {len(queries[index].prompt) - 1 - first: queries[index].tokens for index in run}
    # Where a prompt of the run is longer by several tokens, nothing is asked for in between.
    return [wanted.get(row, [-1]) for row in range(max(wanted) + 1)]


def _answer(query: Query, output: Any) -> Answer:
    flat = output.logprobs
    # vLLM puts the sampled token, here the greedy one, in front of the requested ones.
    if list(flat.token_ids[1:]) != list(query.tokens):
        raise ScoringError("the engine returned log-probabilities of other tokens than those asked for")
    return Answer(np.asarray(flat.logprobs[1:], dtype=np.float32), int(output.token_ids[0]))
