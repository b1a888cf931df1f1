"""Every error that bertonnx raises on purpose, in one tree.

::

    BertonnxError                 exit code 1
    ├── UsageError                exit code 2: arguments that contradict each other
    ├── MissingDependencyError    a package that this command needs is not installed
    ├── SourceError               the checkpoint cannot be had (not found, gated, offline, unsafe)
    ├── CheckpointError           the checkpoint is there, but broken or incomplete
    ├── UnsupportedError          this family or task cannot be exported, with the reason
    ├── GraphError                a step of the export failed on the model's graph
    ├── FusionError               a fusion that the family should have did not match
    ├── ParityError               PyTorch and ONNX Runtime disagree
    ├── PrecisionError            INT8 or fp16 is not close enough to fp32, or cannot be had
    │   └── QuantizationError     of INT8
    ├── ModelFileError            model.onnx is missing, truncated, foreign or from a newer bertonnx
    ├── DriftError                the golden examples do not come out as they did at export
    ├── SignatureError            a model file is not signed, or not by this key, or was changed since
    ├── ProviderError             the provider that was asked for cannot be used
    ├── InferenceError            ONNX Runtime failed on a batch
    ├── OutOfMemoryError          a batch did not fit into memory
    ├── TaskError                 the model's task cannot serve this method
    ├── ServerError               a server cannot listen, cannot be reached, or did not answer
    ├── InputError                the input cannot be read
    ├── OutputError               the output cannot be written
    └── RowError                  one text failed; the others are not touched

`TruncationWarning` is no error: texts were cut, and Python's `warnings` say how many.

An error is a template and facts: what was asked, what is there, what is allowed, and what mends it.
`str(error)` words it for Python; `error.worded(face)` for the command line or R (`bertonnx.wording`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertonnx.wording import PYTHON, Face, Message

__all__ = [
    "BertonnxError",
    "CheckpointError",
    "DriftError",
    "FusionError",
    "GraphError",
    "InferenceError",
    "InputError",
    "MissingDependencyError",
    "ModelFileError",
    "OutOfMemoryError",
    "OutputError",
    "ParityError",
    "PrecisionError",
    "ProviderError",
    "QuantizationError",
    "RowError",
    "ServerError",
    "SignatureError",
    "SourceError",
    "TaskError",
    "TruncationWarning",
    "UnsupportedError",
    "UsageError",
]


class BertonnxError(Exception):
    """Base of all errors of bertonnx; `exit_code` is what the command line ends with.

    Args:
        template: the message, with a name in braces for each fact; taken as it is where there are none.
        facts: by those names: plain values, or terms that each face words in its own way.
    """

    exit_code = 1

    def __init__(self, template: str = "", /, **facts: Any) -> None:
        super().__init__(template)
        self.message = Message(template, **facts)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the message is made of, by name."""
        return self.message.facts

    def worded(self, face: Face) -> str:
        """Return the message in a face's words."""
        return self.message.worded(face)

    def __str__(self) -> str:
        return self.worded(PYTHON)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.message.template, dict(self.facts))


def _rebuilt(kind: type[BertonnxError], template: str, facts: Mapping[str, Any]) -> BertonnxError:
    return kind(template, **facts)


class UsageError(BertonnxError):
    """Arguments that are wrong in themselves, whatever the files hold."""

    exit_code = 2


class MissingDependencyError(BertonnxError):
    """A package is not installed; the message holds the line that installs it."""


class SourceError(BertonnxError):
    """The checkpoint cannot be had: not found, gated, no network, or not safe to load."""


class CheckpointError(BertonnxError):
    """The checkpoint was found, but a part is missing, broken or contradicts another."""


class UnsupportedError(BertonnxError):
    """A family or task that cannot be exported; the message says why."""


class GraphError(BertonnxError):
    """A graph step failed on a model, or left what it must not; names the step and those before it."""


class FusionError(BertonnxError):
    """Fewer attention operators were fused than the family has layers."""


class ParityError(BertonnxError):
    """The exported graph and the PyTorch model give different numbers."""


class PrecisionError(BertonnxError):
    """INT8 or fp16 costs more than was allowed, or cannot be had for this model; no file was written."""


class QuantizationError(PrecisionError):
    """INT8 costs more than was allowed, or cannot be had for this model; no file was written."""


class ModelFileError(BertonnxError):
    """The model file is missing, broken, foreign, or of a format this version cannot read."""


class DriftError(BertonnxError):
    """The file no longer gives the answers that it gave when it was exported."""


class SignatureError(BertonnxError):
    """A model file is not signed, or another key signed it, or it was changed since."""


class ProviderError(BertonnxError):
    """The provider that was asked for is not available, or was not really used."""


class InferenceError(BertonnxError):
    """ONNX Runtime failed on a batch; the engine tries its texts one by one."""


class OutOfMemoryError(BertonnxError):
    """A batch did not fit into the memory of the device; the engine goes on with smaller ones."""


class TaskError(BertonnxError):
    """A method was called that the model's task cannot serve."""


class ServerError(BertonnxError):
    """A server cannot listen on its address, cannot be reached, or refused or failed to answer."""


class InputError(BertonnxError):
    """The input as a whole cannot be read: no such file, no such column, not Parquet."""


class OutputError(BertonnxError):
    """The output cannot be written: no such folder, no permission, disk full."""


class RowError(BertonnxError):
    """One row failed. `kind` is the `type` of the row's `error` field.

    Kinds: `invalid-text` (not text, or not valid Unicode), `invalid-json`, `ragged-row` (too many
    or too few fields), `malformed-row` (wrong quotes), `too-large` (a line of more than 64 MiB),
    `missing-text` (null or a missing field),
    `missing-pair`, `too-long` (with `long_text="error"`), `no-mask`, `no-tokens` (the tokenizer
    makes none of the text, and the model needs one), `runtime`.
    """

    def __init__(self, kind: str, template: str, /, **facts: Any) -> None:
        super().__init__(template, **facts)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would rebuild it from the template alone, and the kind would be missing.
        return _rebuilt_row, (self.kind, self.message.template, dict(self.facts))


def _rebuilt_row(kind: str, template: str, facts: Mapping[str, Any]) -> RowError:
    return RowError(kind, template, **facts)


class TruncationWarning(UserWarning):
    """Texts were longer than the model takes, and were cut; once for each call of a method."""
