"""What version 5's tokenizer classes build themselves, whatever tokenizer.json says.

Those of one family take the vocabulary and the added tokens of the file, and pass over the rest of it. The
table has what each builds (`tools/make_tokenizer_table.py`), so that this is known under version 4 as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tokenizer_classes import BUILT_BY, parts_built
from bertonnx.exporters.checkpoint.tokenizer_folder import TokenizerFolder
from bertonnx.models.hard_texts import HARD_TEXTS
from bertonnx.runtime.tokenizers_seam import FaultError, guarded
from bertonnx.wording import said_by

__all__ = ["as_built"]


def as_built(made: Tokenizer, folder: TokenizerFolder, ignored: Mapping[str, bool]) -> Tokenizer:
    """Return a tokenizer with the parts that its folder's class of version 5 builds.

    Args:
        made: what tokenizer.json says, with its added tokens.
        folder: its files.
        ignored: keys of tokenizer_config.json that are ignored for what the file does.

    Raises:
        CheckpointError: the file gives other ids.
    """
    data: dict[str, Any] = json.loads(made.to_str())
    parts = parts_built(folder.kind.name, {**_settings(folder, data["normalizer"]), **ignored})
    if parts is None:
        return made
    if parts["model"]["type"] != data["model"]["type"]:
        raise CheckpointError(
            "tokenizer.json in {folder} has a {found} model, and a {kind} of transformers 5 is made of a "
            "{wanted} model; write the class that the tokenizer has into tokenizer_config.json, or "
            '"tokenizer_class": "PreTrainedTokenizerFast" for none',
            folder=folder.path,
            found=data["model"]["type"],
            kind=folder.kind.name,
            wanted=parts["model"]["type"],
        )
    named = {f"<<{name}>>": token.content for name, token in folder.named.items()}
    for part, state in parts.items():
        if part == "model":
            data[part] = {**data[part], **_model(state, data[part], named, folder)}
        elif part != "post_processor" or state is not None:
            data[part] = _filled(state, named, made, _charsmap(data["normalizer"]))
    try:
        with guarded():
            built = Tokenizer.from_str(json.dumps(data))
    except FaultError as error:
        raise CheckpointError(
            "a {kind} of transformers 5 cannot be made of tokenizer.json in {folder} ({why}); put the "
            "checkpoint's original file in its place",
            kind=folder.kind.name,
            folder=folder.path,
            why=said_by(error),
        ) from error
    text = _difference(made, built)
    if text is None:
        return built
    raise CheckpointError(
        "tokenizer.json in {folder} gives other ids than a {kind} of transformers 5, which takes no more "
        "than the vocabulary from it, for example for {text!r}; if that class is right, save it again where "
        "5 is installed: AutoTokenizer.from_pretrained('folder').save_pretrained('folder'); if the file is, "
        'put "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json',
        folder=folder.path,
        kind=folder.kind.name,
        text=text[:60],
    )


def _settings(folder: TokenizerFolder, normalizer: Any) -> dict[str, Any]:
    def value(name: str) -> Any:
        if name == "_spm_precompiled_charsmap":
            return _charsmap(normalizer) is not None
        given = folder.setting(name)
        return given if given is None and name == "strip_accents" else bool(given)

    return {name: value(name) for name in BUILT_BY}


def _charsmap(normalizer: Any) -> str | None:
    """Return a normalizer's map of characters, where version 5 looks for one."""
    states = (normalizer or {}).get("normalizers") or [normalizer or {}]
    return next((state["precompiled_charsmap"] for state in states if "precompiled_charsmap" in state), None)


def _model(
    state: Mapping[str, Any], own: Mapping[str, Any], named: Mapping[str, str], folder: TokenizerFolder
) -> dict[str, Any]:
    found = dict(state)
    if found.get("unk_id") in named:
        # Looked for with a score of nothing; without one each class takes a number of its own.
        unknown = named[found["unk_id"]]
        places = [i for i, piece in enumerate(own["vocab"]) if [*piece] == [unknown, 0.0]]
        found["unk_id"] = places[0] if places else own["unk_id"]
        if not places and own["vocab"][own["unk_id"]][0] != unknown:
            raise CheckpointError(
                "tokenizer_config.json in {folder} has unk_token {unknown!r}, and tokenizer.json another; "
                "write the same into both",
                folder=folder.path,
                unknown=unknown,
            )
    if found.get("unk_token") in named:
        found["unk_token"] = named[found["unk_token"]]
    return found


def _filled(state: Any, named: Mapping[str, str], made: Tokenizer, charsmap: str | None) -> Any:
    """Return a part with the tokens, their ids and the map of characters of one folder."""
    if isinstance(state, str):
        return named.get(state, state)
    if isinstance(state, list):
        if len(state) == 2 and isinstance(state[0], str) and state[0] in named:
            return [named[state[0]], made.token_to_id(named[state[0]])]
        return [_filled(one, named, made, charsmap) for one in state]
    if not isinstance(state, dict):
        return state
    filled = {named.get(name, name): _filled(value, named, made, charsmap) for name, value in state.items()}
    if "precompiled_charsmap" in state:
        filled["precompiled_charsmap"] = charsmap
    if "ids" in state:
        filled["ids"] = [made.token_to_id(token) for token in filled["tokens"]]
    return filled


def _difference(made: Tokenizer, built: Tokenizer) -> str | None:
    cases: list[tuple[str, str | None]] = [(text, None) for text in HARD_TEXTS]
    cases += zip(HARD_TEXTS, reversed(HARD_TEXTS), strict=True)
    for text, pair in cases:
        if _pieces(made, text, pair) != _pieces(built, text, pair):
            return text
    return None


def _pieces(tokenizer: Tokenizer, text: str, pair: str | None) -> tuple[list[int], list[int]] | None:
    """Return ids and segments; None where the tokenizer fails."""
    try:
        with guarded():
            found = tokenizer.encode(text, pair)
    except FaultError:
        return None
    return found.ids, found.type_ids
