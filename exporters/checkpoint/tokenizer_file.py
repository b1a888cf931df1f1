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

from tokenizers import AddedToken, Tokenizer, models, processors

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.tokenizer_built import as_built
from bertonnx.exporters.checkpoint.tokenizer_folder import CONFIG, TokenizerFolder, installed_major
from bertonnx.runtime.tokenizers_seam import FaultError, guarded
from bertonnx.wording import Message, said_by

__all__ = ["add_tokens", "file_tokenizer", "normalizer_put"]

_SAVE_AGAIN = Message("save it again: tokenizer.save_pretrained('folder')")


def file_tokenizer(folder: TokenizerFolder, account: Account) -> Tokenizer:
    """Return what a folder's tokenizer.json and tokenizer_config.json make together.

    Raises:
        CheckpointError: the file is broken, or a key of tokenizer_config.json contradicts it.
    """
    file = folder.file
    assert file is not None
    try:
        with guarded():
            made = Tokenizer.from_file(str(file))
    except FaultError as error:
        raise CheckpointError(
            "{path} cannot be loaded as a tokenizer ({why}); put the checkpoint's original file in its place",
            path=file,
            why=said_by(error),
        ) from error
    _require_no_dropout(made, file)
    if folder.version == 4 != installed_major() and folder.config.get("from_slow") and folder.vocabularies:
        account.refuse(
            CONFIG,
            "from_slow",
            folder.config["from_slow"],
            Message(
                "by which transformers 4 makes the tokenizer anew of {names}, whatever tokenizer.json says",
                names=", ".join(folder.vocabularies),
            ),
            remedy=_SAVE_AGAIN,
        )
    if folder.version == 5 and folder.listed and not folder.mixed:
        made = _with_listed(made, folder)
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
    ignored = _require_version_5(made, folder, account) if folder.version == 5 and not folder.mixed else {}
    add_tokens(made, folder)
    if folder.version == 5 and not folder.mixed:
        made = as_built(made, folder, ignored)
    if folder.version == 4:
        # Behind the tokens, as version 4 does: which text an added token is found by was decided before.
        _follow_version_4(made, folder)
        if "bos and eos" in folder.kind.rules:
            _put_bos_and_eos(made, folder)
    return made


def _with_listed(made: Tokenizer, folder: TokenizerFolder) -> Tokenizer:
    """Return a tokenizer whose added tokens have the flags that tokenizer_config.json gives them.

    Of the file's own, version 5's classes that build a tokenizer of the vocabulary read none then.
    """
    there = made.get_added_tokens_decoder()
    flags = {token.content: token for _, token in folder.added}
    kept = () if "builds" in folder.kind.rules else (there[index] for index in sorted(there))
    tokens = [flags.get(token.content, token) for token in kept]
    data = json.loads(made.to_str())
    bare = Tokenizer.from_str(json.dumps({**data, "added_tokens": []}))
    bare.add_tokens(tokens)
    return bare


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


def _follow_version_4(made: Tokenizer, folder: TokenizerFolder) -> None:
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
    for part, values in wanted.items():
        state = _state(getattr(made, part))
        # transformers sets what it finds there; a sequence of parts stays as it is.
        changed = {**state, **{name: value for name, value in values.items() if name in state}}
        if changed == state:
            continue
        if part == "normalizer":
            normalizer_put(made, _made_of(part, changed), folder, CONFIG)
        else:
            setattr(made, part, _made_of(part, changed))


def normalizer_put(made: Tokenizer, normalizer: Any, folder: TokenizerFolder, why: str) -> None:
    """Give a tokenizer that has its added tokens another normalizer.

    Args:
        made: the tokenizer.
        normalizer: the new one.
        folder: the tokenizer's.
        why: the file that asks for it.

    Raises:
        CheckpointError: libraries go on to look for an added token as the old one normalized it, while texts
            are normalized by the new one, which no tokenizer.json can say.
    """
    for token in made.get_added_tokens_decoder().values():
        before, behind = (
            token.content if one is None else one.normalize_str(token.content)
            for one in (made.normalizer, normalizer)
        )
        if token.normalized and before != behind:
            raise CheckpointError(
                "{why} in {folder} contradicts tokenizer.json in how texts are normalized, and so the added "
                "token {token!r} is not found where it is written; save the tokenizer again: load it with "
                "these settings, add its tokens anew, and tokenizer.save_pretrained('folder')",
                why=why,
                folder=folder.path,
                token=token.content,
            )
    made.normalizer = normalizer


def _made_of(part: str, state: Mapping[str, Any]) -> Any:
    # As text, since the names of a part's arguments change from one release of tokenizers to the next.
    data = json.loads(Tokenizer(models.WordLevel({}, "")).to_str())
    return getattr(Tokenizer.from_str(json.dumps({**data, part: state})), part)


def _require_version_5(made: Tokenizer, folder: TokenizerFolder, account: Account) -> Mapping[str, bool]:
    """Return what the file does where the user lets a key that contradicts it be ignored."""
    if "template" in folder.kind.rules and made.num_special_tokens_to_add(is_pair=False) == 0:
        raise CheckpointError(
            "tokenizer.json in {folder} puts no special tokens around a text (post_processor), and a {kind} "
            "of transformers 5 does; load the tokenizer where 5 is installed, and {again}",
            folder=folder.path,
            kind=folder.kind.name,
            again=_SAVE_AGAIN,
        )
    ignored: dict[str, bool] = {}
    if "builds" not in folder.kind.rules:
        return ignored
    for key, wanted, found in _said_twice(made, folder):
        if wanted != found:
            ignored[key] = found
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
    return ignored


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
    """Add the tokens that the version that saved a folder adds, in its order.

    Both add every token of `added_tokens_decoder` again, or without one those of tokenizer.json, in the order
    of their ids; then special ones that are missing, and 4 those again that a key gives flags.
    """
    there = made.get_added_tokens_decoder()
    decoder = dict(folder.added) if folder.listed else {**dict(folder.added), **there}
    new = [decoder[index] for index in sorted(decoder)]
    # Of added_tokens.json, version 4 takes no flags for the tokens that have a name.
    lends = new if folder.listed or folder.version == 5 else there.values()
    named = folder.named_values(lends).values()
    special = {*map(str, named), *(str(one) for one in folder.extra_values if one not in folder.unnamed)}
    # What was special once is left out of decoded text, whatever is said of it later.
    special |= {token.content for token in there.values() if token.special}
    names = {token.content for token in (*there.values(), *new)}
    seen: set[str] = set()
    missing: list[AddedToken] = []
    for value in (*named, *folder.extra_values):
        again = folder.version == 4 and isinstance(value, AddedToken) and value not in new
        if (again or str(value) not in names) and str(value) not in seen:
            missing.append(value if isinstance(value, AddedToken) else AddedToken(value, special=True))
        seen.add(str(value))
    for token in (*new, *missing):
        token.special = token.special or token.content in special
    tokens = [*new, *missing]
    if folder.version == 4:
        before = {token.content: token for token in there.values()}
        tokens = [_found_as_before(token, before.get(token.content)) for token in tokens]
    made.add_tokens(tokens)


def _found_as_before(token: AddedToken, before: AddedToken | None) -> AddedToken:
    """Return a token that is added again as the tokenizers of version 4 find it.

    It gets its new flags, but is still looked for where it was looked for at first: in texts as they are, or
    normalized ones.
    """
    if before is None:
        return token
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=before.normalized or (token.normalized and not before.special),
        special=token.special,
    )


def _state(part: Any) -> dict[str, Any]:
    """Return a part of a tokenizer as tokenizer.json has it; empty for none."""
    if part is None:
        return {}
    state: dict[str, Any] = json.loads(part.__getstate__())
    return state
