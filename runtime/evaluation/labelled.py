"""Labelled texts: which columns hold them, and what kind of labels they are."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from bertonnx.errors import InputError, RowError
from bertonnx.runtime.evaluation.records import Record, Records, read_records
from bertonnx.runtime.io.inputs import PAIRS, TEXTS
from bertonnx.runtime.options import chosen
from bertonnx.wording import Message, Option

__all__ = [
    "KINDS",
    "MULTI",
    "REGRESSION",
    "SINGLE",
    "Columns",
    "Labelled",
    "read_labelled",
    "without_point",
]

SINGLE, MULTI, REGRESSION = KINDS = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
)
"""Kinds of labels, as `problem_type` of transformers names them."""

_WANTED: Mapping[str | None, str] = {
    SINGLE: "one label a text",
    MULTI: "a list of labels a text",
    REGRESSION: "an amount a text",
}

_TEXTS = (*TEXTS, "review", "content", "comment", "message", "body", "tweet", "document", "title", "input")
_LABELS = ("label", "labels", "class", "category", "target", "sentiment", "rating", "score", "y", "output")
_HALF = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON can write, and no tokenizer reads."""

_POINT_ZERO = re.compile(r"^([+-]?[0-9]+)\.0+$")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")

_LARGEST = 1e30
"""Amount beyond which float32, which models compute in, has no room for sums and squares of weights."""

_GAPS = ("na", "n/a", "#n/a", "<na>", "nan", "null", "none", "inf", "+inf", "-inf", "infinity", "-infinity")
"""What programs write in a table where there is no number."""

_MOST_CLASSES = 50
"""Different whole numbers up to which they are classes and no amounts, where nobody says."""


_Whole = tuple[str, str, Any, str, int]
"""Text, pair, label, group, and place in the file of a row that has what it needs."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a labelled file are read, as far as the user says.

    Attributes:
        column: of the text; None to find it.
        pair_column: of the second text; None for none, or the usual one where a model needs pairs.
        label_column: of the label; several with commas between them are labels of which each may hold;
            None to find it.
        group_column: of what keeps rows together on one side of a split; None for nothing.
        problem_type: one of `KINDS`; None to tell it by the labels.

    Raises:
        UsageError: there is no such kind.
    """

    column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        if self.problem_type is not None:
            chosen("problem_type", self.problem_type, KINDS)


