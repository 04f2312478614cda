"""Artifacts: fingerprints, atomic files, units, and names that cannot leave the study's folder."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from taskpgm_ray.config import LoraSection
from taskpgm_ray.errors import DamagedFileError, MissingFileError, OutageError, StorageError
from taskpgm_ray.filesystems import uninterrupted
from taskpgm_ray.storage import MANIFEST, Storage, Unit, fingerprint, finished


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("taskpgm_ray.storage.RETRY_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr("taskpgm_ray.storage.OUTAGE_SECONDS", (0.0, 0.0))
    monkeypatch.setattr("taskpgm_ray.storage._answered", set())


class Failing:
    """A filesystem whose operations of the given names fail a number of times, and then work."""

    type_name = "local"

    def __init__(self, real, names, times, error):
        self.real, self.names, self.left, self.error = real, names, times, error

    def __getattr__(self, name):
        if name in self.names and self.left > 0:
            self.left -= 1
            raise self.error
        return getattr(self.real, name)


def failing(storage, names, times, error=None):
    filesystem, base = storage._filesystem
    broken = Failing(filesystem, names, times, error or OSError("connection reset"))
    storage._cache["fs"] = (broken, base)
    return broken


@pytest.fixture(params=["path", "uri"])
def storage(request, tmp_path):
    return Storage(str(tmp_path / "root") if request.param == "path" else f"file://{tmp_path}/root")


def test_fingerprints_depend_on_content_alone():
    assert fingerprint({"a": 1, "b": [2.5, None]}) == fingerprint({"b": [2.5, None], "a": 1})
    assert fingerprint(LoraSection(r=4)) == fingerprint(LoraSection(r=4).model_dump(mode="json"))
    assert len({fingerprint("a", "b"), fingerprint("ab"), fingerprint(["a", "b"]), fingerprint("b", "a")}) == 4


def test_fingerprints_keep_their_value():
    # A changed value would orphan every adapter and score that was ever stored.
    assert fingerprint("task", 1, {"a": [True, None, 0.5]}) == "08ae2abe27b8fd52"


def test_a_fingerprint_refuses_what_has_no_canonical_form():
    with pytest.raises(TypeError, match=r"cannot fingerprint a object"):
        fingerprint(object())


def test_files_round_trip(storage):
    storage.write_bytes("a/b.bin", b"\x00\x01")
    storage.write_json("a/c.json", {"ä": [1, 2]})
    table = pa.table({"x": [[1, 2], [3]], "y": ["p", "q"]})
    storage.write_table("a/d.parquet", table)
    assert storage.read_bytes("a/b.bin") == b"\x00\x01"
    assert storage.read_json("a/c.json") == {"ä": [1, 2]}
    assert storage.read_table("a/d.parquet").equals(table)
    assert storage.read_table("a/d.parquet", columns=["y"]).column_names == ["y"]
    assert storage.names("a") == ["b.bin", "c.json", "d.parquet"]
    assert storage.names("nothing") == []


def test_a_file_is_replaced_whole(storage):
    storage.write_bytes("f", b"a long first content")
    storage.write_bytes("f", b"short")
    assert storage.read_bytes("f") == b"short"
    assert storage.names() == ["f"]


def test_a_write_that_fails_leaves_the_old_content(storage, monkeypatch):
    storage.write_bytes("f", b"old")

    failing(storage, {"move"}, 99, OSError("disk is gone"))
    with pytest.raises(StorageError, match=r"f cannot be written: disk is gone"):
        storage.write_bytes("f", b"new")
    assert storage.read_bytes("f") == b"old"


@pytest.mark.parametrize(
    "operation", ["get_file_info", "open_input_stream", "create_dir", "open_output_stream", "move"]
)
def test_faults_that_pass_are_waited_for(storage, operation):
    storage.write_bytes("f", b"old")
    broken = failing(storage, {operation}, 3)
    storage.write_bytes("f", b"new")
    assert storage.read_bytes("f") == b"new"
    assert storage.names() == ["f"]
    assert broken.left == 0


def test_a_fault_in_the_middle_of_a_table_is_no_damage(storage, monkeypatch):
    table = pa.table({"x": list(range(100))})
    storage.write_table("t.parquet", table, row_group_size=10)
    broken = failing(storage, {"open_input_file", "open_input_stream"}, 3)
    assert storage.read_rows("t.parquet", slice(25, 42)).equals(table.slice(25, 17))
    assert broken.left == 0
    whole = storage.read_bytes("t.parquet")
    # A cut end, a hole in a column, nothing: damage, which no waiting mends.
    monkeypatch.setattr("taskpgm_ray.storage.time.sleep", lambda seconds: pytest.fail("it waits for a damaged file"))
    for content in (whole[:-30], whole[:20] + b"\xff" * 60 + whole[80:], b""):
        storage.write_bytes("t.parquet", content)
        with pytest.raises(DamagedFileError, match=r"t\.parquet is damaged: .*; remove its folder to redo it"):
            storage.read_rows("t.parquet", slice(0, 42))
        with pytest.raises(DamagedFileError, match=r"t\.parquet is damaged: .*; remove its folder to redo it"):
            storage.read_table("t.parquet")
    with pytest.raises(MissingFileError):
        storage.read_rows("no.parquet", slice(0, 1))


def test_faults_that_do_not_pass_end_the_attempts(storage):
    broken = failing(storage, {"open_output_stream"}, 99)
    with pytest.raises(OutageError, match=r"f cannot be written: connection reset"):
        storage.write_bytes("f", b"new")
    assert broken.left == 99 - 4


def test_a_storage_that_has_answered_once_is_waited_for_longer(storage, caplog):
    """An outage of minutes costs no job; a wrong address is said at once."""
    storage.write_bytes("f", b"old")
    broken = failing(storage, {"open_input_stream"}, 5)
    assert storage.read_bytes("f") == b"old"
    assert broken.left == 0
    broken = failing(storage, {"open_input_stream"}, 99)
    with pytest.raises(OutageError):
        storage.read_bytes("f")
    assert broken.left == 99 - 6
    assert "f cannot be read (connection reset); again in 0 s" in caplog.text


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_what_was_begun_is_removed_when_a_write_fails(storage, monkeypatch, error):
    storage.write_bytes("f", b"old")

    def sync(path):
        raise error

    monkeypatch.setattr("taskpgm_ray.storage.sync", sync)
    with pytest.raises((OutageError, KeyboardInterrupt)):
        storage.write_bytes("f", b"new")
    assert storage.names() == ["f"]
    assert storage.read_bytes("f") == b"old"


def test_what_a_killed_process_had_begun_is_removed_at_the_next_start(storage):
    storage.write_bytes("adapters/a/manifest.json.12345678.partial", b"{")
    storage.write_bytes("adapters/a/metrics.jsonl", b"{}")
    os.utime(storage.path("adapters/a/manifest.json.12345678.partial"), (1, 1))
    # Another driver, which lives, writes at this very moment.
    storage.write_bytes("adapters/b/manifest.json.12345678.partial", b"{")
    storage.check_writable()
    assert storage.names("adapters/a") == ["metrics.jsonl"]
    assert storage.names("adapters/b") == ["manifest.json.12345678.partial"]


@pytest.fixture
def heeded():
    """Ctrl-C is heeded, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_leaves_no_half_of_an_upload(tmp_path, monkeypatch, heeded):
    """An object store publishes what was uploaded when the stream is closed, and an exception closes it."""
    storage = Storage(str(tmp_path))
    monkeypatch.setattr(Storage, "is_local", False)
    filesystem, base = storage._filesystem
    threads = []

    class Stream:
        def __init__(self, path):
            self.path, self.content = path, b""

        def __enter__(self):
            return self

        def write(self, content):
            threads.append(threading.current_thread())
            self.content += content

        def __exit__(self, *_):
            Path(self.path).write_bytes(self.content)

    class Store:
        type_name = "s3"

        def create_dir(self, path, recursive):
            filesystem.create_dir(path, recursive=recursive)

        def open_output_stream(self, path, compression):
            # The interrupt comes between opening and writing; it is the main thread's.
            signal.raise_signal(signal.SIGINT)
            return Stream(path)

    storage._cache["fs"] = (Store(), base)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes("f", b"whole")
    assert (tmp_path / "f").read_bytes() == b"whole"
    assert threads[0] is not threading.main_thread()


