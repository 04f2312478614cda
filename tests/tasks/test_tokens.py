"""One tokenisation: ids of the joint text, one begin, one end, and no character lost between file and model."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.conversations import NoExample, conversation
from taskpgm_ray.tasks.example import Example
from taskpgm_ray.tasks.tokens import TooLong, encode, prompt_text

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


CALL = {"type": "function", "function": {"name": "stock", "arguments": {"sku": 1}}}
TOOLS = [{"type": "function", "function": {"name": "stock"}}]


def talk(*messages, tools=()):
    """An example as the conversation of a file makes one."""
    return conversation([dict(zip(("role", "content", "tool_calls"), m, strict=False)) for m in messages], "m",
                        tools=list(tools)).example("m")  # fmt: skip


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_plain(tokenizer):
    encoded = encode(user("3 + 4 =", "7"), tokenizer, "plain", 64, "here")
    assert encoded.prompt == ids_of(tokenizer, "3 + 4 =")
    assert encoded.prompt + encoded.response == [*ids_of(tokenizer, "3 + 4 = 7"), tokenizer.eos_token_id]
    assert encoded.separator == " "
    assert not encoded.cut


@pytest.mark.parametrize(
    ("prompt", "response", "border"),
    [
        ("def f(x):\n", "    y = x\n", "def f(x):"),
        ("A: ", "b", "A:"),
        ("A:", "b", "A:"),
        ("A:", " b", "A:"),
    ],
)
def test_no_character_is_lost_or_added_at_the_border(tokenizer, prompt, response, border):
    encoded = encode(user(prompt, response), tokenizer, "plain", 64, "here")
    assert tokenizer.decode(encoded.prompt + encoded.response[:-1]) == prompt + encoded.separator + response
    assert tokenizer.decode(encoded.prompt) == border


def test_a_separator_of_ones_own(tokenizer):
    encoded = encode(user("Q", "A"), tokenizer, "plain", 64, "here", separator="\n\n")
    assert tokenizer.decode(encoded.prompt + encoded.response[:-1]) == "Q\n\nA"


def test_a_token_across_the_border_is_learned(tokenizer):
    """Without a separator "even" and "od" may share a token with what follows; the joint text decides."""
    encoded = encode(user("Is 4 ev", "en"), tokenizer, "plain", 64, "here", separator="")
    assert encoded.prompt + encoded.response == [*ids_of(tokenizer, "Is 4 even"), tokenizer.eos_token_id]
    assert "Is 4 ev".startswith(tokenizer.decode(encoded.prompt))


def test_chat(chatty):
    """A template without an end of turn: the end of sequence follows what it writes."""
    example = Example((("system", "be brief"), ("user", "3 + 4?")), "7")
    encoded = encode(example, chatty, "chat", 64, "here")
    assert chatty.decode(encoded.prompt) == "[system]be brief\n[user]3 + 4?\n[a]"
    assert chatty.decode(encoded.response[:-1]) == "[assistant]7\n".removeprefix("[assistant]")
    assert encoded.response[-1] == chatty.eos_token_id


@pytest.fixture
def turns(tiny_llama):
    """A template with an end of turn, a line break after it, and tools."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def test_the_end_of_turn_is_the_templates(turns):
    encoded = encode(user("3 + 4?", "7"), turns, "chat", 64, "here")
    assert turns.decode(encoded.prompt) == "<|im_start|>user\n3 + 4?<|im_end|>\n<|im_start|>assistant\n"
    assert turns.convert_ids_to_tokens(encoded.response) == ["7", "<|im_end|>"]


def test_tools_and_calls_go_through_the_template(turns):
    example = talk(("user", "Left?"), ("assistant", "", [CALL]), tools=TOOLS)
    encoded = encode(example, turns, "chat", 1000, "here")
    assert turns.decode(encoded.prompt).startswith('<|im_start|>system\n[{"type": "function"')
    assert turns.decode(encoded.response) == ('<call>{"name": "stock", "arguments": {"sku": 1}}</call><|im_end|>')


