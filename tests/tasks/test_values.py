"""Values as text and templates: nothing is ever written as Python writes it."""

import datetime
import decimal
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpgm_ray.config import TaskSpec
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.json_text import Written, loads
from taskpgm_ray.tasks.values import ABSENT, Template, as_text, chosen, look_up


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (ABSENT, ""),
        ("None", "None"),
        (True, "true"),
        (0, "0"),
        (3.0, "3.0"),
        (Written.of("1E5"), "1E5"),
        (Written.of("2.50"), "2.50"),
        ({"a": None, "ü": [True, "it's"]}, '{"a": null, "ü": [true, "it\'s"]}'),
        ([1, 2], "[1, 2]"),
        (decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal("0E-9"), "0.000000000"),
        ({"p": Written.of("1.50"), "d": [decimal.Decimal("1E-7")]}, '{"p": 1.50, "d": [0.0000001]}'),
        ({"a": float("nan"), 1: True}, '{"a": null, "1": true}'),
        (Written.of("Infinity"), "Infinity"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        ([datetime.date(2024, 1, 2)], '["2024-01-02"]'),
        (b"text", "text"),
    ],
)
def test_values_as_text(value, text):
    assert as_text(value) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_what_is_no_text_is_json_that_reads_back(value):
    text = as_text(value)
    if value is None or isinstance(value, str):
        assert text == (value or "")
    else:
        assert json.loads(text) == value


def test_json_keeps_the_spelling_of_its_numbers():
    text = '{"p": 1.50, "t": [1E5, 1e400, -0.0, 9007199254740993], "n": null}'
    assert as_text(loads(text)) == text
    assert as_text(loads('{"x": NaN}')["x"]) == ""


def test_a_spelling_survives_a_process_border():
    assert str(pickle.loads(pickle.dumps(Written.of("1.50")))) == "1.50"
    assert f"{Written.of('1.50'):.3f}" == "1.500"


def test_columns_with_dots_colons_digits_and_brackets():
    record = {
        "a.b": 1,
        "a": {"b": 2, "c.d": 3, "list": [{"x": 4}]},
        "0": 5,
        "q:1": 6,
        "e[f]": 7,
        "meta.source": {"url": 8},
    }
    names = ("a.b", "a[b]", "a.list[0].x", "0", "q:1", "e[f]", "meta.source.url")
    assert [look_up(record, name) for name in names] == [1, 2, 4, 5, 6, 7, 8]
    text = " ".join(f"{{{name}}}" for name in names)
    assert Template(text, "prompt").render(record, "here") == "1 2 4 5 6 7 8"
    for absent in ("b", "a.x", "a.list[1]", "a.list[-1]", "a.b.c", "a.list.x", "a.", ""):
        assert look_up(record, absent) is ABSENT


def test_a_format_is_one_where_no_column_is_called_so():
    assert Template("{x:.2f}", "prompt").render({"x": 1.0}, "here") == "1.00"
    assert Template("{x:.2f}", "prompt").render({"x": 1.0, "x:.2f": "column"}, "here") == "column"
    with pytest.raises(DataError, match=r"here: the task's `prompt` template '\{x:d\}' does not fit: .*'d'"):
        Template("{x:d}", "prompt").render({"x": "text"}, "here")


def test_nothing_is_empty_in_a_template():
    template = Template("{q}: {x}{y}{z}{{}}", "prompt")
    assert template.render({"q": "Why", "x": None, "y": float("nan")}, "here") == "Why: {}"
    # Only its own words would be left.
    assert template.render({"q": " ", "x": None}, "here") == ""


def test_braces_of_values_are_left_alone():
    assert Template("{q}", "prompt").render({"q": r"\frac{1}{2} {q} {{x}}"}, "here") == r"\frac{1}{2} {q} {{x}}"


def test_a_column_that_no_record_has_is_an_error_and_one_that_some_have_is_not():
    records = [("a, line 1", {"q": 1}), ("a, line 2", {"q": 1, "x": 2})]
    Template("{q} {x}", "prompt").check(records)
    with pytest.raises(DataError, match=r"a, line 1: no column 'y'; it has: q, x\. Set the task's `response` template"):
        Template("{q} {y}", "response").check(records)


def test_braces_of_jinja_around_a_column_are_refused():
    Template("{q} {{x}}", "prompt").check([("here", {"q": 1})])
    with pytest.raises(DataError, match=r"template has \{\{answer\}\}, .*; write \{answer\}"):
        Template("{q} {{ answer }}", "prompt").check([("here", {"q": 1, "answer": 2})])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{question}}\nA:", r"names no column, .*: \{question\}"),
        ("{{ question }}", r"names no column, .*: \{question\}"),
        ("Say something.", r"names no column, .*: \{question\}"),
        (r"{q} in \boxed{}", r"has \{\} without a column; name it, or write \{\{\}\} for braces"),
        ("{% if q %}{q}{% endif %}", r"has Jinja's \{% %\}; it can only name columns: \{question\}"),
        ("{q", "not well formed"),
    ],
)
def test_templates_that_cannot_be_meant(template, message):
    for side in ("prompt", "response"):
        with pytest.raises(ValueError, match=message):
            TaskSpec(source="files:x", **{side: template})


def test_a_choice_among_answers():
    three = ["a", "b", None, "b", "c"]
    assert chosen(three, "first", "key", "here") == ["a"]
    assert chosen(three, "all", "key", "here") == ["a", "b", "c"]
    drawn = {chosen(three, "random", f"key {i}", "here")[0] for i in range(50)}
    assert drawn == {"a", "b", "c"}
    assert chosen(three, "random", "key", "here") == chosen(three, "random", "key", "elsewhere")
    with pytest.raises(DataError, match=r"here: 3 answers in a list; set the task's `answers` to first, random or all"):
        chosen(three, None, "key", "here")


def test_what_is_no_list_of_several_texts_needs_no_choice():
    for value in ("a", 3, None, [1, 2], [{"a": 1}], {"a": ["b", "c"]}):
        assert chosen(value, None, "key", "here") == [value]
    assert chosen(["a", None], None, "key", "here") == ["a"]
    assert chosen([None], None, "key", "here") == [None]
