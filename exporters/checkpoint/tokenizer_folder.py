"""The tokenizer's files of a checkpoint's folder, and what is said in them; nothing is made of them yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import Account, shown
from bertonnx.exporters.checkpoint.tokenizer_classes import (
    NAMED_TOKENS,
    TokenizerClass,
    class_of,
    known_parameters,
    known_version,
    of_slow,
)
from bertonnx.wording import Message

__all__ = [
    "CONFIG",
    "PROVIDE",
    "TokenizerFolder",
    "account_of",
    "installed_major",
    "read_folder",
]

CONFIG = "tokenizer_config.json"
_TOKENS = "special_tokens_map.json"

PROVIDE = Message(
    "put a tokenizer.json that gives the same ids beside config.json, with "
    '"tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json'
)

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "bpe.codes")

_NEW_CLASSES = ("TokenizersBackend", "PythonBackend", "SentencePieceBackend")
"""Names that version 4 does not have."""

_READ = frozenset(
    {*NAMED_TOKENS, "added_tokens_decoder", "additional_special_tokens", "clean_up_tokenization_spaces"}
    | {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "extra_special_tokens"}
    | {"max_len", "model_input_names", "model_max_length", "model_specific_special_tokens", "padding_side"}
    | {"split_special_tokens", "tokenizer_class", "truncation_side", "backend", "auto_map"}
)

_HARMLESS = frozenset(
    {"chat_template", "device", "errors", "from_slow", "init_inputs", "is_local", "local_files_only", "name"}
    | {"max_length", "merges_file", "name_or_path", "pad_to_multiple_of", "pad_token_type_id", "padding"}
    | {"processor_class", "response_schema", "return_tensors", "special_tokens_map_file", "stride"}
    | {"tokenizer_file", "truncation", "truncation_strategy", "use_fast", "verbose", "vocab_file", "revision"}
    | {"add_bos_token", "add_eos_token", "spaces_between_special_tokens", "tokenizer_type", "_commit_hash"}
    | {"commit_hash", "language", "cache_dir", "force_download", "token", "use_auth_token", "subfolder"}
    | {"trust_remote_code", "fix_mistral_regex", "transformers_version", "chat_templates", "_from_auto"}
)
"""Keys that no class of either version lets ids depend on, where there is a tokenizer.json."""


@dataclass(frozen=True)
class TokenizerFolder:
    """What the files say.

    Attributes:
        path: the folder.
        version: major version of transformers that saved it, 4 or 5.
        kind: the class that this version takes for it.
        config: tokenizer_config.json, special_tokens_map.json put into it as transformers does.
        listed: whether tokenizer_config.json lists the added tokens itself.
        mixed: whether the model was saved by version 5, and the tokenizer's files are still those of 4.
    """

    path: Path
    version: int
    kind: TokenizerClass
    config: Mapping[str, Any]
    listed: bool
    mixed: bool

    @cached_property
    def _saved(self) -> Mapping[str, Any]:
        return _optional(self.path, "tokenizer.json")

    def saved(self, name: str) -> Mapping[str, Any]:
        """Return tokenizer.json's "padding" or "truncation"; empty where it has none."""
        return self._saved.get(name) or {}

    @property
    def own_code(self) -> bool:
        """Whether the tokenizer is Python code of the folder's own."""
        mapped = self.config.get("auto_map") or ()
        return isinstance(mapped, list) or "AutoTokenizer" in mapped

    @property
    def file(self) -> Path | None:
        """The tokenizer.json, or None where there is none."""
        path = self.path / "tokenizer.json"
        return path if path.is_file() else None

    @property
    def vocabularies(self) -> tuple[str, ...]:
        """The names of the files beside tokenizer.json that a tokenizer can be made of."""
        found = {path.name for pattern in _VOCABULARIES for path in self.path.glob(pattern)}
        return tuple(sorted(found - {"tokenizer.json"}))

    @property
    def limit(self) -> int | float | None:
        """The longest input in tokens that tokenizer_config.json names; None where it names none.

        Raises:
            CheckpointError: what stands there is no number.
        """
        key = next((key for key in ("model_max_length", "max_len") if key in self.config), "")
        value = self.config.get(key)
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            return value
        raise CheckpointError(
            "tokenizer_config.json in {folder} has {key} {value}, which is no number; correct it",
            folder=self.path,
            key=key,
            value=shown(value),
        )

    def setting(self, name: str) -> Any:
        """Return a key's value, or the default of the class."""
        return self.config.get(name, self.kind.defaults.get(name))

    @cached_property
    def named(self) -> Mapping[str, AddedToken]:
        """The special tokens that have a name, such as "mask_token"."""
        values = self.named_values(())
        return {name: _as_token(value) for name, value in values.items()}

    def named_values(self, listed: Iterable[AddedToken]) -> Mapping[str, str | AddedToken]:
        """Return the special tokens that have a name, with flags where something gives them any.

        Args:
            listed: the added tokens that the folder lists; those that are named lend their flags.
        """
        flags = {token.content: token for token in listed}
        found = {name: _value(self.setting(name)) for name in NAMED_TOKENS}
        if "pad_token" not in {*self.config, *self.kind.defaults}:
            found["pad_token"] = _value(self.saved("padding").get("pad_token"))
        for name in self.config.keys() & found.keys():
            found[name] = flags.get(str(found[name]), found[name])
        mask = found["mask_token"]
        if "wide mask" in self.kind.rules and isinstance(mask, str):
            # It takes the space before it along, and is looked for before or after texts are normalized.
            raw = {"normalized": False} if "raw mask" in self.kind.rules else {}
            found["mask_token"] = AddedToken(mask, lstrip=True, **raw)
        return {name: value for name, value in found.items() if value is not None}

    @cached_property
    def extra_values(self) -> tuple[str | AddedToken, ...]:
        """Special tokens without one of these names."""
        given = [value for value, _ in self._extra_values()]
        return tuple(value for one in given if (value := _value(one)) is not None)

    @cached_property
    def unnamed(self) -> tuple[str | AddedToken, ...]:
        """Those of them that keep the flag that is said of them: in version 5, those without any name."""
        if self.version == 4:
            return ()
        named = {str(_value(value)) for value, name in self._extra_values() if name}
        return tuple(value for value in self.extra_values if str(value) not in named)

    def _extra_values(self) -> Iterator[tuple[Any, bool]]:
        """Yield values, and whether they have a name of their own."""
        # A list is version 5's word for version 4's additional_special_tokens; a mapping gives names.
        lists: list[Any] = []
        mappings: list[Any] = []
        for key in ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"):
            value = self.setting(key) or ()
            (mappings if isinstance(value, dict) else lists).append(value)
        own = self.kind.defaults if self.version == 4 else {**self.kind.defaults, **self.config}
        keys = (key for key in own if key.endswith("_token") and key not in NAMED_TOKENS)
        single = [(value, True) for key in keys if isinstance(value := self.setting(key), str)]
        named = [(value, True) for mapping in mappings for value in mapping.values()]
        unnamed = [(value, False) for values in lists for value in values]
        # The order decides which id a missing one gets.
        yield from [*unnamed, *named, *single] if self.version == 4 else [*single, *named, *unnamed]

    @cached_property
    def added(self) -> tuple[tuple[int, AddedToken], ...]:
        """The tokens of `added_tokens_decoder`, with their ids and by them."""
        listed = self.config.get("added_tokens_decoder") or {}
        tokens = [(int(index), _value(value)) for index, value in listed.items()]
        known = [(index, token) for index, token in tokens if isinstance(token, AddedToken)]
        return tuple(sorted(known, key=lambda item: item[0]))


