"""From what the user typed to a folder on this disk: a local folder, or one commit of a Hub model.

Everything after this step reads one folder, so that config, weights and tokenizer cannot come from
different revisions.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from bertonnx.errors import CheckpointError, MissingDependencyError, SourceError, UsageError
from bertonnx.exporters.checkpoint.encoders import require_encoder

__all__ = ["Source", "model_folder", "read_json", "resolve"]

Kind = Literal["hub", "folder", "sentence-transformers"]

_DEFAULT_REVISION = "main"

_CONFIG_FILES = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "adapter_config.json",
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
_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
_FOREIGN_WEIGHTS = {
    "TensorFlow": ("tf_model.h5", "tf_model-*.h5", "*.ckpt.index", "*.ckpt-*.index", "saved_model.pb"),
    "Flax": ("flax_model.msgpack", "flax_model-*.msgpack"),
    "ONNX": ("*.onnx", "onnx/*.onnx"),
    "OpenVINO": ("openvino_model.bin", "openvino/openvino_model.bin", "openvino_model.xml"),
    "GGUF": ("*.gguf",),
}
_ADVICE = {
    "TensorFlow": "convert it where TensorFlow is installed, with transformers: "
    'from_pretrained("...", from_tf=True).save_pretrained("folder")',
    "Flax": "convert it where Flax is installed, with transformers: "
    'from_pretrained("...", from_flax=True).save_pretrained("folder")',
    "ONNX": "it needs no export: bertonnx run takes a folder with model.onnx, tokenizer.json and config.json",
    "OpenVINO": "export from the PyTorch checkpoint that it was made from",
    "GGUF": "export from the PyTorch checkpoint that it was made from",
}


@dataclass(frozen=True)
class Source:
    """A checkpoint on this disk.

    Attributes:
        id: what the user typed: a Hub id, or the folder's path.
        kind: "hub", or for a local folder "folder" or "sentence-transformers" (it has a modules.json).
        revision: the commit hash that a Hub model was resolved to; None for local folders.
        folder: where its files lie.
    """

    id: str
    kind: Kind
    revision: str | None
    folder: Path


def resolve(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Source:
    """Return the folder of a checkpoint, downloaded from the Hub where `source` is no local folder.

    The Hub is asked through huggingface_hub, which honours HF_ENDPOINT, HF_HOME, HF_TOKEN and
    HF_HUB_OFFLINE. Where it cannot be reached, its cache serves.

    Args:
        source: a folder, or a Hub id such as `bert-base-uncased`.
        revision: branch, tag or commit hash of a Hub model; default its main branch.
        allow_pickle: accept `pytorch_model.bin` where there is no safetensors.
        trust_remote_code: accept a checkpoint that brings its own Python code.

    Raises:
        UsageError: a revision was given with a local folder.
        SourceError: not found, gated, no network and not cached, not safe, or not a PyTorch checkpoint.
        CheckpointError: a JSON file is broken.
        UnsupportedError: the family is known not to work (before its weights are downloaded).
        MissingDependencyError: huggingface_hub is not installed.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UsageError(
                f"--revision {revision} was given, but {text} is a local folder, which has no revisions; "
                "leave --revision out"
            )
        found = Source(text, _kind(path), None, path)
    elif path.exists() or path.is_symlink():
        raise _not_a_folder(text, path)
    else:
        found = _from_hub(text, revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    _require_files(text, _names(found.folder), allow_pickle=allow_pickle)
    _check_small_files(text, found.folder, trust_remote_code=trust_remote_code)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file.

    Raises:
        CheckpointError: the file is not there, not JSON, or not an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}); put the checkpoint's original file in its place"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{path} holds a JSON {type(data).__name__}, and an object is expected; "
            "put the checkpoint's original file in its place"
        )
    return data


def model_folder(folder: Path) -> Path:
    """Return where config.json and the weights lie: `folder`, or its Transformer module's subfolder.

    Sentence-Transformers before version 2 wrote `0_Transformer/`; later ones write to the root.
    """
    if (folder / "config.json").is_file():
        return folder
    return next((path.parent for path in sorted(folder.glob("0_*/config.json"))), folder)


def _kind(folder: Path) -> Kind:
    return "sentence-transformers" if (folder / "modules.json").is_file() else "folder"


def _not_a_folder(text: str, path: Path) -> SourceError:
    if path.is_symlink() and not path.exists():
        return SourceError(f"{text} is a link to {path.readlink()}, which does not exist")
    if path.suffix == ".onnx":
        return SourceError(f"{text} is already an ONNX file; to run it, type: bertonnx run {text} input.txt")
    return SourceError(
        f"{text} is a file, and export reads a folder or a Hub id; "
        f"type the checkpoint's folder, here: bertonnx export {path.parent}"
    )


# What a folder, or a list of a Hub model's files, must hold


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _matches_any(names: list[str], patterns: tuple[str, ...]) -> bool:
    return any(_matches(name, patterns) for name in names)


def _names(folder: Path) -> list[str]:
    files = [*folder.glob("*"), *folder.glob("*/*")]
    return sorted(path.relative_to(folder).as_posix() for path in files if path.is_file())


