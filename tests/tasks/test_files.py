"""Files and folders as tasks: which are read, what they are called, and what is told of the rest."""

import gzip
import json

import pytest

from taskpgm_ray.config import PoolConfig
from taskpgm_ray.errors import DataError
from taskpgm_ray.tasks.naming import usable
from taskpgm_ray.tasks.sources import survey

ROWS = "".join(json.dumps({"prompt": f"q{i}", "response": "r"}) + "\n" for i in range(4))


def pool(root, *files):
    """A folder with these files, each of four rows."""
    for name in files:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("prompt,response\np,r\n" if ".csv" in name else ROWS)
    return root


def tasks(target, scheme="files", **spec):
    """(name -> paths of its files, notes)"""
    entries = [{"source": f"{scheme}:{target}", **spec}, "reasoning_gym:gcd", "reasoning_gym:lcm"]
    sources, notes = survey(PoolConfig(tasks=entries))
    return {source.name: source.files for source in sources[:-2]}, notes


def names(root, target="", **spec):
    found, _ = tasks(root / target, **spec)
    return {name: [str(file).removeprefix(f"{root}/") for file in files] for name, files in found.items()}


def test_a_folder_is_searched_in_depth(tmp_path):
    pool(tmp_path, "b.jsonl", "deep/er/a.json", "c.csv", ".hidden.jsonl", ".cache/x.jsonl")
    assert names(tmp_path) == {"a": ["deep/er/a.json"], "b": ["b.jsonl"], "c": ["c.csv"]}


def test_train_valid_and_test_are_one_task_of_which_train_is_read(tmp_path):
    pool(tmp_path, "one/train.jsonl", "one/test.jsonl", "one/validation.jsonl", "two_train.jsonl", "two_dev.jsonl")
    found, notes = tasks(tmp_path)
    assert {name: len(files) for name, files in found.items()} == {"one": 1, "two": 1}
    assert all("train" in files[0] for files in found.values())
    assert notes == [f"{tmp_path}: 3 validation or test files left out (test.jsonl, validation.jsonl, two_dev.jsonl)"]


@pytest.mark.parametrize(
    ("files", "read"),
    [
        (("boolq.jsonl", "boolq_test.jsonl", "boolq.dev.jsonl"), {"boolq": "boolq.jsonl"}),
        (
            ("train/a.jsonl", "train/b.jsonl", "test/a.jsonl", "validation/b.jsonl"),
            {"a": "train/a.jsonl", "b": "train/b.jsonl"},
        ),
        (("a.jsonl", "test/a.jsonl"), {"a": "a.jsonl"}),
        (("train/a_train.jsonl", "test/a_test.jsonl"), {"a": "train/a_train.jsonl"}),
        (("one/train/train.jsonl", "one/test/test.jsonl"), {"train": "one/train/train.jsonl"}),
        (
            ("x/train/a.jsonl", "y/train/a.jsonl", "x/test/a.jsonl"),
            {"x-train-a": "x/train/a.jsonl", "y-train-a": "y/train/a.jsonl"},
        ),
        (
            ("c/data/train-00000-of-00001-a09b74b3ef9c3b56.jsonl", "c/data/test-00000-of-00001-0f9b74b3ef9c3b56.jsonl"),
            {"c": "c/data/train-00000-of-00001-a09b74b3ef9c3b56.jsonl"},
        ),
    ],
)
def test_what_is_called_test_is_left_out_where_there_is_something_to_train_on(tmp_path, files, read):
    pool(tmp_path, *files)
    assert names(tmp_path) == {name: [file] for name, file in read.items()}
    note, *_ = tasks(tmp_path)[1]
    assert f"{len(files) - len(read)} validation or test files left out" in note


def test_the_hubs_own_folders(tmp_path):
    pool(
        tmp_path,
        "a/data/train-00000-of-00002.jsonl",
        "a/data/train-00001-of-00002.jsonl",
        "a/data/test-00000-of-00001.jsonl",
        "b/train/0000.jsonl",
        "b/train/0001.jsonl",
        "c-00000-of-00002.jsonl",
        "c-00001-of-00002.jsonl",
    )
    assert {name: len(files) for name, files in names(tmp_path).items()} == {"a": 2, "b": 2, "c": 2}
    assert list(names(tmp_path, "b/train")) == ["b"]


def test_shards_are_read_as_one(tmp_path):
    (tmp_path / "c-00000-of-00002.jsonl").write_text(ROWS)
    (tmp_path / "c-00001-of-00002.jsonl").write_text(ROWS.replace("q", "p"))
    (source, *_), _ = survey(PoolConfig(tasks=[f"files:{tmp_path}", "reasoning_gym:gcd"]))
    reading = source.read(100, 0)
    assert [e.turns[0][1] for e in reading.examples] == [f"q{i}" for i in range(4)] + [f"p{i}" for i in range(4)]
    assert reading.rows[4].where == f"{tmp_path}/c-00001-of-00002.jsonl, line 1"
    assert reading.size == 8


def test_numbered_files_are_no_shards(tmp_path):
    pool(tmp_path, "report_2023.jsonl", "report_2024.jsonl", "2025.jsonl")
    assert list(names(tmp_path)) == ["2025", "report_2023", "report_2024"]


