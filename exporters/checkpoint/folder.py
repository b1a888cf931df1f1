"""Folders of checkpoints: what must be in them, what is read of them, and what is refused at sight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from bertonnx.errors import CheckpointError, SourceError
from bertonnx.exporters.checkpoint.encoders import (
    code_is_needless,
    coded_family,
    in_place_of_code,
    require_encoder,
)
from bertonnx.exporters.checkpoint.module_list import LIST, read_list, require_known
from bertonnx.exporters.options import Trust
from bertonnx.wording import Call, Install, Message, Option

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_PICKLE",
    "ADAPTER_WEIGHTS",
    "HEADS",
    "METADATA",
    "SETFIT_CONFIG",
    "SETFIT_HEAD",
    "file_names",
    "has_base",
    "model_folder",
    "read_json",
    "require_files",
    "require_small_files",
    "wanted_files",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS, ADAPTER_PICKLE = "adapter_model.safetensors", "adapter_model.bin"
HEADS = ("sparse_linear.pt", "colbert_linear.pt")
"""Those of bge-m3."""

METADATA = "artifact.metadata"
SETFIT_CONFIG, SETFIT_HEAD = "config_setfit.json", "model_head.pkl"

_CONFIG_FILES = (
    "config.json",
    LIST,
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    ADAPTER_CONFIG,
    SETFIT_CONFIG,
    METADATA,
    # It is small, and tells what the model is; downloaded, not opened.
    SETFIT_HEAD,
)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "bpe.codes",
    "dict.txt",
)
_SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
# Not *.bin: training leaves training_args.bin and the like beside the weights.
_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
# As `save_pretrained(variant="fp16")` names them.
_ADAPTER_HUB = ("pytorch_adapter.bin", "adapter.safetensors", "head_config.json")
"""Files of AdapterHub's library adapters."""

_VARIANTS = ("model.*.safetensors", "pytorch_model.*.bin")
_FOREIGN_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "Flax": ("flax_model.msgpack", "flax_model-*.msgpack"),
    "ONNX": ("*.onnx", "onnx/*.onnx"),
    "OpenVINO": ("openvino_model.bin", "openvino/openvino_model.bin", "openvino_model.xml"),
    "GGUF": ("*.gguf",),
}
_MADE_FROM = Message("export from the PyTorch checkpoint that it was made from")
_ADVICE: Mapping[str, Message] = {
    "Flax": Message(
        "convert it where Flax is installed, with transformers: "
        'from_pretrained("...", from_flax=True).save_pretrained("folder")'
    ),
    "ONNX": Message(
        "a model in ONNX needs no export; with config.json and tokenizer.json in the folder, type: {call}",
        call=Call("run", "FOLDER", "INPUT"),
    ),
    "OpenVINO": _MADE_FROM,
    "GGUF": _MADE_FROM,
}


_BYTE_ORDER_MARK = "\ufeff"


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file.

    Raises:
        CheckpointError: the file is not there, not JSON, or not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(_BYTE_ORDER_MARK):
            raise CheckpointError(
                "{path} begins with a byte order mark, as some editors write it, and no library of its "
                "checkpoint reads that; save it again as UTF-8 without one",
                path=path,
            )
        data = json.loads(text)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "{path} cannot be read as JSON ({why}); put the checkpoint's original file in its place",
            path=path,
            why=error,
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(
            "{path} holds a JSON {kind}, and an object is expected; put the checkpoint's original file in "
            "its place",
            path=path,
            kind=type(data).__name__,
        )
    return data


def model_folder(folder: Path) -> Path:
    """Return where config.json and the weights lie: `folder`, or its Transformer module's subfolder.

    Sentence-Transformers before version 2 wrote `0_Transformer/`; later ones write to the root, and read it
    wherever modules.json says. Where an adapter lies alone, its folder.

    Raises:
        CheckpointError: modules.json is asked, and is broken or points out of the folder.
        UnsupportedError: it names a module that is the checkpoint's own code.
    """
    if (folder / "config.json").is_file() or (folder / ADAPTER_CONFIG).is_file():
        return folder
    inner = (path for name in ("config.json", ADAPTER_CONFIG) for path in sorted(folder.glob(f"0_*/{name}")))
    place = next((path.parent for path in inner), None)
    if place is not None or not (folder / LIST).is_file():
        return place or folder
    named = (module.path for module in read_list(folder) if module.name == "Transformer")
    return next(named, folder)


def has_base(names: list[str]) -> bool:
    """Tell a whole model, by the names of its folder's files, from an adapter without its base model."""
    return "config.json" in names and _matches_any(names, (*_SAFE_WEIGHTS, *_PICKLED_WEIGHTS))


def file_names(folder: Path) -> list[str]:
    """Return the names of a folder's files, those one folder below included."""
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(path.relative_to(folder).as_posix() for path in files if path.is_file())


