"""A worker that reads mutated inputs; what it dies of or lets through is what the tests look for.

`python tests/fuzz/readers.py FOLDER FIRST LAST` makes and reads one input for each seed, and prints a line
for each: its number, its ending, and `rows N`, `refused` or `TRACEBACK what`. A reader that ends the
process, or never comes back, is known by the line that is missing.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bertonnx.errors import BertonnxError
from bertonnx.runtime.io.readers import open_rows
from bertonnx.runtime.options import RunOptions

__all__ = ["ENDINGS", "main", "mutated"]

ENDINGS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".arrow")

_TEXTS = [
    "",
    "a",
    "plain words",
    'quoted "words", and more',
    "é 🙂 ﷽",
    "a\tb",
    "two\nlines",
    "x" * 300,
    "\0",
    None,
]
_KINDS: tuple[Callable[[], object], ...] = (
    pa.string,
    pa.large_string,
    pa.string_view,
    lambda: pa.dictionary(pa.int8(), pa.string()),
    lambda: pa.dictionary(pa.int64(), pa.large_string()),
)
# What a fault of a file most often is: a number that is a little, or very much, off.
_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 1 << 16, 1 << 28, (1 << 31) - 1, -(1 << 31), 1 << 40, -(1 << 62))
_BITS = (
    b'"', b"\n", b"\r", b"\r\n", b",", b"\t", b"\0", b"\xff",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"{", b"}",
    b"[" * 3000, b"\\ud800", b"1" * 5000, b"null", b'"text"', b'{"text": 1}\n', b'"' + b"\n" * 300,
)  # fmt: skip


@lru_cache
def _table(seed: int) -> bytes:
    """A file of Arrow IPC or Parquet, one of a few that are mutated again and again."""
    dice = random.Random(seed)
    kind = dice.choice(_KINDS)()
    texts = pa.array(dice.choices(_TEXTS, k=dice.choice((1, 9, 200))), pa.string()).cast(kind)
    table = pa.table({"n": list(range(len(texts))), "text": texts, "more": [["a", None]] * len(texts)})
    sink = pa.BufferOutputStream()
    if seed % 2:
        compression = dice.choice(("none", "snappy", "zstd"))
        pq.write_table(table, sink, compression=compression, use_dictionary=dice.random() < 0.5)
    else:
        options = pa.ipc.IpcWriteOptions(compression=dice.choice((None, "lz4", "zstd")))
        with dice.choice((pa.ipc.new_file, pa.ipc.new_stream))(sink, table.schema, options=options) as out:
            out.write_table(table, max_chunksize=100)
    return bytes(sink.getvalue())


def _lines(dice: random.Random, ending: str) -> bytes:
    """A file of lines that is sound, or nearly so."""
    texts = [text or "" for text in dice.choices(_TEXTS, k=dice.randrange(1, 40))]
    if ending == ".jsonl":
        import json

        lines = [
            json.dumps({"text": text, "n": 1}) if dice.random() < 0.9 else json.dumps(text) for text in texts
        ]
    elif ending == ".txt":
        lines = texts
    else:
        comma = "," if ending == ".csv" else "\t"
        lines = [f"n{comma}text", *(f'1{comma}"{text.replace(chr(34), chr(34) * 2)}"' for text in texts)]
    return dice.choice(("\n", "\r\n")).join(lines).encode() + b"\n" * dice.randrange(2)


def mutated(dice: random.Random, data: bytes) -> bytes:
    """Return the data with a few faults: a bit, a number, a cut, a part that is missing or there twice."""
    out = bytearray(data)
    for _ in range(dice.choice((0, 1, 1, 2, 5))):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << dice.randrange(8)
            case 1:
                size = dice.choice((1, 2, 4, 8))
                at -= at % size
                number = dice.choice(_NUMBERS) % (1 << 8 * size)
                out[at : at + size] = number.to_bytes(size, "little")
            case 2:
                del out[at:]
            case 3:
                del out[at : at + dice.randrange(64)]
            case 4:
                out[at:at] = out[at : at + dice.randrange(64)]
            case _:
                out[at:at] = dice.choice(_BITS)
    return bytes(out)


def _input(seed: int) -> tuple[str, bytes]:
    dice = random.Random(seed)
    ending = dice.choice(ENDINGS)
    if ending in (".parquet", ".arrow"):
        sound = _table(2 * dice.randrange(12) + (ending == ".parquet"))
    else:
        sound = _lines(dice, ending)
    return ending, mutated(dice, sound)


def _read(path: Path) -> str:
    try:
        with open_rows(
            path, RunOptions(column=None if path.suffix == ".txt" else "text"), needs_pair=False
        ) as rows:
            return f"rows {sum(1 for _ in rows)}"
    except BertonnxError as error:
        # As a user sees it: wording must not fail either.
        return f"refused {type(error).__name__} {len(str(error))}"
    except BaseException:
        return "TRACEBACK " + traceback.format_exc().strip().replace("\n", " | ")


def main(folder: str, first: str, last: str) -> None:
    """Read an input for each seed."""
    for seed in range(int(first), int(last)):
        ending, data = _input(seed)
        path = Path(folder) / f"{first}{ending}"
        path.write_bytes(data)
        print(seed, ending, _read(path), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
