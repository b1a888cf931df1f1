"""What a folder from elsewhere says of its tokenizer: tokenizer.json, and the keys that change it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bertonnx.errors import ModelFileError
from bertonnx.runtime.optimum_folder import ForeignFolder
from bertonnx.runtime.tokenization import stripped

__all__ = ["ForeignTokenizer"]

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"

_SOMETIMES = ("token_type_ids",)
"""Inputs of which a tokenizer says whether it makes them; Optimum gives a graph zeros in their place."""

_AS_WRITTEN = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of tokenizers that are what tokenizer.json says, with the special tokens that the folder names."""

_CASES: Mapping[str, str] = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Keys of tokenizer_config.json by which BERT's classes change what tokenizer.json says."""


@dataclass(frozen=True)
class ForeignTokenizer:
    """A folder's tokenizer.

    Attributes:
        folder: holds its files.
    """

    folder: ForeignFolder

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """tokenizer_config.json."""
        return self.folder.json(_CONFIG)

    @cached_property
    def _file(self) -> Mapping[str, Any]:
        return self.folder.json(_FILE)

    @property
    def text(self) -> str:
        """The text of its `tokenizer.json`, cases as the keys beside it say."""
        # Saved padding and truncation are how it was trained, not how it is used.
        text = stripped(self.folder.text(_FILE))
        data = json.loads(text)
        own = wanted = data.get("normalizer")
        if own and own["type"] == "BertNormalizer" and not self._as_written:
            wanted = {**own, **{name: self.config[key] for key, name in _CASES.items() if key in self.config}}
        if self.folder.transformer.get("do_lower_case"):
            # As Sentence-Transformers does: before whatever else the tokenizer changes.
            parts = wanted["normalizers"] if own and own["type"] == "Sequence" else [wanted] if own else []
            wanted = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *parts]}
        if wanted == own:
            return text
        return json.dumps({**data, "normalizer": wanted}, ensure_ascii=False, separators=(",", ":"))

    @property
    def _as_written(self) -> bool:
        return self.config.get("tokenizer_class") in _AS_WRITTEN

    def made(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """Return those of a graph's inputs that it makes."""
        names = self.config.get("model_input_names") or inputs
        return tuple(name for name in inputs if name in names or name not in _SOMETIMES)

    def side(self, name: str) -> str:
        """Return where a text is padded or cut: tokenizer.json says it where no key does.

        Args:
            name: "padding" or "truncation".

        Raises:
            ModelFileError: that is neither left nor right.
        """
        key = f"{name}_side"
        saved = self._file.get(name) or {}
        side = str(self.config.get(key) or saved.get("direction", "right")).lower()
        if side not in ("left", "right"):
            raise ModelFileError(
                "tokenizer_config.json in {folder} has {key} {side!r}, which is neither left nor right; "
                "write one of them there",
                folder=self.folder.root,
                key=key,
                side=side,
            )
        return side

    def token(self, name: str) -> str | None:
        """Return a special token by its name, such as "mask_token"; None where it is not named."""
        given = self.config.get(name, self.folder.json("special_tokens_map.json").get(name))
        return given.get("content") if isinstance(given, dict) else given

    def token_id(self, token: str | None) -> int | None:
        """Return the id of an added token; None where there is none."""
        added = self._file.get("added_tokens", [])
        return next((int(entry["id"]) for entry in added if entry["content"] == token), None)

    def named_id(self, name: str) -> int | None:
        """Return the id of a special token, -1 where the tokenizer has none; None where nothing says it."""
        token = self.token(name)
        # Any other class has tokens of its own, which need not be written down.
        return -1 if token is None and self._as_written else self.token_id(token)
