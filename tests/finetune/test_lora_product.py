"""The fused LoRA layer: PEFT's outputs and gradients, in every layer that it takes over, and in no other."""

import statistics

import pytest

from taskpgm_ray.config import LoraSection
from taskpgm_ray.finetune.lora import LoraTrainer, with_adapter
from taskpgm_ray.finetune.lora_product import _LoraProduct, fuse

torch = pytest.importorskip("torch")


def base(folder, dtype):
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def adapted(folder, dtype=torch.float32, **options):
    """An adapter whose B is not zero either."""
    model = with_adapter(base(folder, dtype), LoraSection(r=4, alpha=12, **options))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def gradients(model, seed=0, autocast=False):
    """The loss of a batch, and the gradient of each of the adapter's matrices."""
    ids = torch.randint(1, 500, (3, 7), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def norm(gradients):
    return sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5


def test_the_derivatives_are_those_of_the_formula():
    torch.manual_seed(0)
    x, a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (4, 5), (6, 4)))
    weight, bias = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    for offset in (bias, None):
        expected = x @ weight.T + (0 if offset is None else offset) + 0.7 * (x @ a.T) @ b.T
        torch.testing.assert_close(_LoraProduct.apply(x, weight, offset, a, b, 0.7), expected)
        assert torch.autograd.gradcheck(
            lambda x, a, b, offset=offset: _LoraProduct.apply(x, weight, offset, a, b, 0.7), (x, a, b)
        )


def test_a_model_has_the_gradients_that_peft_gives_it(tiny_llama):
    plain, fused = adapted(tiny_llama), adapted(tiny_llama)
    layers = sum(name.endswith("lora_A.default.weight") for name, _ in fused.named_parameters())
    assert fuse(fused) == layers > 0
    (loss, expected), (other, got) = gradients(plain), gradients(fused)
    assert other == pytest.approx(loss, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5)


def test_in_mixed_precision_it_is_no_farther_from_the_exact_gradients_than_peft(tiny_llama):
    """Both round to eight bits, in other places; over several batches neither is better."""
    exact, plain, fused = (adapted(tiny_llama, dtype) for dtype in (torch.float32, torch.bfloat16, torch.bfloat16))
    fuse(fused)
    theirs, ours = [], []
    for seed in range(8):
        expected = gradients(exact, seed)[1]
        for model, distances in ((plain, theirs), (fused, ours)):
            found = gradients(model, seed, autocast=True)[1]
            assert {gradient.dtype for gradient in found.values()} == {torch.float32}
            distances.append(norm({name: found[name] - expected[name] for name in expected}) / norm(expected))
    assert statistics.median(theirs) < 0.2
    assert statistics.median(ours) < 1.25 * statistics.median(theirs)


def test_dropout_is_left_to_peft(tiny_llama):
    assert fuse(adapted(tiny_llama, dropout=0.1)) == 0


def test_a_trainer_uses_it(tiny_llama):
    trainer = LoraTrainer(base(tiny_llama, torch.float32), LoraSection(r=4))
    taken = [module for module in trainer.model.modules() if "forward" in vars(module)]
    assert len(taken) * 2 == len(trainer.parameters)


def test_the_active_adapter_is_used_or_none(tiny_llama, tmp_path):
    plain, fused = adapted(tiny_llama), adapted(tiny_llama)
    other = adapted(tiny_llama)
    for name, parameter in other.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    other.save_pretrained(tmp_path)
    fuse(fused)
    ids = torch.arange(12).reshape(2, 6) + 7

    def outputs(model):
        model.load_adapter(str(tmp_path), "other")
        found = []
        with torch.inference_mode():
            for name in ("default", "other"):
                model.set_adapter(name)
                found.append(model(input_ids=ids).logits)
            with model.disable_adapter():
                found.append(model(input_ids=ids).logits)
        return found

    first, second, bare = outputs(fused)
    for got, expected in zip((first, second, bare), outputs(plain), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-2)
    assert not torch.allclose(first, bare, atol=1e-2)