@pytest.mark.parametrize("when", ["started", "not started"])
def test_an_interrupt_while_the_upload_is_handed_over_finds_it_whole_or_not_begun(monkeypatch, when):
    start, done = threading.Thread.start, []

    def interrupted(thread):
        if when == "started":
            start(thread)
        raise KeyboardInterrupt

    def upload():
        time.sleep(0.2)
        done.append(True)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        uninterrupted(upload)
    found = list(done)
    time.sleep(0.4)
    assert done == found
    assert when == "started" or not done


@pytest.mark.parametrize("content", [b"", b'{"steps": 1', b"\xff\xfe"])
def test_a_unit_whose_manifest_cannot_be_read_is_not_finished(storage, content):
    unit = Unit(storage, "adapters/a")
    storage.write_bytes("adapters/a/manifest.json", content)
    assert not unit.done()
    with pytest.raises(DamagedFileError, match=r"manifest\.json is damaged \(not JSON\)"):
        unit.manifest()
    unit.finish({"steps": 2})
    assert unit.done()


def test_refused_access_is_not_tried_again(storage):
    broken = failing(storage, {"open_output_stream"}, 99, PermissionError("not yours"))
    with pytest.raises(StorageError, match=r"f cannot be written: not yours"):
        storage.write_bytes("f", b"new")
    assert broken.left == 98


def test_appending(storage):
    storage.append_bytes("a/log", b"1\n")
    storage.append_bytes("a/log", b"2\n")
    assert storage.read_bytes("a/log") == b"1\n2\n"


def test_appending_where_files_can_only_be_replaced(storage, monkeypatch):
    monkeypatch.setattr(Storage, "is_local", False)
    storage.append_bytes("a/log", b"1\n")
    storage.append_bytes("a/log", b"2\n")
    assert storage.read_bytes("a/log") == b"1\n2\n"


