"""Fixtures of all tests, and the rule that nothing here may reach a network."""

from __future__ import annotations

import gc
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

# Before any import of transformers or huggingface_hub, which read them once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# Each export here is checked by the libraries that made its checkpoint, through their own functions.
os.environ.setdefault("BERTONNX_VERIFY", "1")

from tests.commands import Command, Outcome
from tests.exported import export_tiny

if TYPE_CHECKING:
    from tests.cells import Cells

_make_parser = typer.main.get_command


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--big", action="store_true", help="also build models of several gigabytes")
    parser.addoption(
        "--fuzz-minutes",
        type=float,
        metavar="N",
        help="let each fuzzer of tests/fuzz go on for N minutes with a fresh seed, instead of a few seconds",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--big"):
        return
    skip = pytest.mark.skip(reason="builds a model over 2 GB; run with --big (20 GB of memory and disk)")
    for item in items:
        if "big" in item.keywords:
            item.add_marker(skip)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Spare the collector of garbage what a module's tests have imported and made: a million objects.

    Models that R lets go collect garbage each time, and so do tests of what is let go.
    """
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export one tiny model a task and return the files by task."""
    return export_tiny(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    """Return what exports a family for a task, once for all workers of this run."""
    from tests.cells import made_in

    place = tmp_path_factory.getbasetemp()
    return made_in((place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "cells")


@cache
def _parser_of(app: typer.Typer) -> Any:
    """Return the parser of a command line, which typer makes anew for each run."""
    return _make_parser(app)


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return what runs `main()` with arguments, as the installed command does."""

    monkeypatch.setattr("typer.main.get_command", _parser_of)

    def run(*arguments: object) -> Outcome:
        capfdbinary.readouterr()
        monkeypatch.setattr(sys, "argv", ["bertonnx", *map(str, arguments)])
        code: Any = 0
        from bertonnx.__main__ import main

        try:
            main()
        except SystemExit as ending:
            code = ending.code or 0
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Outcome(int(code), out.decode(), err.decode())

    return run


@pytest.fixture
def classifier(exported: dict[str, Path]) -> Path:
    return exported["text-classification"]
