"""`bertonnx sign` and `bertonnx verify-signature`."""

from __future__ import annotations

from typing import Annotated

import typer

from bertonnx.cli.app import echo
from bertonnx.cli.options import (
    OwnModelPath,
    PasswordOption,
    PrivateKeyOption,
    PublicKeyOption,
    SignatureFile,
    SignatureOutput,
)

__all__ = ["sign", "verify_signature"]


def sign(
    model: OwnModelPath,
    private_key: PrivateKeyOption,
    output: SignatureOutput = None,
    password: PasswordOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing signature.")] = False,
) -> None:
    """Sign a model file with a private key."""
    from bertonnx.runtime.signing import sign as sign_file

    signed = sign_file(model, private_key, output=output, password=password, force=force)
    echo(f"wrote {signed.path}, signed by the key {signed.key}")


def verify_signature(
    model: OwnModelPath,
    public_key: PublicKeyOption,
    signature: SignatureFile = None,
) -> None:
    """Verify who signed a model file, and that it is unchanged since (exit code 1 if not)."""
    from bertonnx.runtime.signing import verify_signature as verify

    signed = verify(model, public_key, signature=signature)
    echo(f"ok: {model} is what the key {signed.key} signed (SHA-256 {signed.sha256})")
