"""Signatures of model files, made and verified with keys of openssl, and by model-signing's own command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bertonnx
from bertonnx.errors import MissingDependencyError, ModelFileError, OutputError, SignatureError, UsageError
from bertonnx.runtime.modelfile.modelfile import read_model_file
from tests.commands import Command


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the keys of two people, one of them encrypted too, and one of another kind."""
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)

    for name, curve in (("ada", "prime256v1"), ("eve", "secp384r1")):
        openssl("ecparam", "-genkey", "-name", curve, "-noout", "-out", f"{name}.pem")
        openssl("ec", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub")
    openssl("ec", "-in", "ada.pem", "-aes256", "-passout", "pass:secret", "-out", "locked.pem")
    openssl("genrsa", "-out", "rsa.pem", "2048")
    return folder


@pytest.fixture
def model(exported: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(exported["text-classification"], tmp_path / "model.onnx"))


def test_a_signed_file_verifies_under_any_name(model: Path, keys: Path) -> None:
    signed = bertonnx.sign(model, keys / "ada.pem")
    assert signed.path == model.with_name("model.onnx.sig")
    assert bertonnx.verify_signature(model, keys / "ada.pub") == signed
    moved = model.rename(model.with_name("other.onnx"))
    assert bertonnx.verify_signature(moved, keys / "ada.pub", signature=signed.path).key == signed.key


def test_the_bundle_is_that_of_model_signing(model: Path, keys: Path) -> None:
    signed = bertonnx.sign(model, keys / "ada.pem")
    bundle = json.loads(signed.path.read_text())
    assert bundle["mediaType"].startswith("application/vnd.dev.sigstore.bundle")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(model)]
    options = ["--signature", str(signed.path), "--public_key", str(keys / "ada.pub")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_key_does_not_verify(model: Path, keys: Path) -> None:
    bertonnx.sign(model, keys / "ada.pem")
    with pytest.raises(SignatureError, match=r"does not hold for .* and this key"):
        bertonnx.verify_signature(model, keys / "eve.pub")


def test_a_changed_file_does_not_verify(model: Path, keys: Path) -> None:
    import onnx

    bertonnx.sign(model, keys / "ada.pem")
    proto = onnx.load(model)
    proto.doc_string = "changed where no prediction is made of it"
    onnx.save(proto, model)
    assert read_model_file(model).is_bertonnx
    with pytest.raises(SignatureError, match="the file was changed after it was signed"):
        bertonnx.verify_signature(model, keys / "ada.pub")


def test_the_signature_of_another_file_does_not_verify(
    model: Path, keys: Path, exported: dict[str, Path]
) -> None:
    other = Path(shutil.copy(exported["fill-mask"], model.with_name("other.onnx")))
    signed = bertonnx.sign(other, keys / "ada.pem")
    with pytest.raises(SignatureError, match="does not hold"):
        bertonnx.verify_signature(model, keys / "ada.pub", signature=signed.path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"verificationMaterial": 1}', b"[" * 100_000])
def test_what_is_no_signature_does_not_verify(model: Path, keys: Path, content: bytes) -> None:
    model.with_name("model.onnx.sig").write_bytes(content)
    with pytest.raises(SignatureError, match="does not hold"):
        bertonnx.verify_signature(model, keys / "ada.pub")


def test_no_signature_is_an_error_too(model: Path, keys: Path) -> None:
    with pytest.raises(SignatureError, match=r"is not signed: there is no .*model.onnx.sig"):
        bertonnx.verify_signature(model, keys / "ada.pub")


def test_an_encrypted_key_needs_its_password(model: Path, keys: Path) -> None:
    bertonnx.sign(model, keys / "locked.pem", password="secret")
    bertonnx.verify_signature(model, keys / "ada.pub")
    for password in (None, "wrong"):
        with pytest.raises(UsageError, match=r"private_key=.*locked.pem' cannot be used"):
            bertonnx.sign(model, keys / "locked.pem", password=password, force=True)


@pytest.mark.parametrize("name", ["rsa.pem", "ada.pub", "nowhere.pem"])
def test_a_key_that_cannot_sign_is_refused(model: Path, keys: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"private_key=.*cannot be used"):
        bertonnx.sign(model, keys / name)
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_a_signature_is_not_replaced_unasked(model: Path, keys: Path) -> None:
    first = bertonnx.sign(model, keys / "eve.pem")
    with pytest.raises(OutputError, match="exists; add force=True to replace it"):
        bertonnx.sign(model, keys / "ada.pem")
    assert bertonnx.sign(model, keys / "ada.pem", force=True).key != first.key


def test_a_signature_replaces_neither_the_model_nor_the_key_nor_what_is_no_file(
    model: Path, keys: Path
) -> None:
    pipe = model.with_name("pipe")
    os.mkfifo(pipe)
    key = Path(shutil.copy(keys / "ada.pem", model.with_name("key.pem")))
    before = {path: path.read_bytes() for path in (model, key)}
    for path in (model, key):
        with pytest.raises(UsageError, match="name another file"):
            bertonnx.sign(model, key, output=path, force=True)
    with pytest.raises(OutputError, match="is no file but a device, a pipe or the like"):
        bertonnx.sign(model, key, output=pipe, force=True)
    assert before == {path: path.read_bytes() for path in before}
    assert pipe.is_fifo()


def test_a_link_is_signed_and_verified_as_what_it_leads_to(model: Path, keys: Path) -> None:
    real = model.rename(model.with_name("blob"))
    model.symlink_to(real)
    signed = bertonnx.sign(model, keys / "ada.pem")
    assert signed.path == model.with_name("model.onnx.sig")
    assert bertonnx.verify_signature(model, keys / "ada.pub") == signed
    assert bertonnx.verify_signature(real, keys / "ada.pub", signature=signed.path).sha256 == signed.sha256


def test_a_file_that_is_replaced_while_it_is_verified(
    model: Path, keys: Path, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_signing import verifying

    bertonnx.sign(model, keys / "ada.pem")
    verify = verifying.Config.verify
    signed = Path(shutil.copy(model, model.with_name("signed.onnx")))
    shutil.copy(exported["text-ranking"], model)

    def and_replace(config: verifying.Config, *arguments: Any) -> None:
        # Opened is another one than the package sees.
        signed.replace(model)
        verify(config, *arguments)

    monkeypatch.setattr(verifying.Config, "verify", and_replace)
    with pytest.raises(SignatureError, match="the file was replaced meanwhile"):
        bertonnx.verify_signature(model, keys / "ada.pub")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"\xff",
        json.dumps({"verificationMaterial": {"publicKey": {"hint": "ok\n\x1b[31m"}}}).encode(),
        json.dumps({"verificationMaterial": {"publicKey": {"hint": 5}}}).encode(),
        b" " * (1 << 21),
    ],
    ids=["brackets", "bytes", "escapes", "number", "large"],
)
def test_a_strangers_signature_says_nothing_on_a_terminal(
    model: Path, keys: Path, command: Command, content: bytes
) -> None:
    model.with_name("model.onnx.sig").write_bytes(content)
    said = command("check", model)
    assert said.code == 0
    assert "it names the key of nobody; add --public-key" in said.out
    with pytest.raises(SignatureError, match="does not hold"):
        bertonnx.verify_signature(model, keys / "ada.pub")


def test_a_file_of_others_is_not_signed(tmp_path: Path, keys: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ModelFileError):
        bertonnx.sign(tmp_path / "model.onnx", keys / "ada.pem")


def test_without_the_package_the_error_says_what_to_type(
    model: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "bertonnx\[sign\]"'):
        bertonnx.sign(model, keys / "ada.pem")


def test_on_the_command_line(model: Path, keys: Path, command: Command) -> None:
    signed = command("sign", model, "--private-key", keys / "ada.pem")
    assert signed.code == 0
    assert signed.out.startswith(f"wrote {model}.sig, signed by the key ")
    said = command("check", model)
    assert said.code == 0
    assert "signed, not verified" in said.out
    good = command("check", model, "--public-key", keys / "ada.pub")
    assert good.code == 0
    assert "signed by the key" in good.out
    assert "not verified" not in good.out
    assert command("verify-signature", model, "--public-key", keys / "ada.pub").code == 0
    for name in ("check", "verify-signature"):
        wrong = command(name, model, "--public-key", keys / "eve.pub")
        assert wrong.code == 1
        assert "does not hold" in wrong.error