def read_folder(folder: Path) -> TokenizerFolder:
    """Read a folder's tokenizer files.

    Raises:
        CheckpointError: there are none, or one is broken.
    """
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise CheckpointError(
            "{folder} has no tokenizer (none of {files}); copy the tokenizer's files there, or save it with "
            "transformers: tokenizer.save_pretrained('folder')",
            folder=folder,
            files=", ".join(_VOCABULARIES),
        )
    # Read for the error alone: that of the tokenizers library does not say which file is broken.
    _optional(folder, "tokenizer.json")
    own, model = _optional(folder, CONFIG), _optional(folder, "config.json")
    by_tokenizer = "backend" in own or own.get("tokenizer_class") in _NEW_CLASSES
    by_model = _major(model.get("transformers_version")) >= 5
    version = 5 if by_tokenizer or by_model else 4
    # Version 5 writes neither of these.
    by_version_4 = "added_tokens_decoder" in own or (folder / _TOKENS).is_file()
    named = own.get("tokenizer_class") or model.get("tokenizer_class")
    config = dict(own)
    if "added_tokens_decoder" not in own:
        config = _with_named(config, _optional(folder, _TOKENS))
        config["added_tokens_decoder"] = _old_added(folder, config)
    kind = class_of(version, named, model.get("model_type"))
    if version == 4 and not (folder / "tokenizer.json").is_file():
        kind = of_slow(kind)
    return TokenizerFolder(
        path=folder,
        version=version,
        kind=kind,
        config=config,
        listed="added_tokens_decoder" in own,
        mixed=by_model and not by_tokenizer and by_version_4,
    )


