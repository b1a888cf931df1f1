"""A worker process, stopped while it is not asked: a thread pool that spins would slow its neighbours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Child", "PeerError"]


class PeerError(RuntimeError):
    """A peer could not do what it was asked; the message is its own."""


class Child:
    """A peer's process; see `worker.py` for what it can be asked.

    Args:
        engine: one of `ENGINES`, or "sgemm".
        setup: a file with the fields of a `Setup`.
        texts: a file with the workloads.
        interpreter: that of the environment that has the engine.
        cores: how many threads its libraries may use.
        log: where its standard error goes.
        unset: variables that it shall not see.

    Raises:
        PeerError: it cannot load the model.
    """

    def __init__(
        self,
        engine: str,
        setup: Path,
        texts: Path,
        *,
        interpreter: Path,
        cores: int,
        log: Path,
        unset: Sequence[str] = (),
    ) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), str(cores))
        quiet = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        seen = {name: value for name, value in os.environ.items() if name not in unset}
        self._log = log
        with log.open("wb") as complaints:
            self._process = subprocess.Popen(
                [str(interpreter), "-m", "peers.worker", engine, str(setup), str(texts), str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**seen, **threads, **quiet},
                text=True,
            )
        try:
            self.version = str(self._answer()["version"])
        except BaseException:
            self.close()
            raise

    def ask(self, **what: Any) -> dict[str, Any]:
        """Return the answer to one line.

        Raises:
            PeerError: it failed, or the process has ended.
        """
        os.kill(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        os.kill(self._process.pid, signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _ended(self) -> PeerError:
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return PeerError(f"the process ended with {self._process.wait()}: {' '.join(said)}")
