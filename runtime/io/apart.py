"""The files of a run are all different ones: none that it writes is one that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bertonnx.errors import UsageError
from bertonnx.runtime.io.files import BESIDE, resolved
from bertonnx.wording import Option

__all__ = ["require_apart"]


def require_apart(writes: Mapping[str, str | Path | None], reads: Mapping[str, Sequence[Path]]) -> None:
    """Check, before any work is done, that a run can write its files and take away what it makes beside them.

    Args:
        writes: "output" and "manifest", by the names of options; None for what is not written.
        reads: what the run reads, by what it is to it ("model", "input").

    Raises:
        UsageError: naming the two that are one.
        OutputError: links lead in a circle.
    """
    made = [*_made(writes["output"], "output", BESIDE), *_made(writes["manifest"], "manifest", (".new",))]
    for option, path in made:
        for what, others in reads.items():
            _require(option, path, what, others)
    outputs = [path for option, path in made if option.name == "output"]
    for option, path in made:
        if option.name == "output":
            continue
        _require(option, path, "output", outputs[:1])
        if any(_is_same(path, other) for other in outputs[1:]):
            raise UsageError(
                "{asked} is a file that the run makes beside its output, and takes away; name another",
                asked=option,
            )


def _made(given: str | Path | None, name: str, endings: Sequence[str]) -> Iterator[tuple[Option, Path]]:
    if given is not None:
        path = resolved(Path(given))
        for ending in ("", *endings):
            yield Option(name, given), path.with_name(path.name + ending)


def _require(option: Option, path: Path, what: str, others: Sequence[Path]) -> None:
    if not any(_is_same(path, other) for other in others):
        return
    if path == resolved(Path(option.value)):
        raise UsageError("{asked} is the {what} of the run; name another file", asked=option, what=what)
    raise UsageError(
        "with {asked} the run makes {path} and takes it away, and that is its {what}; name another file",
        asked=option,
        path=path,
        what=what,
    )


def _is_same(one: Path, other: Path) -> bool:
    with suppress(OSError):  # one of them is not there, or cannot be
        return one.samefile(other)
    return one.absolute() == other.absolute()
