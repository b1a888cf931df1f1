"""Models that optimum-cli exported: a folder of files that must stay together, or the file in it.

They run with the same engine. What their graph lacks (pooling, softmax) is computed here with
NumPy, and `notes` says which promises of a bertonnx file do not hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import ModelFileError
from bertonnx.models.card import Card
from bertonnx.models.families import family
from bertonnx.models.tasks import TASKS
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.modelfile.modelfile import ModelFile, read_model_file
from bertonnx.runtime.rows import Array
from bertonnx.runtime.session.cuda import CudaOptions
from bertonnx.runtime.session.session import Feeds, OrtSession, Provider, Session, open_session
from bertonnx.runtime.tokenization import stripped

__all__ = ["open_optimum"]

NOTES = (
    "several files must stay together (the model, tokenizer.json, config.json)",
    "nothing in it says that the graph was ever compared with PyTorch, and `bertonnx check` has no "
    "golden examples to replay",
    "pooling, normalisation and scores are not in the graph; bertonnx computes them",
    "it was not optimised by bertonnx, so it loads and runs slower; re-export with: bertonnx export",
)
"""Promises of a bertonnx file that do not hold for these."""

_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")
"""Of Sentence-Transformers; dropout does nothing at inference."""

# Sentence-Transformers' name -> that of the card.
_POOLING_NAMES = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last"}
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def open_optimum(
    path: Path, provider: Provider, threads: int = 1, cuda: CudaOptions | None = None
) -> tuple[Card, str, Session, tuple[str, ...]]:
    """Open a folder or file that optimum-cli made.

    Returns:
        A card made from its configuration, the tokenizer's text, a session that puts out what a
        bertonnx file puts out, and the promises that do not hold.

    Raises:
        ModelFileError: a file is missing, broken, the graph needs inputs that a text does not give,
            or what follows the graph (a pooling, a module) is not computed here.
    """
    file = read_model_file(_model_in(path) if path.is_dir() else path)
    folder = file.path.parent
    if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
        raise ModelFileError(
            f"{file.path} was not made by bertonnx, and {folder} does not hold both config.json and "
            "tokenizer.json, as optimum-cli writes them; export the checkpoint with: bertonnx export SOURCE"
        )
    unknown = sorted(set(file.inputs) - _KNOWN_INPUTS)
    if unknown:
        raise ModelFileError(
            f"{file.path} has inputs that bertonnx cannot make of a text: {', '.join(unknown)}; "
            f"it knows {', '.join(sorted(_KNOWN_INPUTS))}"
        )
    try:
        card = _card(file, folder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"the configuration in {folder} cannot be understood ({type(error).__name__}: {error}); "
            "export the checkpoint again"
        ) from error
    opened = open_session(file.path, provider=provider, optimized=False, threads=threads, cuda=cuda)
    session = _Completed(opened, card)
    return card, stripped(_read(folder / "tokenizer.json")), session, (*NOTES, *_assumed(file, folder, card))


def _assumed(file: ModelFile, folder: Path, card: Card) -> tuple[str, ...]:
    """Return what had to be guessed."""
    if card.pooling is None or "sentence_embedding" in file.outputs or _pooling_file(folder).is_file():
        return ()
    return ("nothing in it says how token vectors become one; their mean is taken, not normalised",)


def _model_in(folder: Path) -> Path:
    if (folder / "model.onnx").is_file():
        return folder / "model.onnx"
    models = sorted(folder.glob("*.onnx"))
    if len(models) == 1:
        return models[0]
    names = ", ".join(file.name for file in models) or "none"
    raise ModelFileError(
        f"{folder} holds no model.onnx (.onnx files there: {names}); give the file itself, "
        "or make one with: bertonnx export SOURCE"
    )


def _card(file: ModelFile, folder: Path) -> Card:
    config = _json(folder / "config.json")
    tokenizer = _json(folder / "tokenizer_config.json")
    special = _json(folder / "special_tokens_map.json")
    task = _task(file)
    labels = config.get("id2label") or {}
    names = (
        tuple(labels[key] for key in sorted(labels, key=int)) if "scores" in task_named(task).outputs else ()
    )
    problem, activation = _problem(config, task, names)
    mask = _content(tokenizer.get("mask_token", special.get("mask_token"))) if task == "fill-mask" else None
    embeds = task == "feature-extraction"
    return Card(
        task=task,
        family=str(config.get("model_type", "unknown")),
        max_length=_max_length(config, tokenizer, folder),
        inputs=file.inputs,
        outputs=tuple(task_named(task).outputs),
        labels=names,
        problem_type=problem,
        activation=activation,
        pooling=_pooling(file, folder) if embeds else None,
        normalize=embeds and _normalizes(folder),
        width=config.get("hidden_size", config.get("dim", config.get("emb_dim"))) if embeds else None,
        prefix=_prefix(folder) if embeds else "",
        mask_token=mask,
        mask_token_id=_token_id(folder, mask),
        pad_token_id=int(config.get("pad_token_id") or 0),
        clean_up_spaces=bool(tokenizer.get("clean_up_tokenization_spaces", False)),
        optimize="none",
        source={"id": str(folder), "kind": "optimum-cli", "revision": None},
    )


def _task(file: ModelFile) -> str:
    outputs = set(file.outputs)
    if {"start_logits", "end_logits"} <= outputs:
        return "question-answering"
    if {"last_hidden_state", "token_embeddings", "sentence_embedding"} & outputs:
        return "feature-extraction"
    if "logits" in outputs:
        config = _json(file.path.parent / "config.json")
        for architecture in config.get("architectures") or []:
            for task in TASKS:
                first = task.architectures[0]
                if "For" in first and architecture.endswith(first):
                    return task.name
        if any("LMHead" in name or "ForPreTraining" in name for name in config.get("architectures") or []):
            return "fill-mask"
    raise ModelFileError(
        f"{file.path} puts out {', '.join(file.outputs) or 'nothing'}, and its config.json names no task "
        f"that bertonnx serves: {', '.join(task.name for task in TASKS)}"
    )


def _problem(config: dict[str, Any], task: str, labels: Sequence[str]) -> tuple[str | None, str]:
    """Return problem type and activation, as transformers' TextClassificationPipeline chooses them."""
    if task == "token-classification":
        return None, "softmax"
    if task != "text-classification":
        return None, "none"
    problem = config.get("problem_type")
    if problem == "regression":
        return "regression", "none"
    if problem == "multi_label_classification":
        return problem, "sigmoid"
    if len(labels) == 1:
        return "regression", "sigmoid"
    return "single_label_classification", "softmax"


