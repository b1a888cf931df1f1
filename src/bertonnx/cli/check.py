"""`bertonnx check`."""

from __future__ import annotations

import typer

from bertonnx.cli.app import echo
from bertonnx.cli.options import (
    OwnModelPath,
    ProviderOption,
    VerifyingKeyOption,
)
from bertonnx.wording import Message, Option

__all__ = ["check"]


def check(
    model: OwnModelPath,
    provider: ProviderOption = "auto",
    public_key: VerifyingKeyOption = None,
) -> None:
    """Check that a model file is unchanged and gives the right results here (exit code 1 if not)."""
    from bertonnx.runtime.golden import check as replay
    from bertonnx.runtime.modelfile.held import held
    from bertonnx.runtime.signing import signature_path, signer_of, verify_signature

    # Before it runs: what somebody else signed, or changed, is not opened at all.
    # Held over both, so that what is checked is what was verified.
    with held(model):
        signed = None if public_key is None else verify_signature(model, public_key)
        report = replay(model, provider)
    typer.echo(
        f"ok: {report.examples} golden examples on {report.provider}, largest difference "
        f"{report.max_abs_difference:.2g} (allowed {report.tolerance:.2g}); graph, weights and tokenizer "
        f"unchanged, {report.texts} texts tokenized alike"
    )
    if signed is not None:
        echo(f"signed by the key {signed.key}")
    elif signature_path(model).is_file():
        echo(
            Message(
                "signed, not verified: it names the key {key}; add {option} to verify it",
                key=signer_of(signature_path(model)) or "of nobody",
                option=Option("public_key", "FILE"),
            )
        )
    if report.placement is not None:
        echo(str(report.placement))
