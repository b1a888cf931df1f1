"""Models from elsewhere (optimum-cli, Sentence-Transformers, transformers.js): a folder, or a file in it.

They run with the same engine. What their graph lacks (pooling, softmax) is computed here with
NumPy, and `notes` says which promises of a bertonnx file do not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.errors import ModelFileError
from bertonnx.models.activations import ACTIVATIONS, by_class
from bertonnx.models.card import Card
from bertonnx.models.families import family
from bertonnx.models.pooling import POOLINGS, by_mode, known_keys, modes_of, named
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import TASKS, Task
from bertonnx.runtime.modelfile.modelfile import ModelFile, read_model_file
from bertonnx.runtime.optimum_folder import EXPORT, ForeignFolder, class_name, find_folder
from bertonnx.runtime.optimum_tokenizer import ForeignTokenizer
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.rows import Array
from bertonnx.runtime.session.session import Feeds, OpenSession, open_session
from bertonnx.wording import Call, Message

__all__ = ["OptimumModel", "pool_cls", "pool_last", "pool_max", "pool_mean", "read_optimum"]

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
        export=EXPORT,
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
    """A folder or file that was made elsewhere, read.

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
    """Read a folder or file that optimum-cli or Sentence-Transformers made.

    Raises:
        ModelFileError: a file is missing, broken, the graph needs inputs that a text does not give,
            or what follows the graph (a pooling, a module) is not computed here.
    """
    folder = find_folder(path)
    file = read_model_file(folder.model)
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
        tokenizer = ForeignTokenizer(folder).text
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ModelFileError(
            "the configuration in {folder} cannot be understood ({kind}: {error}); export the checkpoint "
            "again",
            folder=folder.root,
            kind=type(error).__name__,
            error=str(error),
        ) from error
    return OptimumModel(file.path, card, tokenizer, (*NOTES, *_assumed(file, folder, card)))


def _assumed(file: ModelFile, folder: ForeignFolder, card: Card) -> Iterator[Message]:
    """Yield what had to be guessed."""
    if folder.others:
        yield Message(
            "{chosen} is used; give the path of one of the others to use that: {others}",
            chosen=folder.model.name,
            others=", ".join(folder.others),
        )
    if (folder.root / "model_head.pkl").is_file():
        yield Message("model_head.pkl, a classifier of SetFit, is not used: results are those of the encoder")
    said = card.pooling is None or (folder.root / folder.pooling_file).is_file()
    if not said and "sentence_embedding" not in file.outputs:
        yield Message("nothing in it says how token vectors become one; their mean is taken, not normalized")


def _card(file: ModelFile, folder: ForeignFolder) -> Card:
    config, tokenizer = folder.config, ForeignTokenizer(folder)
    widths = {name: value.width for name, value in file.declared.items() if value.width}
    task = _task(file, folder)
    _require_modules(file, folder)
    names = _labels(file, folder) if task.labelled else ()
    problem, activation = _problem(folder, task, names)
    mask = tokenizer.token("mask_token") if task.masked else None
    padded = tokenizer.side("padding")
    if "no_answer" in task.options and padded == "left":
        raise ModelFileError(
            "the tokenizer in {folder} pads on the left, for which transformers puts the context before the "
            "question, and bertonnx puts the question first; if the model was trained so too, write {line} "
            "into tokenizer_config.json",
            folder=folder.root,
            line='"padding_side": "right"',
        )
    pooling = _pooling(file, folder) if task.pooled else None
    joined = len((pooling or "").split(","))
    return Card(
        task=task.name,
        family=str(config.get("model_type", "unknown")),
        max_length=_max_length(config, tokenizer.config, folder),
        inputs=tokenizer.made(file.inputs),
        outputs=tuple(task.outputs),
        labels=names,
        problem_type=problem,
        activation=activation,
        pairs=True if task.labelled and _is_cross_encoder(folder) else None,
        pooling=pooling,
        normalize=task.pooled and _normalizes(folder),
        width=_width(config, widths, folder, joined=joined) if task.pooled else None,
        prompts=folder.prompts if task.pooled else {},
        default_prompt=folder.default_prompt if task.pooled else None,
        pooled_prompt=bool(folder.json(folder.pooling_file).get("include_prompt", True)),
        mask_token=mask,
        mask_token_id=tokenizer.token_id(mask),
        cls_token_id=tokenizer.named_id("cls_token") if "no_answer" in task.options else None,
        unk_token_id=tokenizer.named_id("unk_token") if "aggregation" in task.options else None,
        pad_token_id=int(config.get("pad_token_id") or 0),
        left_out_id=tokenizer.named_id("pad_token") if task.masked else None,
        padding_side=padded,
        truncation_side=tokenizer.side("truncation"),
        clean_up_spaces=bool(tokenizer.config.get("clean_up_tokenization_spaces", False)),
        optimize="none",
        source={"id": folder.root.name, "kind": "optimum-cli", "revision": None},
    )


