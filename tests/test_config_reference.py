"""The reference of the config holds every key, and every key says what it means."""

import json
from pathlib import Path

import pytest

from taskpgm_ray.cli import main
from taskpgm_ray.config import StudyConfig, load_config
from taskpgm_ray.config_mistakes import all_fields
from taskpgm_ray.config_reference import kind_of, reference


def test_every_key_has_a_description():
    schema = StudyConfig.model_json_schema()
    for name, section in {**schema["$defs"], "StudyConfig": schema}.items():
        assert section.get("description"), name
        for key, field in section["properties"].items():
            assert field.get("description") or "$ref" in field, f"{name}.{key} says nothing"


def test_the_reference_holds_every_key_with_its_default():
    text = reference()
    for name in all_fields(StudyConfig):
        field = f"`{name}`"
        assert field in text or f"## {name}\n" in text, name
    assert "- `search.balances`: whole number >= 0, default `6`\n  Candidates of each family" in text
    assert "- `pool.tasks[].source`: text, required\n" in text
    assert "- `mixture.constraints.groups.*.max`: number >= 0 <= 1\n  The largest share together." in text
    assert '- `affinity.gamma`: number > 0 or noise | median, default `"noise"`' in text
    assert "\n  \n" not in text


def test_the_page_is_that_of_today():
    page = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
    assert page.read_text("utf-8") == reference() + "\n", "taskpgm config --reference > docs/configuration.md"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, "whole number >= 1"),
        ({"enum": ["a", "b"]}, "a | b"),
        ({"const": "auto"}, "auto"),
        ({"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}]}, "[number, number]"),
        ({"type": "array", "items": {"type": "string"}}, "list of: text"),
        ({"type": "object"}, "mapping"),
    ],
)
def test_kinds_in_words(field, words):
    assert kind_of(field, {}) == words


def test_the_command_prints_reference_schema_and_config(tmp_path, capsys):
    assert main(["config", "--reference"]) == 0
    assert capsys.readouterr().out == reference() + "\n"
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == StudyConfig.model_json_schema()
    file = tmp_path / "study.yaml"
    file.write_text("study: s\npool: {tasks: ['jsonl:a']}\nfinetune: {steps: 3}\n")
    assert main(["config", "--config", str(file), "finetune.steps=4"]) == 0
    assert capsys.readouterr().out == load_config(file, ["finetune.steps=4"]).to_yaml()
    with pytest.raises(SystemExit):
        main(["config"])
