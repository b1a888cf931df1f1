"""Saves and exports the same folders under two versions of transformers, and compares ids and numbers.

python tools/compare_environments.py .venv/bin/python .venv-transformers5/bin/python

A tiny checkpoint of every family is saved in each of the two environments, with the family's own tokenizer
class where there is one. Each folder is then exported in the other environment: with one version, all is as
`tests/whole/test_matrix.py` has it in each. Ids must be equal to those of transformers where the folder was
saved, and numbers agree to 1e-5. Prints a line for each folder; the exit code is 1 where something differs.
Arguments after the two environments choose families.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

TOLERANCE = 1e-5
"""Allowed |difference|, times max(1, largest |reference|)."""

PAIR = (
    "Ada Lovelace wrote the first program.",
    "Where was it? In LONDON,  na\u00efve caf\u00e9 \uff11 \u2460.",
)

Result = Mapping[str, Any]
"""`{"inputs": {name: ids}, "outputs": numbers}` of the pair, or `{"refused": why}`."""


def save(folder: Path, families: Sequence[str]) -> Iterator[tuple[str, Result]]:
    """Save a checkpoint of each family; yield its name, and what this transformers makes of the pair."""
    from tests.tiny import FAMILY_CONFIGS, missing_code, save_tiny

    for family in families or FAMILY_CONFIGS:
        if not missing_code(family):
            path = save_tiny(folder / family, family, _task(family))
            _own_class(path, family)
            yield family, _reference(path, family)


def export(folder: Path, families: Sequence[str]) -> Iterator[tuple[str, Result]]:
    """Export each folder; yield its name, and what the file gives for the pair."""
    for path in sorted(folder.iterdir()):
        if not families or path.name in families:
            yield path.name, _exported(path)


def compare(pythons: Sequence[str], families: Sequence[str]) -> int:
    """Do all of it in two environments; returns how many folders differ."""
    different = 0
    with tempfile.TemporaryDirectory(prefix="bertonnx-compare-") as place:
        saved = [Path(place) / f"saved-by-{i}" for i in range(len(pythons))]
        references = _both("save", pythons, saved, families)
        others = [*pythons[1:], pythons[0]]
        results = _both("export", others, saved, families)
        for python, reference, result in zip(pythons, references, results, strict=True):
            for family, wanted in reference.items():
                said = _difference(wanted, result.get(family, {"refused": "nothing was printed"}))
                different += said.startswith("DIFFERENT")
                print(f"{family:24} saved by {python}: {said}", flush=True)
    return different


def _difference(wanted: Result, found: Result) -> str:
    if "refused" in found:
        # A family that the other version has no code for is no difference.
        known = "has no code of it" in found["refused"]
        return f"{'refused' if known else 'DIFFERENT, refused'}: {found['refused'][:300]}"
    if found["inputs"] != wanted["inputs"]:
        return f"DIFFERENT inputs: {', '.join(sorted(found['inputs']))}"
    scale = max(1.0, *map(abs, wanted["outputs"]))
    apart = [abs(a - b) / scale for a, b in zip(wanted["outputs"], found["outputs"], strict=True)]
    # Whatever is compared with NaN is neither larger nor smaller.
    worst = math.nan if any(map(math.isnan, apart)) else max(0.0, *apart)
    verdict = "equal" if worst <= TOLERANCE else "DIFFERENT numbers"
    return f"{verdict}, {len(wanted['inputs']['input_ids'])} ids, largest difference {worst:.1e}"


def _both(
    step: str, pythons: Sequence[str], folders: Sequence[Path], families: Sequence[str]
) -> list[dict[str, Result]]:
    """Run a step in all environments at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [python, __file__, f"--{step}", str(folder), *families],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for python, folder in zip(pythons, folders, strict=True)
    ]
    return [dict(json.loads(line) for line in process.communicate()[0].splitlines()) for process in running]


def _task(family: str) -> str:
    from bertonnx.models.families import FAMILIES

    usual = "text-classification"
    return "feature-extraction" if usual in FAMILIES[family].gaps else usual