def _below(names: list[str], root: str) -> list[str]:
    return [name.removeprefix(root) for name in names if name.startswith(root)]


def _root(names: list[str]) -> str | None:
    """Return the folder of config.json with its slash ("" for the top), or None where there is none."""
    if "config.json" in names:
        return ""
    inner = next((name for name in sorted(names) if fnmatchcase(name, "0_*/config.json")), None)
    return None if inner is None else inner.removesuffix("config.json")


def _require_files(what: str, names: list[str], *, allow_pickle: bool) -> None:
    root = _root(names)
    if "adapter_config.json" in names and not _matches_any(names, (*_SAFE_WEIGHTS, *_PICKLED_WEIGHTS)):
        raise SourceError(
            f"{what} is a PEFT adapter (adapter_config.json), not a whole model; merge it into its base "
            "model first, with peft: model.merge_and_unload().save_pretrained('merged'), then type: "
            "bertonnx export merged"
        )
    if root is None:
        _refuse_foreign(what, names)
        raise SourceError(
            f"{what} has no config.json, so it is not a Hugging Face checkpoint "
            f"(it holds {_listed(names)}); type the folder that save_pretrained wrote"
        )
    _require_weights(what, _below(names, root), allow_pickle=allow_pickle)


def _require_weights(what: str, names: list[str], *, allow_pickle: bool) -> None:
    if _matches_any(names, _SAFE_WEIGHTS):
        return
    if _matches_any(names, _PICKLED_WEIGHTS):
        if allow_pickle:
            return
        raise SourceError(
            f"{what} has its weights only in pickle files (pytorch_model.bin), and reading a pickle can run "
            "any code; if you trust its author, add --allow-pickle, or convert it once to safetensors with "
            "transformers: model.save_pretrained('folder', safe_serialization=True)"
        )
    _refuse_foreign(what, names)
    raise SourceError(
        f"{what} has no weights: model.safetensors is not there (it holds {_listed(names)}); "
        "type a folder or Hub id with weights"
    )


def _refuse_foreign(what: str, names: list[str]) -> None:
    for kind, patterns in _FOREIGN_WEIGHTS.items():
        found = [name for name in names if _matches(name, patterns)]
        if found:
            raise SourceError(
                f"{what} holds only {kind} weights ({_listed(found)}), and export reads PyTorch's "
                f"safetensors; {_ADVICE[kind]}"
            )


def _listed(names: list[str], limit: int = 8) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _refuse_custom_code(what: str, folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        path = model_folder(folder) / name
        code = read_json(path).get("auto_map") if path.is_file() else None
        if code:
            classes = ", ".join(sorted(code)) if isinstance(code, dict) else "a tokenizer"
            raise SourceError(
                f"{what} brings its own Python code ({name} names it for {classes}), which would run on "
                "this machine; read that code, and if you trust it, add --trust-remote-code"
            )


# The Hub


def _from_hub(model: str, revision: str | None, *, allow_pickle: bool, trust_remote_code: bool) -> Source:
    hub = _huggingface_hub()
    with _hub_errors(hub, model, revision), _progress(hub):
        names = _listing(hub, model, revision)
        if names is None:
            # The newest client calls a snapshot whole where it holds all that is asked for, else missing.
            least = {"allow_patterns": ["config.json", "0_*/config.json"], "local_files_only": True}
            folder = Path(hub.snapshot_download(model, revision=revision, **least))
            _require_whole_cache(model, folder, allow_pickle=allow_pickle)
        else:
            _require_files(model, names, allow_pickle=allow_pickle)
            small, weights = _wanted(names, allow_pickle=allow_pickle, with_code=trust_remote_code)
            folder = Path(hub.snapshot_download(model, revision=revision, allow_patterns=small))
            # Before gigabytes come over: what the small files already rule out.
            _check_small_files(model, folder, trust_remote_code=trust_remote_code)
            hub.snapshot_download(model, revision=folder.name, allow_patterns=weights)
    # The cache names a snapshot's folder after its commit.
    return Source(model, "hub", folder.name, folder)


def _check_small_files(what: str, folder: Path, *, trust_remote_code: bool) -> None:
    if not trust_remote_code:
        _refuse_custom_code(what, folder)
    require_encoder(read_json(model_folder(folder) / "config.json"), what)


def _huggingface_hub() -> Any:
    # Read at import: our process sends no usage data, whatever else imports the package later.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise MissingDependencyError(
            "export needs huggingface_hub; type: pip install 'bertonnx[export]'"
        ) from error
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _listing(hub: Any, model: str, revision: str | None) -> list[str] | None:
    """Return the names of the model's files, or None where the Hub cannot be reached."""
    refused, unanswered = _connection_errors(hub)
    try:
        info = hub.HfApi().model_info(model, revision=revision)
    except refused:
        raise
    except (*unanswered, hub.errors.OfflineModeIsEnabled) as error:
        if _is_certificate(error):
            raise
        return None
    except hub.errors.HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            return None
        raise
    return sorted(sibling.rfilename for sibling in info.siblings or ())


