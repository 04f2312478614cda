"""Errors cross Ray's process borders unchanged."""

import pickle

import taskpgm_ray.errors as errors
from taskpgm_ray.errors import TaskPGMError


def test_errors_survive_a_process_border():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TaskPGMError)]
    assert len(kinds) > 8
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("what, where, and what to do")))
        assert type(again) is kind
        assert str(again) == "what, where, and what to do"