@dataclass(frozen=True)
class Labelled:
    """Texts with labels, in the order of the file.

    Attributes:
        path: the file.
        texts: the texts.
        pairs: second texts, as many; None where there are none.
        labels: of each text its label as text; of `MULTI` a tuple of those that hold, in no order; of
            `REGRESSION` a number.
        kind: one of `KINDS`.
        groups: of each text what keeps it together with others, empty where its row says nothing; None where
            there is no such column.
        columns: the columns by what they hold: "text", "pair", "label", "group".
        left_out: why rows were left out, and how many.
        messages: what was taken to be meant.
        rows: of each text its row in the file, from 0; empty where no row was left out.
    """

    path: str
    texts: list[str]
    pairs: list[str] | None
    labels: list[Any]
    kind: str
    groups: list[str] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    rows: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that are there, numbers in order of size and words in that of the alphabet."""
        found = set(chain.from_iterable(self.labels) if self.kind == MULTI else self.labels)
        return () if self.kind == REGRESSION else tuple(sorted(found, key=_in_order))

    def chosen(self, places: Sequence[int]) -> Labelled:
        """Return the texts at some places, in their order."""

        def at(values: list[Any] | None) -> list[Any] | None:
            return None if values is None else [values[place] for place in places]

        return Labelled(
            self.path,
            [self.texts[place] for place in places],
            at(self.pairs),
            [self.labels[place] for place in places],
            self.kind,
            at(self.groups),
            self.columns,
            rows=[self.rows[place] for place in places] if self.rows else places,
        )


def read_labelled(path: str | Path, columns: Columns, *, needs_pair: bool = False) -> Labelled:
    """Read labelled texts.

    Rows without a text or a label, and those that cannot be read, are left out and counted.

    Args:
        path: a `.csv`, `.tsv`, `.jsonl`, `.parquet` or `.arrow` file.
        columns: what the user says of its columns.
        needs_pair: whether there must be second texts.

    Raises:
        InputError: it cannot be read, nothing says which columns to take, no row has a label, or the labels
            are not of the kind that is asked for.
    """
    records = read_records(path)
    found = _found(records, columns, needs_pair=needs_pair)
    names = found["label"].split(",") if found["label"] not in records.names else [found["label"]]
    left_out: Counter[str] = Counter()
    rows = list(_whole(records, found, names, left_out))
    if not rows:
        reasons = [f"{count} {reason}" for reason, count in left_out.items()]
        unread = [f"the first: {row}" for row in records.rows if isinstance(row, RowError)]
        raise InputError(
            "no row of {path} has a text and a label: {why}",
            path=records.path,
            why=", ".join([*reasons, *unread[:1]]),
        )
    rows = _without_gaps(rows, left_out)
    kind, labels = _typed([row[2] for row in rows], names, columns.problem_type, records.path)
    return Labelled(
        records.path,
        [row[0] for row in rows],
        [row[1] for row in rows] if "pair" in found else None,
        labels,
        kind,
        [row[3] for row in rows] if "group" in found else None,
        found,
        dict(left_out),
        (*_messages(records, found), *_never(names, labels), *_gap_words(labels)),
        [row[4] for row in rows],
    )


def _found(records: Records, columns: Columns, *, needs_pair: bool) -> dict[str, str]:
    """Return the name of each column that is read, by what it holds."""
    asked = {
        "text": columns.column,
        "pair": columns.pair_column,
        "group": columns.group_column,
    }
    found = {what: _named(records, name) for what, name in asked.items() if name is not None}
    label = columns.label_column
    if label is not None:
        parts = [label] if _match(records.names, label) else label.split(",")
        taken = [_named(records, part) for part in parts]
        # Named twice, a column would be two labels.
        found["label"] = ",".join(dict.fromkeys(taken))
    # Before the label is guessed, which may be the only column that is left then.
    if needs_pair and ("text" not in found or "pair" not in found):
        found = _pair(records, found) | found
    if "label" not in found:
        found["label"] = _guessed(records, found, _LABELS, "label", Option("label_column", "NAME"))
    if "text" not in found:
        found["text"] = _guessed(records, found, _TEXTS, "text", Option("column", "NAME"))
    return found


def _named(records: Records, name: str) -> str:
    """Return a column as the file writes it, which may have blanks around its name or other capitals."""
    found = _match(records.names, name)
    if len(found) == 1:
        return found[0]
    raise InputError(
        "{path} has {count} column {wanted!r}; its columns are: {columns}",
        path=records.path,
        count="more than one" if found else "no",
        wanted=name,
        columns=", ".join(records.names),
    )


def _match(names: Sequence[str], wanted: str) -> list[str]:
    exact = [name for name in names if name == wanted]
    return exact or [name for name in names if _plain(name) == _plain(wanted)]


def _plain(name: str) -> str:
    return name.strip().strip("\ufeff").casefold()


def _pair(records: Records, found: Mapping[str, str]) -> dict[str, str]:
    for pair in PAIRS:
        matches = [_match(records.names, name) for name in pair]
        if all(len(match) == 1 for match in matches):
            return {"text": matches[0][0], "pair": matches[1][0]}
    if "pair" in found:
        # The text is found as that of any other model.
        return {}
    missing = "pair" if "text" in found else "text"
    raise InputError(
        "the model reads pairs of texts; which column of {path} holds the {what}? its columns are: "
        "{columns}; say {say}",
        path=records.path,
        what=missing,
        columns=", ".join(records.names),
        say=Option("pair_column" if missing == "pair" else "column", "NAME"),
    )


def _guessed(
    records: Records, found: Mapping[str, str], usual: Sequence[str], what: str, option: Option
) -> str:
    """Return the column that is called as such columns are, or the only one that is left."""
    taken = set(chain.from_iterable((name, *name.split(",")) for name in found.values()))
    left = [name for name in records.names if name not in taken]
    for name in usual:
        matches = [other for other in left if _plain(other) == name]
        if len(matches) == 1:
            return matches[0]
    if records.headless and len(records.names) == 2 and not found:
        # Without names, the label is the column whose values come back; see `records`.
        return min(left, key=lambda name: len({_cell(row, name) for row in records.rows}))
    if len(left) == 1:
        return left[0]
    raise InputError(
        "which column of {path} holds the {what}? its columns are: {columns}; say {say}",
        path=records.path,
        what=what,
        columns=", ".join(records.names),
        say=option,
    )


def _cell(row: Record | RowError, name: str) -> str:
    return "" if isinstance(row, RowError) else str(row.get(name))


def _whole(
    records: Records, found: Mapping[str, str], names: Sequence[str], left_out: Counter[str]
) -> list[_Whole]:
    """Return each row that has what it needs; count the others."""
    rows: list[_Whole] = []
    for place, row in enumerate(records.rows):
        if isinstance(row, RowError):
            left_out["that could not be read"] += 1
            continue
        texts: list[Any] = [row.get(found[what]) for what in ("text", "pair") if what in found]
        label = row.get(names[0]) if len(names) == 1 else [row.get(name) for name in names]
        # Counted apart, since each is mended in another way.
        if not all(isinstance(text, str) for text in texts):
            left_out["without a text"] += 1
        elif not any(text.strip() for text in texts):
            left_out["with an empty text"] += 1
        elif any(_HALF.search(text) for text in texts):
            left_out["with a text that is not valid Unicode"] += 1
        elif _missing(label):
            left_out["without a label"] += 1
        else:
            group = row.get(found.get("group", ""))
            # Rows of nobody are no group.
            rows.append((texts[0], texts[-1], label, "" if _missing(group) else str(group), place))
    return rows


def _without_gaps(rows: list[_Whole], left_out: Counter[str]) -> list[_Whole]:
    """Leave out the rows whose label is NA, NaN or the like where all others are numbers."""
    gaps = [_is_gap(row[2]) for row in rows]
    others = [row[2] for row, gap in zip(rows, gaps, strict=True) if not gap]
    if not any(gaps) or not others or any(_number(label) is None for label in others):
        return rows
    left_out["without a label"] += sum(gaps)
    return [row for row, gap in zip(rows, gaps, strict=True) if not gap]


def _is_gap(label: Any) -> bool:
    return isinstance(label, str) and label.strip().casefold() in _GAPS


def _missing(label: Any) -> bool:
    if isinstance(label, list):
        return any(part is None for part in label)
    if isinstance(label, float):
        return not math.isfinite(label)
    return label is None or (isinstance(label, str) and not label.strip()) or label != label


def _typed(labels: list[Any], names: Sequence[str], asked: str | None, path: str) -> tuple[str, list[Any]]:
    """Return the kind of labels, and the labels as that kind."""
    if len(names) > 1:
        return _held(labels, names, asked)
    # Lists first: of a table of JSON they may hold one label each.
    lists = [_as_list(label) for label in labels]
    if all(item is not None for item in lists):
        if asked not in (None, MULTI):
            raise InputError(
                "the labels of {path} are lists, and {wanted} is wanted", path=path, wanted=_WANTED[asked]
            )
        return MULTI, [tuple(dict.fromkeys(_word(part, path) for part in item or ())) for item in lists]
    mixed = next((label for label, item in zip(labels, lists, strict=True) if item is not None), None)
    if mixed is not None:
        raise InputError(
            "some labels of {path} are lists, such as {label!r}, and some are not; write all as lists",
            path=path,
            label=str(mixed)[:80],
        )
    # Numbers are classes or amounts, and which is seen only of all of them.
    numbers = [_number(label) for label in labels]
    if asked == REGRESSION or (asked is None and _are_amounts(numbers)):
        return REGRESSION, _amounts(labels, numbers, path)
    if all(number is not None and number == int(number) for number in numbers):
        # Tables of text write the class 1 as 1.0 where others have gaps, as those of JSON do.
        labels = [
            without_point(str(label)) if isinstance(label, (str, Decimal)) else label for label in labels
        ]
    words = [_word(label, path) for label in labels]
    return (MULTI, [(word,) for word in words]) if asked == MULTI else (SINGLE, words)


def _held(rows: list[Any], names: Sequence[str], asked: str | None) -> tuple[str, list[Any]]:
    """Return of several columns of yes and no the names of those that say yes."""
    if asked not in (None, MULTI):
        raise InputError(
            "several columns of labels were named, and {wanted} is wanted; name one", wanted=_WANTED[asked]
        )
    labels = []
    for row in rows:
        held = [_truth(value) for value in row]
        if None in held:
            raise InputError(
                "the column {name!r} holds {value!r}, and of several columns of labels each must hold 0 or 1",
                name=names[held.index(None)].strip(),
                value=row[held.index(None)],
            )
        labels.append(tuple(name.strip() for name, holds in zip(names, held, strict=True) if holds))
    return MULTI, labels


def _never(names: Sequence[str], labels: Sequence[Any]) -> list[Message]:
    """Say which of several columns of labels no row says yes in: they are not learned."""
    held = set(chain.from_iterable(labels)) if len(names) > 1 else {name.strip() for name in names}
    never = [name.strip() for name in names if name.strip() not in held]
    return [Message("no row has these labels: {names}", names=", ".join(never))] if never else []


def _gap_words(labels: Sequence[Any]) -> list[Message]:
    """Say which labels are words that stand for a gap elsewhere: among words they may be meant, or not."""
    counts = Counter(label for label in labels if _is_gap(label))
    return [
        Message(
            "{count} rows have the label {label!r}, which is taken for one as any other; leave it empty "
            "where there is none",
            count=count,
            label=label,
        )
        for label, count in counts.items()
    ]


def _truth(value: Any) -> bool | None:
    known = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
    return known.get(str(value).strip().lower())


def _as_list(label: Any) -> list[Any] | None:
    if isinstance(label, str) and label.strip()[:1] == "[":
        try:
            label = json.loads(label)
        except (ValueError, RecursionError):
            return None
    return label if isinstance(label, list) else None


def _number(label: Any) -> float | None:
    if isinstance(label, bool):  # which is a number to Python
        return None
    try:
        number = float(label)
    except (TypeError, ValueError):
        return None
    except OverflowError:  # a whole number of JSON, of more than 308 digits
        return sys.float_info.max if label > 0 else -sys.float_info.max
    return number if math.isfinite(number) else None


def without_point(label: str) -> str:
    """Return 1.0 as 1; all else, such as 01, 1e0 and 1.5, stays what it is."""
    return _POINT_ZERO.sub(r"\1", label.strip())


def _are_amounts(numbers: Sequence[float | None]) -> bool:
    """Return whether labels are amounts: numbers with a fraction, or more different ones than classes."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return False
    return any(number != int(number) for number in known) or len(set(known)) > _MOST_CLASSES


