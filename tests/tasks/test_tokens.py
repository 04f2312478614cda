"""One tokenisation: the response ends with the end of sequence, and nothing ever shortens it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.sources import Example
from taskpgm_ray.tasks.tokens import encode, prompt_text

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def chatty(tiny_llama):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def user(prompt, response):
    return Example((("user", prompt),), response)


def test_plain(tokenizer):
    encoded = encode(user("3 + 4 = \n", "7"), tokenizer, "plain", 64, "here")
    assert tokenizer.decode(encoded.prompt) == "3 + 4 ="
    assert encoded.response[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoded.response[:-1]) == " 7"
    assert not encoded.cut


def test_chat(chatty):
    example = Example((("system", "be brief"), ("user", "3 + 4?")), "7")
    encoded = encode(example, chatty, "chat", 64, "here")
    assert chatty.decode(encoded.prompt) == "[system]be brief\n[user]3 + 4?\n[a]"
    assert chatty.decode(encoded.response[:-1]) == "7"
    assert encoded.response[-1] == chatty.eos_token_id


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(min_size=1, max_size=80), response=st.text(min_size=1, max_size=20), room=st.integers(16, 60))
def test_the_cut_takes_from_the_left_of_the_prompt_only(tokenizer, prompt, response, room):
    prompt, response = "p" + prompt, "r" + response
    whole = encode(user(prompt, response), tokenizer, "plain", 10_000, "here")
    encoded = encode(user(prompt, response), tokenizer, "plain", room, "here")
    if len(whole.response) >= room:
        assert encoded is None
        return
    assert encoded.response == whole.response
    assert len(encoded.prompt) + len(encoded.response) <= room
    assert encoded.prompt == whole.prompt[len(whole.prompt) - len(encoded.prompt) :]
    assert encoded.cut == (len(whole.prompt) + len(whole.response) > room)
    assert encoded.prompt


def test_the_response_tokens_do_not_depend_on_the_prompt(tokenizer):
    responses = {
        tuple(encode(user(prompt, "even"), tokenizer, "plain", 64, "here").response)
        for prompt in ("Is 4 even or odd?", "x", "a longer prompt that ends in e")
    }
    assert len(responses) == 1


def test_a_conversation_does_not_fit_the_plain_format(tokenizer):
    example = Example((("user", "a"), ("assistant", "b"), ("user", "c")), "d")
    with pytest.raises(DataError, match=r"task 't', example 3: a conversation .* needs model\.prompt_format=chat"):
        encode(example, tokenizer, "plain", 64, "task 't', example 3")
    assert prompt_text(example, "chat", "here") == "a\n\nb\n\nc"


def test_a_model_without_a_chat_template(tokenizer):
    with pytest.raises(DataError, match=r"here: model.prompt_format is chat, but the model has no chat template"):
        encode(user("p", "r"), tokenizer, "chat", 64, "here")


def test_a_chat_template_that_refuses(chatty):
    chatty.chat_template = "{{ raise_exception('system role not supported') }}"
    with pytest.raises(DataError, match=r"here: the model's chat template refuses .*: system role not supported"):
        encode(user("p", "r"), chatty, "chat", 64, "here")


def test_an_empty_prompt(tokenizer):
    with pytest.raises(DataError, match=r"here: the prompt is empty; remove the example"):
        encode(user(" \n", "r"), tokenizer, "plain", 64, "here")
