"""Texts with marked entities: CoNLL files, and JSON lines with spans or with tags of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bertonnx.errors import InputError, RowError, UsageError
from bertonnx.runtime.evaluation.labelled import Columns
from bertonnx.runtime.evaluation.records import Record, Records, read_records
from bertonnx.runtime.io.formats import ending_of
from bertonnx.runtime.io.lines import TooLong, lines_of
from bertonnx.wording import Message, Option

__all__ = ["CONLL", "Span", "Tagged", "has_entities", "read_tagged", "spans_of"]

CONLL = (".conll", ".txt", ".bio", ".iob", ".iob2", ".bioes")
"""Endings of files with a word and its tag in each line, and an empty line after each sentence."""

_TEXTS, _SPANS = ("text", "sentence", "content"), ("entities", "spans", "label", "labels")
_WORDS, _TAGS = ("tokens", "words"), ("ner_tags", "tags", "labels", "label", "entities")


_ANY = Columns()
_PREFIXES = ("B", "I", "E", "S", "L", "U", "M")


class Span(NamedTuple):
    """An entity: places in the text in Unicode code points, half open, and its type."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Tagged:
    """Texts with their entities, in the order of the file.

    Attributes:
        path: the file.
        texts: the texts; of a file of words these, with a space between them.
        spans: of each text its entities, in order of their places.
        left_out: why rows were left out, and how many.
        messages: what there is to know of the entities.
        rows: of each text its row in the file, or sentence, from 0; empty where none was left out.
    """

    path: str
    texts: list[str]
    spans: list[tuple[Span, ...]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    rows: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def names(self) -> tuple[str, ...]:
        """The types of entities that are there."""
        return tuple(sorted({span.label for spans in self.spans for span in spans}))

    def chosen(self, places: Sequence[int]) -> Tagged:
        """Return the texts at some places, in their order."""
        return Tagged(
            self.path,
            [self.texts[place] for place in places],
            [self.spans[place] for place in places],
            rows=[self.rows[place] for place in places] if self.rows else places,
        )


def has_entities(path: str | Path, columns: Columns = _ANY) -> bool:
    """Return whether a labelled file marks entities, and not whole texts."""
    if ending_of(path) in CONLL:
        return True
    if ending_of(path) not in (".jsonl", ".ndjson", ".parquet", ".arrow", ".feather"):
        return False
    records = read_records(path)
    return _fields(records, columns) is not None


def read_tagged(path: str | Path, columns: Columns = _ANY) -> Tagged:
    """Read texts with marked entities.

    In a CoNLL file the first column is the word and the last its tag. JSON lines have `text` and `entities`
    (objects with `start`, `end` and `label`, or lists of these), or `tokens` and `ner_tags` (names). Tags are
    BIO, BIOES or those without a prefix; a document's `-DOCSTART-` and comments before a sentence (`# id 7`)
    are passed over.

    Args:
        path: the file.
        columns: what the user says of its columns: of the texts or words, and of the entities or tags.

    Raises:
        InputError: it cannot be read, or no row of it has words and tags.
        UsageError: columns were named that such a file has not.
    """
    left_out: Counter[str] = Counter()
    lined = ending_of(path) in CONLL
    _require_none(path, columns, ("pair_column", "group_column", "problem_type"))
    if lined:
        _require_none(path, columns, ("column", "label_column"))
        rows = [(place, *row) for place, row in enumerate(_sentences(str(path)))]
    else:
        records = read_records(path)
        fields = _fields(records, columns)
        rows = [] if fields is None else list(_of_records(records, fields, left_out))
    if not rows:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(
            "no row of {path} has words and their tags{why}; write a word and its tag in each line and an "
            "empty line after each sentence, or JSON lines as {example}",
            path=path,
            why=f" ({why})" if why else "",
            example='{"text": "Ada lives.", "entities": [{"start": 0, "end": 3, "label": "PER"}]}',
        )
    texts, spans = [text for _, text, _ in rows], [spans for _, _, spans in rows]
    messages = tuple(_cut_words(texts, spans))
    return Tagged(str(path), texts, spans, dict(left_out), messages, [place for place, _, _ in rows])


def _require_none(path: str | Path, columns: Columns, names: Sequence[str]) -> None:
    for name in names:
        if (asked := getattr(columns, name)) is not None:
            raise UsageError(
                "{asked} is for texts with a label each, and {path} marks entities; leave it out",
                asked=Option(name, asked),
                path=path,
            )


def _cut_words(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> Iterator[Message]:
    """Say where entities begin or end within a word: what is learned and found are whole words."""
    cut = [
        (text[span.start : span.end], text)
        for text, found in zip(texts, spans, strict=True)
        for span in found
        if _is_within(text, span.start) or _is_within(text, span.end)
    ]
    if cut:
        yield Message(
            "{count} entities begin or end within a word, such as {part!r} in {text!r}; whole words are "
            "learned",
            count=len(cut),
            part=cut[0][0][:40],
            text=cut[0][1][:80],
        )


def spans_of(words: Sequence[str], tags: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """Return words as one text, and the entities that their tags mark.

    An entity begins where its tag does (B, S), or where one of another type or none was before it; as
    CoNLL-2003's own script reads IOB1, IOB2 and BIOES alike.
    """
    text, starts = "", []
    for word in words:
        starts.append(len(text) + (1 if text else 0))
        text = f"{text} {word}" if text else word
    spans: list[Span] = []
    last = ("O", "")
    for word, tag, start in zip(words, tags, starts, strict=True):
        prefix, label = _parts(tag)
        end = start + len(word)
        # Nothing can be marked of an empty word.
        if prefix != "O" and word:
            # After E or S the entity is over, whatever follows.
            goes_on = label == last[1] and prefix in ("I", "E") and last[0] in ("B", "I")
            if goes_on:
                spans[-1] = spans[-1]._replace(end=end)
            else:
                spans.append(Span(start, end, label))
        last = (prefix, label)
    return text, tuple(spans)


def _is_within(text: str, place: int) -> bool:
    """Return whether a place lies between two letters or digits."""
    return 0 < place < len(text) and text[place - 1].isalnum() and text[place].isalnum()


def _parts(tag: str) -> tuple[str, str]:
    """Return a tag's prefix, one of O B I E S, and its type."""
    if tag.upper() in ("O", "", "_", "-", "*"):
        return "O", ""
    prefix, dash, label = tag.partition("-")
    if dash and label and prefix.upper() in _PREFIXES:
        # BILOU says L and U where BIOES says E and S; some write M for what is in the middle.
        return {"L": "E", "U": "S", "M": "I"}.get(prefix.upper(), prefix.upper()), label
    return "I", tag


def _sentences(path: str) -> Iterator[tuple[str, tuple[Span, ...]]]:
    if not Path(path).is_file():
        raise InputError("there is no file {path}; give an existing file", path=path)
    words: list[str] = []
    tags: list[str] = []
    lines, width = lines_of(path), 0
    try:
        for line in lines:
            cells = _cells(line, lines.number, path)
            if cells and not words and _is_comment(cells, width):
                continue
            if cells and cells[0] != "-DOCSTART-":
                width = width or len(cells)
                if len(cells) < 2:
                    raise InputError(
                        "line {line} of {path} has no tag; each line needs a word and its tag, and an empty "
                        "line ends a sentence",
                        line=lines.number,
                        path=path,
                    )
                words.append(cells[0])
                tags.append(cells[-1])
            elif words:
                yield spans_of(words, tags)
                words, tags = [], []
    finally:
        lines.close()
    if words:
        yield spans_of(words, tags)


def _cells(line: bytes, number: int, path: str) -> list[str]:
    if isinstance(line, TooLong):
        raise InputError("{path}: {why}", path=path, why=line.error(number))
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("line {line} of {path} is not valid UTF-8", line=number, path=path) from error
    # Words of some scripts hold spaces that are no separators; a file with tabs means those.
    return text.split("\t") if "\t" in text else text.split()


def _is_comment(cells: Sequence[str], width: int) -> bool:
    """Return whether a line before a sentence is a comment, as `# id 7`, and no word `#` with its tag."""
    if not cells[0].startswith("#"):
        return False
    prefix, _, label = cells[-1].partition("-")
    tagged = cells[-1].upper() == "O" or bool(label and prefix in _PREFIXES)
    return not tagged or "=" in cells[1:3] or len(cells) != (width or len(cells))


def _fields(records: Records, columns: Columns) -> tuple[str, str, bool] | None:
    """Return the fields of texts and entities, and whether they are words and tags; None without them."""
    rows = [row for row in records.rows if not isinstance(row, RowError)]
    for texts, marks, worded in ((_WORDS, _TAGS, True), (_TEXTS, _SPANS, False)):
        for text in texts if columns.column is None else (columns.column,):
            for mark in marks if columns.label_column is None else (columns.label_column,):
                kind = (list if worded else str, list)
                values = [(row.get(text), row.get(mark)) for row in rows]
                held = [(a, b) for a, b in values if a is not None and b is not None]
                fits = held and all(isinstance(a, kind[0]) and isinstance(b, kind[1]) for a, b in held)
                if fits and (worded or any(_is_span(item) for _, items in held for item in items)):
                    return text, mark, worded
    return None


def _is_span(item: Any) -> bool:
    if isinstance(item, dict):
        return {"start", "end"} <= set(item)
    return isinstance(item, list) and len(item) == 3 and all(isinstance(place, int) for place in item[:2])


def _of_records(
    records: Records, fields: tuple[str, str, bool], left_out: Counter[str]
) -> Iterator[tuple[int, str, tuple[Span, ...]]]:
    text_name, mark_name, worded = fields
    for place, row in enumerate(records.rows):
        if isinstance(row, RowError):
            left_out["that could not be read"] += 1
        elif row.get(text_name) is None or row.get(mark_name) is None:
            left_out["without words or tags"] += 1
        elif not _is_text(row[text_name]):
            left_out["with a text that is empty or not valid Unicode"] += 1
        elif worded:
            yield place, *_tagged(row[text_name], row[mark_name], records.path)
        else:
            yield place, row[text_name], _marked(row, text_name, mark_name, records.path)


def _is_text(text: Any) -> bool:
    """Return whether a text or list of words can be read by a model."""
    if isinstance(text, list):
        return all(isinstance(word, str) for word in text) and _is_text(" ".join(text))
    return bool(text.strip()) and _is_whole(text)


def _is_whole(text: str) -> bool:
    # JSON can write halves of characters.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _tagged(words: list[Any], tags: list[Any], path: str) -> tuple[str, tuple[Span, ...]]:
    if len(words) != len(tags):
        raise InputError(
            "a row of {path} has {words} words and {tags} tags", path=path, words=len(words), tags=len(tags)
        )
    odd = [tag for tag in tags if not isinstance(tag, str) or not _is_whole(tag)]
    if odd:
        raise InputError(
            "the tags of {path} are no names, such as {tag!r}, and nothing says what they mean; write names, "
            "such as B-PER",
            path=path,
            tag=odd[0],
        )
    return spans_of(words, tags)


def _marked(row: Record, text_name: str, mark_name: str, path: str) -> tuple[Span, ...]:
    text = row[text_name]
    # By their places: what overlaps then lies side by side. One that is marked twice is one.
    found = sorted({_span(item, text, path) for item in row[mark_name]})
    for before, after in pairwise(found):
        if after.start < before.end:
            raise InputError(
                "two entities of {path} overlap in {text!r}; a word can have one label",
                path=path,
                text=text[before.start : after.end][:80],
            )
    return tuple(found)


def _span(item: Any, text: str, path: str) -> Span:
    if isinstance(item, dict):
        label = next((item[name] for name in ("label", "entity", "type", "tag") if name in item), None)
        values: tuple[Any, ...] = item.get("start"), item.get("end"), label
    else:
        values = tuple(item) if _is_span(item) else (None, None, None)
    start, end, label = values
    # True is an int too.
    named = label is not None and str(label).strip() and _is_whole(str(label))
    whole = type(start) is int and type(end) is int and named
    if not whole or not 0 <= start < end <= len(text) or not text[start:end].strip():
        raise InputError(
            "an entity of {path} is {item!r}, and the text has {length} characters; give start, end "
            "(from 0, half open) and label",
            path=path,
            item=str(item)[:80],
            length=len(text),
        )
    # White space around it belongs to no word, and is never found.
    part = text[start:end]
    start, end = end - len(part.lstrip()), start + len(part.rstrip())
    return Span(start, end, str(label).strip())
