"""What a user can do where a step of INT8 fails."""

from __future__ import annotations

from bertonnx.wording import Message, Option

__all__ = ["WITHOUT_INT8"]

WITHOUT_INT8 = Message("export without {option}", option=Option("quantize"))
