"""The card: what a model file says of itself, as JSON in `metadata_props["bertonnx.card"]`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bertonnx.errors import ModelFileError, UsageError
from bertonnx.models.activations import ACTIVATIONS
from bertonnx.models.figures import (
    TIMES,
    HalfFigures,
    Int8Figures,
    ParityFigures,
    ScoreFigures,
    TrainingFigures,
    as_json,
)
from bertonnx.models.ranges import Ranges
from bertonnx.models.reading import WrongKindError, kinds_of, parse, read
from bertonnx.models.retrieval import LateInteraction, Side, SparseWeights
from bertonnx.models.source_tensors import SourceTensor
from bertonnx.models.tasks import PROBLEM_TYPES, TASKS, Dimension, Task, outputs_of, served, task_meant
from bertonnx.models.tasks import task as task_named
from bertonnx.wording import Install, Option

__all__ = ["CARD_KEY", "FORMAT", "GOLDEN_KEY", "MOVED_KEY", "PLACES_KEY", "TOKENIZER_KEY", "Card", "lasting"]

FORMAT = 2
"""Raised when an older bertonnx could not read, or would misread, a newer file."""

CARD_KEY = "bertonnx.card"
TOKENIZER_KEY = "bertonnx.tokenizer"
GOLDEN_KEY = "bertonnx.golden"
PLACES_KEY = "bertonnx.places"
MOVED_KEY = "bertonnx.moved"


@dataclass(frozen=True)
class Card:
    """Everything about a model except its weights and its tokenizer.

    Attributes:
        task: one of `models.tasks.TASKS`.
        family: Hugging Face's `model_type`.
        max_length: longest input in tokens, special tokens included.
        inputs: the graph's inputs, each int64 of shape (batch_size, sequence_length).
        outputs: the graph's outputs, each float32.
        labels: names of the classes in the order of the logits; empty where there are none.
        problem_type: of text classification, one of `models.tasks.PROBLEM_TYPES`.
        pairs: whether the model was trained on text pairs: True, False, or None where the
            checkpoint does not say.
        pooling: of feature extraction: names of rows of `models.pooling`, with commas between several.
        normalize: whether sentence embeddings have length 1.
        width: of feature extraction: length of a sentence embedding.
        prompts: name -> text that is put before an input where that prompt is asked for, as
            sentence-transformers keeps them.
        default_prompt: name of the prompt that is used where none is asked for; None for no prompt.
        pooled_prompt: whether the tokens of the prompt are pooled as the text's are.
        also: other tasks that the file serves too.
        sparse: of sparse embeddings: which weights count.
        late: of many vectors for a text: how queries and documents are read and compared.
        mask_token: of fill-mask: the mask token's text.
        mask_token_id: of fill-mask: its id.
        cls_token_id: of question answering: the token that stands for "no answer", -1 where the tokenizer
            names none; None where nothing says it, and the first token of all does.
        unk_token_id: of token classification: the unknown token, which always begins a word, -1 where the
            tokenizer names none; None where nothing says it, and the vocabulary's own does.
        pad_token_id: id that fills `input_ids` up in a padded batch.
        left_out_id: of fill-mask: the token that is no part of a filled text, -1 where the tokenizer names no
            token for padding; None where nothing says it, and `pad_token_id` is.
        padding_side: "right" or "left", for programs that pad; bertonnx itself never pads.
        truncation_side: the end of a long text that is cut, "right" or "left".
        clean_up_spaces: whether decoded text loses the spaces before punctuation, as transformers'
            `clean_up_tokenization_spaces`.
        similarity: of feature extraction: how embeddings are compared, as `similarity_fn_name` of
            sentence-transformers: "cosine", "dot", "euclidean" or "manhattan"; None where the checkpoint does
            not say.
        hidden_states: of feature extraction: layers whose token vectors are outputs (`hidden_state_K`); 0 is
            what enters the first.
        layers: how many layers the encoder has; None where no layer's vectors are outputs.
        ranges: of feature extraction: the least and the largest number of each dimension of the embeddings
            of texts that were looked at when the file was made, which encodings in a byte spread out.
        activation: what makes `scores` of `logits`: name of a row of `models.activations`.
        precision: fp32, fp16 or int8.
        optimize: none, basic or full.
        fusions: operator -> {"found": n, "expected": n}.
        source: {"id", "kind", "revision"} of the checkpoint; of an adapter also {"adapter", "base",
            "base_revision"}: its kind, and what it calls its base model; of TensorFlow's {"layout",
            "hidden_act", "ignored"}: its kind, and what was asked for; "passed_over": such weights that lie
            beside PyTorch's, which were read.
        private_keys: keys of the checkpoint's files that no library reads, each as "FILE: KEY".
        ignored_keys: keys that were ignored because the user said so, each as "FILE: KEY".
        weights_sha256: over the names, shapes and bytes of all weights of the file.
        graph_sha256: over all of the file but its weights and metadata: what is computed, in which order.
        tokenizer_sha256: over the tokenizer's text.
        parity: how far ONNX Runtime is from PyTorch; None where that was not measured.
        quantization: figures of the INT8 step; None where there was none.
        half: figures of the fp16 step; None where there was none.
        training: how the model was trained; None where bertonnx did not train it.
        calibration: how scores were calibrated; None where they are as the checkpoint makes them.
        versions: package -> version at export.
        files: name -> SHA-256, in hex, of every file of the checkpoint; of an adapter's base model that lies
            elsewhere with "base/" before it.
        saved_by: library -> version that saved the checkpoint, as its files say.
        tensors: of a TensorFlow checkpoint: what became of each of its tensors, in its own order.
    """

    task: str
    family: str
    max_length: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    pairs: bool | None = None
    pooling: str | None = None
    normalize: bool = False
    width: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    pooled_prompt: bool = True
    similarity: str | None = None
    also: tuple[str, ...] = ()
    sparse: SparseWeights | None = None
    late: LateInteraction | None = None
    hidden_states: tuple[int, ...] = ()
    layers: int | None = None
    ranges: tuple[Ranges, ...] = ()
    mask_token: str | None = None
    mask_token_id: int | None = None
    cls_token_id: int | None = None
    unk_token_id: int | None = None
    pad_token_id: int = 0
    left_out_id: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"
    clean_up_spaces: bool = False
    activation: str = "none"
    precision: str = "fp32"
    optimize: str = "full"
    fusions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    source: Mapping[str, str | None] = field(default_factory=dict)
    private_keys: tuple[str, ...] = ()
    ignored_keys: tuple[str, ...] = ()
    weights_sha256: str = ""
    graph_sha256: str = ""
    tokenizer_sha256: str = ""
    parity: ParityFigures | None = None
    quantization: Int8Figures | None = None
    half: HalfFigures | None = None
    training: TrainingFigures | None = None
    calibration: ScoreFigures | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    saved_by: Mapping[str, str] = field(default_factory=dict)
    tensors: tuple[SourceTensor, ...] = ()

    @property
    def dimensions(self) -> dict[str, tuple[Dimension, ...]]:
        """The outputs that the file must have for all its tasks, with their dimensions."""
        return outputs_of(self.task, self.also, self.hidden_states)

    def row(self, asked: str | None = None) -> Task:
        """Return the row of the task that results are for.

        Args:
            asked: name of one of the tasks that the file serves; None for its own.

        Raises:
            KeyError: there is no such task.
            UsageError: the file serves no such task.
        """
        name = self.task if asked is None else task_meant(asked)
        if name not in (self.task, *self.also):
            raise UsageError(
                "{asked}: this model was exported for {tasks}",
                asked=Option("task", asked),
                tasks=", ".join((self.task, *self.also)),
            )
        return task_named(name)

    @property
    def needs_pair(self) -> bool:
        """Whether the model cannot do without a second text."""
        return self.pairs is True or task_named(self.task).pairs == "always"

    @property
    def takes_pair(self) -> bool:
        """Whether a second text may be given."""
        # Where the checkpoint does not say, a refusal could forbid what the model was trained for.
        return self.needs_pair or self.pairs is None

    def prompt_text(self, name: str | None = None) -> str:
        """Return what is put before a text.

        Args:
            name: name of a prompt; None for the default prompt, "" for none.

        Raises:
            UsageError: there is no such prompt.
        """
        own = (prompt for row in served(self.task, self.also) for prompt in row.prompts)
        known = dict.fromkeys(own, "") | dict(self.prompts)
        if name is None:
            return "" if self.default_prompt is None else known.get(self.default_prompt, "")
        # Not among the names: a checkpoint may call a prompt so, and then it is not to be had.
        if name == "":
            return ""
        if name in known:
            return known[name]
        if not known:
            raise UsageError(
                "{asked}: this model has no prompts (it was exported for {task}); leave it out",
                asked=Option("prompt", name),
                task=self.task,
            )
        raise UsageError(
            "{asked}: this model has no such prompt; it has {names}",
            asked=Option("prompt", name),
            names=", ".join(filter(None, known)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the card as JSON-ready values, `format` first."""
        # Figures apart: asdict would write null for what was not measured, and `as_json` leaves it out.
        values = {"format": FORMAT, **asdict(self)}
        figures = {name: as_json(getattr(self, name)) for name in _FIGURES}
        int8 = figures[_TIMED]
        times = {name: int8.pop(name) for name in TIMES if name in int8}
        return {**values, **figures, **({_MEASURED: times} if times else {})}

    def to_json(self) -> str:
        """Return the card's text, the same for the same card."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read a card.

        Keys that this version does not know are ignored: a change that an old reader must not
        ignore raises `FORMAT`.

        Raises:
            ModelFileError: not a card, or of a newer format.
        """
        try:
            data = parse(text)
        except WrongKindError as error:
            raise ModelFileError(
                "the model's card is damaged ({why}); export the model again", why=str(error)
            ) from error
        number = data.get("format") if isinstance(data, dict) else None
        if type(number) is not int or number < 1:
            raise _damaged(["format"])
        # Before any field is read: in a newer format it may be of another kind.
        if number > FORMAT:
            raise ModelFileError(
                "the model was made by a newer bertonnx (card format {number}, this version reads up to "
                "{known}); update with: {install}",
                number=number,
                known=FORMAT,
                install=Install("", upgrade=True),
            )
        card = _card(_with_times(_with_prompts(data)))
        # The one key that is read without asking (`display.card_lines`); kinds do not promise it.
        if not all("found" in count for count in card.fusions.values()):
            raise _damaged(["fusions"])
        unknown = [name for name in (card.task, *card.also) if name not in TASKS]
        if unknown:
            raise ModelFileError(
                "the model's card names an unknown task, {task!r}; update bertonnx", task=unknown[0]
            )
        wrong = [name for name, fits in _RANGES.items() if not fits(getattr(card, name))]
        if wrong:
            raise ModelFileError(
                "the model's card is damaged ({fields}: out of range); export the model again",
                fields=", ".join(f"{name} {str(getattr(card, name))[:40]}" for name in wrong),
            )
        return card


