"""Why a request is refused: one table from what went wrong to the words of each kind of client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bertonnx.errors import BertonnxError, MissingDependencyError, RowError, TaskError, UsageError
from bertonnx.wording import HTTP, PYTHON, Face

__all__ = ["PROBLEMS", "Problem", "RefusedError", "refusal_of"]


@dataclass(frozen=True)
class Problem:
    """A kind of refusal.

    Attributes:
        name: its name, also in metrics.
        status: of HTTP.
        type: OpenAI's `type`.
        code: OpenAI's `code`.
        tei_type: text-embeddings-inference's `error_type`.
        tei_status: its status, where it is another.
    """

    name: str
    status: int
    type: str = "invalid_request_error"
    code: str | None = None
    tei_type: str = "Validation"
    tei_status: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tei_status", self.tei_status or self.status)


PROBLEMS: Mapping[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("malformed", 400, tei_status=422),
        Problem("invalid", 400, tei_status=422),
        Problem("empty", 400, tei_type="Empty"),
        Problem("too_long", 400, code="context_length_exceeded", tei_status=422),
        Problem("tokenizer", 400, tei_type="Tokenizer", tei_status=422),
        Problem("unauthorized", 401, code="invalid_api_key", tei_type="Unauthorized"),
        Problem("unknown_model", 404, code="model_not_found"),
        Problem("unknown_path", 404, code="unknown_url"),
        Problem("method", 405, code="method_not_allowed"),
        Problem("slow", 408, type="timeout_error", code="request_timeout"),
        Problem("too_large", 413, code="request_too_large"),
        Problem("media", 415, code="unsupported_encoding"),
        Problem("wrong_task", 424, code="wrong_task", tei_type="Backend"),
        Problem("backend", 424, type="server_error", code="model_failed", tei_type="Backend"),
        Problem(
            "overloaded", 429, type="rate_limit_error", code="rate_limit_exceeded", tei_type="Overloaded"
        ),
        Problem("internal", 500, type="server_error", code="internal_error", tei_type="Backend"),
        Problem("unhealthy", 503, type="server_error", code="unavailable", tei_type="Unhealthy"),
    )
}

_ROWS = {"too-long": "too_long", "runtime": "backend"}
"""Kinds of `RowError` -> problems; all others are of what was sent."""


@dataclass(eq=False)
class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
        problem: name of a row of `PROBLEMS`.
        message: for the person who sent it; never holds a text or a key.
        param: the field that is at fault.
        headers: of the response.
        cause: the error of bertonnx, which its own clients raise again.
        face: whose words they read it in.
    """

    problem: str
    message: str
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())
    cause: BertonnxError | None = None
    face: Face = PYTHON

    @property
    def kind(self) -> Problem:
        """The row of the table."""
        return PROBLEMS[self.problem]


def refusal_of(error: BertonnxError) -> RefusedError:
    """Return the refusal that an error of bertonnx means."""
    said = error.worded(HTTP).encode("utf-8", "backslashreplace").decode()
    if isinstance(error, RowError):
        return RefusedError(_ROWS.get(error.kind, "invalid"), said, cause=error)
    if isinstance(error, TaskError):
        return RefusedError("wrong_task", said, cause=error)
    if isinstance(error, UsageError):
        return RefusedError("invalid", said, cause=error)
    return RefusedError(
        "internal" if isinstance(error, MissingDependencyError) else "backend", said, cause=error
    )
