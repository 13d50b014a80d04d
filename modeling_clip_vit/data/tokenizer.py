"""Train a small tokenizer on the captions of a dataset."""

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def train_tokenizer(texts: list[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding over bytes (Radford et al., 2019, section 2.2), lower case.

    Bytes make every text of every language encodable: a character that the captions lack costs
    more tokens, but is never unknown. A Chinese character is a word of its own, so that it has the
    same tokens wherever it stands. Equal texts give an equal tokenizer.

    Args:
        texts: what to learn from.
        vocab_size: number of tokens, at least 259 (bytes and special tokens).
        max_length: maximum number of tokens, special tokens included; longer texts are truncated.

    Returns:
        A tokenizer that puts a start and an end token around a text and pads on the right. Special
        tokens in a text are plain text: `<eos>` is five characters, not an end token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The last ids, the end the highest: where other implementations of CLIP look for it.
    tokenizer.add_special_tokens([BOS, EOS])
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", pair=f"{BOS} $A $B {EOS}", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )
