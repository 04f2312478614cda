"""The bridge against lm-eval's own Hugging Face model, which it must agree with request by request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from taskpgm_ray.config import MOST_TOKENS
from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.evaluation import NextToken

from .helpers import HFClient, tiny_llama, tiny_tokenizer

MMLU_CONTEXT = "What is the colour of the sky?\nA. blue\nB. red\nC. green\nD. black\nAnswer:"
PAIRS = [
    *[(MMLU_CONTEXT, f" {letter}") for letter in "ABCD"],
    ("Q: not ( True and False ) is\nA:", " True"),
    ("Q: not ( True and False ) is\nA:", " True and something rather longer (B)."),
    ("Q: colour of Ünïcode ☃ is\nA:", " ☃☃"),
    ("Trailing spaces belong to the answer   ", "valid"),
    ("", "Without any context"),
    ("x", "y"),
    ("The sky " * 80, " is blue and the sea is green"),
]


def request(kind: str, *args: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("t", 0, 1))


def pair(model: Any, tokenizer: Any, max_length: int) -> tuple[Any, Any, HFClient]:
    from lm_eval.models.huggingface import HFLM

    from taskpgm_ray.evaluation.bridge import EngineLM

    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu", max_length=max_length)
    client = HFClient(model, tokenizer)
    return EngineLM(client, tokenizer, max_length=max_length), theirs, client


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("max_length", [500, 40])
def test_loglikelihood_equals_the_hugging_face_model(bos: bool, max_length: int) -> None:
    tokenizer = tiny_tokenizer(bos=bos)
    ours, theirs, client = pair(tiny_llama(len(tokenizer)), tokenizer, max_length)
    for context, continuation in PAIRS:
        if context:
            assert ours._encode_pair(context, continuation) == theirs._encode_pair(context, continuation)
    requests = [request("loglikelihood", *args) for args in PAIRS]
    got, want = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    assert len(client.calls) == 1
    np.testing.assert_allclose([value for value, _ in got], [value for value, _ in want], atol=1e-4)
    assert [flag for _, flag in got] == [flag for _, flag in want]
    assert (ours.truncated > 0) == (max_length == 40)


def test_a_greedy_continuation_is_recognised(model: Any, tokenizer: Any) -> None:
    ours, theirs, client = pair(model, tokenizer, 500)
    greedy: list[int] = []
    for _ in range(4):
        greedy += client.next_token([[5, 6, *greedy]], [[0]]).greedy
    almost = [*greedy[:-1], (greedy[-1] + 1) % len(tokenizer)]
    requests = [(None, [5, 6], ids) for ids in (greedy, greedy[:2], almost)]
    flags = [flag for _, flag in ours._loglikelihood_tokens(requests)]
    assert flags == [flag for _, flag in theirs._loglikelihood_tokens(requests, disable_tqdm=True)]
    assert flags == [True, True, False]


def test_choices_of_one_context_are_one_request(model: Any, tokenizer: Any) -> None:
    ours, _, client = pair(model, tokenizer, 500)
    letters = [ours._encode_pair(MMLU_CONTEXT, f" {letter}")[1] for letter in "ABCD"]
    assert all(len(ids) == 1 for ids in letters)
    scores = ours.loglikelihood([request("loglikelihood", MMLU_CONTEXT, f" {letter}") for letter in "ABCD"])
    ((prompts, tokens),) = client.calls
    assert prompts == [ours.tok_encode(MMLU_CONTEXT)]
    assert tokens == [[ids[0] for ids in letters]]
    assert len({score for score, _ in scores}) == 4


def test_longer_continuations_ask_for_each_position_once(model: Any, tokenizer: Any) -> None:
    ours, _, client = pair(model, tokenizer, 500)
    ours._loglikelihood_tokens([(None, [5, 6], [7, 8, 9]), (None, [5, 6], [7, 8, 10]), (None, [5, 6], [7, 8, 9])])
    ((prompts, tokens),) = client.calls
    assert prompts == [[5, 6], [5, 6, 7], [5, 6, 7, 8]]
    assert tokens == [[7], [8], [9, 10]]


def test_more_tokens_than_a_request_takes_are_split(model: Any, tokenizer: Any) -> None:
    ours, _, client = pair(model, tokenizer, 500)
    scores = ours._loglikelihood_tokens([(None, [5], [token]) for token in range(300)])
    ((prompts, tokens),) = client.calls
    assert prompts == [[5]] * 3
    assert [len(ids) for ids in tokens] == [MOST_TOKENS, MOST_TOKENS, 300 - 2 * MOST_TOKENS]
    assert sum(greedy for _, greedy in scores) <= 1
    assert 0 < sum(np.exp(value) for value, _ in scores) <= 1 + 1e-5


@pytest.mark.parametrize("max_length", [500, 16])
def test_rolling_loglikelihood_equals_the_hugging_face_model(model: Any, tokenizer: Any, max_length: int) -> None:
    ours, theirs, client = pair(model, tokenizer, max_length)
    texts = ["The colour of the sky over the sea and the brain is right.", "Q", "", "valid invalid yes no 12 31 45"]
    requests = [request("loglikelihood_rolling", text) for text in texts]
    want = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    np.testing.assert_allclose(ours.loglikelihood_rolling(requests), want, atol=1e-4)
    assert len(client.calls) == 1


def test_generation_equals_the_hugging_face_model(model: Any, tokenizer: Any) -> None:
    ours, theirs, client = pair(model, tokenizer, 60)
    contexts = ["Q: not True is\nA:", "What is the colour", "The sky " * 40, "valid"]
    free = [request("generate_until", text, {"until": [], "max_gen_toks": 12}) for text in contexts]
    want = theirs.generate_until(free, disable_tqdm=True)
    assert ours.generate_until(free) == want
    assert all(want)
    # A stop string that is known to occur in what the model says.
    stop = want[0][2:4]
    stopped = [request("generate_until", text, {"until": [stop], "max_gen_toks": 12}) for text in contexts]
    got = ours.generate_until([*stopped, *free])
    assert got[:4] == theirs.generate_until(stopped, disable_tqdm=True)
    assert got[0] == want[0].split(stop)[0]
    assert got[4:] == want
    assert client.generations == [(12, []), (12, [stop]), (12, [])]


def test_sampling_and_impossible_lengths_are_refused(model: Any, tokenizer: Any) -> None:
    ours, _, _ = pair(model, tokenizer, 20)
    with pytest.raises(EvaluationError, match="wants sampled text"):
        ours.generate_until([request("generate_until", "x", {"until": [], "do_sample": True, "temperature": 0.7})])
    with pytest.raises(EvaluationError, match="20 tokens to generate leave no prompt within max_length 20"):
        ours.generate_until([request("generate_until", "x", {"until": [], "max_gen_toks": 20})])
    with pytest.raises(EvaluationError, match="1 context and 0 continuation tokens"):
        ours._loglikelihood_tokens([(None, [5], [])])
    with pytest.raises(EvaluationError, match="a continuation of 21 tokens is longer than max_length 20"):
        ours._loglikelihood_tokens([(None, [5], [6] * 21)])


BAD_ANSWERS = {
    "a row missing": (NextToken([], []), "1 requests, but the engine gave 0 rows and 0 tokens"),
    "a value missing": (NextToken([np.zeros(1)], [3]), r"2 tokens were asked for, the engine gave \(1,\)"),
    "minus infinity": (NextToken([np.array([-1.0, -np.inf])], [3]), "are no log-probabilities"),
    "not a number": (NextToken([np.array([-1.0, np.nan])], [3]), "are no log-probabilities"),
    "logits": (NextToken([np.array([-1.0, 2.0])], [3]), "are no log-probabilities"),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_unusable_answers_of_the_engine_are_refused(tokenizer: Any, name: str) -> None:
    from taskpgm_ray.evaluation.bridge import EngineLM

    answer, message = BAD_ANSWERS[name]

    class Bad:
        def next_token(self, prompts: Any, tokens: Any) -> NextToken:
            return answer

        def generate(self, prompts: Any, max_tokens: int, stop: list[str]) -> list[str]:
            raise AssertionError("not asked for")

    with pytest.raises(EvaluationError, match=message):
        EngineLM(Bad(), tokenizer)._loglikelihood_tokens([(None, [5], [6]), (None, [5], [7])])


def test_no_second_begin_of_text_token(model: Any) -> None:
    tokenizer = tiny_tokenizer(bos=True)
    ours, theirs, _ = pair(model, tokenizer, 500)
    assert ours.tok_encode("<s>sky").count(tokenizer.bos_token_id) == 1
    for text in ("sky", "<s>sky"):
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours.tok_encode(text, add_special_tokens=False) == theirs.tok_encode(text, add_special_tokens=False)
    assert ours.prefix_token_id == theirs.prefix_token_id == tokenizer.bos_token_id
    assert ours.eot_token_id == theirs.eot_token_id == tokenizer.eos_token_id


def test_chat_templates(model: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs, _ = pair(model, tiny_tokenizer(), 500)
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q: sky"}]
    assert ours.apply_chat_template(history) == "<system>Be brief.\n<user>Q: sky\n<assistant>"
    assert ours.apply_chat_template(history) == theirs.apply_chat_template(history)
    assert ours.chat_template(True) == ours.tokenizer.chat_template
    assert ours.tokenizer_name == theirs.tokenizer_name
    ours.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    # A template that knows no generation prompt: a reply begins behind its own header all the same.
    assert ours.apply_chat_template(history) == "<user>Q: sky<assistant>"
    assert "the chat template takes no system message" in caplog.text
    ours.tokenizer.chat_template = "{{ raise_exception('broken') }}"
    with pytest.raises(Exception, match="broken"):
        ours.apply_chat_template(history[1:])


def test_only_a_chat_templates_own_space_is_left_to_the_reply() -> None:
    """A plain prompt that ends with a space keeps it, whatever the model's template would write."""
    from taskpgm_ray.evaluation.bridge import EngineLM

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}Q {{ m.content }} A"
        "{% else %} {{ m.content }}{% endif %}{% endfor %}"
    )
    ours = EngineLM(HFClient(None, tokenizer), tokenizer)
    assert ours.prompt_ids("sky ", 4) == ours.tok_encode("sky ") != ours.tok_encode("sky")
    asked = ours.apply_chat_template([{"role": "user", "content": "sky"}])
    assert asked == "Q sky A "
    assert ours.prompt_ids(asked, 4) == ours.tok_encode("Q sky A")
