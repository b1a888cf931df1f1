"""What must hold on a GPU before its speed matters: golden numbers, placement, memory, messages.

Each check is an item of the report with what was seen; one that raises is a failed one, and the others go on.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import bertonnx
import common
from gpu.texts import exactly, passages

__all__ = ["correctness"]

Check = Callable[[argparse.Namespace, Path], Iterator[str]]


def correctness(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Yield what was seen of everything."""
    yield "## Correctness"
    checks: tuple[Check, ...] = (golden, placement, page_locked, tf32, recorded, company_of_threads)
    if options.device == "cuda":
        checks = (*checks, messages, little_memory, no_memory)
    for check in checks:
        common.say(f"correctness: {check.__name__}")
        yield f"### {check.__name__.replace('_', ' ').capitalize()}"
        try:
            yield from check(options, work)
        except Exception as error:  # whatever was not foreseen is what this looks for
            yield common.verdict(False, check.__name__, f"{type(error).__name__}: {error}"[:2000])


def golden(options: argparse.Namespace, _: Path) -> Iterator[str]:
    """Replay the golden examples of every file in `golden/`, which `python -m tests.exported` makes."""
    rows = []
    for path in sorted((options.folder / "golden").glob("*.onnx")):
        try:
            report = bertonnx.check(path, options.device)
            rows.append((path.stem, "same", f"{report.max_abs_difference:.2g}", f"{report.tolerance:.2g}"))
        except bertonnx.BertonnxError as error:
            rows.append((path.stem, "**FAILED**", " ".join(str(error).split())[:300], ""))
    yield common.table(("file", "golden examples", "largest difference", "allowed"), rows)
    failed = sum(row[1] != "same" for row in rows)
    yield common.verdict(
        not failed and bool(rows), "golden examples", f"{len(rows) - failed} of {len(rows)} files"
    )


