"""CSV and TSV: values stay the text that they are, and no quote takes other rows with it."""

import pytest

from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.blocks import draw
from taskpgm_ray.tasks.formats import blocks_of

A, B = {"prompt": "a", "response": "007"}, {"prompt": "b", "response": "1.50"}


def read(file, content):
    """(records, where they stand, bad rows)"""
    file.write_text(content, newline="")
    bad = []
    drawn, size = draw(blocks_of(file, bad), 10_000, 0)
    assert size == len(drawn)
    places = [where.removeprefix(f"{file}, ") for where, _ in drawn]
    return [record for _, record in drawn], places, [str(row).removeprefix(f"{file}, ") for row in bad]


def test_values_of_a_table_stay_the_text_that_they_are(tmp_path):
    content = ',code,when,on,gone\n0,007,2024-01-02,True,\n1,1e5,"two\nlines",NA,""\n'
    assert read(tmp_path / "a.csv", content)[0] == [
        {"": "0", "code": "007", "when": "2024-01-02", "on": "True", "gone": ""},
        {"": "1", "code": "1e5", "when": "two\nlines", "on": "NA", "gone": ""},
    ]


def test_rows_with_too_few_or_too_many_fields_are_bad_and_keep_the_numbers_of_the_others(tmp_path):
    records, where, bad = read(tmp_path / "a.csv", "a,b\n1,2\n\n3\n4,5\n6,7,8\n9,10\n")
    assert [record["a"] for record in records] == ["1", "4", "9"]
    assert where == ["row 1", "row 3", "row 5"]
    assert bad == [
        "row 2: 1 fields, where the header has 2",
        "row 4: 3 fields, where the header has 2",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "prompt,response\ra,007\rb,1.50\r",
        "\nprompt,response\na,007\nb,1.50\n",
        "\r\n  \r\n,\r\nprompt,response\r\na,007\r\n\r\nb,1.50",
        "\nprompt;response\na;007\nb;1.50\n",
        "prompt|response\na|007\nb|1.50\n",
        '"prompt"\t"response"\na\t007\n"b"\t1.50\n',
    ],
)
def test_ends_of_lines_blank_lines_and_separators(tmp_path, content):
    assert read(tmp_path / "a.csv", content) == ([A, B], ["row 1", "row 2"], [])


def test_a_name_in_quotes_may_hold_a_line_break_and_other_separators(tmp_path):
    assert read(tmp_path / "a.csv", '"my,\nnote";prompt;response\n1;a;007\n')[0] == [{"my,\nnote": "1", **A}]


def test_a_text_longer_than_pythons_own_limit(tmp_path):
    assert read(tmp_path / "a.csv", f"a\n{'x' * 200_000}\n")[0] == [{"a": "x" * 200_000}]


def test_a_column_that_is_there_twice(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv: the column 'a' is there twice; rename one"):
        read(tmp_path / "a.csv", "a,a\n1,2\n")


@pytest.mark.parametrize(
    ("name", "separator", "end"),
    [
        ("a.csv", ",", ""),
        ("a.csv", ",", 'z,"late"\n'),
        ("a.csv", ",", '"late",z\n'),
        # Not every line has one tab, so that the quotes are the format's.
        ("a.tsv", "\t", '"two\nlines"\tz\n'),
    ],
)
def test_a_quote_that_is_not_closed_takes_no_rows_with_it(tmp_path, name, separator, end):
    rows = "".join(f"q{i}{separator}r{i}\n" for i in range(40))
    content = f'prompt{separator}response\nfirst{separator}1\n"Open{separator}2\n{rows}{end}'
    with pytest.raises(DataError, match=rf"{name}, line 3: a quote opens here .*, and 4\d lines follow inside of it"):
        read(tmp_path / name, content)


def test_quotes_of_a_tsv_whose_lines_are_whole_are_text(tmp_path):
    rows = [("q", "r"), ('"Open question 99', "a"), ('"Hello" she said', "b"), ("x", '"late'), ("y", 'z"')]
    content = "".join("\t".join(row) + "\r\n" for row in (("prompt", "response"), *rows))
    records, places, bad = read(tmp_path / "a.tsv", content)
    assert [tuple(record.values()) for record in records] == rows
    assert (places[-1], bad) == ("row 5", [])


def test_quotes_of_a_tsv_that_all_end_their_fields_are_the_formats(tmp_path):
    content = 'prompt\tresponse\n"say ""hi"""\tb\n6" pipe\t"c"\n'
    records = [{"prompt": 'say "hi"', "response": "b"}, {"prompt": '6" pipe', "response": "c"}]
    assert read(tmp_path / "a.tsv", content)[0] == records


def test_a_quote_inside_of_a_line_makes_a_bad_row(tmp_path):
    """Backslashes before quotes are no CSV, and what they mean is not guessed."""
    records, places, bad = read(tmp_path / "a.csv", 'prompt,response\n"He said \\"hi\\"",x\na,007\n')
    assert (records, places) == ([A], ["row 2"])
    assert bad == ["row 1: line 2 has a quote that does not end where its field does"]
