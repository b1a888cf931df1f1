"""What goes wrong around a server, and what its other clients notice of it: a part of `benchmarks/serve`."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import minilm, say
from serve.load import Loaded
from serve.parts import leave
from serve.peers import Server, load, serving, start_load

__all__ = ["faults"]

CLIENTS = 8
"""Others that ask meanwhile."""

NEARLY = 0.8
"""Share of their requests a second that they keep, of what they had before."""

SLOW, READERS, LEAVING, HALF, LARGE, IDLE = 200, 10, 500, 500, 50, 10_000
LARGE_BYTES = 20_000_000
MEMORY_MIB = 96
"""By which the server's memory may grow meanwhile."""

IDLE_KIB = 16
"""For each idle connection."""

BROKEN = """
TOKEN = {token}
from bertonnx.errors import InferenceError
from bertonnx.runtime.engine.running import Runner
inner = Runner._compute
def compute(runner, batch):
    if any((slot.piece.ids == TOKEN).any() for slot in batch.slots):
        raise InferenceError("injected")
    inner(runner, batch)
Runner._compute = compute
"""

Fault = dict[str, Any]


def faults(path: Path, texts: Mapping[str, Sequence[str]], seconds: float) -> list[Fault]:
    """Return for each fault whether what is claimed holds, and what was measured.

    Args:
        path: of the model file.
        texts: by their kind.
        seconds: of each load.
    """
    asking = [json.dumps({"input": text, "encoding_format": "base64"}) for text in texts["short"]]
    found: list[Fault] = []
    with serving(path) as server:
        for claim, fault in _AROUND.items():
            say(f"  {claim} ...")
            # Just before, since other programs of the machine may not be as busy all the time.
            usual = _others(server, asking, seconds)
            before = server.memory()
            with fault(server) as told:
                beside = _others(server, asking, seconds)
            grown = (server.memory() - before) / 2**20
            found.append(_judged(claim, usual, beside, grown, told))
        found.append(_idle(server, asking, seconds, _others(server, asking, seconds)))
        found.append(_quiet_again(server))
    found.append(_one_that_fails(path, asking, seconds))
    found.append(_ending(path, asking, seconds))
    return found


@dataclass(frozen=True)
class Others:
    """What other clients got.

    Attributes:
        answers: that they got for each second of the server's processor time. With a core for each of its
            threads that is their speed, and what else the machine does makes no difference to it.
        unanswered: requests that got another answer, or none.
        found: all of it.
    """

    answers: float
    unanswered: int
    found: Loaded


def _others(server: Server, asking: Sequence[str], seconds: float) -> Others:
    before = server.cpu()
    found = load(server, "/v1/embeddings", asking, connections=CLIENTS, seconds=seconds, warm_up=0)
    spent = server.cpu() - before
    others = sum(at.count for status, at in found.by_status.items() if status != "200")
    return Others(found.good.count / spent, found.lost + others, found)


def _judged(claim: str, usual: Others, beside: Others, grown: float, told: dict[str, str]) -> Fault:
    kept = beside.answers / usual.answers
    missing = beside.unanswered
    measured = f"{kept:.2f} for the same processor time, {missing} without an answer, memory {grown:+.1f} MiB"
    return {
        "claim": f"{claim}: {CLIENTS} others keep {NEARLY:.2f} of their speed and all answers, memory at "
        f"most +{MEMORY_MIB} MiB{told.get('claim', '')}",
        "holds": kept >= NEARLY and not missing and grown <= MEMORY_MIB and told.get("holds", "yes") == "yes",
        "measured": measured + told.get("measured", ""),
    }


def _request(body: bytes, length: int | None = None) -> bytes:
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def _opened(server: Server, count: int) -> Iterator[socket.socket]:
    for _ in range(count):
        yield socket.create_connection(("127.0.0.1", server.port), 30)


@contextlib.contextmanager
def _until_left(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do something in a thread until the block is left."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def slow_clients(server: Server) -> Iterator[dict[str, str]]:
    """Clients that send a byte of their body ten times a second."""
    body = b'{"input": "' + b"a" * 5_000 + b'"}'
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(one) for one in _opened(server, SLOW)]
        for one in slow:
            one.sendall(_request(body[:1], len(body)))

        def drip(over: threading.Event) -> None:
            while not over.wait(0.1):
                for one in slow:
                    one.send(b"a")

        with _until_left(drip):
            yield {}


@contextlib.contextmanager
def slow_readers(server: Server) -> Iterator[dict[str, str]]:
    """Clients that ask for large answers again and again, and read none of them."""
    body = json.dumps({"input": ["a"] * 256, "encoding_format": "float"}).encode()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(one) for one in _opened(server, READERS)]
        for one in slow:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.send(_request(body) * 8)
        # What they ask for is computed, as for anybody: once that is done, they must cost nothing.
        _settled(server)
        yield {}


@contextlib.contextmanager
def leaving_clients(server: Server) -> Iterator[dict[str, str]]:
    """Clients that go before they are answered."""
    leave(server, LEAVING)
    _settled(server)
    yield {}


@contextlib.contextmanager
def half_bodies(server: Server) -> Iterator[dict[str, str]]:
    """Clients that stop in their body; half of them go, the others stay."""
    with contextlib.ExitStack() as stack:
        for place, one in enumerate(_opened(server, HALF)):
            one.sendall(_request(b'{"input": "half', 5_000))
            if place % 2:
                one.close()
            else:
                stack.enter_context(one)
        yield {}


