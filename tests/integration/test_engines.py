"""vLLM against Hugging Face + PEFT, token by token, in the situations in which vLLM has returned wrong numbers."""

import numpy as np
import pytest

from taskpgm_ray.config import EngineConfig, LoraSection, ModelConfig
from taskpgm_ray.models import resolve
from taskpgm_ray.runtime.cluster import thread_environment
from taskpgm_ray.scoring.engine import EngineSpec, Query
from taskpgm_ray.scoring.hf_engine import HFEngine
from taskpgm_ray.scoring.pool import EngineActor
from taskpgm_ray.scoring.vllm_engine import engine_environment
from taskpgm_ray.storage import Storage, Unit

pytestmark = pytest.mark.integration
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def specs(tiny_llama, tmp_path_factory):
    model = resolve(
        ModelConfig(path=str(tiny_llama), dtype="float32", max_length=64), Storage(str(tmp_path_factory.mktemp("root")))
    )
    config = EngineConfig(max_loras=2, kv_cache_gib=1, max_model_length=512, threads=1)
    return {kind: EngineSpec(kind, model, LoraSection(r=4, alpha=8), config) for kind in ("vllm", "hf")}


@pytest.fixture(scope="module")
def vllm(local_ray, specs):
    import ray

    environment = thread_environment(1) | engine_environment(specs["vllm"])
    actor = ray.remote(EngineActor).options(num_cpus=1, runtime_env={"env_vars": environment}).remote()
    assert ray.get(actor.load.remote(specs["vllm"], None, 0)) > 0, "seconds a token"
    yield lambda method, *arguments: ray.get(getattr(actor, method).remote(*arguments))
    ray.kill(actor)


@pytest.fixture(scope="module")
def reference(specs):
    return HFEngine(specs["hf"])


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(5, 400, size=int(n)).tolist() for n in rng.integers(3, 90, size=24)]


def queries(prompts, adapters):
    """One query per prompt; the adapters (or None) in turn."""
    rng = np.random.default_rng(1)
    return [
        Query(prompt, rng.choice(400, size=20, replace=False).tolist(), adapters[i % len(adapters)])
        for i, prompt in enumerate(prompts)
    ]


def check(vllm, reference, asked):
    logprobs, greedy = vllm("next_token", asked)
    expected = reference.next_token(asked)
    for got, token, want in zip(logprobs, greedy, expected, strict=True):
        np.testing.assert_allclose(got, want.logprobs, atol=TOLERANCE)
        assert token == want.greedy
    return logprobs


def test_the_base_model_equals_the_reference(vllm, reference, prompts):
    check(vllm, reference, queries(prompts, [None]))


def test_each_adapter_equals_the_reference_and_differs_from_the_base(vllm, reference, prompts, adapters):
    base = check(vllm, reference, queries(prompts, [None]))
    for adapter in adapters:
        under = check(vllm, reference, queries(prompts, [adapter]))
        assert max(np.abs(a - b).max() for a, b in zip(base, under, strict=True)) > 0.1


def test_adapters_mixed_in_one_batch_equal_the_reference(vllm, reference, prompts, adapters):
    check(vllm, reference, queries(prompts, adapters))


def test_the_base_model_is_right_while_every_adapter_slot_is_full(vllm, reference, prompts, adapters):
    # max_loras is 2: after these two, no slot is empty.
    check(vllm, reference, queries(prompts, adapters[:2]))
    check(vllm, reference, queries(prompts, [None, *adapters[:2]]))
    check(vllm, reference, queries(prompts, [None]))


def test_an_adapter_that_was_evicted_is_right_when_it_comes_back(vllm, reference, prompts, adapters):
    for adapter in (adapters[0], adapters[3], adapters[4], adapters[0]):
        check(vllm, reference, queries(prompts, [adapter]))


def test_base_and_adapters_are_right_in_one_batch_of_the_engine_itself(local_ray, specs, reference, prompts, adapters):
    """Below our guard: the CPU operators must not serve the base model's tokens with an adapter."""
    import ray

    def ask(spec, asked):
        from taskpgm_ray.scoring.vllm_engine import VLLMEngine

        return [answer.logprobs for answer in VLLMEngine(spec)._next_token(asked)]

    asked = queries(prompts, [None, *adapters[:2]])
    environment = thread_environment(1) | engine_environment(specs["vllm"])
    remote = ray.remote(ask).options(num_cpus=1, runtime_env={"env_vars": environment})
    for got, want in zip(ray.get(remote.remote(specs["vllm"], asked)), reference.next_token(asked), strict=True):
        np.testing.assert_allclose(got, want.logprobs, atol=TOLERANCE)


