"""The recipe that travels along with the examples: model, adapter and optimiser as the study had them."""

import shutil

import pytest
import yaml

from taskpgm_ray.errors import InputError
from taskpgm_ray.export import export


@pytest.fixture
def exported(short_study, tmp_path):
    """(format, changed sections of the study's config) -> text of the first file of an export."""

    def written(trainer, **sections):
        here = shutil.copytree(short_study.folder, tmp_path / "study", dirs_exist_ok=True)
        config = yaml.safe_load((here / "config.yaml").read_text())
        for section, values in sections.items():
            config[section] |= values
        (here / "config.yaml").write_text(yaml.safe_dump(config))
        first, *_ = export(trainer, here, tmp_path / "out" / trainer)
        return first.read_text()

    return written


def with_modules(modules):
    return {"lora": {"r": 4, "alpha": 8, "target_modules": modules}}


@pytest.mark.parametrize(
    ("trainer", "revision", "code"),
    [
        ("axolotl", "revision_of_model: v1-abc", "trust_remote_code: true"),
        ("llamafactory", "model_revision: v1-abc", "trust_remote_code: true"),
        ("open-instruct", "--model_revision v1-abc", "--trust_remote_code"),
        ("swift", "model_revision: v1-abc", "trust_remote_code: true"),
        ("torchtune", "at revision v1-abc", None),
        ("trl", "model_revision: v1-abc", "trust_remote_code: true"),
    ],
)
def test_the_models_revision_and_its_code_travel_along(exported, trainer, revision, code):
    text = exported(trainer, model={"revision": "v1-abc", "trust_remote_code": True})
    assert revision in text
    assert code is None or code in text
    text = exported(trainer, model={"revision": None, "trust_remote_code": False})
    assert revision.rpartition("v1-abc")[0] not in text
    assert code is None or code not in text


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ("axolotl", "base_model: "),
        ("llamafactory", "model_name_or_path: "),
        ("open-instruct", "--model_name_or_path "),
        ("swift", "model: "),
        ("trl", "model_name_or_path: "),
    ],
)
def test_a_relative_folder_of_a_model_becomes_absolute(short_study, exported, monkeypatch, trainer, words):
    model = short_study.config.model.path
    monkeypatch.chdir(model)
    monkeypatch.chdir("..")
    assert words + model in exported(trainer, model={"path": "model"})
    # Neither is a hub name, nor the folder of another machine, that of this one.
    assert words + "org/name" in exported(trainer, model={"path": "org/name"})


def test_an_expression_of_layers_stays_one(exported):
    pattern = r".*layers\.[0-7]\..*(q|v)_proj"
    lora = with_modules(pattern)
    assert yaml.safe_load(exported("swift", finetune=lora))["target_regex"] == pattern
    assert "target_modules" not in exported("swift", finetune=lora)
    assert yaml.safe_load(exported("trl", finetune=lora))["lora_target_modules"] == pattern
    assert yaml.safe_load(exported("axolotl", finetune=lora))["lora_target_modules"] == pattern
    with pytest.raises(
        InputError, match=r"LLaMA-Factory takes names of layers and no regular expression such as '\.\*l"
    ):
        exported("llamafactory", finetune=lora)
    named = with_modules(["q_proj", "v_proj"])
    assert yaml.safe_load(exported("swift", finetune=named))["target_modules"] == ["q_proj", "v_proj"]
    assert yaml.safe_load(exported("llamafactory", finetune=named))["lora_target"] == "q_proj,v_proj"


def test_swift_takes_a_settings_file_as_its_first_argument(exported):
    """From 4.3 on it does not know `--config`."""
    assert exported("swift").startswith("# swift sft exact.yaml (ms-swift 4.3 or later)")