def _fits(side: Side) -> bool:
    counts = (side.max_length, side.expanded, side.marker, side.filler, side.first)
    return all(_is_id(number) for number in counts) and max(side.expanded or 0, side.first) <= 1 << 20


def _is_id(number: int | None) -> bool:
    return number is None or 0 <= number < 1 << 31


def _is_id_or_none(number: int | None) -> bool:
    return number == -1 or _is_id(number)


_RANGES: Mapping[str, Callable[[Any], bool]] = {
    # A million tokens and numbers are a thousand times what any encoder has.
    "max_length": lambda number: 0 < number <= 1 << 20,
    "width": lambda number: number is None or 0 < number <= 1 << 20,
    "mask_token_id": _is_id,
    "cls_token_id": _is_id_or_none,
    "unk_token_id": _is_id_or_none,
    "pad_token_id": _is_id,
    "left_out_id": _is_id_or_none,
    "padding_side": lambda side: side in ("left", "right"),
    "truncation_side": lambda side: side in ("left", "right"),
    "problem_type": lambda name: name is None or name in PROBLEM_TYPES,
    "activation": lambda name: name in ACTIVATIONS,
    "sparse": lambda found: found is None or found.most is None or found.most > 0,
    "late": lambda found: (
        found is None or (0 < found.width <= 1 << 20 and all(map(_fits, found.sides.values())))
    ),
    "hidden_states": lambda layers: all(0 <= layer <= 1 << 10 for layer in layers),
    "ranges": lambda ranges: all(each.fits for each in ranges),
}
"""What else must hold of a field, lest memory be taken or a branch chosen by what a stranger wrote."""

