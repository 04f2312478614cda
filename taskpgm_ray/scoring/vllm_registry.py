"""Whether vLLM serves adapters for an architecture, read from its installed sources: importing vLLM takes seconds.

The registry (``model_executor/models/registry.py``) maps an architecture to a module and a class; a class serves LoRA
when it, or one that it is made of, has the marker ``SupportsLoRA``.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import lru_cache
from pathlib import Path

from taskpgm_ray.config import StudyConfig
from taskpgm_ray.errors import ModelError
from taskpgm_ray.models import BaseModelRef

MARKER = "SupportsLoRA"
_LISTS = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")


def serves_lora(architecture: str) -> bool | None:
    """Whether the installed vLLM serves adapters on this architecture (``LlamaForCausalLM``).

    ``None`` where that is not known: vLLM is not installed, its sources are laid out otherwise, or it does not list the
    architecture (vLLM then tries transformers' own code for the model).
    """
    spec = importlib.util.find_spec("vllm")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return _serves(Path(places[0]) / "model_executor" / "models", architecture) if places else None


def check_served(config: StudyConfig, model: BaseModelRef) -> None:
    """Refuse now what vLLM would refuse after all fine-tunes.

    Raises:
        ModelError: vLLM is to score, or may be chosen to, and serves no adapters on this architecture.
    """
    scorer = config.scoring.scorer
    if scorer == "hf" or config.finetune.adapter is None:
        return
    for architecture in model.architectures():
        if serves_lora(architecture) is False:
            raise ModelError(
                f"vLLM does not serve LoRA adapters on {architecture} ({config.model.path}), and scoring.scorer is "
                f"{scorer}; set scoring.scorer=hf, or take a model of another architecture"
            )


def _serves(folder: Path, architecture: str) -> bool | None:
    entry = _registered(folder).get(architecture)
    if entry is None:
        return None
    module, name = entry
    return _marked(folder, module, name, frozenset())


@lru_cache(maxsize=4)
def _registered(folder: Path) -> dict[str, tuple[str, str]]:
    """Architecture -> (module, class), of the registry's lists that are plain."""
    found: dict[str, tuple[str, str]] = {}
    tree = _tree(folder / "registry.py")
    for node in tree.body if tree else []:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if not (isinstance(target, ast.Name) and target.id in _LISTS and isinstance(value, ast.Dict)):
            continue
        for key, entry in zip(value.keys, value.values, strict=True):
            try:
                module, name = ast.literal_eval(entry)
                found[ast.literal_eval(key or entry)] = (module, name)
            except (ValueError, TypeError):
                # An entry that is computed: the architecture counts as unknown.
                continue
    return found


def _marked(folder: Path, module: str, name: str, seen: frozenset[tuple[str, str]]) -> bool | None:
    """Whether a class has the marker among its bases, however far up; ``None`` when its source is not found."""
    file = folder / f"{module}.py"
    tree = _tree(file if file.is_file() else folder / module / "__init__.py")
    if tree is None or (module, name) in seen:
        return None
    seen = seen | {(module, name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            answers = []
            for base in node.bases:
                text = ast.unparse(base).rpartition(".")[2]
                answers.append(True if text == MARKER else _marked(folder, module, text, seen))
            return True in answers
    inner = module if file.is_file() else f"{module}/__init__"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            target = _module(inner, node)
            return None if target is None else _marked(folder, target, original, seen)
    return None


def _module(inside: str, node: ast.ImportFrom) -> str | None:
    """The file (below the folder of models, without its ending) that an import reads."""
    if node.level:
        parts = inside.split("/")[: -node.level]
        return "/".join([*parts, *(node.module or "").split(".")]).strip("/")
    package = "vllm.model_executor.models."
    return (node.module or "").removeprefix(package).replace(".", "/") if package in f"{node.module}." else None


@lru_cache(maxsize=64)
def _tree(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
