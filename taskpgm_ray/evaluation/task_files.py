"""YAML files of lm-eval's tasks, read without lm-eval: what else they depend on, and what would fail late.

A task's documents may lie in local files (``data_files``), and its prompts may come from functions in a ``utils.py``
beside it or from a file that it includes. Paths of data count from the folder in which the command is started, as
``datasets`` has it; includes and functions count from the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from taskpgm_ray.errors import EvaluationError
from taskpgm_ray.paths import local_content, looked_in

_LOADERS = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas", "xml", "webdataset"})
"""Names of ``dataset_path`` that stand for a kind of file, not for a data set of the hub."""


class _Loader(yaml.SafeLoader):
    """YAML in which ``!function utils.name`` is only a name: nothing is imported."""


class _Function(str):
    __slots__ = ()


_Loader.add_constructor("!function", lambda loader, node: _Function(node.value))


def means_file(entry: str) -> bool:
    """Whether an entry of ``evaluation.lm_eval`` means a file, there or not; else it names a task or group."""
    return entry.endswith((".yaml", ".yml"))


def is_file(entry: str) -> bool:
    """Whether an entry of ``evaluation.lm_eval`` is a file that is there."""
    return means_file(entry) and Path(entry).is_file()


def is_local(entry: str) -> bool:
    """Whether an entry is a file, and its documents are files as well: nothing has to be downloaded."""
    return is_file(entry) and all(_is_local(task) for task in _tasks(_settings(Path(entry))))


def content(entry: str) -> Any:
    """What the documents and prompts of a file depend on: a hash of the file, or of it and of each file it uses.

    Raises:
        EvaluationError: A file that it names is not there, or it is no YAML.
    """
    own = hashlib.sha256(Path(entry).read_bytes()).hexdigest()[:16]
    further = sorted({*_beside(Path(entry), frozenset()), *_data(entry)})
    # The plain hash where there is nothing else: what a study found by it earlier is found again.
    return [own, [[name, digest[:16]] for name, digest in further]] if further else own


def refuse_sampling(name: str, settings: Any) -> None:
    """Raise an `EvaluationError` when a task's ``generation_kwargs`` ask for sampled text: the engines are greedy."""
    asked = settings if isinstance(settings, dict) else {}
    if asked.get("do_sample") or (asked.get("temperature") and asked.get("do_sample") is not False):
        raise EvaluationError(
            f"lm-eval's {name!r} wants sampled text (generation_kwargs: {asked}), but the engine is greedy; set "
            "do_sample: false and no temperature in a YAML file of your own"
        )


def check(entry: str) -> None:
    """Refuse a file whose task would fail once adapters are evaluated; its documents are not read.

    Raises:
        EvaluationError: It is not there, samples its answers, is no YAML, or names a file that is not there.
    """
    if not is_file(entry):
        raise EvaluationError(f"evaluation.lm_eval: there is no file {entry!r}{looked_in(entry)}")
    for task in _tasks(_settings(Path(entry))):
        if task.get("output_type") == "generate_until":
            refuse_sampling(str(task.get("task", entry)), task.get("generation_kwargs"))
    content(entry)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise EvaluationError(f"{file} is not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise EvaluationError(f"{file} must hold an lm-eval task (a mapping), not {type(found).__name__}")
    return found


def _included(file: Path, settings: dict[str, Any]) -> list[Path]:
    named = settings.get("include") or []
    files = [file.parent / str(one) for one in (named if isinstance(named, list) else [named])]
    for one in files:
        if not one.is_file():
            raise EvaluationError(f"{file} includes {str(one)!r}, which is not there{looked_in(one)}")
    return files


def _settings(file: Path, seen: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """The file's content over that of the files that it includes."""
    if file.resolve() in seen:
        raise EvaluationError(f"{file} includes itself, however far round")
    own, merged = _read(file), dict[str, Any]()
    for one in _included(file, own):
        merged |= _settings(one, seen | {file.resolve()})
    return merged | own


def _tasks(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of a file: itself, or those that a group spells out."""
    members = settings.get("task")
    if not isinstance(members, list):
        return [settings]
    return [inner for one in members if isinstance(one, dict) for inner in _tasks(one)]


def _beside(file: Path, seen: frozenset[Path]) -> Iterator[tuple[str, str]]:
    """(name, hash) of the files that a file includes and of the modules that its functions are in."""
    settings = _read(file)
    for name in sorted(set(_functions(settings))):
        module = file.parent / (name.rpartition(".")[0].removesuffix(".py").replace(".", "/") + ".py")
        if module.is_file():
            yield f"{module.name}", local_content(module)
    for one in _included(file, settings):
        if one.resolve() in seen:
            continue
        yield one.name, local_content(one)
        yield from _beside(one, seen | {one.resolve()})


def _functions(value: Any) -> Iterator[str]:
    if isinstance(value, _Function):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _functions(one)


def _is_local(task: dict[str, Any]) -> bool:
    path = str(task.get("dataset_path") or "")
    named = list(_files(task))
    return Path(path).exists() if path not in _LOADERS else bool(named) and all("://" not in one for one in named)


def _data(entry: str) -> Iterator[tuple[str, str]]:
    """(name, hash) of the files and folders that hold the documents."""
    for task in _tasks(_settings(Path(entry))):
        path = str(task.get("dataset_path") or "")
        if path in _LOADERS:
            names = [name for name in _files(task) if "://" not in name]
        else:
            names = [path] if path and Path(path).exists() else []
        for name in names:
            found = sorted(Path().glob(name)) if not Path(name).is_absolute() else sorted(_absolute_glob(name))
            if not found:
                raise EvaluationError(
                    f"{entry} reads its documents from {name!r}, which is not there{looked_in(name)}; paths of data "
                    "count from the folder in which the command is started"
                )
            for file in found:
                yield str(file), local_content(file)


def _absolute_glob(name: str) -> Iterator[Path]:
    root = Path(Path(name).anchor)
    return root.glob(str(Path(name).relative_to(root)))


def _files(task: dict[str, Any]) -> Iterator[str]:
    """Names and patterns of the files with a task's documents, or of their folder."""
    options = task.get("dataset_kwargs") or {}
    files, folder = options.get("data_files"), options.get("data_dir")
    if files is None:
        yield from [str(folder)] if folder else []
        return
    for group in files.values() if isinstance(files, dict) else [files]:
        for one in group if isinstance(group, list) else [group]:
            yield str(Path(str(folder)) / str(one)) if folder and "://" not in str(one) else str(one)
