"""Save tiny checkpoints with the installed libraries, and what these libraries answer for them.

    python -m tests.matrix.saving FOLDER [--families NAME ...] [--tasks NAME ...]

Run in the environment whose transformers, or sentence-transformers, is to save. Beside each checkpoint lies
`reference.npz`: for each text the ids that the library's own tokenizer makes, and the numbers that its own
model answers after the folder was read back.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import FAMILIES
from bertonnx.models.tasks import TASKS, Task
from tests.matrix.sentence import save_sentence_folders
from tests.matrix.texts import CASES
from tests.tiny import FAMILY_CONFIGS, missing_code, save_tiny
from tests.tokenizers_zoo import pretrained

REFERENCE = "reference.npz"

OWN_TOKENIZERS: Mapping[str, str] = {
    "albert": "AlbertTokenizer",
    "bert": "BertTokenizer",
    "big_bird": "BigBirdTokenizer",
    "camembert": "CamembertTokenizer",
    "convbert": "ConvBertTokenizer",
    "deberta": "DebertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "ernie": "BertTokenizer",
    "megatron-bert": "BertTokenizer",
    "mobilebert": "MobileBertTokenizer",
    "mpnet": "MPNetTokenizer",
    "nystromformer": "AlbertTokenizer",
    "rembert": "RemBertTokenizer",
    "roberta": "RobertaTokenizer",
    "splinter": "SplinterTokenizer",
    "squeezebert": "SqueezeBertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "xlm-roberta-xl": "XLMRobertaTokenizer",
    "xmod": "XLMRobertaTokenizer",
}
"""Family -> the tokenizer class that its well-known checkpoints name; of the others, the general one."""


def save_families(target: Path, families: list[str], tasks: list[Task]) -> Iterator[Path]:
    """Yield the folder of each family and task, `FAMILY/TASK`, saved with what its library answers."""
    for family in families:
        if missing_code(family):
            continue
        for task in tasks:
            if _model_class(family, task) is None:
                continue
            folder = save_tiny(
                target / family / task.name, family, task.name, vocab_size=_vocabulary_size(family)
            )
            with quiet():
                tokenizer = _own_tokenizer(folder, family)
                np.savez(folder / REFERENCE, **_reference(folder, task, tokenizer))
            yield folder


def _model_class(family: str, task: Task) -> Any:
    with quiet():
        config = transformers.CONFIG_MAPPING[family]
        classes = getattr(transformers, task.auto_class)._model_mapping
        return classes.get(config, None)


def _vocabulary_size(family: str) -> int:
    """Return a size with room for the tokens that a family's own class adds, as Splinter's does."""
    return len(pretrained(FAMILY_CONFIGS[family].tokenizer)) + 16


def _own_tokenizer(folder: Path, family: str) -> Any:
    """Let the installed version save a tokenizer by the family's own class, and return it read back."""
    load: Any = transformers.AutoTokenizer.from_pretrained
    if family not in OWN_TOKENIZERS:
        return load(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_class": OWN_TOKENIZERS[family]}))
    tokenizer = load(folder)
    tokenizer.save_pretrained(folder)
    # Splinter's of version 4 does not take the `additional_special_tokens` that it writes itself.
    with suppress(TypeError):
        return load(folder)
    return tokenizer


def _reference(folder: Path, task: Task, tokenizer: Any) -> dict[str, Any]:
    """Return ids, segments and outputs of every text, by `NAME_NUMBER`."""
    model = getattr(transformers, task.auto_class).from_pretrained(folder).eval()
    # A tokenizer may make segments that its model does not read, which pipelines leave out too.
    accepted = inspect.signature(model.forward).parameters
    arrays: dict[str, Any] = {}
    for number, (text, pair) in enumerate(CASES):
        made = tokenizer(text, pair, return_tensors="pt", truncation=True)
        with torch.no_grad():
            result = model(**{name: made[name] for name in made if name in accepted})
        for name in ("input_ids", "token_type_ids"):
            if name in made and name in accepted:
                arrays[f"{name}_{number}"] = made[name][0].numpy()
        for name in task.raw_outputs:
            arrays[f"{name}_{number}"] = result[name][0].numpy()
    return arrays


def main() -> None:
    """Save all that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--families", nargs="*", default=[*FAMILY_CONFIGS])
    parser.add_argument("--tasks", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--no-sentence", action="store_true", help="leave Sentence-Transformers folders out")
    given = parser.parse_args()
    # Those whose graph gives what a class of transformers does: the others stand on the same models.
    own = [task for task in TASKS if task.auto_class and {*task.raw_outputs} <= {*task.outputs}]
    tasks = [task for task in own if task.name in given.tasks]
    families = [family.name for family in FAMILIES if family.name in given.families]
    for folder in save_families(given.folder, families, tasks):
        print(folder, flush=True)
    if not given.no_sentence:
        for folder in save_sentence_folders(given.folder / "sentence-transformers"):
            print(folder, flush=True)
    versions = {"transformers": transformers.__version__}
    if not given.no_sentence:
        import sentence_transformers

        versions["sentence-transformers"] = sentence_transformers.__version__
    (given.folder / "versions.json").write_text(json.dumps(versions))


if __name__ == "__main__":
    main()
