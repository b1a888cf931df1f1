"""Models that optimum-cli exported: a folder of files that must stay together, or the file in it.

They run with the same engine. What their graph lacks (pooling, softmax) is computed here with
NumPy, and `notes` says which promises of a bertonnx file do not hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import ModelFileError
from bertonnx.models.card import Card
from bertonnx.models.families import family
from bertonnx.models.pooling import POOLINGS, by_mode, modes_of
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import TASKS, Task
from bertonnx.runtime.modelfile.modelfile import ModelFile, read_model_file
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Array
from bertonnx.runtime.session.session import Feeds, OpenSession, open_session
from bertonnx.runtime.tokenization import stripped
from bertonnx.wording import Call, Message

__all__ = ["OptimumModel", "pool_cls", "pool_last", "pool_max", "pool_mean", "read_optimum"]

_EXPORT = Call("export", "SOURCE")

NOTES = (
    Message("several files must stay together (the model, tokenizer.json, config.json)"),
    Message(
        "nothing in it says that the graph was ever compared with PyTorch, and {check} has no golden "
        "examples to replay",
        check=Call("check", "MODEL"),
    ),
    Message("pooling, normalization and scores are not in the graph; bertonnx computes them"),
    Message(
        "it was not optimized by bertonnx, so it loads and runs slower; re-export with: {export}",
        export=_EXPORT,
    ),
)
"""Promises of a bertonnx file that do not hold for these."""

_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_MODULES = ("Transformer", "Pooling", "Normalize", "Dropout")
"""Of Sentence-Transformers; dropout does nothing at inference."""

_TOKEN_VECTORS = ("last_hidden_state", "token_embeddings")
"""What a graph may call the vectors of tokens; the second is Sentence-Transformers' name."""


@dataclass(frozen=True)
class OptimumModel:
    """A folder or file that optimum-cli made, read.

    Attributes:
        path: the ONNX file.
        card: made from its configuration.
        tokenizer: the text of its `tokenizer.json`.
        notes: the promises of a bertonnx file that do not hold for it.
    """

    path: Path
    card: Card
    tokenizer: str
    notes: tuple[Message, ...]

    def open(self, options: LoadOptions) -> OpenSession:
        """Open a session that puts out what a bertonnx file puts out.

        Raises:
            ProviderError: the provider cannot be used.
            ModelFileError: ONNX Runtime cannot load the file.
        """
        return _Completed(open_session(self.path, self.card, options), self.card)


