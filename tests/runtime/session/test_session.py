"""The seam to ONNX Runtime: providers, telemetry, and what happens without it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import (
    InferenceError,
    MissingDependencyError,
    ModelFileError,
    OutOfMemoryError,
    ProviderError,
)
from bertonnx.models.providers import PROVIDERS
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session import cuda_libraries, huge_pages
from bertonnx.runtime.session.cpu import read_cpu
from bertonnx.runtime.session.ort_session import OrtSession
from bertonnx.runtime.session.problem import Problem
from bertonnx.runtime.session.session import (
    OpenSession,
    SessionOptions,
    import_onnxruntime,
    open_provider,
    open_session,
)
from bertonnx.wording import Install, Message, R
from tests.fake_cuda import (
    CPU,
    CUDA,
    DRIVER_TOO_OLD,
    NO_DEVICE,
    OUT_OF_MEMORY,
    FakeRuntime,
    pretend_cuda,
    use_runtime,
)
from tests.fake_predictor import card
from tests.figures import INT8_FIGURES


def opened(path: Path, *, optimize: str = "full", **options: Any) -> OpenSession:
    """Open a file with a card that says nothing but how it was optimized; on one thread, as not said."""
    return open_session(
        path, card("text-classification", optimize=optimize), LoadOptions(**{"threads": 1, **options})
    )


def noted(session: OpenSession) -> list[str]:
    return list(map(str, session.notes))


def _use(monkeypatch: pytest.MonkeyPatch, fake: FakeRuntime) -> FakeRuntime:
    return use_runtime(monkeypatch, fake)


def test_cuda_on_a_cpu_build_says_what_to_type(exported: dict[str, Path]) -> None:
    if CUDA in import_onnxruntime().get_available_providers():
        pytest.skip("this ONNX Runtime is a CUDA build")
    with pytest.raises(ProviderError) as caught:
        bertonnx.load(exported["fill-mask"], provider="cuda")
    assert "provider cuda was asked for, and this ONNX Runtime is a CPU build" in str(caught.value)
    assert 'pip install "bertonnx[gpu]"' in str(caught.value)


def test_auto_on_a_cpu_build_is_cpu(exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    assert opened(exported["fill-mask"], provider="auto").provider == "cpu"
    assert fake.asked == [[CPU]]


def test_cuda_that_falls_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU]))
    with pytest.raises(
        ProviderError, match=r"provider cuda was asked for, and libonnxruntime\w+.so was not found; type: pip"
    ):
        opened(Path("m.onnx"), provider="cuda")
    assert fake.asked == [[CUDA, CPU]]


@pytest.mark.parametrize("error", [RuntimeError(DRIVER_TOO_OLD), ValueError(NO_DEVICE)])
def test_cuda_that_raises_is_an_error_that_says_why(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_library(name: str, *, everywhere: bool = False) -> Any:  # noqa: ARG001
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(cuda_libraries, "load_library", no_library)
    _use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU], error))
    with pytest.raises(ProviderError, match=r"provider cuda was asked for, and .*(no NVIDIA driver|no GPU)"):
        opened(Path("m.onnx"), provider="cuda")


def no_cudnn(*_: Any) -> Problem:
    return Problem(Message("no cudnn"), Install("gpu"))


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA failure 35")])
def test_auto_takes_the_cpu_where_cuda_does_not_work_and_says_why(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from bertonnx.runtime.session import cuda_session

    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CPU], error))
    monkeypatch.setattr(cuda_session, "cuda_problem", no_cudnn)
    row = replace(PROVIDERS["cuda"], problem="tests.runtime.session.test_session:no_cudnn")
    monkeypatch.setitem(PROVIDERS._rows, "cuda", row)
    session = opened(Path("m.onnx"), provider="auto")
    assert session.provider == "cpu"
    assert noted(session) == [
        "running on CPU, although this ONNX Runtime is a CUDA build: no cudnn; type: "
        'pip install "bertonnx[gpu]"'
    ]
    assert session.notes[0].worded(R).endswith("no cudnn; type: bert_install(gpu = TRUE)")
    assert fake.asked == [[CUDA, CPU], [CPU]]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_cuda_that_works_is_used_and_auto_says_so(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    session = opened(Path("m.onnx"), provider=provider)
    assert session.provider == "cuda"
    assert noted(session) == (["running on CUDA"] if provider == "auto" else [])
    assert fake.fallbacks == 1  # or a run that fails would be repeated on CPU


def test_tf32_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    opened(Path("m.onnx"), provider="cuda")
    opened(Path("m.onnx"), provider="cuda", tf32=True, gpu_memory=1.0)
    off, on = fake.provider_options
    assert (off["use_tf32"], on["use_tf32"]) == ("0", "1")
    assert "gpu_mem_limit" not in off
    assert on["gpu_mem_limit"] == str(2**30)


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_a_broken_file_is_no_fault_of_cuda(
    provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cuda(monkeypatch)
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="ONNX Runtime cannot load"):
        opened(tmp_path / "m.onnx", provider=provider, optimize="none")


def test_nodes_that_fell_to_the_cpu_are_known(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cuda(monkeypatch)
    session = opened(exported["text-classification"], provider="cuda")
    assert session.placement is not None
    assert 0 < session.placement.on_cpu < session.placement.nodes
    assert session.placement.computing_on_cpu == ()
    assert session.notes == ()
    pretend_cuda(monkeypatch, on_cpu=frozenset({"Shape", "MatMul"}))
    session = opened(exported["text-classification"], provider="auto")
    assert session.placement is not None
    assert session.placement.computing_on_cpu[0][0] == "MatMul"
    first, second = noted(session)
    assert first == "running on CUDA"
    assert "more than shape arithmetic: " in second


def test_a_padded_batch_is_refused_where_the_graph_was_told_that_there_is_none(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cuda(monkeypatch)
    session = opened(exported["text-classification"], provider="cuda")
    ids = np.array([[2, 7, 3, 0]], dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": 0 * ids}
    with pytest.raises(ValueError, match="without padding"):
        session.run(["scores"], feeds)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("[ONNXRuntimeError] : 6"), InferenceError),
        (RuntimeError(OUT_OF_MEMORY), OutOfMemoryError),
        (RuntimeError("CUDA failure 2: out of memory"), OutOfMemoryError),
        (RuntimeError("std::bad_alloc"), OutOfMemoryError),
        (MemoryError(), OutOfMemoryError),
    ],
)
def test_what_onnx_runtime_raises_becomes_ours(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    fake = _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    session = opened(Path("m.onnx"))
    fake.run = fail
    with pytest.raises(kind) as caught:
        session.run([], {})
    assert str(caught.value)
    assert caught.value.__cause__ is error


def test_onnx_runtimes_own_errors_become_ours_and_faults_of_bertonnx_do_not(
    exported: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    session = opened(exported["text-classification"], provider="cpu")
    ids = np.array([[2, 10**6, 3]], dtype=np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": 0 * ids}
    with pytest.raises(InferenceError, match="out of"):
        session.run(["scores"], feeds)
    assert capfd.readouterr().err == "", "ONNX Runtime says it too, in red and raw"
    with pytest.raises(ValueError, match="attention_mask"):
        session.run(["scores"], {"input_ids": ids})
    with pytest.raises(TypeError):
        session.run(["scores"], None)  # type: ignore[arg-type]


def test_cpu_never_touches_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    assert opened(Path("m.onnx"), provider="cpu").provider == "cpu"
    assert fake.asked == [[CPU]]
    assert fake.severities == []


def test_what_was_optimized_at_export_is_not_optimized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    opened(Path("m.onnx"), optimize="full")
    opened(Path("m.onnx"), optimize="none")
    first, second = fake.options
    assert (first.graph_optimization_level, second.graph_optimization_level) == (0, 99)
    assert "SkipLayerNormFusion" in second.entries["optimization.disable_specified_optimizers"]
    assert all(options.intra_op_num_threads == options.inter_op_num_threads == 1 for options in fake.options)


def test_all_cores_are_taken_where_batches_come_alone_repeatedly(exported: dict[str, Path]) -> None:
    session = opened(exported["fill-mask"], provider="cpu", threads=2)
    ids = np.arange(5, 15)[None]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    results = [session.run(["logits"], feeds, alone=alone)[0] for alone in (False, True, True, True, False)]
    assert isinstance(session, OrtSession)
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
    session = opened(Path("m.onnx"), threads=4)
    session.run([], {}, alone=True)
    assert [options.intra_op_num_threads for options in fake.options] == [1]
    session.run([], {}, alone=True)
    session.run([], {}, alone=True)
    assert [options.intra_op_num_threads for options in fake.options] == [1, 4]


@pytest.mark.parametrize("threads", [1, 2])
def test_weights_are_moved_once_for_texts_that_keep_coming_alone(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    memory = iter([[(0, 4096)], [(0, 4096), (8192, 12288)]])
    monkeypatch.setattr(huge_pages, "private_memory", lambda: next(memory))
    moved: list[Any] = []
    monkeypatch.setattr(huge_pages, "gather", lambda extents: moved.append(list(extents)))
    session = opened(Path("m.onnx"), threads=threads)
    for _ in range(31):
        session.run([], {}, alone=True)
    assert not moved
    for _ in range(40):
        session.run([], {}, alone=True)
    assert moved == [[(8192, 12288)]]


@pytest.mark.parametrize(("version", "slow"), [("1.26.0", False), ("1.28.0", True), ("1.32.0", False)])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_slow_onnx_runtime_is_named(
    version: str, slow: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = _use(monkeypatch, FakeRuntime([CPU], [CPU]))
    monkeypatch.setattr(fake, "__version__", version, raising=False)
    notes = noted(opened(Path("m.onnx"), provider="cpu", threads=threads))
    assert [version in note for note in notes] == [True] * slow


def test_a_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelFileError, match="ONNX Runtime cannot load"):
        opened(tmp_path / "m.onnx")


def test_a_session_runs_and_names_its_ends(exported: dict[str, Path]) -> None:
    session = opened(exported["text-classification"], provider="cpu")
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
        f"{_BLOCKED}\nfrom bertonnx.runtime.session.session import import_onnxruntime\nimport_onnxruntime()"
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


@pytest.mark.parametrize(
    ("version", "fits"),
    [("1.24.4", True), ("1.31.1", True), ("2.0.0rc1", True), ("1.24.3", False), ("1.9.0", False)],
)
def test_an_onnx_runtime_that_follows_any_path_is_refused(
    version: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = ModuleType("onnxruntime")
    ort.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    if fits:
        assert import_onnxruntime() is ort
        return
    with pytest.raises(MissingDependencyError, match=f"{version} is too old: bertonnx needs 1.24.4"):
        import_onnxruntime()


@pytest.mark.parametrize(("optimize", "optimized"), [("full", True), ("basic", False), ("none", False)])
def test_the_card_says_whether_the_graph_was_optimized(optimize: str, optimized: bool) -> None:
    options = LoadOptions(threads=3, tf32=True, gpu_memory=2.0)
    made = SessionOptions.of(card("fill-mask", optimize=optimize), options)
    assert made == SessionOptions(optimized=optimized, threads=3, tf32=True, gpu_memory=2.0)


def test_without_a_number_all_cores_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertonnx.runtime.session import session as session_module

    monkeypatch.setattr(session_module, "allowed_cores", lambda: 7)
    assert SessionOptions.of(card("fill-mask"), LoadOptions()).threads == 7


def test_what_no_row_knows_is_an_error() -> None:
    row = replace(PROVIDERS["cpu"], execution_provider="NowhereExecutionProvider")
    with pytest.raises(ProviderError, match="was built without NowhereExecutionProvider") as caught:
        open_provider(row, Path("m.onnx"), SessionOptions())
    assert "problem" in caught.value.facts


@pytest.mark.parametrize("name", ["InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NoModel"])
def test_what_is_the_files_fault_is_told_from_cudas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = type(name, (Exception,), {})("broken")
    _use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU], fault))
    with pytest.raises(ModelFileError, match=r"ONNX Runtime cannot load m\.onnx: broken"):
        opened(Path("m.onnx"), provider="cuda")


def test_a_file_for_another_cpu_is_refused_where_it_would_be_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from bertonnx.runtime.session import cpu

    _use(monkeypatch, FakeRuntime([CUDA, CPU], [CUDA, CPU]))
    monkeypatch.setattr(cpu, "cpu_features", lambda: read_cpu("x86_64", tmp_path / "missing"))
    unsafe = card("fill-mask", quantization=INT8_FIGURES)
    with pytest.raises(ProviderError, match="no VNNI"):
        open_session(tmp_path, unsafe, LoadOptions(provider="cpu"))
    assert open_session(tmp_path, unsafe, LoadOptions(provider="cuda")).provider == "cuda"


def test_an_interrupt_while_it_is_loaded_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> ModuleType:
        # What C++ makes of an exception that its module's beginning raises.
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("bertonnx.runtime.session.session.importlib.import_module", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_onnxruntime()
