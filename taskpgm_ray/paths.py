"""Paths in a config: what ``~`` and ``${VAR}`` stand for, where a relative one was looked for, what lies behind one."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

DATA_SUFFIXES = frozenset(
    {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz", ".zip"}
)
"""Endings of data files. Others are left alone: names on the hub may hold dots as well (``org/set-v1.1``)."""
LARGE = 64 << 20
"""Bytes: to read a larger file again takes longer than a user waits for."""
HASHES = Path(tempfile.gettempdir()) / f"taskpgm-hashes-{os.getuid()}"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+(?=@)|(?<=[?&])(access_key|secret_key|token|sig)=[^&\s'\"]+", re.I)
"""``key:secret`` before a host, and what query strings of signed URLs carry."""


def redacted(text: str) -> str:
    """The text without the credentials in its URIs: fit for messages, logs and reports."""
    return _CREDENTIALS.sub("***", text)


def without_options(uri: str) -> tuple[str, str]:
    """A path or URI, and its filesystem's options (``?region=...``), which stay at the end of whatever is added."""
    base, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return base, f"{mark}{options}"


def expanded(path: str) -> str:
    """The path with a leading ``~`` and every ``${VAR}`` replaced; one that has neither comes back as it is.

    Raises:
        ValueError: A variable is not set, or there is no such user; the message names it. Or the path holds
            credentials, which would be written into every study's folder and report.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ValueError(f"the variable ${{{found[1]}}} is not set; export {found[1] or 'NAME'}, or write the path")
        return os.environ[found[1]]

    path = _VARIABLE.sub(value, path)
    if _CREDENTIALS.search(path):
        raise ValueError(
            f"{redacted(path)!r} holds credentials, which would stand in the study's config and report; give them by "
            "the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN)"
        )
    if not path.startswith("~"):
        return path
    home = os.path.expanduser(path)
    if home.startswith("~"):
        raise ValueError(f"there is no home folder {path.partition('/')[0]!r}; write the path")
    return home


def expanded_source(source: str) -> str:
    """The same for ``scheme:path``."""
    scheme, colon, path = source.partition(":")
    return f"{scheme}{colon}{expanded(path)}"


def looked_in(path: str | Path) -> str:
    """For messages that miss a file: the folder that a relative path was looked for in; empty for an absolute one."""
    return "" if os.path.isabs(path) else f" (looked in {os.getcwd()})"


def looks_local(target: str) -> bool:
    """Whether a name that may be one of the hub's means a path: by how it begins or ends, or because it is there."""
    return target.startswith((".", "/", "~")) or Path(target).suffix.lower() in DATA_SUFFIXES or Path(target).exists()


def local_content(path: str | Path) -> str:
    """Hash (64 hex digits) of a file's content, or of the names and contents of all files under a folder.

    Raises:
        FileNotFoundError: There is no such file or folder; the message says where it was looked for.
        OSError: A file cannot be read.
    """
    path = Path(path)
    if path.is_file():
        return file_content(path)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}{looked_in(path)}")
    digest = hashlib.sha256()
    # What begins with a dot is an editor's or a cache's, and `datasets` does not read it either.
    files = (f for f in path.rglob("*") if not any(part.startswith(".") for part in f.relative_to(path).parts))
    for file in sorted(f for f in files if f.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {file_content(file)}\n".encode())
    return digest.hexdigest()


def file_content(file: Path) -> str:
    """Hash (64 hex digits) of a whole file; that of a large one is remembered by its path, size and time of change."""
    about = file.stat()
    if about.st_size <= LARGE:
        return _hashed(file)
    known = f"{file.resolve()}\n{about.st_size}\n{about.st_mtime_ns}\n{about.st_ino}"
    remembered = HASHES / hashlib.sha256(known.encode()).hexdigest()
    if remembered.is_file() and len(text := remembered.read_text()) == 64:
        return text
    found = _hashed(file)
    HASHES.mkdir(parents=True, exist_ok=True)
    partial = remembered.with_suffix(f".{os.getpid()}")
    partial.write_text(found)
    partial.replace(remembered)
    return found


def _hashed(file: Path) -> str:
    with file.open("rb") as stream:
        # In pieces: the file may be larger than the memory.
        return hashlib.file_digest(stream, "sha256").hexdigest()