def read_optimum(path: Path) -> OptimumModel:
    """Read a folder or file that optimum-cli made.

    Raises:
        ModelFileError: a file is missing, broken, the graph needs inputs that a text does not give,
            or what follows the graph (a pooling, a module) is not computed here.
    """
    file = read_model_file(_model_in(path) if path.is_dir() else path)
    folder = file.path.parent
    if not (folder / "config.json").is_file() or not (folder / "tokenizer.json").is_file():
        raise ModelFileError(
            "{path} was not made by bertonnx, and {folder} does not hold both config.json and "
            "tokenizer.json, as optimum-cli writes them; export the checkpoint with: {export}",
            path=file.path,
            folder=folder,
            export=_EXPORT,
        )
    unknown = sorted(set(file.inputs) - _KNOWN_INPUTS)
    if unknown:
        raise ModelFileError(
            "{path} has inputs that bertonnx cannot make of a text: {unknown}; it knows {known}",
            path=file.path,
            unknown=", ".join(unknown),
            known=", ".join(sorted(_KNOWN_INPUTS)),
        )
    try:
        card = _card(file, folder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFileError(
            "the configuration in {folder} cannot be understood ({kind}: {error}); export the checkpoint "
            "again",
            folder=folder,
            kind=type(error).__name__,
            error=str(error),
        ) from error
    # Saved padding and truncation are how it was trained, not how it is used.
    tokenizer = stripped(_read(folder / "tokenizer.json"))
    return OptimumModel(file.path, card, tokenizer, (*NOTES, *_assumed(file, folder, card)))


def _assumed(file: ModelFile, folder: Path, card: Card) -> tuple[Message, ...]:
    """Return what had to be guessed."""
    if card.pooling is None or "sentence_embedding" in file.outputs or _pooling_file(folder).is_file():
        return ()
    return (Message("nothing in it says how token vectors become one; their mean is taken, not normalized"),)


def _model_in(folder: Path) -> Path:
    if (folder / "model.onnx").is_file():
        return folder / "model.onnx"
    models = sorted(folder.glob("*.onnx"))
    if len(models) == 1:
        return models[0]
    raise ModelFileError(
        "{folder} holds no model.onnx (.onnx files there: {names}); give the file itself, or make one with: "
        "{export}",
        folder=folder,
        names=", ".join(file.name for file in models) or "none",
        export=_EXPORT,
    )


def _card(file: ModelFile, folder: Path) -> Card:
    config = _json(folder / "config.json")
    tokenizer = _json(folder / "tokenizer_config.json")
    special = _json(folder / "special_tokens_map.json")
    task = _task(file)
    labels = config.get("id2label") or {}
    names = tuple(labels[key] for key in sorted(labels, key=int)) if task.labelled else ()
    problem, activation = _problem(config, task, names)
    mask = _content(tokenizer.get("mask_token", special.get("mask_token"))) if task.masked else None
    width = config.get("hidden_size", config.get("dim", config.get("emb_dim")))
    return Card(
        task=task.name,
        family=str(config.get("model_type", "unknown")),
        max_length=_max_length(config, tokenizer, folder),
        inputs=file.inputs,
        outputs=tuple(task.outputs),
        labels=names,
        problem_type=problem,
        activation=activation,
        pooling=_pooling(file, folder) if task.pooled else None,
        normalize=task.pooled and _normalizes(folder),
        width=width if task.pooled else None,
        prompts=_prompts(folder) if task.pooled else {},
        default_prompt=_default_prompt(folder) if task.pooled else None,
        pooled_prompt=bool(_json(_pooling_file(folder)).get("include_prompt", True)),
        mask_token=mask,
        mask_token_id=_token_id(folder, mask),
        pad_token_id=int(config.get("pad_token_id") or 0),
        clean_up_spaces=bool(tokenizer.get("clean_up_tokenization_spaces", False)),
        optimize="none",
        source={"id": str(folder), "kind": "optimum-cli", "revision": None},
    )


def _task(file: ModelFile) -> Task:
    """Return the task whose outputs the graph has; of several, the one that the architecture names."""
    found = {_TOKEN_VECTORS[0] if name in _TOKEN_VECTORS else name for name in file.outputs}
    fitting = [
        row for row in TASKS if found.issuperset(row.raw_outputs) or (row.pooled and found & set(row.outputs))
    ]
    # Logits may be of three tasks, and only the architecture tells which.
    telling = [row for row in fitting if all(row is other or _differ(row, other) for other in TASKS)]
    if telling:
        return max(telling, key=lambda row: len(found.intersection(row.raw_outputs)))
    architectures = _json(file.path.parent / "config.json").get("architectures") or []
    for row in fitting:
        if any(_is_of(row, architecture) for architecture in architectures):
            return row
    raise ModelFileError(
        "{path} puts out {outputs}, and its config.json names no task that bertonnx serves: {tasks}",
        path=file.path,
        outputs=", ".join(file.outputs) or "nothing",
        tasks=", ".join(TASKS.names),
    )


def _differ(row: Task, other: Task) -> bool:
    return not set(row.raw_outputs) & set(other.raw_outputs)


def _is_of(row: Task, architecture: str) -> bool:
    # Causal models that were exported to fill masks are called ...LMHeadModel.
    return architecture.endswith(row.architectures) or (row.masked and "LMHead" in architecture)


def _problem(config: dict[str, Any], task: Task, labels: Sequence[str]) -> tuple[str | None, str]:
    """Return problem type and activation, as transformers' TextClassificationPipeline chooses them."""
    if not task.labelled:
        return None, "none"
    if any("tokens" in dimensions for dimensions in task.outputs.values()):
        return None, "softmax"
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
    modes = modes_of(_json(_pooling_file(folder)))
    row = by_mode(modes[0]) if len(modes) == 1 else None
    pooling = None if row is None else row.name
    # The graph pools by itself; what the folder says is only shown.
    if "sentence_embedding" in file.outputs:
        return pooling
    for kind, _ in _modules(folder):
        if _class_name(kind) not in _MODULES:
            raise ModelFileError(
                "{path} has the module {kind}, which is neither in the graph nor computed by bertonnx "
                "({known} are); re-export with: {export}",
                path=folder / "modules.json",
                kind=kind,
                known=", ".join(_MODULES),
                export=_EXPORT,
            )
    if pooling is None:
        raise ModelFileError(
            "{path} asks for the pooling {modes}, which is neither in the graph nor computed by bertonnx; it "
            "computes one of {known}",
            path=_pooling_file(folder),
            modes=" + ".join(modes) or "none",
            known=", ".join(row.mode for row in POOLINGS),
        )
    if _default_prompt(folder) and not _json(_pooling_file(folder)).get("include_prompt", True):
        raise ModelFileError(
            "{path} leaves the default prompt out (include_prompt is false), which bertonnx cannot; remove "
            "default_prompt_name from config_sentence_transformers.json and put the prompt in your texts",
            path=_pooling_file(folder),
        )
    return pooling


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


def _prompts(folder: Path) -> dict[str, str]:
    config = _json(folder / "config_sentence_transformers.json")
    # A null is a prompt without text.
    return {str(name): str(text or "") for name, text in (config.get("prompts") or {}).items()}


def _default_prompt(folder: Path) -> str | None:
    """Return the name of the prompt that is used where none is asked for; None where it has no text."""
    name = _json(folder / "config_sentence_transformers.json").get("default_prompt_name")
    return str(name) if name is not None and _prompts(folder).get(name) else None


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
        raise ModelFileError("{path} is not valid JSON: {error}", path=path, error=str(error)) from error
    if not isinstance(value, dict):
        raise ModelFileError("{path} is not a JSON object; export the checkpoint again", path=path)
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError("{path} cannot be read: {error}", path=path, error=str(error)) from error


class _Completed:
    """A session whose graph ends before the heads; computes them for batches without padding."""

    def __init__(self, session: OpenSession, card: Card) -> None:
        self._session = session
        self._card = card
        self.notes = session.notes
        self.placement = session.placement
        self.provider = session.provider
        self.inputs = session.inputs
        self.outputs = card.outputs

    def run(self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False) -> list[Array]:
        """Return the named outputs of one batch, those that the graph lacks computed here."""
        # One run, though several outputs may be made of the same.
        needed = sorted({self._origin(name) for name in outputs})
        raw = dict(zip(needed, self._session.run(needed, feeds, alone=alone), strict=True))
        return [self._output(name, raw[self._origin(name)]) for name in outputs]

    def _origin(self, name: str) -> str:
        """Return the graph's output that an output is made of."""
        if name in self._session.outputs:
            return name
        if name == "scores":
            return "logits"
        return next(n for n in _TOKEN_VECTORS if n in self._session.outputs)

    def _output(self, name: str, raw: Array) -> Array:
        if name in self._session.outputs or name == "last_hidden_state":
            return raw
        if name == "scores":
            return _ACTIVATIONS[self._card.activation](raw)
        vectors: Array = resolve(POOLINGS[self._card.pooling or "mean"].array)(raw)
        if self._card.normalize:
            # As torch.nn.functional.normalize: a vector of zeros stays one.
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors.astype(np.float32)


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "softmax": _softmax,
    "sigmoid": lambda logits: (1 / (1 + np.exp(-logits))).astype(np.float32),
    "none": lambda logits: logits,
}


def pool_mean(tokens: Array) -> Array:
    """Return the mean over tokens, (texts, width), of their vectors, (texts, tokens, width)."""
    mean: Array = tokens.mean(axis=1)
    return mean


def pool_cls(tokens: Array) -> Array:
    """Return the vectors of the first tokens, (texts, width)."""
    return tokens[:, 0]


def pool_max(tokens: Array) -> Array:
    """Return the largest number of each channel, (texts, width)."""
    largest: Array = tokens.max(axis=1)
    return largest


def pool_last(tokens: Array) -> Array:
    """Return the vectors of the last tokens, (texts, width)."""
    return tokens[:, -1]