def _max_length(config: dict[str, Any], tokenizer: dict[str, Any], folder: Path) -> int:
    known = family(str(config.get("model_type")))
    limits = [
        int(config.get("max_position_embeddings") or 1 << 30) - (known.position_offset if known else 0),
        int(min(tokenizer.get("model_max_length") or 1 << 30, 1 << 30)),
        int(_json(folder / "sentence_bert_config.json").get("max_seq_length") or 1 << 30),
    ]
    return min(512, *limits) if min(limits) == 1 << 30 else min(limits)


def _pooling(file: ModelFile, folder: Path) -> str | None:
    """Return how token vectors become one; None where the graph does it in a way that is not known here.

    Raises:
        ModelFileError: the graph does not do it, and neither can this module.
    """
    modes = _pooling_modes(folder)
    pooling = _POOLING_NAMES.get(modes[0]) if len(modes) == 1 else None
    if "sentence_embedding" in file.outputs:
        return pooling
    for kind, _ in _modules(folder):
        if _class_name(kind) not in _MODULES:
            raise ModelFileError(
                f"{folder / 'modules.json'} has the module {kind}, which is neither in the graph nor "
                f"computed by bertonnx ({', '.join(_MODULES)} are); re-export with: bertonnx export SOURCE"
            )
    if pooling is None:
        raise ModelFileError(
            f"{_pooling_file(folder)} asks for the pooling {' + '.join(modes) or 'none'}, which is neither "
            f"in the graph nor computed by bertonnx; it computes one of {', '.join(_POOLING_NAMES)}"
        )
    if _prefix(folder) and not _json(_pooling_file(folder)).get("include_prompt", True):
        raise ModelFileError(
            f"{_pooling_file(folder)} leaves the default prompt out (include_prompt is false), which "
            "bertonnx cannot; remove default_prompt_name from config_sentence_transformers.json and put "
            "the prompt in your texts"
        )
    return pooling


