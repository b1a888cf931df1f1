"""A worker that predicts odd texts with real models: a result for each, and the same whoever is beside it.

    python tests/fuzz/texts.py FOLDER FIRST LAST

FOLDER gets the models, tiny ones, if it has none. A line for each seed: how many results and errors there
were, or what was wrong.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bertonnx
from bertonnx.errors import RowError
from bertonnx.runtime.rows import Row
from tests.corpus import SENTENCES

__all__ = ["link_models", "main", "make_models"]

TASKS = {"text-classification": ("bad", "good"), "token-classification": ("O", "B-PER", "I-PER")}

_ODD = (
    *("", " ", "\0", "\n", "\r\n", "\t", "\x1b[31m", "\x7f", "\ufeff", "\u200b", "\u202e", "\u2028", "\x85"),
    *("語", "한", "𠀀", "ก", "👩‍👩‍👧‍👦", "🇩🇪", "e\u0301\u0323", "ﬁ", "İ", "ß", "न्न", "ل"),
    *("\u0300" * 50, "Ａ", "\ud800", "\udc00"),
    *("[CLS]", "[MASK]", "[SEP]", "##", "▁", "Ġ", "'s", "don't", "{}"),
    *('"', "\\", "%s", "=1+1", "-0", "1e400", "NaN"),
)  # fmt: skip


def make_models(folder: Path) -> None:
    """Export the models that are not there."""
    for task, labels in TASKS.items():
        if not (folder / f"{task}.onnx").exists():
            from tests.tiny import save_tiny  # torch, which files that are there make needless

            bertonnx.export(save_tiny(folder / task, task=task, labels=labels), folder / f"{task}.onnx")


def link_models(folder: Path, exported: Mapping[str, Path]) -> None:
    """Let a folder have models that are there already."""
    for task in TASKS:
        (folder / f"{task}.onnx").symlink_to(exported[task])


def _text(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.3:
        return chance.choice(SENTENCES)
    if kind < 0.4:
        return chance.choice((*_ODD, "x", "word ")) * chance.randint(1, 4000)
    if kind < 0.42:
        return "".join(chance.choices(("a", "b", " ", *_ODD), k=chance.randint(20_000, 60_000)))
    parts = chance.choices((*_ODD, *chance.choices(SENTENCES, k=3), "one", " "), k=chance.randint(1, 60))
    return chance.choice(("", " ")).join(parts)


def _results(model: Any, texts: list[str]) -> list[Any]:
    found = model.stream([Row(text) for text in texts])
    return [(one.kind, str(one)) if isinstance(one, RowError) else one for one in found]


def _outcome(model: Any, seed: int) -> str:
    chance = random.Random(seed)
    texts = [_text(chance) for _ in range(chance.randint(1, 6))]
    try:
        together = _results(model, texts)
        alone = [one for text in texts for one in _results(model, [text])]
    except BaseException as error:
        return f" TRACEBACK {type(error).__name__}: {str(error)[:300]!r}"
    if len(together) != len(texts) or together != alone:
        return " WRONG: other results beside others"
    for text, result in zip(texts, together, strict=True):
        for entity in [] if isinstance(result, tuple) else result.get("entities", ()):
            if text[entity["start"] : entity["end"]] != entity["text"]:
                return f" WRONG: {entity!r} is not there"
    return f" {len(texts)} results, {sum(isinstance(one, tuple) for one in together)} errors"


def main(place: str, first: str, last: str) -> None:
    """Predict texts for each seed."""
    make_models(Path(place))
    models = [bertonnx.load(Path(place) / f"{task}.onnx", "cpu", 1) for task in TASKS]
    for seed in range(int(first), int(last)):
        print(f"{seed}{_outcome(models[seed % len(models)], seed)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
