"""SetFit folders: the classifier is named, or the embeddings alone are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertonnx.errors import UnsupportedError
from tests.checkpoints import message, read
from tests.tiny import save_tiny


@pytest.mark.parametrize("file", ["config_setfit.json", "model_head.pkl"])
def test_a_classifier_is_not_left_out_unsaid(tmp_path: Path, file: str) -> None:
    save_tiny(tmp_path, task="feature-extraction")
    (tmp_path / file).write_text("{}")
    said = message(UnsupportedError, tmp_path)
    assert f"is a SetFit model ({file})" in said
    assert "--task feature-extraction" in said
    assert read(tmp_path, task="feature-extraction").task == "feature-extraction"
