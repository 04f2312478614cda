"""The reference engine against plain forward passes of a tiny model in float32."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from taskpgm_ray.config import EngineConfig, LoraSection, ModelConfig
from taskpgm_ray.errors import ModelError, ResourceError, ScoringError
from taskpgm_ray.models import resolve
from taskpgm_ray.scoring.engine import EngineSpec, Query, chains
from taskpgm_ray.scoring.engine_actor import build_engine
from taskpgm_ray.scoring.hf_engine import HFEngine
from taskpgm_ray.storage import Storage, Unit
from taskpgm_ray.tasks.chat import end_of_turn

TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def base(tiny_llama):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tuned(tiny_llama, tmp_path_factory):
    """Three adapters with large weights: (unit, the model with that adapter merged in)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    storage = Storage(str(tmp_path_factory.mktemp("adapters")))
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        unit = Unit(storage, f"adapter-{seed}")
        model.save_pretrained(storage.path(unit.path))
        unit.finish({})
        made.append((unit, model.merge_and_unload().eval()))
    return made


def engine_of(tiny_llama, **config):
    model = resolve(ModelConfig(path=str(tiny_llama), dtype="float32"), Storage("unused"))
    return build_engine(EngineSpec("hf", model, LoraSection(r=4, alpha=8), EngineConfig(**config)))


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_score_on_the_cpu(tiny_llama, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ResourceError, match=r"engines\.gpus is 1, but torch finds no usable CUDA .* set gpus to 0"):
        engine_of(tiny_llama, gpus=1)


@pytest.fixture
def engine(tiny_llama):
    return engine_of(tiny_llama)


