"""Paths in a config: what they stand for, where they were looked for, what lies behind them."""

import os

import pytest

from taskpgm_ray import paths
from taskpgm_ray.cli import main
from taskpgm_ray.config import load_config
from taskpgm_ray.errors import ConfigError
from taskpgm_ray.paths import expanded, expanded_source, file_content, local_content, looked_in, looks_local


def test_home_and_variables(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("A", "x")
    assert expanded("~/${A}/${A}b") == "/home/me/x/xb"
    assert expanded_source("jsonl:~/${A}") == "jsonl:/home/me/x"
    for same in ("a/~/b", "$A/b", "{A}", "", "s3://bucket/a~b"):
        assert expanded(same) == same


def test_what_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(ValueError, match=r"the variable \$\{NO_SUCH\} is not set; export NO_SUCH"):
        expanded("${NO_SUCH}/x")
    with pytest.raises(ValueError, match=r"there is no home folder '~no-such-user'"):
        expanded("~no-such-user/x")


SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIAEXAMPLE:{SECRET}@bucket/path",
        f"https://user:{SECRET}@host/file.jsonl",
        f"s3://bucket/path?region=x&secret_key={SECRET}",
        f"https://host/file.jsonl?sig={SECRET}&v=1",
    ],
)
def test_credentials_in_a_uri_are_refused_and_never_shown(uri, monkeypatch, capsys):
    with pytest.raises(ValueError, match="holds credentials, which would stand in") as found:
        expanded(uri)
    assert SECRET not in str(found.value)
    monkeypatch.setenv("BUCKET", uri)
    for changed in (
        {"storage": "${BUCKET}"},
        {"evaluation": {"data": uri}},
        {"pool": {"tasks": [f"files:{uri}"]}},
        {"search": {"baselines": [f"mixture:{uri}"]}},
        {"model": {"path": uri}},
        # Where no path belongs, the value itself is told.
        {"study": uri},
        {"seed": uri},
        {uri: 1},
    ):
        config = {"study": "s", "pool": {"tasks": ["files:a"]}, "finetune": {"steps": 1}} | changed
        with pytest.raises(ConfigError) as refused:
            load_config(config)
        assert SECRET not in str(refused.value), changed
    assert main(["export", "csv", uri, "out"]) == 1
    assert SECRET not in capsys.readouterr().err


def test_what_only_looks_like_credentials_is_left_alone():
    for path in ("s3://bucket/a:b/c@d", "hf:org/name@main", "C:/data@home/x", "gs://bucket/x?prefix=a"):
        assert expanded(path) == path


def test_where_a_relative_path_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looked_in("a/b") == f" (looked in {os.getcwd()})"
    assert looked_in("/a/b") == ""


def test_what_means_a_path_and_what_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "there").mkdir(parents=True)
    for local in ("./a", "../a", "/a", "~/a", "a/b.jsonl", "b.CSV", "a.jsonl.gz", "org/there"):
        assert looks_local(local)
    for name in ("org/name", "squad", "org/set-v1.1", "org/name.en"):
        assert not looks_local(name)


def test_content_follows_names_and_bytes(tmp_path):
    folder = tmp_path / "set"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a.jsonl").write_text("1")
    first = local_content(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")
    assert local_content(folder) == first
    (folder / "inner" / "a.jsonl").write_text("2")
    assert local_content(folder) != first
    (folder / "inner" / "a.jsonl").write_text("1")
    assert local_content(folder) == first
    (folder / "inner" / "a.jsonl").rename(folder / "inner" / "b.jsonl")
    assert local_content(folder) != first
    # The folder may be somewhere else, or called otherwise.
    (folder / "inner" / "b.jsonl").rename(folder / "inner" / "a.jsonl")
    assert local_content(folder.rename(tmp_path / "other")) == first
    file = tmp_path / "other" / "inner" / "a.jsonl"
    before = local_content(file)
    file.write_text("3")
    assert local_content(file) != before


def test_a_large_file_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "LARGE", 10)
    monkeypatch.setattr(paths, "HASHES", tmp_path / "hashes")
    read = []
    hashed = paths._hashed
    monkeypatch.setattr(paths, "_hashed", lambda file: read.append(file) or hashed(file))
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 100)
    first = file_content(file)
    assert file_content(file) == first
    assert len(read) == 1
    file.write_bytes(b"a" * 50 + b"b" + b"a" * 49)
    os.utime(file, ns=(1, 1))
    assert file_content(file) != first
    assert len(read) == 2
    assert [f.read_text() for f in (tmp_path / "hashes").iterdir()].count(first) == 1
    # What a killed process left half-written is not believed.
    for found in (tmp_path / "hashes").iterdir():
        found.write_text("")
    assert file_content(file) == hashed(file)


def test_no_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder 'a/b' \(looked in "):
        local_content("a/b")
