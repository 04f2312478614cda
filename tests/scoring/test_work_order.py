"""The order of scoring: each adapter is needed in one stretch, and no batch asks for more than an engine holds."""

from hypothesis import given
from hypothesis import strategies as st

from taskpgm_ray.scoring.score import ScoreWork
from taskpgm_ray.scoring.work_order import in_batches
from taskpgm_ray.storage import Storage, Unit

STORAGE = Storage("study")


def work(segment, adapter):
    name = "base" if adapter is None else f"adapter{adapter}"
    unit = None if adapter is None else Unit(STORAGE, f"adapters/{name}")
    return ScoreWork(name, Unit(STORAGE, f"segments/{segment}"), unit, Unit(STORAGE, f"scores/{segment}/{name}"))


works = st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 9)), unique=True, min_size=1, max_size=40).map(
    lambda pairs: [work(*pair) for pair in pairs]
)


@given(works=works, most=st.integers(1, 4), budget=st.integers(1, 1000))
def test_in_batches(works, most, budget):
    sizes = {w.segment.path: 10 + 100 * i for i, w in enumerate(works)}
    made = in_batches(works, lambda w: sizes[w.segment.path], budget, most)
    flat = [w for batch in made for w in batch]
    assert sorted(w.unit.path for w in flat) == sorted(w.unit.path for w in works)
    for batch in made:
        assert len({w.segment.path for w in batch}) == 1
        assert len({w.adapter for w in batch}) == len(batch) <= most
        assert len(batch) == 1 or sum(sizes[w.segment.path] for w in batch) <= budget
        assert len(batch) == 1 or all(w.adapter is not None for w in batch)
    # Adapter by adapter: once the next group of adapters has begun, none of the earlier ones comes back.
    groups = [frozenset(w.adapter for w in batch) for batch in made]
    seen = []
    for group in groups:
        for adapter in group:
            if adapter in seen:
                assert adapter in seen[-most:]
                seen.remove(adapter)
            seen.append(adapter)


def test_small_units_share_batches_and_large_ones_do_not():
    pool = [work(segment, adapter) for segment in range(2) for adapter in (None, 0, 1, 2, 3)]

    def names(budget):
        return [
            f"{batch[0].segment.path[-1]}:" + "".join(w.name[-1] for w in batch)
            for batch in in_batches(pool, lambda _: 100, budget, 2)
        ]

    assert names(200) == ["0:e", "1:e", "0:01", "1:01", "0:23", "1:23"]
    assert names(100) == ["0:e", "1:e", "0:0", "0:1", "1:0", "1:1", "0:2", "0:3", "1:2", "1:3"]