def reference(model, prompt):
    """Log-probabilities of every next token, by one forward pass of this prompt alone."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1).numpy()


def chain(seed, length, steps):
    """A prompt and its continuations by one token each."""
    ids = np.random.default_rng(seed).integers(4, 512, size=length + steps).tolist()
    return [ids[: length + step] for step in range(steps + 1)]


def ask(prompts, adapter=None, tokens=(3, 500, 17, 41)):
    return [Query(prompt, list(tokens), adapter) for prompt in prompts]


def check(engine, model, queries):
    for query, answer in zip(queries, engine.next_token(queries), strict=True):
        expected = reference(model, query.prompt)
        assert answer.logprobs.dtype == np.float32
        np.testing.assert_allclose(answer.logprobs, expected[query.tokens], **TOLERANCE)
        assert answer.greedy == int(expected.argmax())


def test_the_base_model_equals_a_plain_forward_pass(engine, base):
    assert isinstance(engine, HFEngine)
    # Lengths from 1 to 40, more than fit into one batch, chains and single prompts in turn.
    prompts = [prompt for seed in range(25) for prompt in chain(seed, 1 + seed * 13 % 40, seed % 4)]
    check(engine, base, ask(prompts))


def test_each_query_has_tokens_of_its_own(engine, base):
    prompts = chain(0, 5, 3)
    check(engine, base, [Query(p, list(range(7 * i, 7 * i + i + 1))) for i, p in enumerate(prompts)])


def test_prompts_of_one_chain_share_a_forward_pass(engine):
    passes = []
    forward = engine._model.forward

    def counted(*args, **kwargs):
        passes.append(kwargs["input_ids"].shape)
        return forward(*args, **kwargs)

    engine._model.forward = counted
    engine.next_token(ask([*chain(0, 5, 4), *chain(1, 9, 2)]))
    assert passes == [(2, 11)]


def test_chains():
    def of(*prompts):
        return chains([Query(prompt, [1]) for prompt in prompts])

    assert of([1], [1, 2], [1, 2, 3], [1, 3], [4], [4], [4, 5]) == [[0, 1, 2], [3], [4], [5, 6]]
    assert of([1, 2], [1]) == [[0], [1]]
    assert of() == []
    assert chains([Query([1], [1], Unit(Storage("s"), "a")), Query([1, 2], [1])]) == [[0], [1]]


def test_every_adapter_predicts_as_its_merged_model(engine, tuned, base):
    prompts = [*chain(0, 12, 3), *chain(1, 3, 2)]
    # The first one again: it is still in memory while the others came.
    for unit, merged in [*tuned, tuned[0]]:
        check(engine, merged, ask(prompts, unit))
        assert np.abs(reference(merged, prompts[0]) - reference(base, prompts[0])).max() > 0.5


def test_the_base_model_is_the_same_to_the_bit_before_and_after_adapters(tiny_llama, tuned):
    """Which of them is scored first is for the queue to say, and a resumed study must not show it."""
    rng = np.random.default_rng(0)
    queries = [Query(rng.integers(4, 500, size=length).tolist(), [1, 2, 3]) for length in rng.integers(5, 40, size=64)]
    first, later = engine_of(tiny_llama), engine_of(tiny_llama)
    before = np.stack(first.score(queries))
    for unit, _ in tuned:
        for engine in (first, later):
            engine.score([Query(query.prompt, query.tokens, unit) for query in queries[:4]])
    np.testing.assert_array_equal(first.score(queries), before)
    np.testing.assert_array_equal(later.score(queries), before)


def test_a_batch_of_several_adapters_and_the_base_model(engine, tuned, base):
    models = [(None, base), *tuned]
    prompts = [prompt for seed in range(6) for prompt in chain(seed, 4 + seed, 1)]
    queries = [Query(prompt, [7, 8, 9], models[i % 4][0]) for i, prompt in enumerate(prompts)]
    answers = engine.next_token(queries)
    for i, (query, answer) in enumerate(zip(queries, answers, strict=True)):
        np.testing.assert_allclose(answer.logprobs, reference(models[i % 4][1], query.prompt)[7:10], **TOLERANCE)


def test_the_base_model_after_adapters_is_unchanged_to_the_bit(engine, tuned):
    queries = ask(chain(3, 6, 2))
    before = [answer.logprobs for answer in engine.next_token(queries)]
    engine.next_token(ask(chain(3, 6, 2), tuned[0][0]))
    after = [answer.logprobs for answer in engine.next_token(queries)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_adapters_that_had_to_leave_come_back_right(tiny_llama, tuned, base):
    engine = engine_of(tiny_llama, max_loras=1)
    prompts = chain(2, 8, 1)
    for index in (0, 1, 0, 2, 1):
        unit, merged = tuned[index]
        check(engine, merged, ask(prompts, unit))
        check(engine, base, ask(prompts))
        assert len(engine._weights._loaded) == 1
        assert len(engine._model.peft_config) == 2  # with the one that is never used


def test_top_tokens_are_the_base_models_most_likely_ones(engine, tuned, base):
    engine.next_token(ask(chain(0, 4, 0), tuned[0][0]))
    prompts = [*chain(0, 5, 2), *chain(1, 2, 0)]
    top = engine.top_tokens(prompts, 6)
    assert top.dtype == np.int32
    assert top.tolist() == [np.argsort(-reference(base, prompt))[:6].tolist() for prompt in prompts]


@pytest.mark.parametrize("index", [None, 1])
def test_generation_is_greedy_and_ends_before_a_stop_string(engine, tuned, base, index):
    unit, model = (None, base) if index is None else tuned[index]
    prompt = chain(5, 6, 0)[0]
    ids = list(prompt)
    for _ in range(6):
        ids.append(int(reference(model, ids).argmax()))
        if ids[-1] == 1:
            break
    text = engine._tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    assert engine.generate(unit, [prompt], 6, []) == [text]
    assert len(text) > 2
    assert engine.generate(unit, [prompt, prompt], 6, ["no such text", text[2]]) == [text[: text.index(text[2])]] * 2


def greedy_ids(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(reference(model, ids).argmax()))
    return ids[len(prompt) :]


def test_generation_is_greedy_whatever_the_model_would_rather_do(tiny_llama, base, tmp_path):
    prompt = chain(5, 6, 0)[0]
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    settings = {"eos_token_id": 1, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    wanted = greedy_ids(base, prompt, 8)
    assert len(set(wanted)) < len(wanted), "a penalty would change nothing"
    (text,) = engine_of(folder).generate(None, [prompt], 8, [])
    assert text == engine_of(tiny_llama)._tokenizer.decode(wanted)


def test_generation_ends_with_the_templates_turn(tiny_llama, base, tmp_path):
    """Which is not the end of the sequence, in a base model with a template for example."""
    from transformers import AutoTokenizer

    prompt = chain(5, 6, 0)[0]
    said = greedy_ids(base, prompt, 6)
    assert said[3] not in said[:3]
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    turn = tokenizer.convert_ids_to_tokens(said[3])
    tokenizer.add_special_tokens({"additional_special_tokens": [turn]})
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}" + turn + "{% endfor %}"
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    tokenizer.save_pretrained(str(folder))
    assert end_of_turn(AutoTokenizer.from_pretrained(folder)) == said[3]
    (text,) = engine_of(folder).generate(None, [prompt], 6, [])
    assert text == tokenizer.decode(said[:3])


def test_broken_weights_are_an_error_not_a_score(engine):
    import torch

    with torch.no_grad():
        engine._model.lm_head.weight[3] = float("nan")
    with pytest.raises(ScoringError, match=r"non-finite log-probabilities"):
        engine.next_token(ask(chain(0, 4, 0)))


def test_no_queries_no_answers(engine):
    assert engine.next_token([]) == []


@pytest.fixture(scope="module")
def whole(tiny_llama, store_other_weights, tmp_path_factory):
    """Three models with other weights, as full fine-tuning stores them: (unit, the model)."""
    storage = Storage(str(tmp_path_factory.mktemp("models")))
    units = [Unit(storage, f"model-{seed}") for seed in range(3)]
    made = []
    for seed, unit in enumerate(units):
        made.append((unit, store_other_weights(tiny_llama, Path(storage.path(unit.path)), seed, 0.1)))
        unit.finish({})
    return made


def of_whole_models(tiny_llama, **config):
    model = resolve(ModelConfig(path=str(tiny_llama), dtype="float32"), Storage("unused"))
    return build_engine(EngineSpec("hf", model, None, EngineConfig(**config)))


def test_whole_models_take_turns_with_the_base_model(tiny_llama, whole, base):
    engine = of_whole_models(tiny_llama)
    prompts = [*chain(0, 12, 3), *chain(1, 3, 2)]
    for unit, model in [(None, base), *whole, (None, base), whole[0]]:
        check(engine, model, ask(prompts, unit))
    mixed = [query for unit, _ in [(None, base), *whole] for query in ask(prompts, unit)]
    apart = [answer for unit, _ in [(None, base), *whole] for answer in engine.next_token(ask(prompts, unit))]
    for got, want in zip(engine.next_token(mixed), apart, strict=True):
        np.testing.assert_array_equal(got.logprobs, want.logprobs)


def test_a_model_of_another_shape_is_refused(tiny_llama, whole, tmp_path):
    from safetensors.torch import load_file, save_file

    engine = of_whole_models(tiny_llama)
    unit = whole[0][0]
    weights = load_file(f"{unit.files.path()}/model.safetensors")
    storage = Storage(str(tmp_path))
    gone = sorted(weights)[0]
    less = {key: tensor for key, tensor in weights.items() if key != gone}
    for name, content in (("less", less), ("more", {**weights, "x": weights[gone].clone()})):
        (tmp_path / name).mkdir()
        save_file(content, tmp_path / name / "model.safetensors")
        with pytest.raises(ModelError, match=rf"the model {name} is no fine-tune of this study: .* remove its folder"):
            engine.check(Unit(storage, name))
    (tmp_path / "less" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="the model less is not usable"):
        engine.check(Unit(storage, "less"))


def choices(seed, length, ends):
    """A question's prompts: each choice's tokens after the same beginning, with every step of a choice."""
    rng = np.random.default_rng(seed)
    question = rng.integers(4, 512, size=length).tolist()
    asked = [question]
    for steps in ends:
        end = rng.integers(4, 512, size=steps).tolist()
        asked += [[*question, *end[:step]] for step in range(1, steps + 1)]
    return asked


def widths(engine):
    """Shapes of the passes that the engine makes from here on."""
    passes, forward = [], engine._model.forward

    def counted(*args, **kwargs):
        passes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    engine._model.forward = counted
    return passes


def test_choices_of_a_question_share_a_row_and_predict_as_alone(engine, base, tuned):
    questions = [*choices(0, 40, (1, 2, 1)), *choices(1, 25, (3, 1)), *chain(2, 30, 2), *choices(3, 60, (1,) * 6)]
    check(engine, base, ask(questions))
    assert engine._shares is True
    for unit, merged in tuned[:2]:
        check(engine, merged, ask(questions, unit))
    passes = widths(engine)
    engine.next_token(ask(choices(3, 60, (1,) * 6)))
    assert passes == [(1, 66)]


def test_rows_are_not_shared_where_that_predicts_otherwise(tiny_llama, base, monkeypatch):
    import torch

    engine = engine_of(tiny_llama)
    # A model that does not look at what it is told to leave out.
    monkeypatch.setattr(
        "taskpgm_ray.scoring.hf_engine.mask_of",
        lambda rows, width, dtype: torch.zeros((len(rows), 1, width, width)).masked_fill_(
            ~torch.ones((width, width), dtype=torch.bool).tril(), torch.finfo(dtype).min
        ),
    )
    asked = ask([*choices(0, 40, (1, 2, 1)), *choices(1, 25, (3, 1))])
    check(engine, base, asked)
    assert engine._shares is False


def test_nothing_is_decided_before_prompts_begin_alike(engine, base):
    check(engine, base, ask(chain(0, 12, 3)))
    assert engine._shares is None