def test_scores_of_whole_answers_equal_the_reference(vllm, reference, adapters):
    rng = np.random.default_rng(2)
    asked = []
    for i in range(8):
        ids, adapter = rng.integers(5, 400, size=20 + i).tolist(), adapters[i % 2]
        asked += [Query(ids[:end], rng.choice(400, size=9, replace=False).tolist(), adapter) for end in range(14, 20)]
    logprobs, _ = vllm("measure", asked)
    for got, want in zip(logprobs, reference.score(asked), strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_one_pass_requests_ask_for_every_position_once():
    """The request and the reading of its answer, without the model runner that serves it (GPUs only)."""
    from types import SimpleNamespace

    from taskpgm_ray.scoring.vllm_engine import VLLMEngine

    def probability(prompt, token):
        return -float(sum(prompt) % 97 + token / 1000)

    class Recorded(VLLMEngine):
        def __init__(self, window):
            config = SimpleNamespace(model_config=SimpleNamespace(max_model_len=window))
            self._llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=config))
            self.asked = []

        def _run(self, adapters, prompts, params):
            self.asked += prompts
            outputs = []
            for prompt, request in zip(prompts, params, strict=True):
                first, rows = request.prompt_logprob_start, request.prompt_logprob_token_ids
                assert len(rows) == len(prompt) - 1 - first  # what vLLM insists on
                table = [
                    [probability(prompt[: first + i + 1], token) if token >= 0 else -np.inf for token in row]
                    for i, row in enumerate(rows)
                ]
                width = max(map(len, table))
                outputs.append(
                    SimpleNamespace(prompt_token_id_logprobs=[r + [-np.inf] * (width - len(r)) for r in table])
                )
            return outputs

        def _by_next_token(self, queries):
            return [np.array([-999.0]) for _ in queries]

    ids = list(range(3, 23))
    queries = [Query(ids[:end], list(range(end % 3 + 1))) for end in (5, 6, 9, 10)]  # with a gap of two tokens
    queries += [Query([7, 7], [4, 5, 6]), Query(list(range(30)), [1])]
    engine = Recorded(window=30)
    found = engine._one_pass(queries)
    for query, row in zip(queries[:-1], found, strict=False):
        np.testing.assert_allclose(row, [probability(query.prompt, token) for token in query.tokens])
    # The last prompt leaves no room for the two tokens more, so it is scored by next tokens.
    assert found[-1].tolist() == [-999.0]
    assert [len(prompt) for prompt in engine.asked] == [11, 3]


def test_top_tokens_equal_the_reference(vllm, specs, reference, prompts):
    import ray

    def top(spec):
        from taskpgm_ray.scoring.vllm_engine import VLLMEngine

        return VLLMEngine(spec).top_tokens(prompts, 10)

    environment = thread_environment(1) | engine_environment(specs["vllm"])
    remote = ray.remote(top).options(num_cpus=1, runtime_env={"env_vars": environment})
    np.testing.assert_array_equal(ray.get(remote.remote(specs["vllm"])), reference.top_tokens(prompts, 10))


def test_greedy_generation_equals_the_reference(vllm, reference, prompts, adapters):
    for adapter in (None, adapters[2]):
        got = vllm("generate", adapter, prompts[:6], 8, [])
        assert got == reference.generate(adapter, prompts[:6], 8, [])


def test_exchanged_weights_equal_the_reference(local_ray, tiny_llama, store_other_weights, prompts, tmp_path):
    """Whole models in turn with the base model, of tied weights; nothing of the one before may be left in a cache."""
    import ray
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_llama)
    config.tie_word_embeddings = True
    base = AutoModelForCausalLM.from_config(config)
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "base")
    units = [Unit(Storage(str(tmp_path)), name) for name in ("one", "two")]
    for seed, unit in enumerate(units, start=1):
        store_other_weights(tmp_path / "base", tmp_path / unit.path, seed, 0.05)

    def ask(spec, batches):
        from taskpgm_ray.scoring.vllm_engine import VLLMEngine

        engine = VLLMEngine(spec)
        return [[answer.logprobs for answer in engine.next_token(batch)] for batch in batches]

    model = resolve(ModelConfig(path=str(tmp_path / "base"), dtype="float32", max_length=64), Storage("unused"))
    config = EngineConfig(kv_cache_gib=1, max_model_length=512, threads=1)
    specs = {kind: EngineSpec(kind, model, None, config) for kind in ("vllm", "hf")}
    turns = ([None], [units[0]], [None], [units[1]], [units[0]], [units[1], None, units[0]])
    batches = [queries(prompts, list(turn)) for turn in turns]
    environment = thread_environment(1) | engine_environment(specs["vllm"])
    remote = ray.remote(ask).options(num_cpus=1, runtime_env={"env_vars": environment})
    reference = HFEngine(specs["hf"])
    for got, batch in zip(ray.get(remote.remote(specs["vllm"], batches)), batches, strict=True):
        for values, want in zip(got, reference.next_token(batch), strict=True):
            np.testing.assert_allclose(values, want.logprobs, atol=TOLERANCE)
