"""A user's own mixture, from a file."""

import json

import numpy as np
import pytest

from taskpgm_ray.errors import InputError
from taskpgm_ray.mixture import read_given

NAMES = ["sums", "words", "code"]


@pytest.mark.parametrize(
    "text",
    [
        "sums,1\ncode,3\n",
        "task,weight\nsums,0.25\ncode,0.75\nwords,0\n",
        "\ufefftask,weight\r\n\r\nsums,25\r\ncode,75\r\n",
        'name,weight,count\n"sums",1,10\n"code",3,30\n',
    ],
)
def test_tables(tmp_path, text):
    (tmp_path / "m.csv").write_bytes(text.encode())
    np.testing.assert_allclose(read_given(str(tmp_path / "m.csv"), NAMES), [0.25, 0.0, 0.75])


def test_the_mixture_of_another_study(tmp_path):
    tasks = [{"name": "code", "weight": 0.4, "count": 4}, {"name": "words", "weight": 0.6, "count": 6}]
    (tmp_path / "mixture.json").write_text(json.dumps({"version": 1, "tasks": tasks}))
    np.testing.assert_allclose(read_given(str(tmp_path / "mixture.json"), NAMES), [0.0, 0.6, 0.4])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("m.csv", "sums,1\nverse,1\n", "names 'verse', which is not among the tasks: sums, words, code"),
        ("m.csv", "sums,1\nsums,2\n", "names 'sums' twice"),
        ("m.csv", "sums,-1\n", "must be a number >= 0"),
        ("m.csv", "sums,nan\n", "must be a number >= 0"),
        ("m.csv", "sums,0\n", "gives every task 0"),
        ("m.csv", "sums\n", "cannot be read"),
        ("m.csv", "sums,1\nwords,much\n", "cannot be read"),
        ("m.json", "{}", "cannot be read: KeyError"),
        ("m.json", "[1", "cannot be read"),
        ("absent.csv", None, "cannot be read: FileNotFoundError"),
    ],
)
def test_what_is_no_mixture(tmp_path, file, text, message):
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_given(str(tmp_path / file), NAMES)