def _labels(file: ModelFile, folder: ForeignFolder) -> tuple[str, ...]:
    """Return the names of the classes; those that transformers gives where nothing names them."""
    known = folder.config.get("id2label") or {}
    # transformers does not write down its own: LABEL_0 and LABEL_1.
    count = _classes(file, folder)
    if not known:
        return tuple(f"LABEL_{place}" for place in range(count))
    if len(known) != count:
        raise ModelFileError(
            "{config} names {known} labels (id2label), and {model} puts out {count}; they do not belong "
            "together",
            config=folder.root / "config.json",
            known=len(known),
            model=folder.model,
            count=count,
        )
    return tuple(known[key] for key in sorted(known, key=int))


_WIDTHS = ("hidden_size", "dim", "emb_dim", "d_model", "n_embd")
"""What configurations call the width of their vectors."""


def _width(
    config: Mapping[str, Any], widths: Mapping[str, int], folder: ForeignFolder, *, joined: int
) -> int | None:
    """Return the length of an embedding: what the graph puts out, cut as the folder says."""
    tokens = (*(widths.get(name) for name in _TOKEN_VECTORS), *(config.get(name) for name in _WIDTHS))
    # Vectors of several poolings are joined, which the graph has done already where it pools.
    width = widths.get("sentence_embedding") or next((joined * int(found) for found in tokens if found), None)
    cut = folder.sentence.get("truncate_dim")
    return width if cut is None else min(int(cut), width or int(cut))


def _task(file: ModelFile, folder: ForeignFolder) -> Task:
    """Return the task whose outputs the graph has; of several, the one that the architecture names."""
    found = {_TOKEN_VECTORS[0] if name in _TOKEN_VECTORS else name for name in file.outputs}
    fitting = [
        row for row in TASKS if found.issuperset(row.raw_outputs) or (row.pooled and found & set(row.outputs))
    ]
    # Logits may be of three tasks, and only the architecture tells which.
    telling = [row for row in fitting if all(row is other or _differ(row, other) for other in TASKS)]
    if telling:
        return max(telling, key=lambda row: len(found.intersection(row.raw_outputs)))
    architectures = folder.config.get("architectures") or []
    if _is_cross_encoder(folder) and _classes(file, folder) == 1:
        # A classifier of one output, which only Sentence-Transformers says to rank.
        fitting = [row for row in fitting if row.ranks] or fitting
    for row in fitting:
        if any(_is_of(row, architecture) for architecture in architectures):
            return row
    raise ModelFileError(
        "{path} puts out {outputs}, and its config.json names no task that bertonnx serves: {tasks} (of a "
        "graph with {known})",
        path=file.path,
        outputs=", ".join(file.outputs) or "nothing",
        tasks=", ".join(TASKS.names),
        known=", ".join(dict.fromkeys(" and ".join(row.raw_outputs) for row in TASKS)),
    )


def _classes(file: ModelFile, folder: ForeignFolder) -> int:
    """Return how many logits a classifier has: what the graph says, else the configuration."""
    logits = file.declared.get("logits")
    config = folder.config
    said = (logits.width if logits else None, config.get("num_labels"), len(config.get("id2label") or ()))
    # transformers writes nothing down for its default, which is two.
    return next((int(count) for count in said if count), 2)


