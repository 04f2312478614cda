"""What stands between prompt and response."""

import pytest

from taskpgm_ray.tasks.separator import separator, shown


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("Is it?", "yes", " "),
        ("Is it? ", "yes", ""),
        ("Is it?\n", "yes", ""),
        ("Is it?", " yes", ""),
        ("def f(x):\n", "    return x", ""),
        ("Größe?", "3 mm", " "),
        ("안녕하세요?", "네", " "),
        ("مرحبا؟", "نعم", " "),
        ("नमस्ते", "दुनिया", " "),
        ("今天天气怎么样？", "很好", ""),
        ("答案:", "很好", ""),
        ("こんにちは、", "世界", ""),
        ("コーヒー", "茶", ""),
        ("สวัสดี", "ครับ", ""),
        ("Translate 你好:", "hello", ""),
        ("Translate to Chinese: hello", "你好", " "),
        ("...", "...", " "),
        ("", "x", " "),
    ],
)
def test_by_default(prompt, response, expected):
    assert separator(prompt, response, None) == expected
    assert separator(prompt, response, "\n") == "\n"


def test_what_a_reader_is_told():
    assert [shown(text) for text in ("", " ", "\n", " | ")] == ["nothing", "a space", "a line break", "' | '"]
