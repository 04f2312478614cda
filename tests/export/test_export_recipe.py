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
    if trainer != "open-instruct":  # which asks the tokenizer
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


def test_open_instruct_has_layers_of_its_own(exported):
    with pytest.raises(InputError, match=r"adapters attach to q_proj, .*\) to q_proj, v_proj: take axolotl"):
        exported("open-instruct", finetune=with_modules(["q_proj", "v_proj"]))
    assert "Adapters attach to q_proj" in exported("open-instruct", finetune=with_modules("all-linear"))


@pytest.mark.parametrize("trainer", ["llamafactory", "swift", "trl"])
@pytest.mark.parametrize("progress", [0.1, 0.35, 0.7, 1.0])
def test_the_learning_rate_is_that_of_the_study(short_study, exported, trainer, progress):
    import torch
    from transformers import get_scheduler

    from taskpgm_ray.finetune.trainer import learning_rate

    settings = yaml.safe_load(exported(trainer))
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=settings["learning_rate"])
    scheduler = get_scheduler(
        settings["lr_scheduler_type"], optimizer, 100, 1000, scheduler_specific_kwargs=settings["lr_scheduler_kwargs"]
    )
    for _ in range(round(progress * 1000)):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(learning_rate(short_study.config.finetune, progress))


def test_what_trainers_would_choose_otherwise_is_said(exported):
    assert yaml.safe_load(exported("axolotl"))["cosine_min_lr_ratio"] == 0.1
    swift = yaml.safe_load(exported("swift"))
    assert (swift["adam_beta2"], swift["use_hf"]) == (0.999, True)
    assert "fell along a cosine to a tenth; torchtune's own schedules end at zero" in exported("torchtune")
    assert "The learning rate ends at zero here, in the study at a tenth." in exported("open-instruct")
    # 43 steps of 4 examples, a tenth of them. transformers 4, which it may have, knows no part of a run there.
    assert yaml.safe_load(exported("llamafactory"))["warmup_steps"] == 5