@contextlib.contextmanager
def large_bodies(server: Server) -> Iterator[dict[str, str]]:
    """Clients that send twenty megabytes, with and without saying so before."""
    statuses: list[bytes] = []

    def send(over: threading.Event) -> None:
        part = b"a" * 65_536
        for place in range(LARGE):
            if over.is_set():
                return
            with socket.create_connection(("127.0.0.1", server.port), 30) as one:
                # As some clients do, the whole of it before anything is read.
                with contextlib.suppress(OSError):
                    if place % 2:
                        one.sendall(_request(b"", LARGE_BYTES))
                        for _ in range(LARGE_BYTES // len(part)):
                            one.sendall(part)
                    else:
                        head = (
                            b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
                        )
                        one.sendall(head)
                        for _ in range(LARGE_BYTES // len(part)):
                            one.sendall(b"%x\r\n%s\r\n" % (len(part), part))
                with contextlib.suppress(OSError):
                    statuses.append(one.recv(65_536)[9:12])

    told = {"claim": "; each gets 413"}
    with _until_left(send):
        yield told
    good = statuses.count(b"413")
    told |= {"holds": "yes" if good else "no", "measured": f", {good} of {len(statuses)} read 413"}


_AROUND: Mapping[str, Callable[[Server], contextlib.AbstractContextManager[dict[str, str]]]] = {
    f"{SLOW} clients that send a byte ten times a second": slow_clients,
    f"{READERS} clients that read no answers": slow_readers,
    f"{LEAVING} clients that go before they are answered": leaving_clients,
    f"{HALF} bodies of which half comes": half_bodies,
    f"{LARGE} bodies of 20 MB": large_bodies,
}


def _idle(server: Server, asking: Sequence[str], seconds: float, usual: Others) -> Fault:
    """Keep connections open that were used once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(IDLE, hard - 500)
    before = server.memory()
    try:
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(one) for one in _opened(server, count)]
            for one in idle:
                one.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            answered = sum(one.recv(4_096).startswith(b"HTTP/1.1 200") for one in idle)
            each = (server.memory() - before) / 1024 / count
            beside = _others(server, asking, seconds)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    kept = beside.answers / usual.answers
    return {
        "claim": f"{count:,} idle connections: {CLIENTS} others keep {NEARLY:.2f} of their speed, at most "
        f"{IDLE_KIB} KiB each",
        "holds": kept >= NEARLY and answered == count and each <= IDLE_KIB and not beside.unanswered,
        "measured": f"{kept:.2f} for the same processor time, {answered:,} were answered, {each:.1f} KiB",
    }


def _settled(server: Server) -> int:
    """Wait until no text waits; return how many do where some still do after a while."""
    until, waiting = time.perf_counter() + 40, -1
    while waiting and time.perf_counter() < until:
        lines = server.asked("GET", "/metrics")[1].decode().splitlines()
        waiting = int(
            float(next(line.split()[-1] for line in lines if line.startswith("bertonnx_queue_texts{")))
        )
        time.sleep(0.02)
    return waiting


def _quiet_again(server: Server) -> Fault:
    """Look whether anything of all that is left."""
    waiting, faults_logged = _settled(server), sum('"fault"' in line for line in server.said)
    return {
        "claim": "after all of that nothing waits, and no fault of the server's own is logged",
        "holds": not waiting and not faults_logged,
        "measured": f"{waiting} texts wait, {faults_logged} faults",
    }


def _one_that_fails(path: Path, asking: Sequence[str], seconds: float) -> Fault:
    """Serve a model that fails for one text, among others in one batch."""
    body = json.dumps({"input": "algebra"})
    (token,) = _ids("algebra")
    with serving(path, code=BROKEN.format(token=token)) as server:
        statuses = []

        def ask(over: threading.Event) -> None:
            while not over.is_set():
                statuses.append(server.asked("POST", "/v1/embeddings", body)[0])

        with _until_left(ask):
            beside = _others(server, asking, seconds)
    others = beside.unanswered
    return {
        "claim": "a model that fails for one text: who sent it gets 424, and nobody else notices",
        "holds": set(statuses) == {424} and not others,
        "measured": f"{len(statuses)} got {', '.join(map(str, sorted(set(statuses))))}; of "
        f"{beside.found.good.count} others {others} failed",
    }


def _ids(text: str) -> list[int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _ending(path: Path, asking: Sequence[str], seconds: float) -> Fault:
    """Send SIGTERM under load."""
    with (
        serving(path) as server,
        start_load(server, "/v1/embeddings", asking, connections=32, seconds=seconds) as client,
    ):
        time.sleep(1 + seconds / 2)
        began = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(60)
        took = time.perf_counter() - began
        out, _ = client.communicate()
    found = Loaded.read(out.decode())
    by_status = {status: at.count for status, at in found.by_status.items()}
    return {
        "claim": "SIGTERM under load: what is under way is answered, all else gets 503, exit code 0",
        "holds": code == 0 and set(by_status) <= {"200", "503"} and not found.lost,
        "measured": f"code {code} after {took:.2f} s, answers {by_status}, {found.lost} lost",
    }