def account_of(folder: TokenizerFolder, account: Account) -> None:
    """Account for every key of tokenizer_config.json.

    Raises:
        CheckpointError: a key changes ids in a way that cannot be written down, or may do so.
    """
    config = folder.config
    if config.get("split_special_tokens"):
        account.refuse(
            CONFIG, "split_special_tokens", True, "which no tokenizer.json can say, so the file could not"
        )
    saver = _optional(folder.path, "config.json").get("transformers_version")
    newer = _numbers(saver) > _numbers(known_version())
    for key in sorted(config.keys() - _READ - _HARMLESS - known_parameters()):
        if key.endswith("_token"):  # a token of the user's own, which version 5 adds and 4 ignores
            continue
        if newer:
            account.refuse(
                CONFIG,
                key,
                config[key],
                f"which transformers {saver} may read: bertonnx knows the keys of versions up to "
                f"{known_version()}",
            )
        account.private(CONFIG, [key])


def installed_major() -> int:
    """Return the major version of transformers that is installed."""
    import transformers

    return _major(transformers.__version__)


def _optional(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name) if (folder / name).is_file() else {}


def _with_named(config: dict[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer_config.json with what special_tokens_map.json adds, as transformers has it."""
    found = dict(config)
    for key, value in named.items():
        if isinstance(value, list) and isinstance(found.get(key), list):
            found[key] = [*found[key], *(token for token in value if token not in found[key])]
        else:
            found[key] = {**value, "special": True} if isinstance(value, dict) else value
    return found


def _old_added(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what version 3 wrote into added_tokens.json, as `added_tokens_decoder` has it."""
    given = (*(config.get(name) for name in NAMED_TOKENS), *(config.get("additional_special_tokens") or ()))
    special = {str(value) for one in given if (value := _value(one)) is not None}
    return {
        str(index): {"content": token, "normalized": token not in special, "special": token in special}
        for token, index in _optional(folder, "added_tokens.json").items()
    }


def _value(given: Any) -> str | AddedToken | None:
    """Return a token as transformers holds it: with flags, or its text alone."""
    if isinstance(given, dict) and isinstance(given.get("content"), str):
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        return AddedToken(given["content"], **{name: bool(given[name]) for name in flags if name in given})
    return given if isinstance(given, (str, AddedToken)) else None


def _as_token(value: str | AddedToken) -> AddedToken:
    return AddedToken(value, special=True) if isinstance(value, str) else value


def _major(version: Any) -> int:
    return (_numbers(version) or (4,))[0]


def _numbers(version: Any) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in str(version or "").split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