def test_a_split_without_train_is_all_that_there_is(tmp_path):
    pool(tmp_path, "one/test.jsonl", "two_test.jsonl")
    assert sorted(names(tmp_path)) == ["one-test", "two-test"]
    pool(tmp_path / "deep", "test/a.jsonl", "test/b.jsonl", "dev/b.jsonl")
    assert sorted(names(tmp_path, "deep")) == ["a", "dev-b", "test-b"]
    assert list(names(tmp_path, "deep/test/a.jsonl")) == ["a"]


def test_the_same_name_in_two_folders(tmp_path):
    pool(tmp_path, "en/qa.jsonl", "de/qa.jsonl", "de/sum.jsonl")
    assert sorted(names(tmp_path)) == ["de-qa", "en-qa", "sum"]


def test_one_data_set_in_two_formats_is_refused(tmp_path):
    pool(tmp_path, "a.jsonl", "a.csv")
    with pytest.raises(DataError, match=r"two tasks are called 'a' \(.*a\.csv, .*a\.jsonl\)"):
        tasks(tmp_path)


def test_a_file_by_itself_is_called_as_its_folder_or_as_ever(tmp_path):
    pool(tmp_path, "gsm/train.jsonl", "odd.txt")
    assert list(names(tmp_path, "gsm/train.jsonl")) == ["gsm"]
    # Finished studies hold this name.
    assert list(names(tmp_path, "gsm/train.jsonl", scheme="jsonl")) == ["train"]
    assert list(names(tmp_path, "odd.txt", scheme="jsonl")) == ["odd"]


def test_a_glob(tmp_path):
    pool(tmp_path, "a/train.jsonl", "a/test.jsonl", "b/train.jsonl", "x1.jsonl", "x2.jsonl.bak", "y.jsonl")
    assert list(names(tmp_path, "*/train.jsonl")) == ["a", "b"]
    assert list(names(tmp_path, "**/*.jsonl")) == ["a", "b", "x1", "y"]
    assert list(names(tmp_path, "x*")) == ["x1"]
    with pytest.raises(DataError, match=r"there is no file or folder '.*z\*' .* and no file matches it as a glob"):
        names(tmp_path, "z*")


def test_what_is_not_read_is_counted(tmp_path):
    pool(tmp_path, "a.jsonl", "README.md", "img/x.png", "dataset_dict.json")
    _, notes = tasks(tmp_path)
    assert notes == [f"{tmp_path}: 3 files of no format that is read left out (README.md, dataset_dict.json, x.png)"]
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(
        DataError, match=r"holds no file that is read: .*; it has README\.md, dataset_dict\.json, x\.png"
    ):
        tasks(tmp_path)


def test_a_saved_dictionary_of_data_sets(tmp_path):
    from datasets import Dataset, DatasetDict

    data = Dataset.from_list([{"prompt": f"p{i}", "response": "r"} for i in range(5)])
    DatasetDict({"train": data, "test": data.select(range(2))}).save_to_disk(tmp_path / "mine")
    data.save_to_disk(tmp_path / "alone")
    (mine, alone, *_), notes = survey(PoolConfig(tasks=[f"files:{tmp_path}/mine", f"files:{tmp_path}/alone"]))
    assert (mine.name, len(mine.read(9, 0).rows)) == ("mine", 5)
    assert (alone.name, len(alone.read(9, 0).rows)) == ("alone", 5)
    assert f"{tmp_path}/mine: 1 validation or test files left out (test)" in notes
    # The content counts, not the place.
    assert alone.identity() == mine.identity()
    data.map(lambda row: {"response": "other"}).save_to_disk(tmp_path / "other")
    ((other, _), _) = survey(PoolConfig(tasks=[f"files:{tmp_path}/other", f"files:{tmp_path}/alone"]))
    assert other.identity() != mine.identity()


def test_unusual_names_are_derived_and_told(tmp_path):
    pool(tmp_path, "Größe & Maß.jsonl", "fine.jsonl")
    found, notes = tasks(tmp_path)
    assert list(found) == ["Groe-Ma", "fine"]
    assert notes == [f"{tmp_path}/Größe & Maß.jsonl is the task Groe-Ma"]
    assert usable("日本").startswith("task-")
    assert usable("日本") != usable("中国")
    assert usable("x" * 300) == "x" * 100


def test_plain_json_lines_keep_the_identity_of_earlier_versions(tmp_path):
    import hashlib

    file = tmp_path / "a.jsonl"
    file.write_text(ROWS)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(ROWS.encode()))
    digest = hashlib.sha256(ROWS.encode()).hexdigest()
    plain = {"jsonl": digest, "prompt": None, "response": None}

    def identity(**spec):
        return survey(PoolConfig(tasks=[spec, "reasoning_gym:gcd"]))[0][0].identity()

    assert identity(source=f"jsonl:{file}") == identity(source=f"files:{file}", name="other") == plain
    assert identity(source=f"files:{file}", answers="first") == {**plain, "answers": "first"}
    assert identity(source=f"files:{file}", layout="messages") == {**plain, "layout": "messages"}
    assert set(identity(source=f"files:{tmp_path}/b.jsonl.gz")) == {"files", "prompt", "response"}


def test_an_empty_file(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    (source, *_), _ = survey(PoolConfig(tasks=[f"files:{tmp_path}/a.jsonl", "reasoning_gym:gcd"]))
    with pytest.raises(DataError, match=r"task 'a': .*a\.jsonl holds no rows"):
        source.read(5, 0)