@pytest.mark.parametrize(
    ("example", "what"),
    [
        (talk(("user", "Left?"), ("assistant", "", [CALL])), "the reply's call of 'stock'"),
        (talk(("user", "Left?"), ("assistant", "I look.", [CALL])), "the reply's call of 'stock'"),
        (
            talk(("user", "Left?"), ("assistant", "", [CALL]), ("tool", '{"n": 3}'), ("assistant", "3")),
            "the call of 'stock'",
        ),
        (talk(("user", "Left?"), ("assistant", "3"), tools=TOOLS), "the tool 'stock'"),
    ],
)
def test_a_template_that_does_not_know_tools(turns, example, what):
    turns.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(NoExample, match=rf"the model's chat template leaves out {what}; use a model whose template"):
        encode(example, turns, "chat", 1000, "here")


def test_a_template_that_leaves_out_a_role(turns):
    turns.chat_template = turns.chat_template.replace("messages %}", "messages if m.role != 'tool' %}")
    example = talk(("user", "Of 3?"), ("assistant", "", [CALL]), ("tool", "3"), ("assistant", "3"), tools=TOOLS)
    with pytest.raises(NoExample, match=r"leaves out the message of the role 'tool' that begins with '3'"):
        encode(example, turns, "chat", 1000, "here")


def test_a_template_may_leave_out_what_was_thought_earlier_but_nothing_of_the_reply(turns):
    turns.chat_template = turns.chat_template.replace("m.content or ''", "(m.content or '').split('</think>')[-1]")
    earlier = talk(("user", "a?"), ("assistant", "<think>hm</think>\n\nb"), ("user", "c?"), ("assistant", "d"))
    text = turns.decode(encode(earlier, turns, "chat", 1000, "here").prompt)
    assert "<|im_start|>assistant\n\n\nb<|im_end|>" in text
    with pytest.raises(NoExample, match=r"leaves out a part of the reply that begins with '<think>two and two"):
        encode(talk(("user", "2 + 2?"), ("assistant", "<think>two and two</think>\n\n4")), turns, "chat", 64, "here")


def test_a_template_may_trim_quote_and_move_the_system_message(turns):
    turns.chat_template = (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content | trim }} {% endif %}"
        "{{ (m.content | tojson) if m.role == 'tool' else m.content | trim }}"
        "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    example = talk(
        ("system", " Be brief.\n"), ("user", " Left? "), ("assistant", "", [CALL]), ("tool", '{"n": "3\n"}'),
        ("user", "So?"), ("assistant", "3 "),
    )  # fmt: skip
    assert "Be brief. So?" in turns.decode(encode(example, turns, "chat", 1000, "here").prompt)


def test_a_template_that_asks_with_more_than_it_keeps(turns):
    """An opened block of thoughts, which the transcript drops."""
    head, _, tail = turns.chat_template.rpartition("{% endif")
    turns.chat_template = head + "<think>\n{% endif" + tail
    encoded = encode(user("3 + 4?", "7"), turns, "chat", 64, "here")
    assert turns.decode(encoded.prompt).endswith("<|im_start|>assistant\n<think>\n")
    assert turns.decode(encoded.response).endswith("7<|im_end|>")


