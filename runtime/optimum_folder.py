"""Folders of models that came from elsewhere: where their files lie, and what they say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bertonnx.errors import ModelFileError
from bertonnx.wording import Call

__all__ = ["EXPORT", "ForeignFolder", "class_name", "find_folder"]

EXPORT = Call("export", "SOURCE")

_MODEL = "model.onnx"
_INNER = "onnx"
"""Sentence-Transformers and transformers.js keep the models of a checkpoint there."""

_NEEDED = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class ForeignFolder:
    """A model and the files that belong to it.

    Attributes:
        model: the ONNX file.
        root: where config.json and tokenizer.json lie: beside it, or one folder above.
        others: names of the models that lie there too, where the user did not say which.
    """

    model: Path
    root: Path
    others: tuple[str, ...] = ()

    def text(self, name: str) -> str:
        """Return the text of a file.

        Raises:
            ModelFileError: it cannot be read.
        """
        path = self.root / name
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelFileError("{path} cannot be read: {error}", path=path, error=str(error)) from error

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON file's object; empty where there is no such file.

        Raises:
            ModelFileError: it cannot be read, or is none.
        """
        path = self.root / name
        if not path.is_file():
            return {}
        try:
            value = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise ModelFileError("{path} is not valid JSON: {error}", path=path, error=str(error)) from error
        if not isinstance(value, dict):
            raise ModelFileError("{path} is not a JSON object; export the checkpoint again", path=path)
        return value

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's configuration."""
        return self.json("config.json")

    @cached_property
    def sentence(self) -> dict[str, Any]:
        """Sentence-Transformers' settings of the whole."""
        return self.json("config_sentence_transformers.json")

    @cached_property
    def transformer(self) -> dict[str, Any]:
        """Sentence-Transformers' settings of the encoder."""
        return self.json("sentence_bert_config.json")

    @cached_property
    def modules(self) -> list[tuple[str, str]]:
        """Type and folder of each module of Sentence-Transformers; none where nothing lists them."""
        if not (self.root / "modules.json").is_file():
            return []
        modules = json.loads(self.text("modules.json"))
        return [(str(module.get("type", "")), str(module.get("path", ""))) for module in modules]

    @property
    def pooling_file(self) -> str:
        """The pooling module's settings, which may not be there."""
        places = (place for kind, place in self.modules if class_name(kind) == "Pooling")
        return f"{next(places, '1_Pooling')}/config.json"

    @property
    def prompts(self) -> Mapping[str, str]:
        """Sentence-Transformers' prompts; a null is one without text."""
        return {str(name): str(text or "") for name, text in (self.sentence.get("prompts") or {}).items()}

    @property
    def default_prompt(self) -> str | None:
        """The name of the prompt that is used where none is asked for; None where it has no text."""
        name = self.sentence.get("default_prompt_name")
        return str(name) if name is not None and self.prompts.get(name) else None


def class_name(kind: str) -> str:
    """Return the class of a module's type; the whole type for a class that is the checkpoint's own."""
    return kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind


def find_folder(path: Path) -> ForeignFolder:
    """Return a model and its files, of a folder or of one model in it.

    Raises:
        ModelFileError: there is no model, or several and none called model.onnx, or a file that must
            be beside it is missing.
    """
    model, others = _model_in(path) if path.is_dir() else (path, ())
    above = model.absolute().parent.parent
    for root in (model.parent, above):
        if all((root / name).is_file() for name in _NEEDED):
            return ForeignFolder(model, root, others)
    # The one that has more of them is meant.
    root = max(model.parent, above, key=lambda folder: sum((folder / name).is_file() for name in _NEEDED))
    raise ModelFileError(
        "{path} was not made by bertonnx, and {folder} lacks {missing}: config.json and tokenizer.json must "
        "lie beside the model, or one folder above; copy them from the checkpoint that it was made from "
        "(transformers' save_pretrained writes both), or export that checkpoint: {export}",
        path=model,
        folder=root,
        missing=" and ".join(name for name in _NEEDED if not (root / name).is_file()),
        export=EXPORT,
    )


def _model_in(folder: Path) -> tuple[Path, tuple[str, ...]]:
    found = [*sorted(folder.glob("*.onnx")), *sorted(folder.glob(f"{_INNER}/*.onnx"))]
    chosen = [path for path in found if path.name == _MODEL] or found
    # Beside the configuration first; a name of its own is no choice where there are several.
    if chosen and (chosen[0].name == _MODEL or len(chosen) == 1):
        rest = [path.relative_to(folder).as_posix() for path in found if path != chosen[0]]
        return chosen[0], tuple(rest)
    raise ModelFileError(
        "{folder} holds no model.onnx (.onnx files there: {names}); give the file itself, or make one with: "
        "{export}",
        folder=folder,
        names=", ".join(path.relative_to(folder).as_posix() for path in found) or "none",
        export=EXPORT,
    )
