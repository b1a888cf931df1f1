"""The account of a checkpoint's files: each key is read, refused by name, ignored on request, or private.

A key that nothing reads may still change what the model computes, as another version of a library reads it.
So a reader of a file gives an account of the keys that it leaves: `refuse` for those that may matter,
`private` for those that nobody reads. What came of them is said at the end of an export and on the card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from bertonnx.errors import CheckpointError
from bertonnx.wording import Message, Option

__all__ = ["Account", "require_no_null", "shown"]

_LONGEST = 80
_LISTED = 8


class Account:
    """What became of the keys that nothing reads, over all files of a checkpoint.

    Args:
        ignore: the keys that the user lets be ignored: a key's name, or "FILE: KEY".
    """

    def __init__(self, ignore: Sequence[str] = ()) -> None:
        self._asked = tuple(ignore)
        self._private: list[str] = []
        self._ignored: list[str] = []
        self._used: set[str] = set()
        self._notes: list[Message] = []

    @property
    def private_keys(self) -> tuple[str, ...]:
        """The keys that nobody reads, each as "FILE: KEY"."""
        return tuple(self._private)

    @property
    def ignored_keys(self) -> tuple[str, ...]:
        """The keys that are ignored because the user said so, each as "FILE: KEY"."""
        return tuple(self._ignored)

    def refuse(
        self, file: str, key: str, value: object, why: Message | str, *, remedy: Message | str = ""
    ) -> None:
        """Refuse a key that may matter, unless the user lets it be ignored.

        Args:
            file: the file's name within the checkpoint's folder, such as "1_Pooling/config.json".
            key: the key; of a nested object, with dots: "rope_parameters.factor".
            value: what stands there.
            why: what is wrong with it, to follow "config.json has key value, ".
            remedy: what else to do than to ignore it.

        Raises:
            CheckpointError: naming the file, the key, its value and what to do.
        """
        self.refuse_all(file, {key: value}, why, remedy=remedy)

    def refuse_all(
        self, file: str, values: Mapping[str, object], why: Message | str, *, remedy: Message | str = ""
    ) -> None:
        """Refuse several keys for one reason, as `refuse` does one; all are named at once.

        Raises:
            CheckpointError: the user does not ignore all of them.
        """
        left = {key: value for key, value in values.items() if not self._lifted(file, key)}
        if not left:
            return
        raise CheckpointError(
            "{file} has {keys}, {why}; {remedy}{ignore} leaves {them} out of account",
            file=file,
            keys=_listed([f"{key} {shown(value)}" for key, value in left.items()]),
            why=why,
            remedy=Message("{remedy}, or ", remedy=remedy) if remedy else "",
            ignore=Option("ignore_keys", [*left]),
            them="it" if len(left) == 1 else "them",
        )

    def private(self, file: str, keys: Iterable[str]) -> None:
        """Take down keys that nobody reads."""
        self._private.extend(f"{file}: {key}" for key in keys)

    def note(self, note: Message) -> None:
        """Take down a sentence on a key that was read in another way than it stands there."""
        self._notes.append(note)

    @property
    def notes(self) -> tuple[Message, ...]:
        """What is to be said of the keys, a sentence each."""
        notes = list(self._notes)
        if self._private:
            notes.append(Message("keys that no library reads: {keys}", keys=_listed(self._private)))
        if self._ignored:
            notes.append(Message("keys that were ignored, as asked: {keys}", keys=_listed(self._ignored)))
        # A slip of the pen in a name would otherwise look as if it had done something.
        idle = [name for name in self._asked if name not in self._used]
        if idle:
            notes.append(
                Message(
                    "{asked} was not needed: no such key was in the way", asked=Option("ignore_keys", idle)
                )
            )
        return tuple(notes)

    def _lifted(self, file: str, key: str) -> bool:
        name = f"{file}: {key}"
        by = [asked for asked in self._asked if asked in (key, name)]
        self._used.update(by)
        if by and name not in self._ignored:
            self._ignored.append(name)
        return bool(by)


def require_no_null(file: str, values: Mapping[str, object], keys: Iterable[str]) -> None:
    """Refuse a null where the library that reads the file fails on one.

    Raises:
        CheckpointError: naming the file and the key.
    """
    for key in keys:
        if key in values and values[key] is None:
            raise CheckpointError(
                "{file} has {key} null, on which Sentence-Transformers fails; take the key out",
                file=file,
                key=key,
            )


def shown(value: object) -> str:
    """Return a value as JSON writes it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
