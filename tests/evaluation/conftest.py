from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .helpers import tiny_llama, tiny_tokenizer, write_folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    return tiny_llama(len(tokenizer))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")
