"""Real tokenizers of the three kinds that BERT's relatives use, trained on the tests' corpus.

Each is put together as a well-known checkpoint's: same normalizer, pre-tokenizer, post-processor
and special tokens. Training takes a tenth of a second and happens once a process.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.corpus import SENTENCES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["KINDS", "bpe", "pretrained", "unigram", "wordpiece"]

KINDS = ("wordpiece", "bpe", "unigram")

_BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}


def wordpiece(*, lowercase: bool = True) -> Tokenizer:
    """Return a WordPiece tokenizer as bert-base-uncased's; `lowercase=False` as bert-base-cased's."""
    return Tokenizer.from_str(_wordpiece(lowercase))


def bpe() -> Tokenizer:
    """Return a byte-level BPE tokenizer as roberta-base's, with a mask that takes the space before it."""
    return Tokenizer.from_str(_bpe())


def unigram() -> Tokenizer:
    """Return a Unigram tokenizer with Metaspace as xlm-roberta-base's."""
    return Tokenizer.from_str(_unigram())


def pretrained(kind: str, *, model_max_length: int = 128, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """Return one of `KINDS` as transformers' tokenizer, ready for pipelines and `save_pretrained`."""
    import transformers

    make: Any = transformers.PreTrainedTokenizerFast  # untyped
    is_bert = kind == "wordpiece"
    tokenizer = {"wordpiece": lambda: wordpiece(lowercase=lowercase), "bpe": bpe, "unigram": unigram}[kind]()
    tokens: dict[str, Any] = dict(_BERT_TOKENS if is_bert else _ROBERTA_TOKENS)
    if not is_bert:
        tokens["mask_token"] = AddedToken("<mask>", lstrip=True, special=True)
    names = ["input_ids", "token_type_ids", "attention_mask"] if is_bert else ["input_ids", "attention_mask"]
    loaded: PreTrainedTokenizerFast = make(
        tokenizer_object=tokenizer,
        model_max_length=model_max_length,
        model_input_names=names,
        clean_up_tokenization_spaces=False,
        **tokens,
    )
    return loaded


@lru_cache
def _wordpiece(lowercase: bool) -> str:
    tokenizer = Tokenizer(models.WordPiece(_wordpiece_vocabulary(lowercase), unk_token="[UNK]"))
    _like_bert(tokenizer, lowercase)
    tokenizer.add_special_tokens(list(_BERT_TOKENS.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return str(tokenizer.to_str())


def _wordpiece_vocabulary(lowercase: bool) -> dict[str, int]:
    # The trainer numbers the inner letters in a random order and breaks ties by number. Naming them
    # as special tokens fixes the order; they must not stay special, so only the vocabulary is kept.
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    _like_bert(tokenizer, lowercase)
    letters = sorted(set("".join(map(tokenizer.normalizer.normalize_str, SENTENCES))) - {" "})
    trainer = trainers.WordPieceTrainer(
        vocab_size=1200,
        special_tokens=[*_BERT_TOKENS.values(), *letters, *("##" + letter for letter in letters)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return dict(tokenizer.get_vocab())


def _like_bert(tokenizer: Tokenizer, lowercase: bool) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")


@lru_cache
def _bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")),
        ("<s>", tokenizer.token_to_id("<s>")),
        trim_offsets=True,
        add_prefix_space=False,
    )
    return str(tokenizer.to_str())


@lru_cache
def _unigram() -> str:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram(_unigram_vocabulary(special), unk_id=special.index("<unk>")))
    _like_sentencepiece(tokenizer)
    tokenizer.add_special_tokens([*special, AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return str(tokenizer.to_str())


def _unigram_vocabulary(special: list[str]) -> list[tuple[str, float]]:
    # The trainer adds up in a random order, so that scores differ in their last bits from run to run,
    # and it ranks the rarest letters at random, from -9.96 down.
    tokenizer = Tokenizer(models.Unigram())
    _like_sentencepiece(tokenizer)
    trainer = trainers.UnigramTrainer(
        vocab_size=1000, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    trained = json.loads(tokenizer.to_str())["model"]["vocab"]
    pieces = [(piece, round(max(score, -9.9), 9)) for piece, score in trained if piece not in special]
    return [(token, 0.0) for token in special] + sorted(pieces, key=lambda item: (-item[1], item[0]))


def _like_sentencepiece(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