def _differ(row: Task, other: Task) -> bool:
    return not set(row.raw_outputs) & set(other.raw_outputs)


def _is_of(row: Task, architecture: str) -> bool:
    # Causal models that were exported to fill masks are called ...LMHeadModel.
    return architecture.endswith(row.architectures) or (row.masked and "LMHead" in architecture)


def _problem(folder: ForeignFolder, task: Task, labels: Sequence[str]) -> tuple[str | None, str]:
    """Return problem type and activation, as transformers' TextClassificationPipeline chooses them."""
    if task.ranks:
        return None, _own_activation(folder) or "sigmoid"
    if not task.labelled:
        return None, "none"
    if any("tokens" in dimensions for dimensions in task.outputs.values()):
        return None, "softmax"
    problem, own = folder.config.get("problem_type"), _own_activation(folder)
    if _is_cross_encoder(folder):
        own = own or ("sigmoid" if len(labels) == 1 else "none")
        # `predict` gives the scores of all labels alike: only sigmoids can be read as a yes or no for each.
        if len(labels) > 1 and (problem, own) != ("multi_label_classification", "sigmoid"):
            problem = "single_label_classification"
        return problem or "regression", own
    if problem == "regression":
        return "regression", "none"
    if problem == "multi_label_classification":
        return problem, "sigmoid"
    if len(labels) == 1:
        return "regression", "sigmoid"
    return "single_label_classification", "softmax"


def _is_cross_encoder(folder: ForeignFolder) -> bool:
    saved = folder.config.get("sentence_transformers") or {}
    legacy = "sbert_ce_default_activation_function" in folder.config
    return legacy or "activation_fn" in saved or folder.sentence.get("model_type") == "CrossEncoder"


def _own_activation(folder: ForeignFolder) -> str | None:
    """Return the activation that a cross-encoder of Sentence-Transformers was saved with.

    Raises:
        ModelFileError: it is not computed here.
    """
    saved = folder.config.get("sentence_transformers") or {}
    name = (
        folder.sentence.get("activation_fn")
        or saved.get("activation_fn")
        or folder.config.get("sbert_ce_default_activation_function")
    )
    if name is None or not _is_cross_encoder(folder):
        return None
    row = by_class(str(name))
    if row is None or row.name not in _ACTIVATIONS:
        raise ModelFileError(
            "the cross-encoder in {folder} has the activation {name}, which bertonnx does not compute for "
            "models from elsewhere (it computes {known}); export the checkpoint: {export}",
            folder=folder.root,
            name=name,
            known=", ".join(ACTIVATIONS[known].torch for known in _ACTIVATIONS),
            export=EXPORT,
        )
    return row.name


def _max_length(config: Mapping[str, Any], tokenizer: Mapping[str, Any], folder: ForeignFolder) -> int:
    known = family(str(config.get("model_type")))
    limits = [
        int(config.get("max_position_embeddings") or 1 << 30) - (known.position_offset if known else 0),
        int(min(tokenizer.get("model_max_length") or 1 << 30, 1 << 30)),
        int(folder.transformer.get("max_seq_length") or 1 << 30),
    ]
    return min(512, *limits) if min(limits) == 1 << 30 else min(limits)


def _require_modules(file: ModelFile, folder: ForeignFolder) -> None:
    """Refuse what follows an encoder in Sentence-Transformers, where nothing here computes it.

    Raises:
        ModelFileError: naming the module.
    """
    # Where the graph pools, all that the folder lists is in it.
    if "sentence_embedding" in file.outputs:
        return
    names = [class_name(kind) for kind, _ in folder.modules]
    pools = names.index("Pooling") if "Pooling" in names else len(names)
    for place, (kind, _) in enumerate(folder.modules):
        # Before the pooling it would be each token's vector that gets length 1.
        if names[place] not in _MODULES or (names[place] == "Normalize" and place < pools):
            raise ModelFileError(
                "{path} has the module {kind}, which is neither in the graph nor computed by bertonnx there "
                "({known} are, in this order); re-export with: {export}",
                path=folder.root / "modules.json",
                kind=kind,
                known=", ".join(_MODULES),
                export=EXPORT,
            )


