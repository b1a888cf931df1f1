"""Make the examples of the vignettes: `python make_examples.py ../inst/extdata`.

A tiny BERT with random numbers whose vocabulary is that of the examples, so that texts with common words are
near each other, and it learns in seconds; and two labelled files. All of it is made up.
"""

import csv
import itertools
import random
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TOPICS = {
    "cooking": (
        ["Simmer", "Season", "Whisk", "Bake", "Serve"],
        ["the tomatoes", "the soup", "the dough", "the sauce", "the egg whites"],
        ["with garlic", "in a hot oven", "with fresh bread", "for twenty minutes", "until it is thick"],
    ),
    "sport": (
        ["The striker", "The champion", "The goalkeeper", "Our team", "The runner"],
        ["won", "lost", "scored in", "trained for", "missed"],
        ["the final", "the second half", "the marathon", "the penalty", "the last match of the season"],
    ),
    "space": (
        ["The telescope", "The rocket", "A probe", "The satellite", "The crew"],
        ["reached", "photographed", "passed", "measured", "left"],
        ["the orbit of Jupiter", "a distant galaxy", "the moons of Saturn", "the red planet", "a young star"],
    ),
    "money": (
        ["The central bank", "The market", "An investor", "The company", "The fund"],
        ["raised", "sold", "expects", "lowered", "reported"],
        ["interest rates", "its shares", "higher prices", "a quarterly loss", "ten million in bonds"],
    ),
}
PEOPLE = [
    "Ada Lovelace",
    "Emmy Noether",
    "Alan Turing",
    "Grace Hopper",
    "Carl Gauss",
    "Sofia",
    "Lise Meitner",
]
PLACES = ["London", "Berlin", "Stockholm", "New York", "Vienna", "Princeton"]
SENTENCES = [
    "{p} lived in {c} .",
    "In {c} , {p} met {q} .",
    "{p} wrote to {q} .",
    "The letters of {p} are in {c} .",
    "{p} and {q} left {c} early .",
    "Nobody was at home .",
    "The machine was slow .",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def main() -> None:
    folder = Path(sys.argv[1])
    drawn = random.Random(1)
    notes = make_notes(drawn)
    with (folder / "notes.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("text", "topic"), *notes])
    sentences = make_people(drawn)
    lines = ["\n".join(f"{word} {tag}" for word, tag in sentence) + "\n" for sentence in sentences]
    (folder / "people.conll").write_text("\n".join(lines), encoding="utf-8")
    texts = [text for text, _ in notes] + [" ".join(word for word, _ in sentence) for sentence in sentences]
    save(folder / "bert-words", texts)


def make_notes(drawn: random.Random) -> list[tuple[str, str]]:
    notes = []
    for topic, parts in TOPICS.items():
        every = [" ".join(words) + "." for words in itertools.product(*parts)]
        notes += [(text, topic) for text in drawn.sample(every, 60)]
    drawn.shuffle(notes)
    return notes


def make_people(drawn: random.Random) -> list[list[tuple[str, str]]]:
    return [tagged(drawn) for _ in range(200)]


def tagged(drawn: random.Random) -> list[tuple[str, str]]:
    first, second = drawn.sample(PEOPLE, 2)
    values = {"{p}": (first, "PER"), "{q}": (second, "PER"), "{c}": (drawn.choice(PLACES), "LOC")}
    words: list[tuple[str, str]] = []
    for word in drawn.choice(SENTENCES).split():
        text, kind = values.get(word, (word, ""))
        parts = text.split()
        tags = [f"B-{kind}", *[f"I-{kind}"] * (len(parts) - 1)] if kind else ["O"]
        words += zip(parts, tags, strict=True)
    return words


def save(folder: Path, texts: list[str]) -> None:
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*SPECIAL, *sorted({*words, *letters, "?", "!"}), *[f"##{letter}" for letter in letters]]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    # Half of the size; any number does.
    transformers.BertForMaskedLM(config).eval().half().save_pretrained(folder)
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
