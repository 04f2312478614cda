"""What vLLM serves adapters on, read from sources of the same form, and from those that are installed."""

import importlib.util

import pytest

from taskpgm_ray.scoring import vllm_registry
from taskpgm_ray.scoring.vllm_registry import serves_lora

REGISTRY = """
_TEXT_GENERATION_MODELS = {
    "Plain": ("plain", "Plain"),
    "Derived": ("derived", "Derived"),
    "Further": ("inner", "Further"),
    "Without": ("plain", "Without"),
    "Gone": ("gone", "Gone"),
    **{name: ("plain", name) for name in ()},
}
_TRANSFORMERS_SUPPORTED_MODELS: dict = {}
_EMBEDDING_MODELS = {"Embedding": ("plain", "Plain")}
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    models = tmp_path / "model_executor" / "models"
    (models / "inner").mkdir(parents=True)
    (models / "registry.py").write_text(REGISTRY)
    (models / "plain.py").write_text(
        "class Plain(nn.Module, SupportsLoRA, SupportsPP): pass\nclass Without(nn.Module, SupportsPP): pass\n"
    )
    (models / "derived.py").write_text("from .plain import Plain as Base\nclass Derived(Base): pass\n")
    (models / "inner" / "__init__.py").write_text("from vllm.model_executor.models.inner.deep import Further\n")
    (models / "inner" / "deep.py").write_text(
        "from ..interfaces import SupportsLoRA\nclass Further(SupportsLoRA): pass\n"
    )
    monkeypatch.setattr(vllm_registry.importlib.util, "find_spec", lambda name: Spec(tmp_path))


class Spec:
    def __init__(self, folder):
        self.submodule_search_locations = [str(folder)]


@pytest.mark.parametrize(
    ("architecture", "served"),
    [
        ("Plain", True),
        ("Derived", True),
        ("Further", True),
        ("Without", False),
        ("Gone", None),
        ("Unlisted", None),
        ("Embedding", None),
    ],
)
def test_the_marker_is_found_however_far_up(sources, architecture, served):
    assert serves_lora(architecture) is served


def test_without_vllm_nothing_is_known(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert serves_lora("LlamaForCausalLM") is None


def test_of_the_installed_vllm():
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    assert [serves_lora(f"{name}ForCausalLM") for name in ("Llama", "Qwen2", "GPTNeoX", "Bloom", "NoSuch")] == [
        True, True, True, False, None,
    ]  # fmt: skip
