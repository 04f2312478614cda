"""What a study asks of an object store: one request to write, two to read, and each thing once."""

from collections import Counter

import pytest

from taskpgm_ray.storage import Storage, Unit, finished
from tests.integration.failing_s3 import FailingS3


class Counting(FailingS3):
    """Counts the requests by method; those for a listing as LIST."""

    seen: Counter

    def __call__(self, environ, start_response):
        listing = "list-type" in environ.get("QUERY_STRING", "")
        self.seen["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        return super().__call__(environ, start_response)

    def asked(self):
        """The counts since this was last called."""
        counts = dict(self.seen)
        self.seen.clear()
        return counts


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("moto")
    for name, value in (("ACCESS_KEY_ID", "none"), ("SECRET_ACCESS_KEY", "none"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    Counting.seen = Counter()
    made = Counting()
    # Whatever the bucket costs is paid once.
    Storage(made.uri("bucket", "runs")).write_bytes("first", b"")
    made.asked()
    yield made
    made.close()


def test_a_file_is_one_request(server):
    unit = Unit(Storage(server.uri("bucket", "runs")) / "study", "adapters/a-1")
    unit.files.write_bytes("adapter_model.safetensors", b"x" * 1_000_000)
    unit.finish({"steps": 3})
    assert server.asked() == {"PUT": 2}
    # Nothing beside the two: no markers of folders, for which a prefix's credentials would not do.
    assert sorted(Storage(server.uri("bucket", "")).sizes()) == [
        "runs/first",
        "runs/study/adapters/a-1/adapter_model.safetensors",
        "runs/study/adapters/a-1/manifest.json",
    ]


def test_a_thousand_units_are_looked_up_at_once_and_read_once(server):
    storage = Storage(server.uri("bucket", "runs"))
    units = [Unit(storage, f"adapters/task{number}") for number in range(1000)]
    for number in range(0, 40, 2):
        Unit(storage, f"adapters/task{number}").finish({"number": number})
    storage.write_bytes("adapters/task1/metrics.jsonl", b"")
    server.asked()
    fresh = Storage(storage.uri)
    reader = [Unit(fresh, unit.path) for unit in units]
    assert finished(reader) == [number < 40 and number % 2 == 0 for number in range(1000)]
    asked = server.asked()
    # The unit that was begun is asked for, and is not there.
    assert asked.pop("LIST") <= 2
    assert sum(asked.values()) <= 2 * 21
    assert [reader[number].manifest()["number"] for number in range(0, 40, 2)] == list(range(0, 40, 2))
    assert finished(reader[:40:2]) == [True] * 20
    assert sum(server.asked().values()) <= 1


def test_an_outage_while_manifests_are_read_is_an_error_and_not_an_unfinished_unit(server, monkeypatch):
    from taskpgm_ray.errors import OutageError

    monkeypatch.setattr("taskpgm_ray.storage.RETRY_SECONDS", (0.0,))
    monkeypatch.setattr("taskpgm_ray.storage.OUTAGE_SECONDS", ())
    storage = Storage(server.uri("bucket", "runs"))
    Unit(storage, "adapters/a").finish({})
    server.share = 1.0
    with pytest.raises(OutageError, match="cannot be listed"):
        finished([Unit(storage, "adapters/a")])


def test_a_folder_without_a_marker_is_listed_and_removed(server):
    storage = Storage(server.uri("bucket", "marked"))
    Unit(storage, "adapters/a").finish({})
    Unit(storage, "adapters/b").finish({})
    assert storage.exists("adapters/a")
    assert storage.names("adapters") == ["a", "b"]
    storage.delete("adapters/a")
    storage.delete("adapters/none")
    assert storage.names("adapters") == ["b"]
    assert not storage.exists("adapters/a")


@pytest.mark.parametrize("kind", ["gcs", "abfs", "hdfs"])
def test_elsewhere_folders_are_made(tmp_path, kind):
    """pyarrow lists no folder of Google's storage that has no marker: finished work would be done again."""
    from pyarrow import fs

    class Elsewhere:
        type_name = kind

        def __getattr__(self, name):
            return getattr(fs.LocalFileSystem(), name)

    storage = Storage(str(tmp_path))
    storage._cache["fs"] = (Elsewhere(), str(tmp_path))
    Unit(storage, "adapters/a").finish({})
    assert finished([Unit(storage, "adapters/a"), Unit(storage, "adapters/b")]) == [True, False]