def _pooling_modes(folder: Path) -> list[str]:
    """Return the names of all poolings whose vectors are joined, as Sentence-Transformers writes them."""
    config = _json(_pooling_file(folder))
    mode = config.get("pooling_mode")
    if mode is None:
        # No flag at all means the mean, as in Sentence-Transformers.
        mode = [name for flag, name in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    return [mode] if isinstance(mode, str) else [str(name) for name in mode]


def _pooling_file(folder: Path) -> Path:
    places = (place for kind, place in _modules(folder) if _class_name(kind) == "Pooling")
    return folder / next(places, "1_Pooling") / "config.json"


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return type and folder of each module of Sentence-Transformers; none where nothing lists them."""
    path = folder / "modules.json"
    modules = json.loads(_read(path)) if path.is_file() else []
    return [(str(module.get("type", "")), str(module.get("path", ""))) for module in modules]


def _class_name(kind: str) -> str:
    """Return the class of a module's type; the whole type for a class that is the checkpoint's own."""
    return kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind


def _normalizes(folder: Path) -> bool:
    return any(_class_name(kind) == "Normalize" for kind, _ in _modules(folder))


def _prefix(folder: Path) -> str:
    config = _json(folder / "config_sentence_transformers.json")
    name = config.get("default_prompt_name")
    return str(config["prompts"][name]) if name is not None else ""


def _token_id(folder: Path, token: str | None) -> int | None:
    added = _json(folder / "tokenizer.json").get("added_tokens", [])
    return next((int(entry["id"]) for entry in added if entry["content"] == token), None)


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path))
    except ValueError as error:
        raise ModelFileError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is not a JSON object; export the checkpoint again")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}") from error


class _Completed:
    """A session whose graph ends before the heads; computes them for batches without padding."""

    def __init__(self, session: OrtSession, card: Card) -> None:
        self._session = session
        self.note = session.note
        self.placement = session.placement
        self._card = card
        self.provider = session.provider
        self.inputs = session.inputs
        self.outputs = card.outputs

    def run(self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False) -> list[Array]:
        """Return the named outputs of one batch, those that the graph lacks computed here."""
        needed = sorted({self._origin(name) for name in outputs})
        raw = dict(zip(needed, self._session.run(needed, feeds, alone=alone), strict=True))
        return [self._output(name, raw[self._origin(name)]) for name in outputs]

    def _origin(self, name: str) -> str:
        """Return the graph's output that an output is made of."""
        if name in self._session.outputs:
            return name
        if name == "scores":
            return "logits"
        return next(n for n in ("last_hidden_state", "token_embeddings") if n in self._session.outputs)

    def _output(self, name: str, raw: Array) -> Array:
        if name in self._session.outputs or name == "last_hidden_state":
            return raw
        if name == "scores":
            return _ACTIVATIONS[self._card.activation](raw)
        vectors = _POOLINGS[self._card.pooling or "mean"](raw)
        if self._card.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors.astype(np.float32)


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "softmax": _softmax,
    "sigmoid": lambda logits: (1 / (1 + np.exp(-logits))).astype(np.float32),
    "none": lambda logits: logits,
}
_POOLINGS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda tokens: tokens.mean(axis=1),
    "cls": lambda tokens: tokens[:, 0],
    "max": lambda tokens: tokens.max(axis=1),
    "last": lambda tokens: tokens[:, -1],
}
