"""Small tokenizers in the five styles that models have, made here: nothing is downloaded."""

import json

CORPUS = [
    "The following are multiple choice questions (with answers) about this subject.",
    "def half(x):\n    y = x / 2\n    return y\n",
    "Is the review positive or negative? positive negative neutral",
    "1 + 2 = 3, 10 - 7 = 3; 12,345.67",
    "Größe von Teil 0? 3 mm. Où est la gare? 问题：今天天气怎么样？答案：很好。",
] * 4
GPT2_EXTRAS = ["<|endoftext|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'system' %}[INST] <<SYS>>{{ m.content }}<</SYS>> [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PLAIN_TURNS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def sentencepiece(folder, *, control=(), template=LLAMA2, add_eos=False):
    """SentencePiece BPE with byte fallback and a word mark in front, as Llama 2 and Mistral have it."""
    import io

    import sentencepiece as spm
    from transformers import AutoTokenizer

    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in CORPUS for line in text.split("\n") if line]),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        control_symbols=list(control),
        minloglevel=2,
    )
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": add_eos,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return AutoTokenizer.from_pretrained(folder)


def byte_level(folder, extras, *, eos, bos=None, template, split=None):
    """Byte-level BPE, as GPT-2 has it, or with a pattern of its own (Llama 3)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is not None:
        pieces = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), pieces])
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=extras,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORPUS, *["f(x):\n\n", "):\n", "...\n"] * 8], trainer)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos or eos)
    fast.chat_template = template
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_EXTRAS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
STYLES = {
    "llama": sentencepiece,
    "mistral": lambda folder: sentencepiece(folder, control=("[INST]", "[/INST]"), template=MISTRAL),
    "gpt2": lambda folder: byte_level(folder, GPT2_EXTRAS, eos="<|endoftext|>", template=PLAIN_TURNS),
    "llama3": lambda folder: byte_level(
        folder,
        LLAMA3_EXTRAS,
        eos="<|end_of_text|>",
        bos="<|begin_of_text|>",
        template=LLAMA3,
        split=f"{WORDS}|{SPACES}",
    ),
    "chatml": lambda folder: byte_level(
        folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>", template=CHATML
    ),
}
