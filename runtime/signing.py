"""Signatures of model files: a detached OpenSSF bundle beside the file, made and verified with keys, offline.

The work is done by the package model-signing. The signature covers the model file's bytes, and through the
card's SHA-256 of the weights those of a file of weights beside it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from bertonnx.errors import (
    BertonnxError,
    MissingDependencyError,
    ModelFileError,
    OutputError,
    SignatureError,
    UsageError,
)
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import read_model_file, weights_sha256
from bertonnx.runtime.places import require_file_or_none, require_name
from bertonnx.wording import Install, Option, said_by

__all__ = ["Signature", "sign", "signature_path", "signer_of", "verify_signature"]

_LARGEST = 1 << 20
"""Bytes that a signature can have."""


@dataclass(frozen=True)
class Signature:
    """A signature that was verified.

    Attributes:
        path: the signature's file.
        key: who signed: the SHA-256, in hex, of the public key, as model-signing computes it.
        sha256: of the model file, in hex.
    """

    path: Path
    key: str
    sha256: str


def signature_path(model: str | Path) -> Path:
    """Return where the signature of a model file lies: `MODEL.sig`."""
    return Path(f"{model}.sig")


def sign(
    model: str | Path,
    private_key: str | Path,
    *,
    output: str | Path | None = None,
    password: str | None = None,
    force: bool = False,
) -> Signature:
    """Sign a model file with a private key and return what was signed.

    Args:
        model: a file that bertonnx made.
        private_key: a PEM file with an elliptic curve key (P-256, P-384 or P-521), as
            `openssl ecparam -genkey -name prime256v1 -noout` writes one.
        output: the signature's file; default `MODEL.sig`.
        password: of an encrypted key.
        force: replace an existing signature.

    Raises:
        ModelFileError: the file is missing or broken, or its weights are not those that its card names.
        UsageError: the key cannot be read, or is none that can sign.
        OutputError: the signature exists or cannot be written.
        MissingDependencyError: model-signing is not installed.
    """
    path, target = Path(model), signature_path(model) if output is None else Path(output)
    require_name(path, ModelFileError)
    require_name(target, OutputError)
    require_name(private_key, UsageError)
    if target.exists() and not force:
        raise OutputError(
            "{target} exists; add {force} to replace it", target=target, force=Option("force", True)
        )
    for what, other in (("model", path), ("private key", Path(private_key))):
        if target.exists() and other.exists() and target.samefile(other):
            raise UsageError(
                "{asked} is the {what}; name another file", asked=Option("output", str(target)), what=what
            )
    require_file_or_none(target)
    signing, _ = _model_signing()
    with held(path) as file:
        _require_whole(path)
        with _key_errors("private_key", private_key):
            # As bytes, whatever its type says: the package hands it to cryptography as it is.
            secret = None if password is None else password.encode()
            signer = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
        with _written(target) as aside:
            # What a link leads to: the package signs no links, and as such files lie in the Hub's cache.
            signer.sign(path.resolve(), aside)
        return Signature(target, signer_of(target), sha256(file.data).hexdigest())


def verify_signature(
    model: str | Path, public_key: str | Path, *, signature: str | Path | None = None
) -> Signature:
    """Verify that a model file is what the owner of a key signed, and return the signature.

    Args:
        model: a file that bertonnx made.
        public_key: a PEM file with the public key, as `openssl ec -pubout` writes one.
        signature: the signature's file; default `MODEL.sig`.

    Raises:
        SignatureError: there is no signature, another key signed, or the file was changed since.
        ModelFileError: the file is missing or broken.
        UsageError: the key cannot be read.
        MissingDependencyError: model-signing is not installed.
    """
    path, place = Path(model), signature_path(model) if signature is None else Path(signature)
    require_name(path, ModelFileError)
    require_name(place, SignatureError)
    _, verifying = _model_signing()
    if not place.is_file():
        raise SignatureError(
            "{path} is not signed: there is no {place}; get the signature from whoever made the file, or "
            "name it with {option}",
            path=path,
            place=place,
            option=Option("signature"),
        )
    with held(path) as file:
        _require_whole(path)
        with _key_errors("public_key", public_key):
            verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        try:
            if place.stat().st_size > _LARGEST:
                raise ValueError("it is too large to be one")
            verifier.verify(path.resolve(), place)
            # The package reads the file by its name, which may lead to another by now.
            if sha256(file.data).hexdigest() != _sha256(path):
                raise ValueError("the file was replaced meanwhile")
        except Exception as error:  # a broken bundle, a wrong key and a changed file raise many kinds
            raise SignatureError(
                "the signature {place} does not hold for {path} and this key ({why}): the file was changed "
                "after it was signed, or another key signed it; do not use it before you know which",
                place=place,
                path=path,
                why=said_by(error),
            ) from error
        return Signature(place, signer_of(place), sha256(file.data).hexdigest())


def _model_signing() -> tuple[Any, Any]:
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise MissingDependencyError(
            "signatures need the package model-signing ({why}); type: {install}",
            why=error,
            install=Install("sign"),
        ) from error
    return signing, verifying


def _require_whole(path: Path) -> None:
    """Refuse a file whose weights, which may lie beside it, are not those that its card names."""
    file = read_model_file(path)
    if not file.is_bertonnx:
        raise ModelFileError("{path} is no file that bertonnx made; only such files are signed", path=path)
    # A signature of one file says of the other only what the card does.
    if weights_sha256(path) != file.card.weights_sha256:
        raise ModelFileError(
            "the weights of {path} are not those of its card; copy or export the model again", path=path
        )


@contextmanager
def _key_errors(option: str, key: str | Path) -> Iterator[None]:
    try:
        yield
    except BertonnxError:
        raise
    except Exception as error:  # cryptography has a class of its own for each kind of wrong key
        raise UsageError(
            "{option} cannot be used ({why}); give a PEM file of an elliptic curve key (P-256, P-384 or "
            "P-521)",
            option=Option(option, str(key)),
            why=said_by(error),
        ) from error


@contextmanager
def _written(target: Path) -> Iterator[Path]:
    """Yield a path whose file is put in the target's place when all went well."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise OutputError("{target} cannot be written ({why})", target=target, why=error) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        # As any new file: made aside, it is its owner's alone.
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
        aside.replace(target)
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError("{target} cannot be written ({why})", target=target, why=why) from error
    finally:
        aside.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def signer_of(signature: Path) -> str:
    """Return whom an unverified signature names, for a user to read; "" where it names nobody."""
    try:
        with signature.open("rb") as file:
            bundle = json.loads(file.read(_LARGEST).decode())
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    # A stranger's text, which is to be read in the middle of ours: a hash or nothing.
    return hint if isinstance(hint, str) and re.fullmatch("[0-9a-f]{64}", hint) else ""
