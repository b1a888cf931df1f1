"""Whether a text's bits depend on its company on the device.

Batches hold texts of one length. cuBLAS chooses a kernel by the size of a product, and kernels add in
different orders; so do attention kernels that cut a batch of few texts into more parts. `sweep` looks at
the session itself: from how many tokens on all batches of a length give the same bits. `company` looks at
the whole engine: many texts, shuffled, alone and in company.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import bertonnx
import common
from bertonnx.runtime.opening import opened
from bertonnx.runtime.options import LoadOptions
from common import say
from gpu.texts import exactly, passages

__all__ = ["bits"]

LENGTHS = (8, 12, 16, 24, 32, 48, 64, 96, 100, 128, 160, 200, 256, 300, 384, 512)
MOST_TOKENS = 32_768
ALONE = 200


def bits(models: Sequence[str], options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Yield what is to be said of every model in both precisions."""
    yield "## Bits"
    for name in models:
        for precision in options.precisions:
            path = work / f"{name}-{precision}.onnx"
            yield f"### {name}, {precision}"
            yield sweep(path, options)
            yield company(path, options)


def sweep(path: Path, options: argparse.Namespace) -> str:
    """Return for each length from how many tokens on a text's vector is the same in all batches."""
    rows = []
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    most = 512 if options.rehearse else MOST_TOKENS
    _, _, session = opened(path, LoadOptions(provider=options.device))
    for length in LENGTHS:
        text = tokenizer.encode(exactly(length, 1, tokenizer)[0]).ids
        sizes = [n for n in _sizes() if n * length <= most]
        found = [_vectors(session, text, n) for n in sizes]
        last = found[-1][-1]
        places = [bool((vectors == vectors[-1]).all()) for vectors in found]
        equal = [bool((vectors[-1] == last).all()) for vectors in found]
        first = len(sizes)
        while first and equal[first - 1] and places[first - 1]:
            first -= 1
        steady = sizes[first] * length if first < len(sizes) else None
        kinds = len({vectors[-1].tobytes() for vectors in found})
        rows.append((length, len(sizes), kinds, all(places), steady or "never"))
        say(f"  {path.stem}, {length} tokens: {rows[-1]}")
    header = (
        "tokens a text",
        "sizes tried",
        "different bits",
        "place does not matter",
        "same bits from tokens",
    )
    return common.table(header, rows)


def _sizes() -> list[int]:
    small = list(range(1, 33))
    return small + [round(2 ** (k / 4)) for k in range(21, 60)]


def _vectors(session: Any, ids: Sequence[int], rows: int) -> Any:
    """Return the vectors of a batch of one text beside others; the text is first and last."""
    dice = np.random.default_rng(rows)
    batch = dice.integers(1000, 20_000, (rows, len(ids)))
    batch[0] = batch[rows // 2] = batch[-1] = ids
    feeds = {"input_ids": batch, "attention_mask": np.ones_like(batch)}
    if "token_type_ids" in session.inputs:
        feeds["token_type_ids"] = np.zeros_like(batch)
    output = session.run(session.outputs[:1], feeds)[0]
    return np.stack([output[0], output[rows // 2], output[-1]])


def company(path: Path, options: argparse.Namespace) -> str:
    """Return how many texts have other bits in other company."""
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    count = 64 if options.rehearse else options.company
    texts = passages(count, tokenizer)
    changed = np.zeros(count, bool)
    with bertonnx.load(path, options.device) as model:
        first = model.embed(texts)
        for seed in range(2 if options.rehearse else options.shuffles):
            order = np.random.default_rng(seed).permutation(count)
            found = model.embed([texts[i] for i in order])
            changed[order] |= (found != first[order]).any(axis=1)
        for i, text in enumerate(texts[:ALONE]):
            changed[i] |= bool((model.embed([text])[0] != first[i]).any())
    orders, differ = options.shuffles, int(changed.sum())
    return f"{count} texts in {orders} orders, and {ALONE} alone: {differ} have other bits somewhere."
