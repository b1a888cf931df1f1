"""Every tensor of a source: what it becomes, or why it is left out, or an error that lists it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow.layouts import Layout, Placed, left_out
from bertonnx.exporters.checkpoint.tensorflow.stored import Stored
from bertonnx.models.source_tensors import SourceTensor, change
from bertonnx.wording import Message, Option

__all__ = ["Account", "Entry", "open_account"]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_AVERAGE = re.compile(r"(.*/)?ExponentialMovingAverage|.*/\.OPTIMIZER_SLOT/.*/average/.*")
_UNUSED = re.compile(
    r"(.*\.)?pooler\..*|cls\.seq_relationship\..*|sop_classifier\..*|discriminator_predictions\..*"
)
"""What pre-training has and a head may have no use for; all other weights that a class lacks are unknown."""


@dataclass(frozen=True)
class Entry:
    """A tensor, and where it goes.

    Attributes:
        stored: the tensor.
        placed: where it goes; None where it is left out or unknown.
        why: why it is left out; "" where it is not.
    """

    stored: Stored
    placed: Placed | None
    why: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in PyTorch."""
        assert self.placed is not None
        return change(self.placed.how).shape(self.stored.shape)

    def row(self) -> SourceTensor:
        """Return what the card keeps of it; reads its numbers."""
        stored, placed = self.stored, self.placed
        digest = stored.sha256()
        label = stored.label or stored.name
        if placed is None:
            return SourceTensor(label, stored.shape, stored.dtype, digest, "", f"left out: {self.why}")
        return SourceTensor(label, stored.shape, stored.dtype, digest, placed.name, placed.how)


@dataclass
class Account:
    """All tensors of a source.

    Attributes:
        what: what the user typed.
        entries: in the order of the source.
        doubled: names that two different tensors would become.
    """

    what: str
    entries: list[Entry]
    doubled: list[str] = field(default_factory=list)

    @property
    def placed(self) -> dict[str, Entry]:
        """PyTorch's name -> the tensor that it is made of."""
        return {one.placed.name: one for one in self.entries if one.placed is not None}

    @property
    def unknown(self) -> list[str]:
        """Names of tensors that no rule knows."""
        return [
            one.stored.label or one.stored.name for one in self.entries if one.placed is None and not one.why
        ]

    def leave(self, names: Iterable[str], why: str) -> None:
        """Leave out what became of PyTorch's names."""
        # Left on the account, with the reason: nothing of a source goes without a word.
        gone = set(names)
        self.entries = [
            Entry(one.stored, None, why) if one.placed is not None and one.placed.name in gone else one
            for one in self.entries
        ]

    def rename(self, names: Mapping[str, str]) -> None:
        """Give PyTorch's names others."""
        self.entries = [
            Entry(one.stored, Placed(names[one.placed.name], one.placed.how))
            if one.placed is not None and one.placed.name in names
            else one
            for one in self.entries
        ]

    def settle(self, model: str, wanted: Mapping[str, tuple[int, ...]], optional: Iterable[str]) -> None:
        """Compare with what a model has, and leave out what it has no place for and may lack.

        Args:
            model: the class of transformers.
            wanted: its parameters and their shapes.
            optional: those that may be missing: tied ones, say.

        Raises:
            CheckpointError: tensors are unknown, missing, doubled or misshapen; lists all of them.
        """
        placed = self.placed
        extra = [name for name in placed if name not in wanted]
        self.leave((name for name in extra if _UNUSED.fullmatch(name)), f"{model} has no place for it")
        stray = [placed[name].stored for name in extra if not _UNUSED.fullmatch(name)]
        missing = sorted(set(wanted) - set(placed) - set(optional))
        misshapen = [
            f"{one.stored.label or one.stored.name} {one.stored.shape} would be {name} of shape {one.shape}, "
            f"and {wanted[name]} is needed"
            for name, one in placed.items()
            if name in wanted and one.shape != wanted[name]
        ]
        # Whose scales, where there are any, are elsewhere.
        whole = [one.stored for one in placed.values() if one.stored.dtype not in _FLOATS]
        problems = {
            "unknown": grouped([*self.unknown, *(one.label or one.name for one in stray)]),
            "missing": grouped(missing),
            "doubled": grouped(self.doubled),
            "misshapen": misshapen,
            "quantized, in whole numbers": grouped([one.name for one in whole]),
        }
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        if listed:
            raise CheckpointError(
                "the tensors of {what} are not those of a {model} ({listed}); {remedy}",
                what=self.what,
                model=model,
                listed=listed,
                remedy=_remedy(self.unknown or stray),
            )