def require_files(what: str, names: list[str], trust: Trust) -> None:
    """Refuse what is no whole PyTorch checkpoint, or not a safe one, by the names of its files alone.

    Args:
        what: what the user typed.
        names: of a folder's files, or of a Hub model's.
        trust: whether `.bin` weights will do.

    Raises:
        SourceError: saying what is missing, or what it is instead.
    """
    root = _root(names)
    adapter = _root(names, ADAPTER_CONFIG)
    if adapter is not None:
        _require_adapter_weights(what, _below(names, adapter), trust)
        # Alone, it needs neither config.json nor weights here: its base model has them, wherever it lies.
        if not has_base(_below(names, adapter)):
            return
    # What it is instead says more than what it lacks: a folder of GGUF files has no config.json either.
    if root is None:
        # Its modules are read next (`require_small_files`), and say more than what is missing.
        if LIST in names:
            return
        _refuse_foreign(what, names)
        _refuse_adapters_below(what, names)
        raise SourceError(
            "{what} has no config.json, so it is not a Hugging Face checkpoint (it holds {found}); type the "
            "folder that save_pretrained wrote",
            what=what,
            found=_listed(names),
        )
    _require_weights(what, _below(names, root), trust)


def require_small_files(what: str, folder: Path, trust: Trust) -> None:
    """Refuse what the small files of a checkpoint rule out already.

    Raises:
        SourceError: it brings its own Python code, which is not trusted.
        CheckpointError: a JSON file is broken.
        UnsupportedError: the family, or a module of Sentence-Transformers, is known not to work.
    """
    config = model_folder(folder) / "config.json"
    # Another module than a transformer has no config.json, or its own.
    if (folder / LIST).is_file() and not (config.is_file() and "model_type" in read_json(config)):
        require_known(read_list(folder), folder)
    if not trust.trust_remote_code:
        _refuse_custom_code(what, folder)
    place = model_folder(folder)
    # Wherever modules.json puts the transformer: the names of the whole folder did not tell that.
    if place != folder and (place / "config.json").is_file():
        _require_weights(what, file_names(place), trust)
    # An adapter's own config.json, where it has one, is no whole model's: that of its base is judged.
    if (place / ADAPTER_CONFIG).is_file() and not has_base(file_names(place)):
        return
    said = read_json(place / "config.json")
    require_encoder(in_place_of_code(said, trusted=trust.trust_remote_code), what)


def require_small_tensorflow(what: str, folder: Path, trust: Trust) -> None:
    """Refuse what the small files beside TensorFlow's weights rule out, where they are Hugging Face's.

    Raises:
        BertonnxError: as `require_small_files`.
    """
    config = folder / "config.json"
    if config.is_file() and "model_type" in read_json(config):
        require_small_files(what, folder, trust)


def wanted_files(names: list[str], trust: Trust) -> tuple[list[str], list[str]]:
    """Return which of a model's files are wanted: the small ones, then weights; modules' folders included."""
    safe = _matches_any(_below(names, _root(names) or ""), _SAFE_WEIGHTS)
    # Never both forms: many models keep the same gigabytes as safetensors and as pickle.
    weights = _SAFE_WEIGHTS if safe or not trust.allow_pickle else _PICKLED_WEIGHTS
    pickled_adapter = (ADAPTER_PICKLE,) if trust.allow_pickle else ()
    adapter = (ADAPTER_WEIGHTS,) if any(ADAPTER_WEIGHTS in name for name in names) else pickled_adapter
    small = (*_CONFIG_FILES, *_TOKENIZER_FILES, *(("*.py",) if trust.trust_remote_code else ()))
    heads = HEADS if trust.allow_pickle else ()
    # A model in safetensors may still have a Dense module in a pickle.
    inner_weights = (*_SAFE_WEIGHTS, *(_PICKLED_WEIGHTS if trust.allow_pickle else ()))
    tops = [name for name in names if "/" not in name]
    inner = [name for name in names if fnmatchcase(name, "[0-9]*_*/*") and name.count("/") == 1]
    return (
        [name for name in tops if _matches(name, small)]
        + [name for name in inner if _matches(PurePosixPath(name).name, small)],
        [name for name in tops if _matches(name, (*weights, *adapter, *heads))]
        + [name for name in inner if _matches(PurePosixPath(name).name, (*inner_weights, *adapter))],
    )


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _matches_any(names: list[str], patterns: tuple[str, ...]) -> bool:
    return any(_matches(name, patterns) for name in names)


def _below(names: list[str], root: str) -> list[str]:
    return [name.removeprefix(root) for name in names if name.startswith(root)]


def _root(names: list[str], file: str = "config.json") -> str | None:
    """Return the folder of config.json with its slash ("" for the top), or None where there is none."""
    if file in names:
        return ""
    inner = next((name for name in sorted(names) if fnmatchcase(name, f"0_*/{file}")), None)
    return None if inner is None else inner.removesuffix(file)