def placement(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Say which nodes are where."""
    rows = []
    for path in [*sorted((options.folder / "golden").glob("*.onnx")), *sorted(work.glob("*-fp*.onnx"))]:
        with bertonnx.load(path, options.device) as model:
            rows.append((path.stem, str(model.placement), "; ".join(map(str, model.notes))))
    yield common.table(("file", "placement", "notes"), rows)


def page_locked(options: argparse.Namespace, _: Path) -> Iterator[str]:
    """Ask CUDA whether the memory of inputs is page-locked."""
    from bertonnx.runtime.session.binding import page_locked as allocator
    from bertonnx.runtime.session.cuda_libraries import cuda_runtime
    from bertonnx.runtime.session.session import import_onnxruntime

    library = cuda_runtime(import_onnxruntime())
    if library is None:
        yield common.verdict(options.device == "cpu", "page-locked memory", "CUDA's runtime was not found")
        return
    array = allocator(library)(1000)
    array[:] = 1
    flags = ctypes.c_uint()
    code = library.cudaHostGetFlags(ctypes.byref(flags), ctypes.c_void_p(array.ctypes.data))
    yield common.verdict(code == 0, "inputs lie in page-locked memory", f"cudaHostGetFlags gave {code}")


def tf32(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Say what TF32 changes."""
    texts = passages(64, Tokenizer.from_file(str(options.folder / "tokenizer.json")))
    for path in sorted(work.glob("*-fp32.onnx")):
        with bertonnx.load(path, options.device) as model:
            exact = model.embed(texts)
        if options.device == "cpu":
            yield "TF32 is of CUDA."
            return
        with bertonnx.load(path, options.device, tf32=True) as model:
            apart = float(np.abs(model.embed(texts) - exact).max())
        yield common.verdict(
            apart > 0, f"{path.stem}: TF32 has an effect", f"vectors differ by up to {apart:.2g}"
        )


def recorded(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Ask for one text again and again, in several lengths, and compare all answers with the first."""
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    for path in sorted(work.glob("*-fp*.onnx")):
        apart = 0.0
        with bertonnx.load(path, options.device) as model:
            for length in (8, 16, 100, 512):
                first, *others = exactly(length, 4, tokenizer)
                expected = model.embed([first])
                for other in others:
                    model.embed([other])
                    apart = max(apart, float(np.abs(model.embed([first]) - expected).max()))
            graphs = getattr(model._engine._queue._runner._session, "_recorded", None)
            count = len(graphs._graphs) if graphs is not None else 0
        yield common.verdict(
            apart == 0.0, f"{path.stem}: replayed runs have the same bits", f"{count} recorded, {apart:.2g}"
        )


def company_of_threads(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Let 32 threads ask at once, and compare with one."""
    from concurrent.futures import ThreadPoolExecutor

    path = min(work.glob("*-fp16.onnx"), key=lambda file: file.stat().st_size)
    texts = passages(640, Tokenizer.from_file(str(options.folder / "tokenizer.json")))
    with bertonnx.load(path, options.device) as model:
        alone = model.embed(texts)
        with ThreadPoolExecutor(32) as threads:
            found = np.concatenate(
                list(threads.map(lambda i: model.embed(texts[i : i + 20]), range(0, 640, 20)))
            )
    apart = float(np.abs(found - alone).max())
    yield common.verdict(apart < 5e-3, "32 threads at once", f"vectors differ by up to {apart:.2g}")


_SAYS = (
    "import sys, bertonnx\n"
    "try:\n"
    "    m = bertonnx.load(sys.argv[1], sys.argv[2]); print(m.provider, *m.notes, sep=' | ')\n"
    "except bertonnx.BertonnxError as e: print(type(e).__name__, e)\n"
)


def messages(options: argparse.Namespace, _: Path) -> Iterator[str]:
    """Say what users are told."""
    path = next(iter(sorted((options.folder / "golden").glob("*.onnx"))))
    asked: tuple[tuple[str, list[str], dict[str, str]], ...] = (
        ("auto", [path.name, "auto"], {}),
        ("cuda, CUDA_VISIBLE_DEVICES empty", [path.name, "cuda"], {"CUDA_VISIBLE_DEVICES": ""}),
        ("auto, CUDA_VISIBLE_DEVICES empty", [path.name, "auto"], {"CUDA_VISIBLE_DEVICES": ""}),
        ("cuda, CUDA_VISIBLE_DEVICES=9", [path.name, "cuda"], {"CUDA_VISIBLE_DEVICES": "9"}),
    )
    for name, arguments, extra in asked:
        yield f"{name}:\n\n    {_said(['-c', _SAYS, str(path), arguments[1]], extra)}"
    yield f"doctor:\n\n{_said(['-m', 'bertonnx', 'doctor'], {}, indented=True)}"


def _said(arguments: list[str], extra: dict[str, str], *, indented: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **extra}, check=False
    )
    said = (done.stdout + done.stderr).strip()
    return (
        "\n".join("    " + line for line in said.splitlines()) if indented else " / ".join(said.splitlines())
    )


def little_memory(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Run with a limit that does not hold a full batch, and compare."""
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = exactly(512, 96, tokenizer)
    path = max(work.glob("bert-base-fp16.onnx"), key=lambda file: file.stat().st_size)
    with bertonnx.load(path, "cuda") as model:
        expected = model.embed(texts)
    for limit in (0.5, 0.3, 0.25, 0.1):
        try:
            with bertonnx.load(path, "cuda", gpu_memory=limit) as model:
                found = list(model.predict(texts))
                vectors = [item.get("embedding") for item in found]
                good = [i for i, vector in enumerate(vectors) if vector is not None]
                apart = max(
                    (float(np.abs(np.array(vectors[i]) - expected[i]).max()) for i in good), default=0.0
                )
                errors = {str(item.get("error")) for item in found if item.get("embedding") is None}
                done = f"{len(good)} of {len(texts)} rows, apart {apart:.2g}"
                yield f"- {limit} GiB: {done}; notes: {model.notes}; errors: {errors}"
        except bertonnx.BertonnxError as error:
            yield f"- {limit} GiB: {type(error).__name__}: {error}"


def no_memory(options: argparse.Namespace, work: Path) -> Iterator[str]:
    """Let another program hold the GPU's memory, first when a model is opened, then while it runs."""
    import torch

    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    texts = exactly(512, 96, tokenizer)
    path = work / "bert-base-fp16.onnx"

    def hold(left: int) -> Any:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        return torch.empty(max(free - left, 0), dtype=torch.uint8, device="cuda")

    held = hold(100 << 20)
    try:
        with bertonnx.load(path, "cuda") as model:
            yield common.verdict(False, "opening with 100 MiB free fails", str(model.notes))
    except bertonnx.BertonnxError as error:
        yield common.verdict(True, "opening with 100 MiB free fails", f"{type(error).__name__}: {error}")
    del held
    torch.cuda.empty_cache()
    with bertonnx.load(path, "cuda") as model:
        expected = model.embed(texts[:1])
        held = hold(150 << 20)
        found = model.embed(texts)
        apart = float(np.abs(found[:1] - expected).max())
        yield common.verdict(
            apart < 5e-3, "150 MiB left while it runs", f"apart {apart:.2g}; notes: {model.notes}"
        )
    del held
    torch.cuda.empty_cache()
