"""Every config key with its kind, default and meaning, from the models themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from taskpgm_ray.config import StudyConfig


def reference() -> str:
    """The keys in Markdown, a part for each section; a test keeps any key from being without a description."""
    schema = StudyConfig.model_json_schema()
    parts = ["# Configuration reference", "`taskpgm config --reference` prints this page from the models themselves."]
    for path, section in _sections(schema, schema, ""):
        title = f"## {path or 'The study'}"
        rows = [
            f"- `{f'{path}.{name}' if path else name}`: {kind_of(field, schema)}{_default(name, field, section)}\n  "
            f"{_meaning(field, schema)}"
            for name, field in section["properties"].items()
            if _target(field, schema) is None or "items" in field or field.get("additionalProperties")
        ]
        parts.append("\n\n".join([title, *([_sentence(section["description"])] if path else []), "\n".join(rows)]))
    return "\n\n".join(parts)


def _sections(section: Mapping[str, Any], schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """(dotted path, its schema) of a section and all below it."""
    yield path, section
    for name, field in section["properties"].items():
        inner = _target(field, schema)
        if inner is not None:
            mark = "[]" if "items" in field else ".*" if field.get("additionalProperties") else ""
            yield from _sections(inner, schema, f"{path}.{name}{mark}" if path else f"{name}{mark}")


def _target(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Any:
    """The section that a field is, that its entries are, or that its values are; ``None``: it is a plain value."""
    for place in (field, field.get("items", {}), field.get("additionalProperties") or {}, *field.get("anyOf", ())):
        if not isinstance(place, Mapping):
            continue
        for option in (place, *place.get("anyOf", ())):
            if "$ref" in option:
                return schema["$defs"][option["$ref"].rpartition("/")[2]]
    return None


def kind_of(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The values that a field takes, in words."""
    if "anyOf" in field:
        kinds = [kind_of(one, schema) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field or "const" in field:
        return " | ".join(json.dumps(value).strip('"') for value in field.get("enum", [field.get("const")]))
    if "$ref" in field:
        return "section"
    kind = field.get("type", "value")
    if kind == "array":
        entries = field.get("prefixItems")
        inside = (
            ", ".join(kind_of(one, schema) for one in entries) if entries else kind_of(field.get("items", {}), schema)
        )
        return f"[{inside}]" if entries else f"list of: {inside}"
    if kind == "object":
        return "mapping"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true | false"}
    limits = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}
    said = [form.format(field[key]) for key, form in limits.items() if key in field]
    return " ".join([words.get(kind, kind), *said])


def _default(name: str, field: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    if name in section.get("required", ()):
        return ", required"
    value = field.get("default")
    return "" if value is None else f", default `{json.dumps(value, ensure_ascii=False)}`"


def _meaning(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    inner = _target(field, schema)
    said = field.get("description") or (inner or {}).get("description") or ""
    return _sentence(said)


def _sentence(text: str) -> str:
    return " ".join(text.replace("``", "`").split())