def _remedy(unknown: object) -> Message:
    if not unknown:
        return Message("use a complete checkpoint, with the configuration that belongs to it")
    return Message(
        "where an unknown one has nothing to do with predictions, add {option}",
        option=Option("ignore_keys", ["NAME"]),
    )


def open_account(what: str, found: Sequence[Stored], layout: Layout, ignored: Sequence[str]) -> Account:
    """Return where each tensor goes by the names of its kind, before any model is asked.

    Args:
        what: what the user typed.
        found: the tensors.
        layout: their kind.
        ignored: names, or parts of names between slashes, of tensors that are left out.

    Raises:
        CheckpointError: the source has moving averages of its weights beside them.
    """
    names = {one.name for one in found}
    entries = [_entry(one, layout, ignored, names) for one in layout.prepare(found)]
    averages = [one.stored for one in entries if _is_average(one.stored) and not one.why.endswith(_ASKED)]
    if averages:
        raise CheckpointError(
            "{what} holds each weight twice, as it was trained and as its moving average over training "
            "({count} of them, such as {name}), and nothing says which is meant; {option} takes those that "
            "were trained; for the averages, restore them in TensorFlow and save the model again",
            what=what,
            count=len(averages),
            name=averages[0].label or averages[0].name,
            option=Option("ignore_keys", ["ExponentialMovingAverage"]),
        )
    account = Account(what, entries)
    _settle_doubled(account)
    return account


_ASKED = "as asked"


def _is_average(one: Stored) -> bool:
    return any(_AVERAGE.fullmatch(name) for name in (one.name, one.key))


def _entry(one: Stored, layout: Layout, ignored: Sequence[str], names: Collection[str]) -> Entry:
    averaged = _is_average(one)
    parts = {one.name, one.key, one.label, *one.name.split("/"), *one.key.split("/")}
    if parts & set(ignored) or (averaged and "ExponentialMovingAverage" in ignored):
        return Entry(one, None, _ASKED)
    why = next((why for pattern, why in layout.leaves if pattern.fullmatch(one.name)), "") or left_out(one)
    # TensorFlow 1 calls what its optimizers keep of a variable VARIABLE/KIND: Momentum, RMSProp, lamb_m.
    if not why and one.name.rpartition("/")[0] in names:
        why = "a slot of the optimizer"
    return Entry(one, None, why) if why else Entry(one, layout.placed(one))


def _settle_doubled(account: Account) -> None:
    """Leave out a tensor that is there again with the same numbers, and note what is there with others."""
    first: dict[str, Entry] = {}
    entries = []
    for one in account.entries:
        before = None if one.placed is None else first.setdefault(one.placed.name, one)
        if before is not None and before is not one:
            if before.stored.sha256() != one.stored.sha256():
                account.doubled.append(f"{before.stored.label} and {one.stored.label}")
            entries.append(Entry(one.stored, None, f"the same as {before.stored.label}"))
        else:
            entries.append(one)
    account.entries = entries


def grouped(names: Sequence[str]) -> list[str]:
    """Return names, those that differ in one number alone together: "layer_{0-11}/output/kernel"."""
    groups: dict[str, list[list[int]]] = {}
    # A whole missing layer is 16 names, and 12 of them are one thing to a reader.
    for name in names:
        pattern = re.sub(r"\d+", "{}", name)
        groups.setdefault(pattern, []).append([int(number) for number in re.findall(r"\d+", name)])
    listed = []
    for pattern, numbers in groups.items():
        columns = [sorted(set(column)) for column in zip(*numbers, strict=True)]
        shown = [_span(column) for column in columns]
        for text in shown:
            pattern = pattern.replace("{}", text, 1)
        listed.append(pattern)
    return listed


def _span(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    whole = numbers[-1] - numbers[0] + 1 == len(numbers)
    return f"{{{numbers[0]}-{numbers[-1]}}}" if whole else f"{{{','.join(map(str, numbers))}}}"
