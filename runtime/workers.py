"""A model in the worker processes of Ray, Spark and the like.

The driver makes an `Assignment`, which travels. A worker opens the model once, whatever number of batches it
gets, and only after its files were compared with the driver's.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import stat
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx import __version__
from bertonnx.collecting import paused
from bertonnx.errors import ModelFileError, RowError, UsageError
from bertonnx.models.card import Card
from bertonnx.runtime.decoders import require_options
from bertonnx.runtime.io.manifest import sha256_of
from bertonnx.runtime.modelfile.held import held
from bertonnx.runtime.modelfile.modelfile import read_model_file
from bertonnx.runtime.opening import Opening, card_of
from bertonnx.runtime.options import BatchOptions, DecodeOptions, LoadOptions, RunOptions
from bertonnx.runtime.session.cpu import cpu_features
from bertonnx.runtime.session.version import onnxruntime_version
from bertonnx.wording import Message, Option

if TYPE_CHECKING:
    from bertonnx.runtime.model import Model

__all__ = ["Assignment", "Fetch", "assignment_for", "engine_facts", "open_once", "run_batch"]

Fetch = Callable[[str, Path], object]
"""Puts a file of the model, by its name in `Assignment.files`, at a path."""

MODELS_HELD = 4
"""Models that a worker keeps open: a job may have several, and a notebook's workers live for days."""

_TELLING = 40
"""Characters of a cell that may say which row failed."""

_PARTIAL, _LEFT = "partial-", 3600.0
"""What folders of models that are being copied are called, and seconds without a change after which nobody is
copying there any more."""

_open: OrderedDict[tuple[str, str, LoadOptions], Model] = OrderedDict()
_opening = threading.Lock()