def _pooling(file: ModelFile, folder: ForeignFolder) -> str | None:
    """Return how token vectors become one; None where the graph does it in a way that is not known here.

    Raises:
        ModelFileError: the graph does not do it, and neither can this module.
    """
    config = folder.json(folder.pooling_file)
    unread = sorted(set(config) - known_keys())
    if unread and "sentence_embedding" not in file.outputs:
        raise ModelFileError(
            "{path} has {key} {value!r}, which Sentence-Transformers does not read; take it out",
            path=folder.root / folder.pooling_file,
            key=unread[0],
            value=config[unread[0]],
        )
    modes = modes_of(config)
    rows = [row.name for mode in modes if (row := by_mode(mode)) is not None]
    pooling = ",".join(rows) if len(rows) == len(modes) and rows else None
    # The graph pools by itself; what the folder says is only shown.
    if "sentence_embedding" in file.outputs:
        return pooling
    if pooling is None:
        raise ModelFileError(
            "{path} asks for the pooling {modes}, which is neither in the graph nor computed by bertonnx; it "
            "computes one of {known}",
            path=folder.root / folder.pooling_file,
            modes=" + ".join(modes) or "none",
            known=", ".join(row.mode for row in POOLINGS),
        )
    if folder.default_prompt and not config.get("include_prompt", True):
        raise ModelFileError(
            "{path} leaves the default prompt out (include_prompt is false), which bertonnx does not do for "
            "models from elsewhere; export the checkpoint: {export}",
            export=EXPORT,
            path=folder.root / folder.pooling_file,
        )
    return pooling


def _normalizes(folder: ForeignFolder) -> bool:
    return any(class_name(kind) == "Normalize" for kind, _ in folder.modules)


class _Completed:
    """A session whose graph ends before the heads; computes them for batches without padding."""

    def __init__(self, session: OpenSession, card: Card) -> None:
        self._session = session
        self._card = card
        self.notes = session.notes
        self.placement = session.placement
        self.provider = session.provider
        self.inputs = card.inputs
        self.outputs = card.outputs
        self._unfed = [name for name in session.inputs if name not in card.inputs]

    def run(self, outputs: Sequence[str], feeds: Feeds, *, alone: bool = False) -> list[Array]:
        """Return the named outputs of one batch, those that the graph lacks computed here."""
        # One run, though several outputs may be made of the same.
        needed = sorted({self._origin(name) for name in outputs})
        if self._unfed:
            feeds = {**feeds, **dict.fromkeys(self._unfed, np.zeros_like(feeds["input_ids"]))}
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
        if name == "sentence_embedding":
            # Cut last, and not brought back to length 1, as Sentence-Transformers does.
            return self._embedding(raw)[:, : self._card.width]
        if name in self._session.outputs or name == "last_hidden_state":
            return raw
        return _ACTIVATIONS[self._card.activation](raw)

    def _embedding(self, raw: Array) -> Array:
        if "sentence_embedding" in self._session.outputs:
            return raw
        rows = named(self._card.pooling or "mean")
        vectors: Array = np.concatenate([resolve(row.array)(raw) for row in rows], axis=1)
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
    "tanh": np.tanh,
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


def pool_mean_sqrt_len_tokens(tokens: Array) -> Array:
    """Return the sum over tokens, by the square root of their number, (texts, width)."""
    total: Array = tokens.sum(axis=1)
    return total / np.float32(tokens.shape[1] ** 0.5)


def pool_weightedmean(tokens: Array) -> Array:
    """Return the mean over tokens, the first weighted by 1, the second by 2 and so on, (texts, width)."""
    places = np.arange(1, tokens.shape[1] + 1, dtype=np.float32)
    mean: Array = np.einsum("btw,t->bw", tokens, places) / places.sum()
    return mean


def pool_last(tokens: Array) -> Array:
    """Return the vectors of the last tokens, (texts, width)."""
    return tokens[:, -1]
