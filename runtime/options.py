"""What a user may choose when a model is opened, a text decoded, or a file run: one frozen object each.

Every face (command line, Python, R, a server) fills these in, and every room takes the object: an option
is named in the face, here, and where it is used.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from string import Formatter
from typing import Any, Literal, TypeVar

from bertonnx.errors import UsageError
from bertonnx.models.providers import AUTO, PROVIDERS, choices
from bertonnx.wording import Option, Words

__all__ = [
    "AGGREGATIONS",
    "ENCODINGS",
    "LONG_TEXT",
    "ON_ERROR",
    "TEMPLATE",
    "Aggregation",
    "BatchOptions",
    "DecodeOptions",
    "Encoding",
    "LoadOptions",
    "LongText",
    "OnError",
    "RunOptions",
    "chosen",
    "require_at_least",
    "require_number",
    "require_query",
    "require_template",
    "require_threads",
    "require_threshold",
    "require_whole",
    "required_labels",
    "taken",
]

Choice = TypeVar("Choice", bound=str)
Chosen = TypeVar("Chosen", bound="BatchOptions | DecodeOptions | LoadOptions | RunOptions")

LongText = Literal["truncate", "stride", "error"]
LONG_TEXT: tuple[LongText, ...] = ("truncate", "stride", "error")

Aggregation = Literal["none", "simple", "first", "average", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = ("none", "simple", "first", "average", "max")

Encoding = Literal["float32", "int8", "uint8", "binary", "ubinary"]
ENCODINGS: tuple[Encoding, ...] = ("float32", "int8", "uint8", "binary", "ubinary")
TEMPLATE = "This example is {}."
"""Of transformers' zero-shot pipeline."""

OnError = Literal["record", "fail"]
ON_ERROR: tuple[OnError, ...] = ("record", "fail")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is opened.

    Attributes:
        provider: name of a row of `models.providers`, or "auto".
        threads: batches at a time; None for as many as cores that this process may use.
        max_length: a shorter limit than the model's own, in tokens.
        long_text: one of `LONG_TEXT`; None for what the task does by itself.
        tf32: on CUDA, let fp32 models multiply in TF32.
        gpu_memory: on CUDA, GiB that ONNX Runtime may take; None for no limit.

    Raises:
        UsageError: a value is none of the choices or out of range, or is of another provider than the one
            that was asked for.
    """

    provider: str = AUTO
    threads: int | None = None
    max_length: int | None = None
    long_text: LongText | None = None
    tf32: bool = False
    gpu_memory: float | None = None

    def __post_init__(self) -> None:
        chosen("provider", self.provider, choices())
        require_threads(self.threads)
        if self.long_text is not None:
            chosen("long_text", self.long_text, LONG_TEXT)
        require_whole("max_length", self.max_length)
        require_number("gpu_memory", self.gpu_memory)
        # Put so that NaN is refused as well.
        if self.gpu_memory is not None and not self.gpu_memory > 0:
            raise UsageError(
                "{asked} is too small; give a number of GiB over 0",
                asked=Option("gpu_memory", self.gpu_memory),
            )
        # ONNX Runtime takes bytes as a number of 64 bits, and of infinity there are none.
        if self.gpu_memory is not None and self.gpu_memory >= 2**33:
            raise UsageError(
                "{asked} is more than any machine has; give a number of GiB",
                asked=Option("gpu_memory", self.gpu_memory),
            )
        self._require_provider_of_options()

    def _require_provider_of_options(self) -> None:
        # It may take the provider that the option is of.
        if self.provider == AUTO:
            return
        usual = {item.name: item.default for item in fields(self)}
        for row in PROVIDERS:
            for name in row.options:
                given = getattr(self, name) != usual[name]
                if given and name not in PROVIDERS[self.provider].options:
                    raise UsageError(
                        "{option} is of {owner}, and the {kind} is {provider}; leave it out, or ask for "
                        "{other}",
                        option=Option(name),
                        owner=row.name.upper(),
                        kind=Words("provider", r="device"),
                        provider=self.provider,
                        other=Option("provider", row.name),
                    )


_FLAGS = ("no_answer", "raw_scores", "normalize", "multi_label", "chunks")
"""Those that are true or false."""


@dataclass(frozen=True)
class DecodeOptions:
    """What becomes of a text: what is put before it, and how outputs become results.

    Attributes:
        top_k: how many candidates a result lists; None for what the task does by itself.
        aggregation: how tokens become entities, one of `AGGREGATIONS`.
        prompt: name of the prompt that is put before each text; None for the model's default, "" for none.
        no_answer: whether a question may be left without an answer.
        raw_scores: whether scores are logits, as before softmax or sigmoid.
        query: what each text is scored for, which then is a document.
        dimensions: how many numbers of an embedding are kept, from its beginning; None for all.
        normalize: whether what was kept gets length 1; None for what the file does, False where it does not.
        encoding: of an embedding's numbers, one of `ENCODINGS`.
        labels: of zero-shot classification: what a text may be about; none for the model's own.
        template: what makes a sentence of a label, which stands in place of `{}`.
        multi_label: whether each label is judged by itself, so that several may be true.
        entailment: the model's own label that means entailment, where its name does not say so.
        threshold: of several labels, those with a score above it are chosen; None for a half.
        chunks: whether each window of a text that is read in windows has an embedding of its own.
        task: of a file that serves several, the one that results are for; None for its own.

    Raises:
        UsageError: there is no such aggregation or encoding, a number is less than 1, the query is empty, a
            label is empty or there twice, the template has no place for a label, or the threshold is none
            from 0 to 1.
    """

    top_k: int | None = None
    aggregation: Aggregation = "simple"
    prompt: str | None = None
    no_answer: bool = False
    raw_scores: bool = False
    query: str | None = None
    dimensions: int | None = None
    normalize: bool | None = None
    encoding: Encoding = "float32"
    labels: tuple[str, ...] = ()
    template: str = TEMPLATE
    multi_label: bool = False
    entailment: str | None = None
    threshold: float | None = None
    chunks: bool = False
    task: str | None = None

    def __post_init__(self) -> None:
        require_at_least("top_k", self.top_k)
        chosen("aggregation", self.aggregation, AGGREGATIONS)
        require_at_least("dimensions", self.dimensions)
        for name in _FLAGS:
            require_flag(name, getattr(self, name))
        chosen("encoding", self.encoding, ENCODINGS)
        if self.query is not None:
            require_query(self.query)
        # Frozen for those who read it, whatever kind of list was given; an array has no truth of its own.
        if not isinstance(self.labels, Sized) or isinstance(self.labels, str) or len(self.labels):
            object.__setattr__(self, "labels", required_labels(self.labels))
        require_threshold(self.threshold)
        self._require_labels()
        if self.template != TEMPLATE:
            require_template(self.template)

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Names of the options that are not as they are where nobody gives them."""
        # A server asks for each request, and defaults are attributes of the class too.
        return tuple(name for name in _NAMES if getattr(self, name) != getattr(DecodeOptions, name))

    def _require_labels(self) -> None:
        """Refuse what says how labels are judged where there are none."""
        for name in () if self.labels else ("template", "multi_label", "entailment"):
            if getattr(self, name) != getattr(DecodeOptions, name):
                raise UsageError(
                    "{asked} is for zero-shot classification; name the labels with {labels}",
                    asked=Option(name, getattr(self, name)),
                    labels=Option("labels", ["LABEL", "LABEL"]),
                )
        if self.labels and self.threshold is not None and not self.multi_label:
            raise UsageError(
                "{asked}: the scores of labels add up to 1, so that no threshold says which are true; add "
                "{multi_label}",
                asked=Option("threshold", self.threshold),
                multi_label=Option("multi_label", True),
            )

    @property
    def pairs_texts(self) -> bool:
        """Whether the second texts of pairs, or the first, are made of what is given here."""
        return self.query is not None or bool(self.labels)

    @property
    def pairing(self) -> Option:
        """What that is."""
        return Option("labels", self.labels) if self.query is None else Option("query", self.query)


