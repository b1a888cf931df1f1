"""Models of the Hugging Face Hub: one commit of one, downloaded into the Hub's own cache.

Everything goes through huggingface_hub, which honours HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertonnx.errors import MissingDependencyError, SourceError
from bertonnx.exporters.checkpoint.folder import (
    file_names,
    require_files,
    require_small_files,
    require_small_tensorflow,
    wanted_files,
)
from bertonnx.exporters.checkpoint.tensorflow.locate import locate_snapshot
from bertonnx.exporters.checkpoint.tensorflow.locate import wanted as tensorflow_files
from bertonnx.exporters.options import Trust
from bertonnx.wording import Install, Message, said_by

__all__ = ["download"]

_MAIN = "main"


@dataclass(frozen=True)
class _Wanted:
    """A model at a revision, None for the main branch, on a Hub."""

    id: str
    revision: str | None
    hub: str

    @property
    def named(self) -> Message:
        """Both in words."""
        return Message("revision {revision} of {model}", revision=self.revision or _MAIN, model=self.id)

    @property
    def page(self) -> str:
        """Where a person can look at it."""
        return f"{self.hub}/{self.id}"


def download(model: str, revision: str | None, trust: Trust) -> Path:
    """Return the folder of a model's files, named after its commit; the cache's where the Hub is away.

    Args:
        model: the Hub id.
        revision: branch, tag or commit hash; None for the main branch.
        trust: which of its files are taken along.

    Raises:
        SourceError: not found, gated, no network and not cached, or not safe.
        CheckpointError: a JSON file is broken.
        UnsupportedError: the family is known not to work (before its weights are downloaded).
        MissingDependencyError: huggingface_hub is not installed.
    """
    hub = _huggingface_hub()
    with _hub_errors(hub, _Wanted(model, revision, hub.constants.ENDPOINT)), _progress(hub):
        names = _listing(hub, model, revision)
        if names is None:
            # The newest client calls a snapshot whole where it holds all that is asked for, else missing.
            least = {
                "allow_patterns": ["config.json", "0_*/config.json", "adapter_config.json"],
                "local_files_only": True,
            }
            folder = Path(hub.snapshot_download(model, revision=revision, **least))
            if locate_snapshot(folder, trust) is None:
                _require_whole_cache(model, folder, trust)
            return folder
        small, weights = tensorflow_files(model, names, trust)
        if weights:
            folder = Path(hub.snapshot_download(model, revision=revision, allow_patterns=small or weights))
            require_small_tensorflow(model, folder, trust)
            hub.snapshot_download(model, revision=folder.name, allow_patterns=weights)
            return folder
        require_files(model, names, trust)
        small, weights = wanted_files(names, trust)
        folder = Path(hub.snapshot_download(model, revision=revision, allow_patterns=small))
        # Before gigabytes come over: what the small files already rule out.
        require_small_files(model, folder, trust)
        # By the first download's commit: a branch may have moved, and files must be of one version.
        hub.snapshot_download(model, revision=folder.name, allow_patterns=weights)
        return folder


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
            "export needs huggingface_hub; type: {install}", install=Install("export")
        ) from error
    # Where the caller's program imported it before us, the variable came too late.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _listing(hub: Any, model: str, revision: str | None) -> list[str] | None:
    """Return the names of the model's files, or None where the Hub cannot be reached."""
    refused, unanswered = _connection_errors(hub)
    try:
        info = hub.HfApi().model_info(model, revision=revision)
    # A wrong proxy or certificate is for the user to mend; an old copy from the cache would hide it.
    except refused:
        raise
    except (*unanswered, hub.errors.OfflineModeIsEnabled) as error:
        # HTTP libraries wrap a certificate's error in their own error of connections, several deep.
        if _is_certificate(error):
            raise
        return None
    except hub.errors.HfHubHTTPError as error:
        # A Hub that is down counts as away; one that says no (401, 404) has answered.
        if error.response is not None and error.response.status_code >= 500:
            return None
        raise
    return sorted(sibling.rfilename for sibling in info.siblings or ())