def _amounts(labels: Sequence[Any], numbers: Sequence[float | None], path: str) -> list[float]:
    for label, number in zip(labels, numbers, strict=True):
        if number is None:
            raise InputError(
                "the label {label!r} of {path} is no number, and {wanted} is wanted",
                label=label,
                path=path,
                wanted=_WANTED[REGRESSION],
            )
        if abs(number) > _LARGEST:
            raise InputError(
                "the label {label} of {path} is too large for a model, which computes in float32; divide all "
                "labels by one number, so that they are at most {largest:.0e}",
                label=str(label)[:80],
                path=path,
                largest=_LARGEST,
            )
    return [number for number in numbers if number is not None]


def _word(label: Any, path: str) -> str:
    """Return a label as text: 1.0 of a table with gaps is the class 1."""
    if isinstance(label, float) and math.isfinite(label) and label == int(label):
        return str(int(label))
    # What is none is written as its parts, which nobody would call a label; half a character is none either.
    half = isinstance(label, str) and _HALF.search(label)
    if isinstance(label, (Mapping, list, bytes, float)) or label is None or half:
        raise InputError(
            "{path} has the label {label!r}; give words, numbers, or lists of them",
            path=path,
            label=str(label)[:80],
        )
    # On one line, and without what moves a terminal's cursor.
    return " ".join(_CONTROLS.sub(" ", str(label)).split())


def _in_order(name: str) -> tuple[bool, float, str]:
    number = _number(name)
    return (True, 0.0, name) if number is None else (False, number, name)


def _messages(records: Records, found: Mapping[str, str]) -> list[Message]:
    messages = []
    if records.headless:
        messages.append(
            Message("the first line of {path} names no columns, and was read as a row", path=records.path)
        )
    what = {name: found[name] for name in ("text", "pair", "label", "group") if name in found}
    columns = ", ".join(f"{name}: {column}" for name, column in what.items())
    messages.append(Message("columns: {columns}", columns=columns))
    return messages