def _require_adapter_weights(what: str, names: list[str], trust: Trust) -> None:
    if ADAPTER_WEIGHTS in names or (trust.allow_pickle and ADAPTER_PICKLE in names):
        return
    if ADAPTER_PICKLE in names:
        raise SourceError(
            "{what} is an adapter whose weights lie only in a pickle file ({file}), and reading a pickle can "
            "run any code; if you trust its author, add {option}, or save it again with peft: "
            "model.save_pretrained('folder')",
            what=what,
            file=ADAPTER_PICKLE,
            option=Option("allow_pickle", True),
        )
    theirs = next((name for name in _ADAPTER_HUB if name in names), None)
    if theirs is not None:
        raise SourceError(
            "{what} holds an adapter of AdapterHub's library adapters ({file}), and only PEFT's are read; "
            "merge it there (model.merge_adapter(name), for those of the kind LoRA), save the whole model "
            "with model.save_pretrained('merged'), and type: {call}",
            what=what,
            file=theirs,
            call=Call("export", "merged"),
        )
    raise SourceError(
        "{what} is a PEFT adapter without weights: {file} is not there (it holds {found}); type a folder or "
        "Hub id with weights",
        what=what,
        file=ADAPTER_WEIGHTS,
        found=_listed(names),
    )


def _refuse_adapters_below(what: str, names: list[str]) -> None:
    """Name adapters one folder below, where peft saves those that have a name."""
    places = [name.partition("/")[0] for name in names if fnmatchcase(name, f"*/{ADAPTER_CONFIG}")]
    if places:
        raise SourceError(
            "{what} is no checkpoint, and holds adapters in {places}; type the folder of one: {call}",
            what=what,
            places=_listed(places),
            call=Call("export", f"{what}/{places[0]}"),
        )


def _require_weights(what: str, names: list[str], trust: Trust) -> None:
    if _matches_any(names, _SAFE_WEIGHTS):
        return
    if _matches_any(names, _PICKLED_WEIGHTS):
        if trust.allow_pickle:
            return
        raise SourceError(
            "{what} has its weights only in pickle files (pytorch_model.bin), and reading a pickle can run "
            "any code; if you trust its author, add {option}, or convert it once to safetensors with "
            "transformers: model.save_pretrained('folder', safe_serialization=True)",
            what=what,
            option=Option("allow_pickle", True),
        )
    _refuse_foreign(what, names)
    _refuse_variants(what, names)
    raise SourceError(
        "{what} has no weights: model.safetensors is not there (it holds {found}); type a folder or Hub id "
        "with weights",
        what=what,
        found=_listed(names),
    )


def _refuse_variants(what: str, names: list[str]) -> None:
    found = [name for name in names if _matches(name, _VARIANTS)]
    if found:
        raise SourceError(
            "{what} has its weights under the name of a variant alone ({found}), which no library reads that "
            "is not asked for it; rename the one that you want to {name}",
            what=what,
            found=_listed(found),
            name="model.safetensors" if found[0].endswith(".safetensors") else "pytorch_model.bin",
        )


def _refuse_foreign(what: str, names: list[str]) -> None:
    for kind, patterns in _FOREIGN_WEIGHTS.items():
        found = [name for name in names if _matches(name, patterns)]
        if found:
            raise SourceError(
                "{what} holds only {kind} weights ({found}), and export reads PyTorch's safetensors; "
                "{advice}",
                what=what,
                kind=kind,
                found=_listed(found),
                advice=_ADVICE[kind],
            )


def _listed(names: list[str], limit: int = 8) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _refuse_custom_code(what: str, folder: Path) -> None:
    # A tokenizer may bring code where the model brings none, and it would run just the same.
    for name in ("config.json", "tokenizer_config.json"):
        path = model_folder(folder) / name
        said = read_json(path) if path.is_file() else {}
        code = said.get("auto_map")
        if code and not code_is_needless(said):
            raise SourceError(
                "{what} brings its own Python code ({file} names it for {classes}), which would run on this "
                "machine; read that code, and if you trust it, add {option}{instead}",
                what=what,
                file=name,
                classes=", ".join(sorted(code)) if isinstance(code, dict) else "a tokenizer",
                option=Option("trust_remote_code", True),
                instead=_instead_of_code(said),
            )


def _instead_of_code(config: Mapping[str, Any]) -> Message | str:
    """Return what has code of the same model in transformers, where that is known."""
    row = coded_family(config)
    if row is None or not (row.stands_for_code or row.code_configs):
        return ""
    if row.stands_for_code:
        return Message(
            "; transformers {since} has code of this model ({family}), and none else is needed: {install}",
            since=row.since,
            family=row.name,
            install=Install("export", upgrade=True, packages=("transformers",)),
        )
    return Message(
        "; transformers {since} has code of this model ({family}), which does not read this folder, but a "
        "copy of the checkpoint that was saved with it",
        since=row.since,
        family=row.name,
    )
