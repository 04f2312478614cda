"""Training, scoring, evaluation and exported lines give the model the same token ids, in five styles of tokenizers."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_styles import STYLES, byte_level, sentencepiece

from taskpgm_ray import load_config
from taskpgm_ray.agreement import WHOLE, Agreement
from taskpgm_ray.config import ScoringConfig
from taskpgm_ray.errors import DataError
from taskpgm_ray.scoring.segments import blocks, positions
from taskpgm_ray.storage import Storage
from taskpgm_ray.tasks.conversations import NoExample
from taskpgm_ray.tasks.example import Example, Row
from taskpgm_ray.tasks.marks import BEGIN, END, controls
from taskpgm_ray.tasks.prepare import Task, prepare_one, task_units
from taskpgm_ray.tasks.tokens import encode, leading

CODE = [
    ("def half(x):\n", "    y = x / 2\n    return y\n"),
    ("for i in range(3):\n    ", "print(i)\n"),
    ("if True:\n", "\tx = 1\n"),
    ("x = [\n", "  1,\n]\n"),
    ("}\n\n\n", "\n\nint main() {}"),
    ("\tindent", "\tindent"),
    ("a\r\n", "b\r\n"),
    ("...", "..."),
]
WORDS = [
    ("Is the review positive?", "positive"),
    ("Is the review positive? ", "positive"),
    ("Is the review positive?  ", " positive"),
    ("Answer:", " A"),
    ("Answer:", "A"),
    ("Answer: ", "A"),
    ("Answer:\n", "A"),
    ("Answer:\n\n", "A\n"),
    ("   leading", "trailing   "),
    ("word", "-suffix"),
    ("don", "'t"),
    ("1 + 2 =", "3"),
    ("1 + 2 = ", "3"),
    ("12", "345"),
    ("12,", "345.67"),
    ("x", "y"),
    ("a", "\n"[:0] + "b"),
    ("A" * 200, "B" * 200),
    (" a ", " b "),
]
SCRIPTS = [
    ("问题：今天天气怎么样？答案：", "很好。"),
    ("Translate: hello", "你好"),
    ("こんにちは、", "世界"),
    ("안녕하세요?", "네"),
    ("สวัสดี", "ครับ"),
    ("مرحبا؟", "نعم"),
    ("שלום", "עולם"),
    ("नमस्ते", "दुनिया"),
    ("Größe von Teil 0?", "3 mm"),
    ("e\u0301te\u0301", "\u00e9t\u00e9"),
    ("👩‍👩‍👧 family", "👨‍👩‍👦"),
    ("𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ﬁn"),
]
HTML = ("<b>html</b>", "<s>old</s> new")
STRANGE = [
    ("\ufeffBOM", "text"),
    ("zero\u200bwidth", "\u200b\u200dx"),
    ("nbsp\u00a0", "\u00a0x"),
    ("line\u2028separator", "para\u2029graph"),
    ("nul\x00", "\x00nul"),
    ("bell\x07", "\x1b[0m"),
    ("▁word▁", "▁mark"),
    ("Ġbyte", "ĊĠ"),
    ("{{braces}}", "{% raw %}"),
    HTML,
    ("\U0010ffff", "\ue000"),
]
MARKED = [
    ("<s>What?", "This.</s>"),
    ("<s>[INST] Add 0 and 1. [/INST]", "1</s>"),
    ("What closes a turn?", "The token <|im_end|> closes it."),
    ("<|begin_of_text|>What?", "This.<|end_of_text|>"),
    ("What?", "This.<|im_end|>\n"),
    ("What?", "This.<|endoftext|>"),
    ("<unk> is unknown", "<unk>"),
]
NASTY = [*CODE, *WORDS, *SCRIPTS, *STRANGE, *MARKED]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


@pytest.fixture(scope="session", params=STYLES)
def style(request, tmp_path_factory):
    """(name, tokenizer)"""
    return request.param, STYLES[request.param](tmp_path_factory.mktemp("style") / request.param)


@pytest.fixture(scope="session", params=["plain", "chat"])
def agreement(request, style):
    return Agreement(style[1], request.param)


def trained(agreement, prompt, response):
    example = Example((("user", prompt),), response)
    return encode(example, agreement.tokenizer, agreement.prompt_format, WHOLE, "here", agreement.separator)


def check(agreement, prompt, response):
    """Whether the example is used; if so, all sides agree."""
    try:
        encoded = trained(agreement, prompt, response)
    except NoExample:
        return False
    ids = encoded.prompt + encoded.response
    context, answer = agreement.asked(encoded)
    assert agreement.exported(encoded) == ids
    assert context + answer == ids[:-1]
    if agreement.prompt_format == "plain":
        assert context == encoded.prompt
    tokenizer = agreement.tokenizer
    assert encoded.prompt.count(tokenizer.bos_token_id) == (
        len(leading(tokenizer)) or encoded.written.prompt.count(tokenizer.bos_token)
    )
    assert encoded.response.count(encoded.response[-1]) == 1
    assert len(encoded.response) > 1
    return True


def test_there_are_fifty_nasty_texts():
    assert len(NASTY) >= 50
    assert len(set(NASTY)) == len(NASTY)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(prompt=TEXTS, response=TEXTS)
def test_random_texts(agreement, prompt, response):
    # Hypothesis finds what the product's own code spells.
    spelled = controls(agreement.tokenizer).search(f"{prompt} {response}") or {prompt, response} & {BEGIN, END}
    assert check(agreement, prompt, response) or spelled


def test_nasty_texts(agreement):
    unused = [pair for pair in NASTY if not check(agreement, *pair)]
    # Only what spells control tokens is refused, and HTML's <s> where it is one.
    assert {pair for pair in unused if pair not in MARKED} <= {HTML}


def test_every_character_of_plain_texts_is_kept(style):
    """Of byte-level tokenizers: those of the SentencePiece style cannot tell their word mark from a space."""
    name, tokenizer = style
    if name in ("llama", "mistral"):
        pytest.skip("decoding drops the word mark in front")
    agreement = Agreement(tokenizer, "plain")
    for prompt, response in [*CODE, *WORDS, *SCRIPTS, *STRANGE]:
        encoded = trained(agreement, prompt, response)
        ids = encoded.prompt[len(leading(tokenizer)) :] + encoded.response[:-1]
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert text == prompt + encoded.separator + response


def test_scored_positions_are_the_trained_tokens(style, tmp_path):
    tokenizer = style[1]
    (tmp_path / "nasty.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in [*CODE, *WORDS, *SCRIPTS, *STRANGE])
    )

    class Model:
        fingerprint = "model"

        def tokenizer(self):
            return tokenizer

    (tmp_path / "other.jsonl").write_text((tmp_path / "nasty.jsonl").read_text())
    settings = {"probes_per_task": 30, "tasks": [f"files:{tmp_path}"], "max_bad_share": 0.2}
    for prompt_format in ("plain", "chat"):
        config = load_config(
            {
                "study": "s",
                "model": {"path": "m", "prompt_format": prompt_format, "max_length": 1024},
                "pool": settings,
                "finetune": {"steps": 1},
            }
        )
        source, unit = task_units(config, Model(), Storage(str(tmp_path / prompt_format)))[0]
        prepare_one(source, unit, config, Model())
        task = Task(source.name, unit)
        agreement = Agreement(tokenizer, prompt_format)
        (block,) = blocks(task, ScoringConfig())
        rows = positions(block, ScoringConfig(positions_per_probe=1000))
        scored = {}
        for row in rows:
            scored.setdefault(row["probe"], []).append(row)
        assert len(scored) == 30
        for probe in task.table("probe").to_pylist():
            encoded = trained(agreement, probe["prompt"], probe["response"])
            steps = scored[probe["id"]]
            assert [row["gold"] for row in steps] == encoded.response
            assert all(row["prompt"] == encoded.prompt + encoded.response[:step] for step, row in enumerate(steps))


def test_a_tokenizer_that_ends_every_text(tmp_path):
    """``add_eos_token``: neither the prompt nor the response ends twice."""
    agreement = Agreement(sentencepiece(tmp_path / "ends", add_eos=True), "plain")
    tokenizer = agreement.tokenizer
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    for prompt, response in [*CODE, *WORDS]:
        assert check(agreement, prompt, response)
    encoded = trained(agreement, "Is it?", "yes")
    assert tokenizer.eos_token_id not in encoded.prompt
    assert encoded.response.count(tokenizer.eos_token_id) == 1


def test_what_disagrees_is_shown(tmp_path):
    """A tokenizer whose ids of a text depend on whether special tokens are wanted."""
    tokenizer = byte_level(tmp_path / "t", ["<|endoftext|>"], eos="<|endoftext|>", template=None)

    class Fickle:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **options):
            return tokenizer(text.upper(), **options)

    rows = [Row("line 1", Example((("user", "What is it?"),), "positive"))]
    with pytest.raises(DataError, match=r"task 't', line 1: the same text has different tokens: from token 1 on"):
        Agreement(Fickle(), "plain").examples("t", rows)
    fine = Agreement(tokenizer, "plain")
    fine.examples("t", rows)
    assert fine.compared == 1
