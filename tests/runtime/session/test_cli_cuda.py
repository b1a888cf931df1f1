"""What the command line says and does of CUDA, with ONNX Runtime pretending to have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bertonnx.runtime.session.binding import Binding
from tests.commands import Command
from tests.fake_cuda import CPU, CUDA, DRIVER_TOO_OLD, FakeRuntime, pretend_cuda, use_runtime

TEXTS = ["a good film", "a bad film", "no film at all", "a good film"]


@pytest.fixture
def classifier(exported: dict[str, Path]) -> Path:
    return exported["text-classification"]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def _scores(out: str) -> list[float]:
    return [score for line in out.splitlines() for score in json.loads(line)["scores"].values()]


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "token-classification"])
def test_cuda_gives_what_cpu_gives(
    command: Command, exported: dict[str, Path], texts: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = command("run", exported[task], texts, "--provider", "cpu").out
    runtime = pretend_cuda(monkeypatch)
    outcome = command("run", exported[task], texts, "--provider", "cuda", "--tf32", "--gpu-memory", "0.5")
    assert outcome.code == 0
    assert len(runtime.sessions) == 1
    if task == "text-classification":
        assert _scores(outcome.out) == pytest.approx(_scores(cpu), abs=1e-5)
    assert len(outcome.out.splitlines()) == len(TEXTS)  # nothing else on standard output


def test_auto_says_that_it_took_cuda(
    command: Command, classifier: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cuda(monkeypatch)
    assert "note: running on CUDA\n" in command("run", classifier, texts, "--threads", "1").err


def test_what_is_missing_and_the_line_that_mends_it(
    command: Command, classifier: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runtime(monkeypatch, FakeRuntime([CUDA, CPU], [CPU], RuntimeError(DRIVER_TOO_OLD)))
    for arguments in (("run", classifier, texts), ("check", classifier), ("info", classifier)):
        outcome = command(*arguments, "--provider", "cuda")
        assert outcome.code == 1
        assert outcome.error.startswith("provider cuda was asked for, and ")
        assert "driver" in outcome.error
        assert "provider" not in outcome.out


@pytest.mark.parametrize("option", [("--tf32",), ("--gpu-memory", "1")])
def test_options_of_cuda_are_refused_on_cpu(
    command: Command, classifier: Path, texts: Path, option: tuple[str, ...]
) -> None:
    outcome = command("run", classifier, texts, "--provider", "cpu", *option)
    assert outcome.code == 2
    assert outcome.error == (
        f"{option[0]} is of CUDA, and the provider is cpu; leave it out, or ask for --provider cuda"
    )


def test_gpu_memory_is_over_zero(command: Command, classifier: Path, texts: Path) -> None:
    assert command("run", classifier, texts, "--gpu-memory", "0").error == (
        "--gpu-memory 0.0 is too small; give a number of GiB over 0"
    )


def test_check_and_info_say_which_nodes_are_where(
    command: Command, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cuda(monkeypatch, on_cpu=frozenset({"Shape", "Softmax"}))
    last = command("check", classifier, "--provider", "cuda").out.splitlines()[-1]
    assert "nodes on the GPU" in last
    assert "more than shape arithmetic: 1 Softmax" in last
    line = command("info", classifier, "--provider", "cuda").out.splitlines()[-1]
    assert line == f"  provider    cuda: {last}"
    running = json.loads(command("info", classifier, "--provider", "cuda", "--json").out)["running"]
    assert running["provider"] == "cuda"
    assert running["computing_on_cpu"] == [["Softmax", 1]]
    assert "running" not in json.loads(command("info", classifier, "--json").out)
    assert "provider" not in command("info", classifier).out
    assert command("info", classifier, "--provider", "cpu").out.splitlines()[-1] == "  provider    cpu"
    assert command("info", classifier, "--provider", "tpu").code == 2


def test_memory_that_runs_out_is_said_once_and_costs_no_row(
    command: Command, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{i:04} a good film\n" for i in range(400)))
    expected = command("run", classifier, path, "--provider", "cpu").out
    pretend_cuda(monkeypatch)
    run = Binding.run

    def tight(self: Binding, outputs: Any, feeds: Any) -> Any:
        if feeds["input_ids"].size > 300:
            raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")
        return run(self, outputs, feeds)

    monkeypatch.setattr(Binding, "run", tight)
    outcome = command("run", classifier, path, "--provider", "cuda")
    assert outcome.code == 0
    assert _scores(outcome.out) == pytest.approx(_scores(expected), abs=1e-5)
    assert outcome.err.count("memory ran out on cuda, so batches now run one at a time, of at most ") == 1