def _connection_errors(hub: Any) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Return what huggingface_hub's HTTP library raises for a proxy or certificate, and where nobody answers.

    That library was requests, then httpx, then httpx2: it is the one that the Hub's own errors come from.
    """
    library = sys.modules[hub.errors.HTTPError.__module__.partition(".")[0]]

    def named(*names: str) -> tuple[type[Exception], ...]:
        # requests keeps its rarer errors in a module of their own.
        homes = (library, getattr(library, "exceptions", library))
        found = (getattr(home, name, None) for name in names for home in homes)
        return tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception))

    return named("SSLError", "ProxyError"), named(
        "ConnectionError", "Timeout", "NetworkError", "TimeoutException", "RemoteProtocolError"
    )


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _wanted(names: list[str], *, allow_pickle: bool, with_code: bool) -> tuple[list[str], list[str]]:
    """Return the names of the small files and of the weights to download, modules' folders included."""
    safe = _matches_any(_below(names, _root(names) or ""), _SAFE_WEIGHTS)
    weights = _SAFE_WEIGHTS if safe or not allow_pickle else _PICKLED_WEIGHTS
    small = (*_CONFIG_FILES, *_TOKENIZER_FILES, *(("*.py",) if with_code else ()))
    # A model in safetensors may still have a Dense module in a pickle.
    inner_weights = (*_SAFE_WEIGHTS, *(_PICKLED_WEIGHTS if allow_pickle else ()))
    tops = [name for name in names if "/" not in name]
    inner = [name for name in names if fnmatchcase(name, "[0-9]*_*/*") and name.count("/") == 1]
    return (
        [name for name in tops if _matches(name, small)]
        + [name for name in inner if _matches(PurePosixPath(name).name, small)],
        [name for name in tops if _matches(name, weights)]
        + [name for name in inner if _matches(PurePosixPath(name).name, inner_weights)],
    )


def _require_whole_cache(model: str, folder: Path, *, allow_pickle: bool) -> None:
    try:
        _require_files(model, _names(folder), allow_pickle=allow_pickle)
    except SourceError as error:
        raise SourceError(
            f"{model} is only partly in the cache of this machine ({folder}) and the Hub cannot be "
            f"reached: {error}. Connect to the network and try again"
        ) from error


@contextmanager
def _progress(hub: Any) -> Iterator[None]:
    """Show download bars on a terminal alone."""
    quiet = not sys.stderr.isatty() and not hub.utils.are_progress_bars_disabled()
    if quiet:
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            hub.utils.enable_progress_bars()


@contextmanager
def _hub_errors(hub: Any, model: str, revision: str | None) -> Iterator[None]:
    """Turn huggingface_hub's errors into ours; the order is from the special to the general."""
    page = f"{hub.constants.ENDPOINT}/{model}"
    asked = f"revision {revision or _DEFAULT_REVISION} of {model}"
    try:
        yield
    except hub.errors.HFValidationError as error:
        raise SourceError(
            f"there is no folder {model!r} here, and it cannot be the id of a model on the Hub ({error}); "
            "type a folder that exists, or an id such as bert-base-uncased"
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise SourceError(
            f"the model {model} is on the Hub, but has no revision {revision!r}; type a branch, tag or full "
            f"commit hash from {page}/commits/{_DEFAULT_REVISION}"
        ) from error
    except hub.errors.GatedRepoError as error:
        raise SourceError(
            f"the model {model} is gated: accept its terms on {page}, then type huggingface-cli login "
            "(or set HF_TOKEN) and export again"
        ) from error
    except hub.errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"there is no folder {model!r} here, and no model {model!r} on the Hub "
            f"({hub.constants.ENDPOINT}) that you may read; check the spelling, or for a private "
            "model type huggingface-cli login (or set HF_TOKEN)"
        ) from error
    except hub.errors.LocalEntryNotFoundError as error:
        raise _not_cached(hub, asked, model) from error
    except hub.errors.HfHubHTTPError as error:
        raise SourceError(f"the Hub refused {asked}: {_first_line(error)}; see {page}") from error
    except (OSError, hub.errors.HTTPError) as error:
        raise SourceError(
            f"{asked} could not be downloaded ({type(error).__name__}: {_first_line(error)}); "
            "check the network, proxy and disk, then try again: finished files are kept"
        ) from error


def _not_cached(hub: Any, asked: str, model: str) -> SourceError:
    where = f"it is not in the cache of this machine ({hub.constants.HF_HUB_CACHE})"
    if hub.constants.HF_HUB_OFFLINE:
        return SourceError(
            f"there is no folder {model!r} here, HF_HUB_OFFLINE=1 forbids the network, and {where}: {asked}; "
            "unset HF_HUB_OFFLINE, or type a folder that exists"
        )
    return SourceError(
        f"there is no folder {model!r} here, the Hub ({hub.constants.ENDPOINT}) cannot be reached, and "
        f"{where}: {asked}; connect to the network, or type a folder that exists"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
