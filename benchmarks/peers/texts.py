"""The texts that every peer embeds: the same at every run, all different, of known lengths."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from common import sst2

__all__ = ["LATENCY_LENGTHS", "LONGEST", "Texts", "quantization_texts", "source", "texts", "useful_flops"]

LONGEST = 512
LATENCY_LENGTHS = (16, 128, 512)
LATENCY_TEXTS = 8

SHORT, MIXED = 900, 300
SHORTEST_PASSAGE = 8

_CORPUS = Path(__file__).with_name("corpus.txt")

Texts = dict[str, list[str]]


def source() -> tuple[str, list[str]]:
    """Return where the sentences come from, and the sentences.

    They are those of SST-2's development set where `BERTONNX_SHARED` names a folder that has it,
    else those of the corpus beside this file.
    """
    shared = os.environ.get("BERTONNX_SHARED")
    if shared and Path(shared, "data", "sst2_dev.tsv").is_file():
        return "SST-2, development set", [text.strip() for text, _ in sst2(Path(shared))]
    return "benchmarks/peers/corpus.txt", _CORPUS.read_text(encoding="utf-8").splitlines()


def quantization_texts() -> list[str]:
    """Return texts of many lengths to quantize with; none is measured where SST-2 is there."""
    sentences = _CORPUS.read_text(encoding="utf-8").splitlines()
    return [*sentences, *(" ".join(sentences[i : i + 8]) for i in range(0, len(sentences), 8))]


def texts(
    sentences: list[str], tokenizer: Tokenizer, *, part: float = 1.0, mixed: float | None = None
) -> Texts:
    """Return the workloads `short` and `mixed`, and for each latency length texts of so many tokens.

    Args:
        sentences: what the texts are cut from.
        tokenizer: without truncation and padding.
        part: share of each workload, its lengths spread like those of the whole.
        mixed: share of the passages alone; default that of all.
    """
    dice = random.Random(0)
    words = " ".join(sentences).split()
    made = {
        "short": _different(SHORT, lambda: _sentence(dice, words)),
        "mixed": _different(
            MIXED, lambda: _exact(dice, words, tokenizer, dice.randint(SHORTEST_PASSAGE, LONGEST))
        ),
    }
    shares = {"short": part, "mixed": part if mixed is None else mixed}
    for name, whole in made.items():
        made[name] = _spread(whole, tokenizer, max(1, round(len(whole) * shares[name])))
    for length in LATENCY_LENGTHS:
        made[str(length)] = _different(LATENCY_TEXTS, partial(_exact, dice, words, tokenizer, length))
    return made


def useful_flops(lengths: list[int], *, layers: int, width: int, inner: int) -> float:
    """Return the floating-point operations of an encoder on texts of so many tokens, padding not counted.

    Per layer and token 2 x (4 width^2 + 2 width inner) for the projections and the feed-forward
    part, and 4 x length x width for attention; a multiplication and an addition are two operations.
    Embeddings, normalizations, activations and softmax are left out, as is usual.
    """
    dense = 2 * (4 * width * width + 2 * width * inner)
    return float(sum(layers * length * (dense + 4 * length * width) for length in lengths))


def _different(count: int, make: Callable[[], str]) -> list[str]:
    def endless() -> Iterator[str]:
        seen: set[str] = set()
        while True:
            text = make()
            if text not in seen:
                seen.add(text)
                yield text

    return list(islice(endless(), count))


def _sentence(dice: random.Random, words: list[str]) -> str:
    """Return 2 to 52 words in a row; with the two special tokens about 23 tokens on average, as SST-2's."""
    count = min(52, max(2, round(dice.lognormvariate(math.log(16), 0.5))))
    start = dice.randrange(len(words))
    return " ".join((words + words)[start : start + count])


def _exact(dice: random.Random, words: list[str], tokenizer: Tokenizer, length: int) -> str:
    while True:
        start = dice.randrange(len(words))
        text = " ".join(words[(start + i) % len(words)] for i in range(length))
        end = tokenizer.encode(text).offsets[length - 2][1]
        if len(tokenizer.encode(text[:end]).ids) == length:
            return text[:end]


def _spread(whole: list[str], tokenizer: Tokenizer, count: int) -> list[str]:
    """Return `count` of the texts in their order, every so-manieth by length."""
    by_length = sorted(range(len(whole)), key=lambda i: len(tokenizer.encode(whole[i]).ids))
    step = len(whole) / count
    return [whole[i] for i in sorted(by_length[int((k + 0.5) * step)] for k in range(count))]