_PREFIX = "default"
"""What the prompt of a card of format 1 is called, which had no names for prompts."""

_FIGURES = ("parity", "quantization", "half", "training", "calibration")
_TIMED, _MEASURED = "quantization", "measured"


def _with_prompts(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a card's values; the prefix of format 1 is the one prompt that such a card has."""
    prefix = data.get("prefix")
    if not prefix or "prompts" in data:
        return data
    return {**data, "prompts": {_PREFIX: prefix}, "default_prompt": _PREFIX}


def _with_times(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a card's values with the times among the figures of INT8, where older cards have them."""
    times, figures = data.get(_MEASURED), data.get(_TIMED)
    if times is None or not isinstance(figures, Mapping):
        return data
    if not isinstance(times, Mapping):
        raise _damaged([_MEASURED])
    return {**data, _TIMED: {**figures, **{name: times[name] for name in TIMES if name in times}}}


def lasting(text: str) -> str:
    """Return a card's text without the times that were measured at export, which differ from one to the next.

    Raises:
        ModelFileError: it is no card.
    """
    try:
        data = parse(text)
    except WrongKindError as error:
        raise _damaged([str(error)]) from error
    if not isinstance(data, dict) or _MEASURED not in data:
        return text
    return json.dumps({key: data[key] for key in data if key != _MEASURED}, ensure_ascii=False)


def _card(data: Mapping[str, Any]) -> Card:
    kinds = kinds_of(Card)
    values, wrong = {}, []
    for item in fields(Card):
        # An older card has no such field, and its default holds.
        if item.name in data:
            try:
                values[item.name] = read(kinds[item.name], data[item.name])
            except WrongKindError:
                wrong.append(item.name)
    if wrong:
        raise _damaged(wrong)
    try:
        return Card(**values)
    except TypeError as error:
        raise ModelFileError(
            "the model's card is incomplete ({why}); export the model again", why=error
        ) from error


def _damaged(wrong: Sequence[str]) -> ModelFileError:
    return ModelFileError(
        "the model's card is damaged ({fields}: not of the right kind); export the model again",
        fields=", ".join(wrong),
    )