_NAMES = tuple(item.name for item in fields(DecodeOptions))


@dataclass(frozen=True)
class RunOptions:
    """How a file is run.

    Attributes:
        column: the column, or JSON field, that holds the text.
        pair_column: the one that holds the second text of a pair.
        on_error: one of `ON_ERROR`: whether a failed row's error is written in its place, or ends the run.
        resume: whether to go on with an output that an earlier run did not finish.
        csv_safe: whether texts in a table are written so that a spreadsheet takes none for a formula.
        manifest: a file for what was read, with what, and what was written.

    Raises:
        UsageError: `on_error` is none of the choices.
    """

    column: str | None = None
    pair_column: str | None = None
    on_error: OnError = "record"
    resume: bool = False
    csv_safe: bool = False
    manifest: str | Path | None = None

    def __post_init__(self) -> None:
        chosen("on_error", self.on_error, ON_ERROR)


@dataclass(frozen=True)
class BatchOptions:
    """What the result of a record batch looks like.

    Attributes:
        keep: whether the columns of the batch stand before those of its results.
        plain: whether types are left out that not every engine has: a vector is then a list.
        first_row: number of the first row, in the column `row`; None for no such column.
        prefix: what the names of the results' columns begin with.

    Raises:
        UsageError: `first_row` is no whole number, or less than 0.
    """

    keep: bool = False
    plain: bool = False
    first_row: int | None = 0
    prefix: str = ""

    def __post_init__(self) -> None:
        require_at_least("first_row", self.first_row, 0)


def taken(kind: type[Chosen], arguments: Mapping[str, Any]) -> Chosen:
    """Return an options object made of those arguments of a function that are its fields.

    Args:
        kind: the class of the object.
        arguments: `locals()` of a function, before it has variables of its own. A face that has many options
            then names each of them once.
    """
    return kind(**{item.name: arguments[item.name] for item in fields(kind) if item.name in arguments})