def test_what_is_missing_or_damaged_is_named(storage):
    with pytest.raises(StorageError, match=r"root/no\.json is missing"):
        storage.read_json("no.json")
    with pytest.raises(StorageError, match=r"root/no\.parquet is missing"):
        storage.read_table("no.parquet")
    storage.write_bytes("bad.json", b"{")
    with pytest.raises(StorageError, match=r"bad\.json is damaged .* remove it to redo it"):
        storage.read_json("bad.json")
    storage.write_bytes("bad.parquet", b"PAR1 no")
    with pytest.raises(StorageError, match=r"bad\.parquet is damaged"):
        storage.read_table("bad.parquet")


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/passwd", ".."])
def test_no_name_leaves_the_folder(storage, name):
    for attempt in (storage.read_bytes, storage.exists, lambda n: storage / n, lambda n: storage.write_bytes(n, b"")):
        with pytest.raises(StorageError, match=r"would leave the study's folder"):
            attempt(name)


def test_a_unit_is_finished_by_its_manifest(storage):
    unit = Unit(storage, "adapters/x-1")
    unit.files.write_bytes("weights", b"w")
    assert not unit.done()
    unit.finish({"loss": 1.5})
    assert unit.done()
    assert unit.manifest() == {"loss": 1.5}
    assert storage.names("adapters/x-1") == [MANIFEST, "weights"]
    assert not Unit(storage, "adapters/y-2").done()


def test_units_that_name_the_same_place_are_equal_keys(storage):
    assert {Unit(storage, "a"): 1}[Unit(Storage(storage.uri), "a")] == 1


def test_a_storage_is_only_its_uri_in_a_pickle(storage):
    storage.write_bytes("f", b"x")
    again = pickle.loads(pickle.dumps(storage))
    assert again == storage
    assert again.read_bytes("f") == b"x"
    assert not pickle.loads(pickle.dumps(storage))._cache


def test_upload_and_local_copy(storage, tmp_path):
    folder = tmp_path / "made"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "inner" / "b.txt").write_text("b")
    storage.upload(folder, "unit")
    copy = storage.local_copy("unit")
    assert sorted(p.name for p in copy.iterdir()) == ["a.txt"]
    assert copy == tmp_path / "root" / "unit"


def test_a_remote_folder_is_copied_once(tmp_path, monkeypatch):
    from pyarrow import fs

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "node"))
    storage = Storage("elsewhere://bucket")
    # A filesystem of another type than local, as an object store would be.
    storage._cache["fs"] = (fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem()), "")
    (tmp_path / "bucket").mkdir()
    storage.write_bytes("unit/a", b"first")
    assert not storage.is_local
    copy = storage.local_copy("unit")
    assert (copy / "a").read_bytes() == b"first"
    storage.write_bytes("unit/a", b"second")
    assert storage.local_copy("unit") == copy
    assert (copy / "a").read_bytes() == b"first"


def test_delete(storage):
    storage.write_bytes("a/b", b"")
    storage.delete("a")
    storage.delete("a")
    assert not storage.exists("a")


def test_writability(storage, tmp_path):
    storage.check_writable()
    assert storage.names() == []
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot be written"):
        (Storage(str(tmp_path / "file")) / "study").check_writable()


def test_options_of_the_filesystem_stay_at_the_end():
    root = Storage("s3://bucket/runs/?region=eu-west-1&endpoint_override=localhost:9000")
    study = root / "study" / "adapters/a"
    assert study.uri == "s3://bucket/runs/study/adapters/a?region=eu-west-1&endpoint_override=localhost:9000"
    assert study.path("x") == "bucket/runs/study/adapters/a/x"
    # A question mark in a local path is one.
    assert (Storage("/data/what?") / "a").uri == "/data/what?/a"


def test_an_unknown_scheme():
    with pytest.raises(StorageError, match=r"'nothing://x' cannot be opened"):
        Storage("nothing://x").check_writable()


def test_a_relative_folder_is_the_same_for_a_worker_that_runs_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Storage("runs") / "study")
    monkeypatch.chdir(tmp_path / "elsewhere")
    received = pickle.loads(sent)
    received.write_json("a.json", 1)
    assert (tmp_path / "runs" / "study" / "a.json").exists()
    assert received.local_copy("a.json") == tmp_path / "runs" / "study" / "a.json"


def test_a_manifest_is_read_once_until_it_changes_or_is_forgotten(storage):
    unit = Unit(storage, "adapters/a")
    unit.finish({"steps": 1})
    assert finished([unit, Unit(storage, "adapters/b")]) == [True, False]
    # What another process does to a finished unit is not looked for.
    Path(storage.path("adapters/a/manifest.json")).unlink()
    assert unit.manifest() == {"steps": 1}
    unit.manifest()["steps"] = 9
    assert unit.manifest() == {"steps": 1}
    storage.forget()
    assert not unit.done()
    unit.finish({"steps": 2})
    assert unit.manifest() == {"steps": 2}
    unit.finish({"steps": 3})
    assert unit.manifest() == {"steps": 3}
    storage.delete("adapters/a")
    assert not unit.done()
