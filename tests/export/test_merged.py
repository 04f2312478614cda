"""The merged model predicts what base model and adapter predict together."""

import shutil

import pytest
import torch
import yaml

from taskpgm_ray.cli import main
from taskpgm_ray.errors import InputError
from taskpgm_ray.export.merged import merge_final
from taskpgm_ray.models import resolve
from taskpgm_ray.storage import Storage


@pytest.fixture
def handed_over(plain_study, tmp_path):
    """The plain study with a final adapter that changes a lot, and the model that it belongs to."""
    from peft import LoraConfig, get_peft_model

    here = tmp_path / "study"
    shutil.copytree(plain_study.folder, here)
    model = resolve(plain_study.config.model, Storage(plain_study.config.storage))
    torch.manual_seed(0)
    adapted = get_peft_model(model.load(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(here / "adapter")
    card = f"---\nlibrary_name: peft\n---\nA LoRA adapter of `m` (fingerprint `{model.fingerprint}`)\n"
    (here / "adapter" / "README.md").write_text(card)
    return here, adapted.eval()


def test_it_predicts_the_same_without_an_adapter(handed_over, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    study, adapted = handed_over
    assert main(["merge", str(study), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("3 + 4 =", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
        with adapted.disable_adapter():
            assert (adapted(input_ids=ids).logits - expected).abs().max() > 0.1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "A LoRA adapter merged into `m`" in card


def test_what_learned_on_4_bits_is_added_to_the_whole_weights(handed_over, plain_study, tmp_path):
    from transformers import AutoModelForCausalLM

    study, _ = handed_over
    merge_final(study, tmp_path / "plain")
    config = yaml.safe_load((study / "config.yaml").read_text())
    config["model"]["quantization"], config["scoring"]["scorer"] = "nf4", "hf"
    (study / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="was trained on other weights"):
        merge_final(study, tmp_path / "out")
    quantised = plain_study.config.model.model_copy(update={"quantization": "nf4"})
    model = resolve(quantised, Storage(plain_study.config.storage))
    (study / "adapter" / "README.md").write_text(f"A LoRA adapter of `m` (fingerprint `{model.fingerprint}`)\n")
    merge_final(study, tmp_path / "out")
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("plain", "out"))
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_what_cannot_be_merged(handed_over, plain_study, tmp_path):
    study, _ = handed_over
    with pytest.raises(InputError, match="has no final adapter: a study without a search hands none over"):
        merge_final(plain_study.folder, tmp_path / "out")
    with pytest.raises(InputError, match="is not the folder of a finished study"):
        merge_final(tmp_path / "nothing", tmp_path / "out")
    (study / "adapter" / "README.md").write_text("fingerprint `0123`")
    with pytest.raises(InputError, match="was trained on other weights than those in"):
        merge_final(study, tmp_path / "out")
