"""A random Llama with a tokenizer of bytes, for benchmarks in which no weight matters."""

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def random_llama(folder, vocabulary_size=None, dtype=None, **shape):
    """Write one of this shape, whose vocabulary may be larger than what its tokenizer makes; its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<pad>", "<eos>"]
    vocabulary = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary_size or len(vocabulary), eos_token_id=1, **(shape or TINY))
    # Billions of random weights are drawn where that is fast.
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM._from_config(config, dtype=dtype or torch.float32).save_pretrained(folder)
    return folder