def _texts(folder: Path) -> tuple[str, ...]:
    """Return the pair, or its first text for a model without a row for a second segment."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return PAIR[:1] if config.get("type_vocab_size") == 1 else PAIR


def _own_class(folder: Path, family: str) -> None:
    """Save the tokenizer again as the family's own class, where that is no Python class."""
    from bertonnx.exporters.quiet import quiet

    file = folder / "tokenizer_config.json"
    with quiet():
        from transformers import AutoTokenizer
        from transformers.models.auto import tokenization_auto

        auto: Any = tokenization_auto
        named = auto.TOKENIZER_MAPPING_NAMES.get(family)
        name = named if isinstance(named, str) or named is None else named[0]
        before = file.read_text(encoding="utf-8")
        if name is None or name.startswith(("RoFormer", "Esm", "Splinter")):
            return
        file.write_text(json.dumps({**json.loads(before), "tokenizer_class": name}), encoding="utf-8")
        load: Any = AutoTokenizer.from_pretrained
        # A class of another kind, or without its packages, fails in its own way; the generic one stays.
        with suppress(Exception):
            own = load(folder, local_files_only=True)
            if own.is_fast and len(own) == json.loads((folder / "config.json").read_text())["vocab_size"]:
                own.save_pretrained(folder)
                return
    file.write_text(before, encoding="utf-8")


def _reference(folder: Path, family: str) -> Result:
    """Return what transformers gives."""
    from bertonnx.exporters.quiet import quiet
    from bertonnx.models.tasks import task as task_named

    with quiet():
        import torch
        import transformers

        row = task_named(_task(family))
        load: Any = transformers.AutoTokenizer.from_pretrained
        own = load(folder, local_files_only=True)
        maker: Any = getattr(transformers, row.auto_class)
        model = maker.from_pretrained(folder, local_files_only=True, attn_implementation="eager").eval()
        taken = inspect.signature(model.forward).parameters
        made = own(*_texts(folder), return_tensors="pt")
        given = {name: array for name, array in made.items() if name in taken}
        with torch.inference_mode():
            made = model(**given)
    numbers = [made[name].float().flatten().tolist() for name in row.raw_outputs]
    return {
        "inputs": {name: array[0].tolist() for name, array in given.items()},
        "outputs": list(chain(*numbers)),
    }


def _exported(folder: Path) -> Result:
    import bertonnx
    from bertonnx.errors import BertonnxError
    from bertonnx.exporters.checkpoint.checkpoint import load as load_checkpoint
    from bertonnx.exporters.checkpoint.source import resolve
    from bertonnx.exporters.options import ExportOptions
    from bertonnx.models.tasks import task as task_named
    from bertonnx.runtime.modelfile.modelfile import read_model_file
    from bertonnx.runtime.options import LoadOptions
    from bertonnx.runtime.rows import Encoded, Row
    from bertonnx.runtime.session.session import open_session
    from bertonnx.runtime.tokenization import TextTokenizer

    with tempfile.TemporaryDirectory(prefix="bertonnx-compare-") as place:
        file = Path(place) / "model.onnx"
        try:
            names = load_checkpoint(resolve(folder), ExportOptions()).input_names
            card = bertonnx.export(folder, file, optimize="none").card
        except BertonnxError as error:
            return {"refused": str(error)}
        encoded = TextTokenizer(read_model_file(file).tokenizer, card).encode([Row(*_texts(folder))])[0]
        assert isinstance(encoded, Encoded)
        piece = encoded.pieces[0]
        made = {"input_ids": piece.ids, "token_type_ids": piece.type_ids, "attention_mask": piece.ids * 0 + 1}
        feeds = {name: made[name][None] for name in card.inputs}
        session = open_session(file, card, LoadOptions(provider="cpu", threads=1))
        outputs = session.run(task_named(card.task).raw_outputs, feeds)
    numbers = [array.flatten().tolist() for array in outputs]
    return {"inputs": {name: made[name].tolist() for name in names}, "outputs": list(chain(*numbers))}


if __name__ == "__main__":
    first, second, *chosen = sys.argv[1:]
    steps = {"--save": save, "--export": export}
    if first in steps:
        for name, result in steps[first](Path(second), chosen):
            print(json.dumps([name, result]), flush=True)
    else:
        sys.exit(1 if compare([first, second], chosen) else 0)