@settings(max_examples=60)
@given(
    prompt=st.text("pqrs \n", min_size=1, max_size=80), response=st.text("tuv ", max_size=20), room=st.integers(16, 60)
)
def test_the_cut_takes_from_the_middle_of_the_prompt_only(tokenizer, prompt, response, room):
    prompt, response = "p" + prompt, "r" + response
    whole = encode(user(prompt, response), tokenizer, "plain", 10_000, "here")
    if len(whole.response) >= room:
        with pytest.raises(TooLong, match="leaves room for"):
            encode(user(prompt, response), tokenizer, "plain", room, "here")
        return
    encoded = encode(user(prompt, response), tokenizer, "plain", room, "here")
    assert encoded.response == whole.response
    assert encoded.cut == (len(whole.prompt) + len(whole.response) > room)
    assert len(encoded.prompt) + len(encoded.response) == min(room, len(whole.prompt) + len(whole.response))
    kept = len(encoded.prompt)
    assert encoded.prompt == whole.prompt[: kept // 2] + whole.prompt[len(whole.prompt) - (kept - kept // 2) :]


@pytest.mark.parametrize("room", [30, 31, 40])
def test_the_cut_keeps_the_begin_and_the_templates_header(turns, room):
    turns.chat_template = "<bos>" + turns.chat_template
    encoded = encode(user("word " * 60, "7"), turns, "chat", room, "here")
    assert len(encoded.prompt) + len(encoded.response) == room
    text = turns.decode(encoded.prompt)
    assert text.startswith("<bos><|im_start|>user\n")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert encoded.cut


def test_a_frame_that_leaves_no_room(turns):
    with pytest.raises(TooLong, match=r"longer than model\.max_length \(12\) leaves room for"):
        encode(user("word " * 60, "7"), turns, "chat", 12, "here")


def test_a_conversation_does_not_fit_the_plain_format(tokenizer):
    example = Example((("user", "a"), ("assistant", "b"), ("user", "c")), "d")
    with pytest.raises(
        DataError, match=r"task 't', example 3: a system message or a .* needs model\.prompt_format=chat"
    ):
        encode(example, tokenizer, "plain", 64, "task 't', example 3")
    assert prompt_text(example, "chat", "here") == "a\n\nb\n\nc"


def test_a_model_without_a_chat_template(tokenizer):
    with pytest.raises(DataError, match=r"here: model.prompt_format is chat, but the model has no chat template"):
        encode(user("p", "r"), tokenizer, "chat", 64, "here")


def test_a_chat_template_that_refuses(chatty):
    chatty.chat_template = "{{ raise_exception('system role not supported') }}"
    with pytest.raises(NoExample, match=r"the model's chat template refuses .*: system role not supported"):
        encode(user("p", "r"), chatty, "chat", 64, "here")


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_marks_of_begin_and_end_are_not_doubled(turns, prompt_format):
    clean = encode(user("What?", "This."), turns, prompt_format, 64, "here")
    for prompt, response in (
        ("<s>What?", "This.</s>"),
        ("What?", "This.<eos>"),
        ("What?", "This.<|im_end|>\n"),
        ("<s><s>What?", "This.</s></s> "),
    ):
        encoded = encode(user(prompt, response), turns, prompt_format, 64, "here")
        assert (encoded.prompt, encoded.response) == (clean.prompt, clean.response)


def test_the_begin_that_a_model_puts_in_front_is_not_doubled(tiny_llama):
    from tokenizers import processors
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    assert tokenizer.encode("What?")[0] == 2
    for prompt in ("What?", "<bos>What?", "<s>What?"):
        encoded = encode(user(prompt, "This.<eos>"), tokenizer, "plain", 64, "here")
        assert encoded.prompt == [2, *ids_of(tokenizer, "What?")]
        assert encoded.response == [*ids_of(tokenizer, " This."), 1]


def test_control_tokens_inside_a_text_are_refused(turns):
    for example in (user("Which?", "<|im_end|> closes it."), user("What is <|im_end|>?", "An end.")):
        with pytest.raises(NoExample, match=r"it holds '<\|im_end\|>', which is a control token of the model"):
            encode(example, turns, "plain", 64, "here")
    html = encode(user("Old?", "<s>old</s> new </s>."), turns, "plain", 64, "here")
    assert turns.decode(html.response[:-1]) == " <s>old</s> new </s>."
    encode(user("What is <unk>?", "<unk>"), turns, "plain", 64, "here")


def test_a_prompt_that_is_written_in_a_template_is_not_asked_twice_over(turns):
    example = user("<s>[INST] Add 0 and 1. [/INST]", "1</s>")
    with pytest.raises(NoExample, match=r"stands in a chat template already"):
        encode(example, turns, "chat", 64, "here")
    plain = encode(example, turns, "plain", 64, "here")
    assert turns.decode(plain.prompt + plain.response) == "[INST] Add 0 and 1. [/INST] 1<eos>"


@pytest.mark.parametrize(("prompt", "response"), [(" \n", "r"), ("<s>", "r"), ("p", "</s>"), ("p", "<eos> ")])
def test_an_empty_side(tokenizer, prompt, response):
    with pytest.raises(NoExample, match=r"the (prompt|response) is empty"):
        encode(user(prompt, response), tokenizer, "plain", 64, "here")


def test_a_template_that_writes_the_date_writes_one_date(chatty):
    """Or what is prepared today would be asked otherwise tomorrow."""
    from taskpgm_ray.evaluation.bridge import EngineLM

    chatty.chat_template = "{{ strftime_now('%d %b %Y') }}\n" + TEMPLATE
    prompt = encode(talk(("user", "hi"), ("assistant", "yo")), chatty, "chat", 64, "here").written.prompt
    assert prompt == "26 Jul 2024\n[user]hi\n[a]"
    asked = EngineLM(None, chatty).apply_chat_template([{"role": "user", "content": "hi"}])
    assert asked == prompt
