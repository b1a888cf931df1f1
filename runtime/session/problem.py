"""Why something of this machine cannot be used, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

from bertonnx.errors import ProviderError
from bertonnx.wording import Call, Face, Install, Message, Term

__all__ = ["Problem", "Remedy", "not_usable", "problem_in"]

Remedy = Install | Call | Message
"""A line to type, or a sentence."""


@dataclass(frozen=True)
class Problem(Term):
    """Something that does not work.

    Attributes:
        what: what is missing or wrong.
        remedy: what mends it.
        fault: whether it should be mended even where nobody asked for it: a machine without a GPU is well
            without CUDA.
    """

    what: Message
    remedy: Remedy
    fault: bool = True

    def worded(self, face: Face) -> str:
        """Return the problem and its remedy in a face's words."""
        to_type = "" if isinstance(self.remedy, Message) else "type: "
        return f"{self.what.worded(face)}; {to_type}{self.remedy.worded(face)}"


def not_usable(problem: Problem) -> ProviderError:
    """Return the error of a provider that cannot be used."""
    return ProviderError("{problem}", problem=problem)


def problem_in(error: ProviderError) -> Problem | None:
    """Return the problem that an error speaks of; None where it only has words."""
    problem = error.facts.get("problem")
    return problem if isinstance(problem, Problem) else None
