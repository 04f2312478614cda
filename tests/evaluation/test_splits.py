from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.errors import EvaluationError, StorageError
from taskpgm_ray.evaluation import EvaluationSets, Split, prepare
from taskpgm_ray.storage import Storage, Unit

from .helpers import mmlu_record, write_folder, write_lines

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
ALL = {
    "search_items_per_subject": 10_000,
    "report_items_per_subject": 10_000,
    "search_items_per_task": 10_000,
    "report_items_per_task": 10_000,
}


def ids(split: Split) -> set[str]:
    return {item.id for item in split.items()}


@st.composite
def folders(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Small benchmark folders in which questions are often repeated within and across files."""
    word = st.integers(0, 12)
    files = {}
    for s in range(draw(st.integers(1, 3))):
        for split, least in (("dev", 0), ("val", 1), ("test", 1)):
            words = draw(st.lists(word, min_size=least, max_size=8))
            files[f"mmlu/subject{s}.{split}.jsonl"] = [mmlu_record(f"w{w}", w % 4) for w in words]
    for t in range(draw(st.integers(1, 2))):
        words = draw(st.lists(word, min_size=1, max_size=8))
        files[f"bbh/task{t}.jsonl"] = [{"input": f"w{w}", "target": "yes"} for w in words]
    return files


sizes = st.fixed_dictionaries(
    {name: st.integers(1 if name.startswith("search") else 2, 6) for name in ALL},
    optional={"max_subjects": st.integers(1, 4), "max_bbh_tasks": st.integers(1, 3)},
)


@given(files=folders(), config=sizes, seed=st.integers(0, 5))
@settings(max_examples=60)
def test_no_item_is_on_both_sides_whatever_the_data(files: Any, config: dict[str, int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for name, records in files.items():
            write_lines(Path(scratch) / "data" / name, records)
        settings_ = EvaluationConfig(data=f"{scratch}/data", **config)
        try:
            sets = prepare(settings_, seed, Storage(f"{scratch}/study"))
        except EvaluationError as error:
            too_few = ("task has items for both splits", "the report split has one item of")
            assert any(message in str(error) for message in too_few)  # noqa: PT017
            return
        search, report = sets.search.items(), sets.report.items()
        assert not {item.id for item in search} & {item.id for item in report}
        shown = {item.id for examples in sets.search.dev().values() for item in examples}
        assert not shown & {item.id for item in search + report}
        for items in (search, report):
            assert len({item.id for item in items}) == len(items)
        assert {item.task for item in search} == {item.task for item in report}
        for side, items in (("search", search), ("report", report)):
            per_task = [sum(item.task == task for item in items) for task in {item.task for item in items}]
            assert max(per_task) <= max(config[f"{side}_items_per_subject"], config[f"{side}_items_per_task"])


@given(config=sizes, seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_no_exemplar_is_on_both_sides(config: dict[str, int], seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        sets = prepare(EvaluationConfig(data="exemplars", **config), seed, Storage(scratch))
        assert ids(sets.search)
        assert not ids(sets.search) & ids(sets.report)


def test_the_whole_exemplar_pools_are_disjoint_and_complete(tmp_path: Path) -> None:
    sets = prepare(EvaluationConfig(data="exemplars", **ALL), 0, Storage(str(tmp_path)))
    search, report = sets.search.manifest(), sets.report.manifest()
    assert {name: (len(c), sum(c.values())) for name, c in search["counts"].items()} == {
        "mmlu": (57, 113),
        "bbh": (23, 23),
    }
    assert {name: (len(c), sum(c.values())) for name, c in report["counts"].items()} == {
        "mmlu": (57, 167),
        "bbh": (23, 46),
    }
    # The wheel shows the same three questions in all sizes of these two families.
    assert report["left_out"] == [
        "bbh/logical_deduction_seven_objects",
        "bbh/logical_deduction_three_objects",
        "bbh/tracking_shuffled_objects_seven_objects",
        "bbh/tracking_shuffled_objects_three_objects",
    ]
    assert not ids(sets.search) & ids(sets.report)


def test_mmlu_validation_searches_and_test_reports(folder: Path, tmp_path: Path) -> None:
    sets = prepare(EvaluationConfig(data=str(folder), **ALL), 0, Storage(str(tmp_path / "study")))
    sides = {"val": sets.search, "test": sets.report}
    for name, split in sides.items():
        questions = [item.question for item in split.items() if item.benchmark == "mmlu"]
        assert len(questions) == 18
        assert all(question.startswith(f"What is {name} ") for question in questions)
    bbh = [len([item for item in split.items() if item.benchmark == "bbh"]) for split in sides.values()]
    assert bbh == [6, 6]
    assert {name: len(examples) for (_, name), examples in sets.report.dev().items()} == {
        f"subject_{s}": 3 for s in range(3)
    }


def test_a_question_on_both_sides_is_asked_on_the_report_side_only(folder: Path, tmp_path: Path) -> None:
    leak = {**mmlu_record("test 1 0"), "question": " what IS test 1 0? "}
    file = folder / "mmlu" / "subject_0.val.jsonl"
    file.write_text(file.read_text() + json.dumps(leak) + "\n")
    dev = folder / "mmlu" / "subject_2.dev.jsonl"
    dev.write_text(json.dumps(mmlu_record("val 2 3")) + "\n" + dev.read_text())
    sets = prepare(EvaluationConfig(data=str(folder), **ALL), 0, Storage(str(tmp_path / "study")))
    leaked = [item.id for item in sets.report.items() if item.question == "What is test 1 0?"]
    assert len(leaked) == 1
    assert leaked[0] not in ids(sets.search)
    shown = sets.search.dev()["mmlu", "subject_2"]
    assert shown[0].question == "What is val 2 3?"
    assert len(shown) == 4
    assert shown[0].id not in ids(sets.search) | ids(sets.report)
    assert sets.search.manifest()["dropped"] == {
        "items that are also dev examples": 1,
        "search items that are also report items": 1,
        "items that occur twice": 0,
    }


def test_reading_the_other_side_raises(folder: Path, tmp_path: Path) -> None:
    sets = prepare(EvaluationConfig(data=str(folder)), 0, Storage(str(tmp_path / "study")))
    disguised = Split("search", sets.report.storage, sets.report.path)
    for read in (disguised.items, disguised.dev, disguised.manifest):
        with pytest.raises(EvaluationError, match="is the report split and cannot be read as the search split"):
            read()


def test_a_report_item_smuggled_into_the_search_files_raises(folder: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "study"))
    sets = prepare(EvaluationConfig(data=str(folder)), 0, storage)
    ours, theirs = f"{sets.search.path}/mmlu.jsonl", f"{sets.report.path}/mmlu.jsonl"
    lines = storage.read_bytes(ours).splitlines(keepends=True)
    foreign = storage.read_bytes(theirs).splitlines(keepends=True)[0]
    storage.write_bytes(ours, b"".join([*lines, foreign]))
    with pytest.raises(EvaluationError, match="of the report split: what chooses the mixture must not judge it"):
        sets.search.items()
    storage.write_bytes(ours, b"".join(lines[1:]))
    with pytest.raises(EvaluationError, match=r"holds 9 items, its manifest 10; remove it"):
        sets.search.items()


def test_sides_that_share_an_item_are_refused(folder: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "study"))
    config = EvaluationConfig(data=str(folder))
    sets = prepare(config, 0, storage)
    shared = sets.report.manifest()["items"][3]
    manifest = sets.search.manifest()
    Unit(storage, sets.search.path).finish({**manifest, "items": [*manifest["items"], shared]})
    with pytest.raises(EvaluationError, match=f"share 1 items \\(such as {shared}\\)"):
        prepare(config, 0, storage)


def test_a_finished_pair_is_found_again_and_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "study"))
    config = EvaluationConfig(data=str(folder))
    first = prepare(config, 3, storage)
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.json*")}
    assert prepare(config, 3, storage) == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.json*")} == written
    assert pickle.loads(pickle.dumps(first.search)).items() == first.search.items()


def test_each_side_depends_on_its_own_settings_only(folder: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "study"))

    def paths(seed: int = 0, **changes: Any) -> tuple[str, str]:
        sets = prepare(EvaluationConfig(data=str(folder), **changes), seed, storage)
        return sets.search.path, sets.report.path

    search, report = paths()
    assert paths(num_fewshot=2, confidence=0.9) == (search, report)
    assert paths(report_items_per_task=1)[0] == search
    assert paths(report_items_per_task=1)[1] != report
    assert paths(search_items_per_subject=1)[1] == report
    for other in (paths(seed=1), paths(max_subjects=1), paths(bbh=False)):
        assert search not in other
        assert report not in other
    file = folder / "bbh" / "task_0.jsonl"
    file.write_text(file.read_text() + json.dumps({"input": "new", "target": "True"}) + "\n")
    assert paths()[0] != search


def test_draws_are_seeded_and_nested(folder: Path, tmp_path: Path) -> None:
    def draw(seed: int, n: int) -> set[str]:
        config = EvaluationConfig(data=str(folder), search_items_per_subject=n, search_items_per_task=1)
        return ids(prepare(config, seed, Storage(str(tmp_path / f"study-{seed}-{n}"))).search)

    assert draw(0, 2) < draw(0, 4)
    assert draw(0, 3) != draw(1, 3)


def test_subjects_and_tasks_are_drawn(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", n_subjects=8, n_tasks=6)
    config = EvaluationConfig(data=str(folder), max_subjects=3, max_bbh_tasks=2)
    drawn = set()
    for seed in range(4):
        sets = prepare(config, seed, Storage(str(tmp_path / "study")))
        counts = [{name: tuple(c) for name, c in s.manifest()["counts"].items()} for s in (sets.search, sets.report)]
        assert counts[0] == counts[1]
        assert len(counts[0]["mmlu"]) == 3
        assert len(counts[0]["bbh"]) == 2
        drawn.add(counts[0]["mmlu"])
    assert len(drawn) > 1


def test_nothing_to_evaluate_on_is_an_error(folder: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "study"))
    with pytest.raises(EvaluationError, match="nothing to evaluate on"):
        prepare(EvaluationConfig(data=str(folder), mmlu=False, bbh=False), 0, storage)
    write_lines(folder / "bbh" / "task_0.jsonl", [{"input": "q", "target": "a"}] * 5)
    (folder / "bbh" / "task_1.jsonl").write_text("")
    with pytest.raises(EvaluationError, match=r"no bbh task has items for both .*leave bbh out"):
        prepare(EvaluationConfig(data=str(folder)), 0, storage)


def test_too_few_examples_are_found_out_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "study"))
    prepare(EvaluationConfig(data=str(folder), num_fewshot=3), 0, storage)
    with pytest.raises(EvaluationError, match=r"mmlu/subject_0 has 3 dev examples, but evaluation\.num_fewshot is 4"):
        prepare(EvaluationConfig(data=str(folder), num_fewshot=4), 0, storage)
    with pytest.raises(EvaluationError, match=r"has 0 dev examples, .* \(to 0 with 'exemplars'"):
        prepare(EvaluationConfig(num_fewshot=1), 0, storage)
    prepare(EvaluationConfig(num_fewshot=1, mmlu=False), 0, storage)


@pytest.mark.parametrize("side", ["report", "search"])
def test_a_benchmark_of_one_item_is_refused_where_systems_are_compared(tmp_path: Path, side: str) -> None:
    """The comparison itself would refuse it too, after every fine-tune."""
    storage = Storage(str(tmp_path))
    config = EvaluationConfig(max_bbh_tasks=1, **{f"{side}_items_per_task": 1})
    message = rf"the {side} split has one item of bbh \(\w+\), .*: raise evaluation\.{side}_items_per_task"
    with pytest.raises(EvaluationError, match=message):
        prepare(config, 0, storage, lift=side == "search")
    if side == "search":
        prepare(config, 0, storage)
    # Two tasks of one item are resampled together; their own spread says enough.
    prepare(EvaluationConfig(max_bbh_tasks=2, **{f"{side}_items_per_task": 1}), 0, storage, lift=side == "search")


def test_an_unprepared_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is missing"):
        Split("search", Storage(str(tmp_path)), "evaluation/search-0").items()


def test_finding_finished_splits_is_fast_and_imports_nothing_heavy(folder: Path, tmp_path: Path) -> None:
    prepare(EvaluationConfig(data=str(folder)), 0, Storage(str(tmp_path / "study")))
    program = f"""
import sys
from taskpgm_ray.config import EvaluationConfig
from taskpgm_ray.evaluation import prepare
from taskpgm_ray.storage import Storage
prepare(EvaluationConfig(data={str(folder)!r}), 0, Storage({str(tmp_path / "study")!r}))
print([name for name in ("lm_eval", "torch", "datasets", "transformers", "ray") if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the whole benchmark data are not on this machine")
def test_the_whole_benchmarks(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    config = EvaluationConfig(data=str(SHARED_DATA), **ALL)
    sets = prepare(config, 0, storage)
    search, report = sets.search.manifest(), sets.report.manifest()
    for manifest in (search, report):
        assert {name: len(counts) for name, counts in manifest["counts"].items()} == {"mmlu": 38, "bbh": 18}
    n_read = 940 + 8628 + 4437
    n_dropped = sum(search["dropped"].values())
    assert len(search["items"]) + len(report["items"]) + n_dropped == n_read
    assert 0 < n_dropped < 200
    assert not ids(sets.search) & ids(sets.report)
    start = time.perf_counter()
    assert isinstance(prepare(config, 0, storage), EvaluationSets)
    assert time.perf_counter() - start < 1


def test_the_pool_may_be_all_that_counts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "study"))
    settings: dict[str, Any] = {"own_tasks": True, "max_subjects": 2, "max_bbh_tasks": 2}
    pool_alone = EvaluationConfig(**settings, weights={"mmlu": 0, "bbh": 0, "pool/lies": 0})
    assert prepare(pool_alone, 0, storage).report.manifest()["counts"].keys() == {"mmlu", "bbh"}
    nothing = EvaluationConfig(**settings, weights={"mmlu": 0, "bbh": 0, "pool": 0})
    with pytest.raises(EvaluationError, match="leaves nothing"):
        prepare(nothing, 0, storage)
    with pytest.raises(EvaluationError, match="leaves nothing"):
        prepare(EvaluationConfig(weights={"mmlu": 0, "bbh": 0}, max_subjects=2, max_bbh_tasks=2), 0, storage)
