"""Export saved checkpoints with the installed libraries, and compare with what their own library answered.

    python -m tests.matrix.reading FOLDER OUTCOME.json [--part 0/3]

What OUTCOME.json holds already is left out, so that a command that was ended goes on. Each folder below
FOLDER that holds `reference.npz` becomes one outcome: "right", "refused: MESSAGE", or "WRONG: ..." for
anything else, which there must not be.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import bertonnx
from bertonnx.errors import BertonnxError
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import feeds_of
from bertonnx.runtime.session.session import open_session
from tests.matrix.texts import CASES

REFUSED, WRONG = "refused: ", "WRONG: "

TOLERANCE = 1e-4
"""Times the largest number of the reference, or 1."""


class _Unequal(Exception):
    """The file and the library that saved its checkpoint part."""


def saved_in(folder: Path) -> list[str]:
    """Return the names of the checkpoints below a folder, in order."""
    return sorted(file.parent.relative_to(folder).as_posix() for file in folder.rglob("reference.npz"))


def outcome(folder: Path) -> str:
    """Return what becomes of one saved folder."""
    with tempfile.TemporaryDirectory(prefix="bertonnx-") as place:
        try:
            path = bertonnx.export(folder, Path(place, "model.onnx")).path
            _compare(path, folder)
        except BertonnxError as error:
            return REFUSED + str(error).replace(str(folder), "FOLDER")
        except _Unequal as error:
            return WRONG + str(error)
        except Exception:  # what the command is there to find
            return WRONG + traceback.format_exc(limit=-2).strip().splitlines()[-1]
    return "right"


def _compare(path: Path, folder: Path) -> None:
    with np.load(folder / "reference.npz") as arrays, bertonnx.load(path, "cpu", threads=1) as model:
        if "embeddings" in arrays:
            _compare_embeddings(model, arrays)
        elif "predicted" in arrays:
            _compare_scores(model, arrays)
        elif "sparse" in arrays:
            _compare_words(model, arrays)
        elif "vectors query 0" in arrays:
            _compare_vectors(model, arrays)
        else:
            _compare_outputs(model, path, arrays)


def _compare_embeddings(model: bertonnx.Model, arrays: Any) -> None:
    texts = [text for text, _ in CASES]
    _close("embed", model.embed(texts), arrays["embeddings"])
    for prompt in ("query", "document"):
        _close(f"embed with the prompt {prompt}", model.embed(texts, prompt=prompt), arrays[prompt])


def _compare_words(model: bertonnx.Model, arrays: Any) -> None:
    texts = [text for text, _ in CASES]
    for prompt in (None, "query", "document"):
        expected = arrays["sparse" if prompt is None else f"sparse {prompt}"]
        got = np.zeros_like(expected)
        for row, item in zip(got, model.embed_sparse(texts, prompt=prompt), strict=True):
            row[item["ids"]] = item["weights"]
        _close(f"weights of words, prompt {prompt}", got, expected)


def _compare_vectors(model: bertonnx.Model, arrays: Any) -> None:
    texts = [text for text, _ in CASES]
    for side in ("query", "document"):
        for number, item in enumerate(model.embed_tokens(texts, prompt=side)):
            _close(f"vectors of {side} {number}", item["vectors"], arrays[f"vectors {side} {number}"])


def _compare_scores(model: bertonnx.Model, arrays: Any) -> None:
    pairs = [(text, pair) for text, pair in CASES if pair is not None]
    items = model.predict([text for text, _ in pairs], [pair for _, pair in pairs])
    expected = arrays["predicted"]
    if expected.ndim == 1:
        _close("score", np.array([item["score"] for item in items]), expected)
    else:
        _close("scores", np.array([[*item["scores"].values()] for item in items]), expected)


def _compare_outputs(model: bertonnx.Model, path: Path, arrays: Any) -> None:
    session = open_session(path, model.card, LoadOptions(provider="cpu", threads=1))
    names = [name for name in task_named(model.card.task).raw_outputs if f"{name}_0" in arrays]
    if not names:
        raise _Unequal("the reference has none of the outputs")
    for number, (text, pair) in enumerate(CASES):
        encoded = model.tokenize([text], None if pair is None else [pair])[0]
        piece = encoded.pieces[0]
        _same(f"ids of text {number}", piece.ids, arrays[f"input_ids_{number}"])
        types = f"token_type_ids_{number}"
        if types in arrays and "token_type_ids" in session.inputs:
            _same(f"segments of text {number}", piece.type_ids, arrays[types])
        elif "token_type_ids" in session.inputs and piece.type_ids.any():
            raise _Unequal(f"segments of text {number}, which its library does not make")
        outputs = session.run(names, feeds_of([piece], session.inputs))
        for name, got in zip(names, outputs, strict=True):
            _close(f"{name} of text {number}", got[0], arrays[f"{name}_{number}"])


def _same(what: str, got: Any, expected: Any) -> None:
    if not np.array_equal(got, expected):
        raise _Unequal(f"{what}: {got.tolist()[:12]} and not {expected.tolist()[:12]}")


def _close(what: str, got: Any, expected: Any) -> None:
    if got.shape != expected.shape:
        raise _Unequal(f"{what}: shape {got.shape} and not {expected.shape}")
    difference = float(np.abs(got - expected).max(initial=0))
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0))):
        raise _Unequal(f"{what}: {difference:.3g} from the reference")


def main() -> None:
    """Write the outcome of every folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("outcome", type=Path)
    parser.add_argument("--part", default="0/1", help="which of how many parts")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    found: dict[str, str] = json.loads(given.outcome.read_text()) if given.outcome.is_file() else {}
    # One text is too long for some, and its library cuts it too.
    warnings.simplefilter("ignore")
    for name in saved_in(given.folder)[part::parts]:
        if name in found:
            continue
        found[name] = outcome(given.folder / name)
        print(f"{name}: {found[name][:150]}", flush=True)
        given.outcome.write_text(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