def require_query(query: object) -> None:
    """Refuse what documents cannot be ranked for.

    Raises:
        UsageError: it is no text, or an empty one.
    """
    if not isinstance(query, str):
        raise UsageError(
            "{option} is one text, and this is {kind}", option=Option("query"), kind=type(query).__name__
        )
    if not query.strip():
        raise UsageError("{option} is empty; say what the documents are ranked for", option=Option("query"))


def required_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return labels, each of them a text of its own.

    Raises:
        UsageError: there are none, or they are one text, or one of them is none or there twice.
    """
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable):
        raise UsageError("{asked}: a list of texts is expected; give [text]", asked=Option("labels", labels))
    found = tuple(labels)
    if not found:
        raise UsageError("{asked}: name at least one label", asked=Option("labels", []))
    for label in found:
        asked = Option("labels", [label])
        if not isinstance(label, str):
            raise UsageError(
                "{asked}: a text is expected, and this is {kind}", asked=asked, kind=type(label).__name__
            )
        if not label.strip():
            raise UsageError("{asked}: a label is empty", asked=asked)
    # Counted once, for there may be thousands.
    twice = [label for label, count in Counter(found).items() if count > 1]
    if twice:
        raise UsageError(
            "{asked} is there more than once; scores are given by label, so name each once",
            asked=Option("labels", twice[:1]),
        )
    return found


def require_template(template: object) -> None:
    """Refuse a template that has not one place for a label, `{}`; `{{` and `}}` are braces.

    Raises:
        UsageError: saying what it lacks.
    """
    try:
        if not isinstance(template, str):
            raise ValueError(f"it is {type(template).__name__}")
        places = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise UsageError(
            "{asked} is no template: {why}", asked=Option("template", template), why=str(error)
        ) from error
    # Nothing but the label itself: a format could ask for gigabytes of spaces.
    if (
        not places
        or any(place not in (("", "", None), ("0", "", None)) for place in places)
        or _mixed(places)
    ):
        raise UsageError(
            "{asked} must have {place} where the label goes, once and nothing else in braces",
            asked=Option("template", template),
            place="{}",
        )


def _mixed(places: Sequence[tuple[str | None, ...]]) -> bool:
    return len(places) > 1 and any(place[0] == "" for place in places)


def require_threshold(threshold: object) -> None:
    """Refuse a threshold of scores that no score, or every one, is above; None is well.

    Raises:
        UsageError: saying what it can be.
    """
    require_number("threshold", threshold)
    if threshold is not None and not 0 <= float(str(threshold)) < 1:
        raise UsageError(
            "{asked} is no threshold of scores; give a number from 0 to below 1, such as 0.3",
            asked=Option("threshold", threshold),
        )


def chosen(option: str, value: str, choices: Sequence[Choice]) -> Choice:
    """Return an option's value, now known to be one of its choices.

    Args:
        option: the option's name in Python.
        value: what the user gave.
        choices: what it can be.

    Raises:
        UsageError: it is none of them.
    """
    for choice in choices:
        if choice == value:
            return choice
    raise UsageError(
        "{given} is unknown; it can be {choices}", given=Option(option, value), choices=", ".join(choices)
    )


def require_whole(name: str, value: object) -> None:
    """Refuse what is not a whole number, of Python or NumPy; None, where the user gave none, is well.

    Raises:
        UsageError: it is not one.
    """
    # True is 1 to Python, and nobody counts with it.
    if value is not None and (is_flag(value) or not isinstance(value, Integral)):
        raise UsageError("{asked} is not a whole number", asked=Option(name, value))


def is_flag(value: object) -> bool:
    """Return whether a value is True or False, of Python or NumPy."""
    return type(value).__name__ in ("bool", "bool_")


def require_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False; None, where the user gave none, is well.

    Raises:
        UsageError: it is something else, such as a text, which would count as True.
    """
    if value is not None and not is_flag(value):
        raise UsageError("{asked} is neither true nor false", asked=Option(name, value))


def require_number(name: str, value: object) -> None:
    """Refuse what is not a number; None, where the user gave none, is well.

    Raises:
        UsageError: it is not one.
    """
    if value is not None and (is_flag(value) or not isinstance(value, Real)):
        raise UsageError("{asked} is not a number", asked=Option(name, value))


def require_at_least(name: str, value: int | None, least: int = 1) -> None:
    """Refuse a number that is too small; None, where the user gave none, is well.

    Args:
        name: the option's name in Python.
        value: what was asked for.
        least: the smallest that is allowed.

    Raises:
        UsageError: naming the smallest, or saying that it is no whole number.
    """
    require_whole(name, value)
    if value is not None and value < least:
        raise UsageError(
            "{asked} is too small; give a number of at least {least}", asked=Option(name, value), least=least
        )


def require_threads(value: int | None) -> None:
    """Refuse more threads than this machine can have a use for, each of which takes memory.

    Raises:
        UsageError: naming the most, which is four for each processor, and 64 where those are fewer.
    """
    require_at_least("threads", value)
    most = max(64, 4 * (os.cpu_count() or 1))
    if value is not None and value > most:
        raise UsageError(
            "{asked} is too large for this machine; give a number of at most {most}",
            asked=Option("threads", value),
            most=most,
        )
