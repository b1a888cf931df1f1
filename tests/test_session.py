"""The seam to ONNX Runtime: providers, telemetry, and what happens without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import MissingDependencyError, ModelFileError, ProviderError
from bertonnx.runtime import session as session_module
from bertonnx.runtime.session import import_onnxruntime, open_session

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class FakeRuntime:
    """An onnxruntime that lists `available` and gives sessions that hold `loaded`."""

    ExecutionMode = SimpleNamespace(ORT_SEQUENTIAL=0)
    GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL=0, ORT_ENABLE_ALL=99)

    def __init__(self, available: list[str], loaded: list[str], error: Exception | None = None) -> None:
        self.available, self.loaded, self.error = available, loaded, error
        self.asked: list[list[str]] = []
        self.options: list[Any] = []
        self.preloaded = 0

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def SessionOptions(self) -> Any:
        entries: dict[str, str] = {}
        return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)

    def InferenceSession(self, _path: str, options: Any, *, providers: list[str]) -> Any:
        self.asked.append(providers)
        self.options.append(options)
        if self.error is not None and CUDA in providers:
            raise self.error
        held = [name for name in providers if name in self.loaded]
        return SimpleNamespace(
            get_providers=lambda: held, get_inputs=list, get_outputs=list, run=lambda *_: []
        )


def _use(monkeypatch: pytest.MonkeyPatch, fake: FakeRuntime) -> FakeRuntime:
    monkeypatch.setattr(session_module, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(session_module, "without_weights", lambda _: b"")
    monkeypatch.setattr(session_module, "_stamp", lambda _: (0,))
    return fake


def test_cuda_on_a_cpu_build_says_what_to_type(exported: dict[str, Path]) -> None:
    if CUDA in import_onnxruntime().get_available_providers():
        pytest.skip("this ONNX Runtime is a CUDA build")
    with pytest.raises(ProviderError) as caught:
        bertonnx.load(exported["fill-mask"], provider="cuda")
    assert "provider cuda was asked for, and this ONNX Runtime is a CPU build" in str(caught.value)
    assert 'pip install "bertonnx[gpu]"' in str(caught.value)


def test_auto_on_a_cpu_build_is_cpu(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    assert open_session(exported["fill-mask"], provider="auto").provider == "cpu"
    assert fake.asked == [[CPU]]


def test_cuda_that_falls_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU]))
    with pytest.raises(ProviderError, match=r"could not load it.*type: bertonnx doctor"):
        open_session(Path("m.onnx"), provider="cuda")
    assert fake.asked == [[CUDA, CPU]]
    assert fake.preloaded == 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA failure 35: driver too old"), ValueError("no device")])
def test_cuda_that_raises_is_an_error_that_speaks_of_cuda(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU], error))
    with pytest.raises(ProviderError, match=r"cuda was asked for.*(driver too old|no device)"):
        open_session(Path("m.onnx"), provider="cuda")


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA failure 35")])
def test_auto_takes_the_cpu_where_cuda_does_not_work(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU], error))
    session = open_session(Path("m.onnx"), provider="auto")
    assert session.provider == "cpu"
    assert "running on CPU, although" in session.note
    assert fake.asked == [[CUDA, CPU], [CPU]]


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_cuda_that_works_is_used(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    assert open_session(Path("m.onnx"), provider=provider).provider == "cuda"


def test_cpu_never_touches_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    assert open_session(Path("m.onnx"), provider="cpu").provider == "cpu"
    assert fake.asked == [[CPU]]
    assert fake.preloaded == 0


def test_what_was_optimised_at_export_is_not_optimised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    open_session(Path("m.onnx"), optimized=True)
    open_session(Path("m.onnx"), optimized=False)
    first, second = fake.options
    assert (first.graph_optimization_level, second.graph_optimization_level) == (0, 99)
    assert "SkipLayerNormFusion" in second.entries["optimization.disable_specified_optimizers"]
    assert all(options.intra_op_num_threads == options.inter_op_num_threads == 1 for options in fake.options)


def test_all_cores_are_taken_where_batches_come_alone_repeatedly(exported: dict[str, Path]) -> None:
    session = open_session(exported["fill-mask"], provider="cpu", threads=2)
    ids = np.arange(5, 15)[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    results = [session.run(["logits"], feeds, alone=alone)[0] for alone in (False, True, True, True, False)]
    assert session._wide is not None
    assert all(np.array_equal(results[0], result) for result in results)


def test_a_file_that_was_replaced_is_not_opened_again(exported: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(exported["text-classification"], path)
    with bertonnx.load(path, provider="cpu", threads=2) as model:
        first = model.classify(["one text"])
        (tmp_path / "other").write_bytes(exported["fill-mask"].read_bytes())
        (tmp_path / "other").replace(path)
        assert [model.classify(["one text"]) for _ in range(4)] == [first] * 4
        path.unlink()
        assert model.classify(["one text"]) == first


def test_one_text_does_not_pay_for_a_second_session(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    session = open_session(Path("m.onnx"), threads=4)
    session.run([], {}, alone=True)
    assert [options.intra_op_num_threads for options in fake.options] == [1]
    session.run([], {}, alone=True)
    session.run([], {}, alone=True)
    assert [options.intra_op_num_threads for options in fake.options] == [1, 4]


def test_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="ONNX Runtime cannot load"):
        open_session(tmp_path / "m.onnx")


def test_a_session_runs_and_names_its_ends(exported: dict[str, Path]) -> None:
    session = open_session(exported["text-classification"], provider="cpu")
    assert session.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert session.outputs == ("logits", "scores")
    ids = np.array([[2, 7, 3]], dtype=np.int64)
    scores, logits = session.run(
        ("scores", "logits"),
        {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)},
    )
    assert scores.shape == logits.shape == (1, 3)
    assert scores.dtype == np.float32
    assert scores.sum() == pytest.approx(1)


_RUNS = "import bertonnx, sys; model = bertonnx.load(sys.argv[1]); print(len(model.predict(['one', 'two'])))"
_BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
sys.meta_path.insert(0, Blocker())
"""


def _python(code: str, *arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    if home is not None:
        environment = {key: value for key, value in environment.items() if not key.startswith("XDG_")}
        environment["HOME"] = str(home)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_phones_home(exported: dict[str, Path], tmp_path: Path) -> None:
    result = _python(_RUNS, str(exported["text-classification"]), home=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "2\n", "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / ".cache/Microsoft").exists()


def test_without_onnx_runtime_the_line_to_type() -> None:
    result = _python(
        f"{_BLOCKED}\nfrom bertonnx.runtime.session import import_onnxruntime\nimport_onnxruntime()"
    )
    assert "MissingDependencyError: ONNX Runtime is not installed" in result.stderr
    assert 'pip install "bertonnx[cpu]"' in result.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_without_onnx_runtime_a_command_ends_with_1(
    command: str, exported: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    inputs = [str(tmp_path / "in.txt")] if command == "run" else []
    code = f"{_BLOCKED}\nfrom bertonnx.__main__ import main\nmain()"
    result = _python(code, command, str(exported["text-classification"]), *inputs)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ONNX Runtime is not installed; type: pip install")
    assert result.stderr.count("\n") == 1


def test_import_error_becomes_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError):
        import_onnxruntime()