@dataclass(frozen=True)
class Assignment:
    """What a worker is told. It travels, so it holds no model.

    Attributes:
        path: of the model on the driver, absolute.
        root: the folder there that has all its files.
        files: SHA-256 of each of them, by their names from that folder.
        opens: the name that is opened; "." for the folder.
        card: what the model says of itself.
        engine: what the driver runs it with (`engine_facts`).
        load: how it is opened.
        decode: how results are made.
        columns: the columns that are read, and what a failed row does.
        batch: what the result of a batch looks like.
    """

    path: str
    root: str
    files: Mapping[str, str]
    opens: str
    card: Card
    engine: Mapping[str, str]
    load: LoadOptions = field(default_factory=LoadOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    columns: RunOptions = field(default_factory=RunOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what the model consists of."""
        return _digest(self.files)


def assignment_for(
    model: str | Path | Model,
    *,
    load: LoadOptions,
    decode: DecodeOptions,
    columns: RunOptions,
    batch: BatchOptions,
) -> Assignment:
    """Return what workers are told of a model; it is read, but not opened.

    Raises:
        ModelFileError: it is missing, broken, foreign or of a newer format.
        UsageError: an option is for other tasks, or says how to open a model that is open already.
    """
    if not isinstance(model, (str, os.PathLike)):
        if load not in (LoadOptions(), LoadOptions(threads=load.threads)):
            raise UsageError(
                "the model is open already, and these say how to open one; give its path instead"
            )
        load = replace(model.options, threads=load.threads)
        model = model.path
    path = Path(model).absolute()
    # Read once, for what it is and for its files.
    with nullcontext() if path.is_dir() else held(path):
        card = card_of(path)
        require_options(card, decode)
        card.prompt_text(decode.prompt)
        root, files = _files_of(path)
    return Assignment(
        path=str(path),
        root=str(root),
        files=files,
        opens="." if path.is_dir() else path.relative_to(root).as_posix(),
        card=card,
        engine=engine_facts(),
        load=load,
        decode=decode,
        columns=columns,
        batch=batch,
    )


def engine_facts() -> dict[str, str]:
    """Return what the bits of a result depend on besides the model; what is not known is left out."""
    cpu = cpu_features()
    facts = {"bertonnx": __version__, "processor": " ".join((cpu.architecture, *cpu.features))}
    version = onnxruntime_version()
    # A driver need not be able to run the model.
    return facts if version is None else {**facts, "ONNX Runtime": version}


def open_once(assignment: Assignment, fetch: Fetch | None = None, *, threads: int) -> Model:
    """Return the model, opened by the first call in this process.

    Args:
        assignment: what the driver said.
        fetch: brings the files here; None where they lie under the driver's path here too.
        threads: of this worker, where the assignment does not say.

    Raises:
        ModelFileError: the files are not here, or are not the driver's.
        BertonnxError: as `bertonnx.load`.
    """
    load = replace(assignment.load, threads=assignment.load.threads or threads)
    key = (assignment.path, assignment.digest, load)
    # One at a time: an engine may call from several threads, and each would open its own.
    with _opening:
        if key not in _open:
            # Read once, at the first use: each worker would have as many as the machine has cores.
            os.environ.setdefault("RAYON_NUM_THREADS", str(load.threads))
            _open[key] = _opened(assignment, fetch, load)
        _open.move_to_end(key)
        while len(_open) > MODELS_HELD:
            _open.popitem(last=False)
        return _open[key]


def run_batch(model: Model, assignment: Assignment, batch: Any, *, where: str) -> Any:
    """Return the result of a record batch or table.

    Args:
        model: as `open_once` gave it.
        assignment: what the driver said.
        batch: the rows.
        where: what an error says of their place, such as "partition 3, rows from 2000 on".

    Raises:
        RowError: a row failed, with `on_error="fail"`; it says which, and what else is in that row.
        BertonnxError: as `Model.predict_batch`.
    """
    with paused():
        from bertonnx.runtime.io.arrow_batch import predict_batch

    try:
        return predict_batch(model, batch, assignment.decode, assignment.columns, assignment.batch)
    except RowError as error:
        row = int(error.facts["row"])
        raise RowError(
            error.kind,
            "{where}, row {row} of {rows}{cells}: {why}",
            where=where,
            row=row,
            rows=batch.num_rows,
            cells=_cells(batch, row),
            why=error.facts["why"],
        ) from error
    except Exception as error:
        # In the traceback, which is all that an engine brings to the driver.
        error.add_note(f"in {where}, {batch.num_rows} rows")
        raise


def _cells(batch: Any, row: int) -> str:
    """Return the short cells of a row, by which its owner finds it."""
    cells = []
    for place, name in enumerate(batch.schema.names):
        kind = str(batch.schema.field(place).type)
        if kind.startswith(("int", "uint", "string", "large_string")):
            try:
                cell = batch.column(place)[row].as_py()
            except UnicodeDecodeError:
                continue
            if cell is not None and len(str(cell)) <= _TELLING:
                cells.append(f"{name}={cell!r}")
    return f" ({', '.join(cells[:4])})" if cells else ""


def _opened(assignment: Assignment, fetch: Fetch | None, load: LoadOptions) -> Model:
    root, path = Path(assignment.root), Path(assignment.path)
    if fetch is not None:
        root = _copied(assignment, fetch)
        path = root / assignment.opens
    if not path.exists():
        raise ModelFileError(
            "{path} is on the driver and not on {node}; put it there too, or let it be sent with {ship}",
            path=path,
            node=platform.node(),
            ship=Option("ship", True),
        )
    _require_same(assignment, root, path)
    with paused(), Opening(path, load) as opening:
        from bertonnx.runtime.model import Model

        model = Model(path, load, opening=opening)
    for note in (*_differences(assignment.engine), *model.messages):
        warnings.warn(str(note), stacklevel=2)
    return model


def _require_same(assignment: Assignment, root: Path, path: Path) -> None:
    """Compare the files here with the driver's."""
    files = {name: _sha256(root / name) for name in assignment.files}
    if files != assignment.files:
        raise ModelFileError(
            "{path} on {node} is not the model of the driver: its SHA-256 begins with {here}, and the "
            "driver's with {there}; put the same file there, or let it be sent with {ship}",
            path=path,
            node=platform.node(),
            here=_digest(files)[:16],
            there=assignment.digest[:16],
            ship=Option("ship", True),
        )


def _differences(driver: Mapping[str, str]) -> Iterator[Message]:
    here = engine_facts()
    for name, value in driver.items():
        if here.get(name, value) != value:
            yield Message(
                "{node} has {name} {here}, and the driver has {there}: results of the two can differ in "
                "their last bits",
                node=platform.node(),
                name=name,
                here=here[name],
                there=value,
            )


def _sha256(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""


def _digest(files: Mapping[str, str]) -> str:
    text = "".join(f"{name}\0{sha}\n" for name, sha in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _files_of(path: Path) -> tuple[Path, dict[str, str]]:
    """Return the folder that has all files of a model, and their SHA-256 by their names from there."""
    root, model = path.parent, path
    files: list[Path] = []
    read = None if path.is_dir() else read_model_file(path)
    if read is None or not read.is_bertonnx:
        from bertonnx.runtime.optimum_folder import find_folder  # for what others made

        folder = find_folder(path)
        root, model = folder.root, folder.model
        # Settings and tokenizer; checkpoints that lie there too may be large, and nobody reads them.
        files = [file for file in root.rglob("*.json") if file.is_file()]
        read = read_model_file(model)
    files += [model, *read.sidecars]
    return root, {file.relative_to(root).as_posix(): sha256_of(file) for file in sorted(files)}


def _copied(assignment: Assignment, fetch: Fetch) -> Path:
    """Return a folder of this machine with the model's files, which its workers share."""
    folder = _own_folder() / assignment.digest
    if not folder.is_dir():
        _sweep(folder.parent)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_PARTIAL))
        try:
            for name in assignment.files:
                target = made / name
                target.parent.mkdir(parents=True, exist_ok=True)
                fetch(name, target)
            # At one stroke: another worker sees all files or none. It may have been faster.
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _sweep(folder: Path) -> None:
    """Take away what workers left that were killed while they copied a model: it may be large."""
    for left in folder.glob(f"{_PARTIAL}*"):
        with suppress(OSError):
            if time.time() - max(part.stat().st_mtime for part in (left, *left.iterdir())) > _LEFT:
                shutil.rmtree(left, ignore_errors=True)


def _own_folder() -> Path:
    """Return a folder for temporary files that nobody else can write to."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"bertonnx-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        # Somebody else made it, who could exchange files in it.
        return Path(tempfile.mkdtemp(prefix="bertonnx-"))
    return folder
