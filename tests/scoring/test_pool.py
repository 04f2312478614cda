"""Which work an engine takes next."""

from taskpgm_ray.scoring.pool import _Work, preferred
from taskpgm_ray.storage import Storage, Unit

A, B, C = (Unit(Storage("study"), f"adapters/{name}") for name in "abc")


def choose(waiting, resident=(), at_work=()):
    works = [_Work("score", frozenset(adapters), 0, (), None) for adapters in waiting]
    return preferred(works, frozenset(resident), [frozenset(adapters) for adapters in at_work])


def test_work_for_adapters_that_the_engine_holds_comes_first():
    assert choose([[A], [B], [B, C]], resident=[B, C]) == 1
    assert choose([[A], [A, B]], resident=[A, B]) == 0
    assert choose([[], [A]], resident=[A]) == 1


def test_otherwise_what_no_other_engine_is_busy_with():
    assert choose([[A], [B], [C]], at_work=[[A], [B]]) == 2
    assert choose([[A], []], at_work=[[A]]) == 1
    # What the engine holds itself is no reason to avoid it.
    assert choose([[A, B]], resident=[A], at_work=[[A]]) == 0


def test_otherwise_the_oldest():
    assert choose([[A], [B]]) == 0
    assert choose([[A], [B]], at_work=[[A], [B]]) == 0
