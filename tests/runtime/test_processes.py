"""Processes: a forked one gets an error and never hangs, and memory goes back when models close."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bertonnx
from bertonnx.errors import BertonnxError, UsageError
from bertonnx.runtime.bench.options import BenchOptions
from bertonnx.runtime.options import LoadOptions
from bertonnx.runtime.session import memory
from tests.commands import Command

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

_BEGIN = """
import multiprocessing, os, sys, warnings
import bertonnx
from bertonnx.errors import InferenceError
warnings.simplefilter("ignore")  # newer Pythons warn of every fork beside threads
path = sys.argv[1]
model = bertonnx.load(path, "cpu", 2)
texts = ["one text", "another, longer text"] * 150
before = model.predict(texts)

def child(_=None):
    try:
        model.predict(texts)
    except InferenceError as error:
        assert "forked" in str(error) and "spawn" in str(error), error
    else:
        raise AssertionError("predicted")
    list(map(len, [model.tokenize(["a text"])]))
    model.close()
    with bertonnx.load(path, "cpu", 2) as again:
        assert again.predict(texts) == before
    return "as it should be"
"""
_FORK = """
pid = os.fork()
if not pid:
    print(child(), flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert model.predict(texts) == before
"""
_POOL = """
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(child, range(2)) == ["as it should be"] * 2
print("as it should be")
"""
_STREAM = """
stream = model.stream(iter([bertonnx.runtime.rows.Row(text) for text in texts]))
next(stream)
pid = os.fork()
if not pid:
    del stream
    print(child(), flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert len(list(stream)) == len(texts) - 1
"""


@FORKS
@pytest.mark.parametrize("then", [_FORK, _POOL, _STREAM], ids=["fork", "pool", "stream"])
def test_a_forked_process_gets_an_error_and_opens_the_model_again(then: str, classifier: Path) -> None:
    program = f"{_BEGIN}\nif __name__ == '__main__':{then.replace(chr(10), chr(10) + '    ')}"
    done = subprocess.run(
        [sys.executable, "-c", program, classifier],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "as it should be\n"), done.stderr


def test_memory_is_given_back_when_a_model_closes_and_when_it_is_dropped(
    classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trims: list[int] = []
    monkeypatch.setattr(memory, "trim", lambda: trims.append(1))
    model = bertonnx.load(classifier, "cpu")
    model.predict(["a text"])
    assert trims == []
    model.close()
    gc.collect()
    assert trims == [1], "a closed model still holds its session"
    with pytest.raises(BertonnxError, match="was closed"):
        model.predict(["a text"])
    model = bertonnx.load(classifier, "cpu")
    del model
    gc.collect()
    assert trims == [1, 1]


_MANY = """
import sys, bertonnx
def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
for i in range(50):
    bertonnx.load(sys.argv[1], "cpu", 1).predict(["one text", "another, longer text"])
    if i == 9:
        early = resident()
print((resident() - early) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_fifty_models_one_after_another_take_no_more_memory_than_ten(classifier: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MANY, classifier], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16, "MiB"


def test_trimming_needs_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    memory.trim()


def test_threads_have_a_limit(monkeypatch: pytest.MonkeyPatch, command: Command, classifier: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert LoadOptions(threads=64).threads == 64
    with pytest.raises(UsageError, match=r"threads=65 is too large for this machine; give .* at most 64"):
        LoadOptions(threads=65)
    monkeypatch.setattr(os, "cpu_count", lambda: 100)
    assert BenchOptions(threads=[400]).threads == [400]
    with pytest.raises(UsageError, match="at most 400"):
        BenchOptions(threads=[1, 401])
    outcome = command("run", classifier, "in.txt", "--threads", "5000")
    assert outcome.code == 2
    assert "--threads 5000 is too large for this machine" in outcome.err
