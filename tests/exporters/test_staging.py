"""The output appears whole or not at all, and what was there stays until then."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import bertonnx
from bertonnx.errors import OutputError
from bertonnx.exporters import convert
from bertonnx.exporters import staging as seal
from bertonnx.exporters.onnxgraph import files
from bertonnx.exporters.onnxgraph.files import load_proto
from bertonnx.exporters.staging import require_free, stage
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY
from bertonnx.runtime.modelfile.modelfile import read_model_file
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("seal") / "checkpoint", task="feature-extraction")


@pytest.fixture
def proto(exported: dict[str, Path]) -> onnx.ModelProto:
    model = load_proto(exported["fill-mask"])
    del model.metadata_props[:]
    return model


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_existing_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("precious")
    with pytest.raises(
        OutputError, match=r"model\.onnx exists; add force=True to replace it, or choose another"
    ):
        bertonnx.export(tmp_path / "no-such-checkpoint", tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "precious"


def test_an_output_that_is_a_folder(tmp_path: Path) -> None:
    for force in (False, True):
        with pytest.raises(
            OutputError, match=r"is a folder; give the file to write, such as output=.*model\.onnx"
        ):
            require_free(tmp_path, force=force)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"there is no folder .*absent to write model\.onnx to; make it first"
    ):
        require_free(tmp_path / "absent/model.onnx", force=False)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="there is no folder"):
        require_free(tmp_path / "file/model.onnx", force=True)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(OutputError, match="cannot be written to; choose another with output"):
        require_free(tmp_path / "model.onnx", force=False)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="is no file but a device, a pipe or the like"):
        require_free(tmp_path / "pipe", force=True)


def _fails(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


STEPS = [
    (convert, "traced"),
    (convert, "compare"),
    (seal, "examples_of"),
    (seal, "check"),
    (seal, "save_proto"),
    (seal.Staged, "write_metadata"),
    (seal.Staged, "publish"),
]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom")], ids=["interrupt", "bug"])
@pytest.mark.parametrize(("where", "step"), STEPS, ids=[step for _, step in STEPS])
def test_whatever_stops_an_export_leaves_the_folder_as_it_was(
    where: Any,
    step: str,
    error: BaseException,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "model.onnx").write_text("precious")
    monkeypatch.setattr(where, step, _fails(error))
    with pytest.raises(type(error)):
        bertonnx.export(checkpoint, tmp_path / "model.onnx", force=True)
    assert _names(tmp_path) == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "precious"


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("method", "mode"), [("open", "wb"), ("open", "ab"), ("replace", None)])
def test_a_full_disk(
    method: str,
    mode: str | None,
    proto: onnx.ModelProto,
    exported: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = read_model_file(exported["fill-mask"])
    card, tokenizer, golden = file.card, file.tokenizer, file.golden
    real = getattr(Path, method)

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if ".partial" in str(path) and (mode is None or arguments == (mode,)):
            raise FULL
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, method, full)

    def write() -> None:
        with stage(proto, tmp_path / "model.onnx") as staged:
            staged.write_metadata(card, tokenizer, golden)
            staged.publish()

    with pytest.raises(OutputError, match=r"model\.onnx cannot be written: No space left on device"):
        write()
    assert _names(tmp_path) == []


def test_a_folder_that_cannot_take_a_folder(
    proto: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", _fails(PermissionError(errno.EACCES, "Permission denied")))
    with (
        pytest.raises(OutputError, match="cannot be written: Permission denied"),
        stage(proto, tmp_path / "m.onnx"),
    ):
        pass


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from pathlib import Path
import onnx
from bertonnx.exporters.staging import stage
from bertonnx.errors import OutputError
try:
    with stage(onnx.load(sys.argv[1]), Path(sys.argv[2])):
        pass
except OutputError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses_half_way(exported: dict[str, Path], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(exported["fill-mask"]), str(tmp_path / "model.onnx")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip().endswith("model.onnx cannot be written: File too large")
    assert _names(tmp_path) == []


def test_metadata_and_graph_become_one_file(
    proto: onnx.ModelProto, exported: dict[str, Path], tmp_path: Path
) -> None:
    file = read_model_file(exported["fill-mask"])
    with stage(proto, tmp_path / "m.onnx") as staged:
        assert staged.path.name == "m.onnx"
        assert not staged.target.exists()
        staged.write_metadata(file.card, "tokenizer é", file.golden)
        staged.publish()
    assert _names(tmp_path) == ["m.onnx"]
    back = {item.key: item.value for item in onnx.load(str(tmp_path / "m.onnx")).metadata_props}
    assert back[CARD_KEY] == file.card.to_json()
    assert back[TOKENIZER_KEY] == "tokenizer é"
    assert json.loads(back[GOLDEN_KEY]) == file.golden


def test_force_replaces_and_takes_the_old_sidecar_away(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "SINGLE_FILE_LIMIT", 1000)
        first = bertonnx.export(checkpoint, tmp_path / "model.onnx")
    (tmp_path / "other.data").touch()
    assert _names(tmp_path) == ["model.onnx", "model.onnx.data", "other.data"]
    assert first.sidecar == tmp_path / "model.onnx.data"
    second = bertonnx.export(checkpoint, tmp_path / "model.onnx", force=True)
    assert second.sidecar is None
    assert _names(tmp_path) == ["model.onnx", "other.data"]
    assert bertonnx.check(tmp_path / "model.onnx").max_abs_difference == 0


def test_force_replaces_what_is_no_model(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("not a model")
    bertonnx.export(checkpoint, tmp_path / "model.onnx", force=True)
    assert _names(tmp_path) == ["model.onnx"]


def test_the_file_is_as_readable_as_any_other(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    report = bertonnx.export(checkpoint, tmp_path / "model.onnx")
    assert report.path.stat().st_mode == (tmp_path / "usual").stat().st_mode