def _connection_errors(hub: Any) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Return what huggingface_hub's HTTP library raises for a proxy or certificate, and where nobody answers.

    That library was requests, then httpx, then httpx2: it is the one that the Hub's own errors come from.
    """
    # Its exceptions are found by name, so that no certain one of the three must be installed.
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


def _require_whole_cache(model: str, folder: Path, trust: Trust) -> None:
    try:
        require_files(model, file_names(folder), trust)
    except SourceError as error:
        raise SourceError(
            "{model} is only partly in the cache of this machine ({folder}) and the Hub cannot be reached: "
            "{missing}. Connect to the network and try again",
            model=model,
            folder=folder,
            missing=error,
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
def _hub_errors(hub: Any, wanted: _Wanted) -> Iterator[None]:
    """Turn huggingface_hub's errors into ours."""
    try:
        yield
    # It comes first, because it is a kind of the errors below it.
    except hub.errors.LocalEntryNotFoundError as error:
        raise _not_cached(hub, wanted) from error
    except hub.errors.HfHubHTTPError as error:
        raise _refused(hub, error, wanted) from error
    except hub.errors.HFValidationError as error:
        raise SourceError(
            "there is no folder {model!r} here, and it cannot be the id of a model on the Hub ({why}); type "
            "a folder that exists, or an id such as bert-base-uncased",
            model=wanted.id,
            why=error,
        ) from error
    except (OSError, hub.errors.HTTPError) as error:
        raise SourceError(
            "{wanted} could not be downloaded ({kind}: {why}); check the network, proxy and disk, then try "
            "again: finished files are kept",
            wanted=wanted.named,
            kind=type(error).__name__,
            why=said_by(error),
        ) from error


def _refused(hub: Any, error: Exception, wanted: _Wanted) -> SourceError:
    """Return what the Hub's answer means; special kinds of it come before general ones."""
    if isinstance(error, hub.errors.RevisionNotFoundError):
        return SourceError(
            "the model {model} is on the Hub, but has no revision {revision!r}; type a branch, tag or full "
            "commit hash from {page}/commits/{main}",
            model=wanted.id,
            revision=wanted.revision,
            page=wanted.page,
            main=_MAIN,
        )
    if isinstance(error, hub.errors.GatedRepoError):
        return SourceError(
            "the model {model} is gated: accept its terms on {page}, then type huggingface-cli login "
            "(or set HF_TOKEN) and export again",
            model=wanted.id,
            page=wanted.page,
        )
    if isinstance(error, hub.errors.RepositoryNotFoundError):
        return SourceError(
            "there is no folder {model!r} here, and no model {model!r} on the Hub ({hub}) that you may read; "
            "check the spelling, or for a private model type huggingface-cli login (or set HF_TOKEN)",
            model=wanted.id,
            hub=wanted.hub,
        )
    return SourceError(
        "the Hub refused {wanted}: {why}; see {page}",
        wanted=wanted.named,
        why=said_by(error),
        page=wanted.page,
    )


def _not_cached(hub: Any, wanted: _Wanted) -> SourceError:
    cache = hub.constants.HF_HUB_CACHE
    if hub.constants.HF_HUB_OFFLINE:
        return SourceError(
            "there is no folder {model!r} here, HF_HUB_OFFLINE=1 forbids the network, and it is not in the "
            "cache of this machine ({cache}): {wanted}; unset HF_HUB_OFFLINE, or type a folder that exists",
            model=wanted.id,
            cache=cache,
            wanted=wanted.named,
        )
    return SourceError(
        "there is no folder {model!r} here, the Hub ({hub}) cannot be reached, and it is not in the cache of "
        "this machine ({cache}): {wanted}; connect to the network, or type a folder that exists",
        model=wanted.id,
        hub=wanted.hub,
        cache=cache,
        wanted=wanted.named,
    )
