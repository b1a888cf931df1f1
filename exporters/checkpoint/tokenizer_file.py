"""A folder's tokenizer.json as the version and class that saved it read it, whatever is installed.

Version 4's classes change what the file says by keys of tokenizer_config.json; what they do is done here
again. Version 5's classes for one family build a tokenizer anew of the vocabulary and of such keys. They
wrote the file as well, so it says the same, and where a key says another thing it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.tokenizer_folder import CONFIG, TokenizerFolder
from bertonnx.wording import Message, said_by

__all__ = ["add_tokens", "file_tokenizer"]

_SAVE_AGAIN = Message("save it again: tokenizer.save_pretrained('folder')")


def file_tokenizer(folder: TokenizerFolder, account: Account) -> Tokenizer:
    """Return what a folder's tokenizer.json and tokenizer_config.json make together.

    Raises:
        CheckpointError: the file is broken, or a key of tokenizer_config.json contradicts it.
    """
    file = folder.file
    assert file is not None
    try:
        made = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            "{path} cannot be loaded as a tokenizer ({why}); put the checkpoint's original file in its place",
            path=file,
            why=said_by(error),
        ) from error
    _require_no_dropout(made, file)
    # The runtime pads and cuts by itself.
    made.no_padding()
    made.no_truncation()
    if "python" in folder.kind.rules:
        raise CheckpointError(
            "the tokenizer in {folder}, a {kind}, splits texts with Python code, which cannot be written "
            'into the model file; if the model was trained without it, put "tokenizer_class": '
            '"PreTrainedTokenizerFast" into tokenizer_config.json',
            folder=folder.path,
            kind=folder.kind.name,
        )
    if folder.version == 4:
        made = _follow_version_4(made, folder)
    elif not folder.mixed:
        _require_version_5(made, folder, account)
    add_tokens(made, folder)
    if folder.version == 4 and "bos and eos" in folder.kind.rules:
        _put_bos_and_eos(made, folder)
    return made


def _require_no_dropout(made: Tokenizer, file: Path) -> None:
    # As it is used in training; libraries go on with it where the file keeps it.
    dropout = getattr(made.model, "dropout", None)
    if dropout:
        raise CheckpointError(
            "{path} has dropout {dropout} in its model, so that words are split at random and each time "
            "otherwise; write null there",
            path=file,
            dropout=dropout,
        )


def _put_bos_and_eos(made: Tokenizer, folder: TokenizerFolder) -> None:
    """Put the tokens around a text that `GemmaTokenizerFast` does, whatever tokenizer.json says."""
    around: dict[str, str] = {}
    for name in ("bos_token", "eos_token"):
        if folder.setting(f"add_{name}"):
            if name not in folder.named:
                raise CheckpointError(
                    "tokenizer_config.json in {folder} has add_{name} true, and no {name}; write it there",
                    folder=folder.path,
                    name=name,
                )
            around[name] = folder.named[name].content
    parts = [[around.get("bos_token"), text, around.get("eos_token")] for text in ("$A", "$B")]
    single, second = (
        " ".join(f"{part}:{segment}" for part in each if part) for segment, each in enumerate(parts)
    )
    made.post_processor = processors.TemplateProcessing(
        single=single,
        pair=f"{single} {second}",
        special_tokens=[(token, made.token_to_id(token)) for token in set(around.values())],
    )


def _follow_version_4(made: Tokenizer, folder: TokenizerFolder) -> Tokenizer:
    rules = folder.kind.rules
    prefix = bool(folder.setting("add_prefix_space"))
    wanted: dict[str, dict[str, Any]] = {"pre_tokenizer": {"add_prefix_space": prefix}}
    if rules & {"bert normalizer", "cases"}:
        wanted["normalizer"] = {
            "lowercase": folder.setting("do_lower_case"),
            "strip_accents": folder.setting("strip_accents"),
        }
    if "bert normalizer" in rules:
        wanted["normalizer"]["handle_chinese_chars"] = folder.setting("tokenize_chinese_chars")
    # Where offsets begin.
    if "affixes" in rules:
        trim = folder.setting("trim_offsets")
        wanted["post_processor"] = {"add_prefix_space": prefix, "trim_offsets": trim}
    # As text, since the names of a part's arguments change from one release of tokenizers to the next.
    data = json.loads(made.to_str())
    for part, values in wanted.items():
        state = data[part] or {}
        # transformers sets what it finds there; a sequence of parts stays as it is.
        state.update({name: value for name, value in values.items() if name in state})
    return Tokenizer.from_str(json.dumps(data, ensure_ascii=False))


def _require_version_5(made: Tokenizer, folder: TokenizerFolder, account: Account) -> None:
    if "template" in folder.kind.rules and made.num_special_tokens_to_add(is_pair=False) == 0:
        raise CheckpointError(
            "tokenizer.json in {folder} puts no special tokens around a text (post_processor), and a {kind} "
            "of transformers 5 does; load the tokenizer where 5 is installed, and {again}",
            folder=folder.path,
            kind=folder.kind.name,
            again=_SAVE_AGAIN,
        )
    if "builds" not in folder.kind.rules:
        return
    for key, wanted, found in _said_twice(made, folder):
        if wanted != found:
            said, right = key in folder.config, json.dumps(found)
            own = "" if said else f"where {CONFIG} does not say it, "
            account.refuse(
                CONFIG if said else folder.kind.name,
                key,
                wanted,
                f"{own}and tokenizer.json says {right}, so that {folder.kind.name} and the file give "
                "different ids",
                remedy=_SAVE_AGAIN
                if said
                else Message(
                    "if the file is right, write {line} into {config}",
                    line=f'"{key}": {right}',
                    config=CONFIG,
                ),
            )


def _said_twice(made: Tokenizer, folder: TokenizerFolder) -> Iterator[tuple[str, bool, bool]]:
    """Yield keys of tokenizer_config.json, what they say, and what the file does."""
    for key, does in _VISIBLE.items():
        if key in folder.kind.defaults and (value := folder.setting(key)) is not None:
            found = does(made)
            if found is not None:
                yield key, bool(value), found


def _normalized(text: str, same: str) -> Callable[[Tokenizer], bool]:
    def does(made: Tokenizer) -> bool:
        return made.normalizer is not None and made.normalizer.normalize_str(text).strip() != same

    return does


def _prefixes(made: Tokenizer) -> bool | None:
    found: bool | None = None
    for state in _parts(_state(made.pre_tokenizer)):
        if "add_prefix_space" in state:
            found = bool(state["add_prefix_space"])
        elif "prepend_scheme" in state:
            found = state["prepend_scheme"] == "always"
    return found


def _splits_punctuation(made: Tokenizer) -> bool:
    return any(state.get("type") == "Punctuation" for state in _parts(_state(made.pre_tokenizer)))


def _spaces_chinese(made: Tokenizer) -> bool:
    return made.normalizer is not None and " " in made.normalizer.normalize_str("a中b")


def _keeps_accents(made: Tokenizer) -> bool:
    return not _normalized("é", "é")(made)


_VISIBLE: Mapping[str, Callable[[Tokenizer], bool | None]] = {
    "do_lower_case": _normalized("A", "A"),
    "strip_accents": _normalized("é", "é"),
    "tokenize_chinese_chars": _spaces_chinese,
    "keep_accents": _keeps_accents,
    "add_prefix_space": _prefixes,
    "split_by_punct": _splits_punctuation,
}
"""Keys whose meaning shows in a tokenizer.json -> what the file does; None where it cannot be told."""


def _parts(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "pretokenizers" in state:
        for part in state["pretokenizers"]:
            yield from _parts(part)
    else:
        yield state


def add_tokens(made: Tokenizer, folder: TokenizerFolder) -> None:
    """Add the tokens that are missing, as both versions do: those with ids first, then special ones."""
    there = list(made.get_added_tokens_decoder().values())
    reprs, names = {repr(token) for token in there}, {token.content for token in there}
    # Another repr with the same name changes how the token is found in a text.
    new: list[AddedToken] = [token for token in folder.added if repr(token) not in reprs]
    names |= {token.content for token in new}
    named = {token.content for token in folder.named.values()}
    # What has a name is special, whatever the file says of it; version 4 believes its own list of them.
    if folder.version == 5 or not folder.listed:
        new += [token for token in there if token.content in named and not token.special]
    special = named | {token.content for token in folder.extra} if folder.version == 4 else named
    for token in new:
        token.special = token.special or token.content in special
    for token in (*folder.named.values(), *folder.extra):
        if token.content not in names:
            token.special = True
            new.append(token)
            names.add(token.content)
    made.add_tokens(new)


def _state(part: Any) -> dict[str, Any]:
    """Return a part of a tokenizer as tokenizer.json has it; empty for none."""
    if part is None:
        return {}
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state
