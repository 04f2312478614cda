"""Errors cross Ray's process borders unchanged."""

import pickle

import pytest

import taskpgm_ray.errors as errors
from taskpgm_ray.errors import DataError, ModelError, Problems, TaskPGMError, raise_all


def test_errors_survive_a_process_border():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TaskPGMError)]
    assert len(kinds) > 8
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("what, where, and what to do")))
        assert type(again) is kind
        assert str(again) == "what, where, and what to do"


def test_of_several_errors_each_is_a_line_and_one_stays_itself():
    raise_all([])
    one = DataError("a\nb")
    with pytest.raises(DataError) as alone:
        raise_all([one])
    assert alone.value is one
    with pytest.raises(Problems) as caught:
        raise_all([one, Problems("ModelError: x\nDataError: y"), ModelError("z")])
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.lines == ["DataError: a b", "ModelError: x", "DataError: y", "ModelError: z"]
