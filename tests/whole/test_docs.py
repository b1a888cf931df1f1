"""The documents agree with the code: made pages are up to date, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from bertonnx.cli import app
from tests.markdown import ROOT, Page, pages

PAGES = pages()
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {
    option
    for command in COMMANDS.values()
    for item in command.params
    for option in (*item.opts, *item.secondary_opts)
} | {"--help", "--version"}

FOLDERS = ("models", "runtime", "exporters", "src", "tests", "benchmarks", "tools", "docs", "examples", "r")
_INPUTS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".arrow")

every_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())


def test_made_pages_are_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "tools/make_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr


@every_page
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{page.name} links to {link}"
        if anchor:
            known = Page(path, path.read_text(encoding="utf-8")).anchors
            assert anchor in known, f"{page.name} links to {link}; there are {sorted(known)}"


def _lines(page: Page) -> list[str]:
    """Return the lines that a page tells its reader to type."""
    blocks = [block for language in ("sh", "bash") for block in page.blocks(language)]
    indented = re.findall(r"^ {4}(\S.*)$", page.prose, re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()] + indented


@every_page
def test_commands_are_understood(page: Page) -> None:
    """Each line to type is read by the command line; code in the running text may leave out the files."""
    for lines, whole in ((_lines(page), True), (page.spans, False)):
        for line in lines:
            words = shlex.split(line, comments=True) if line.startswith("bertonnx ") else []
            if words[1:2] and words[1].startswith("-"):
                assert set(words[1:]) <= OPTIONS, line
            elif words:
                assert words[1] in COMMANDS, line
                _parse(line, words[1], words[2:], whole=whole)


def _parse(line: str, name: str, arguments: list[str], *, whole: bool) -> None:
    command = COMMANDS[name]
    try:
        context = command.make_context(name, list(arguments))
    except Exception as error:
        # The error's class is in a private module of typer.
        if whole or type(error).__name__ != "MissingParameter":
            raise AssertionError(f"{line}: {error}") from error
        lacking: Any = error
        flag = [lacking.param.opts[0]] if lacking.param.param_type_name == "option" else []
        _parse(line, name, [*flag, "FILE", *arguments], whole=False)
        return
    if name == "run" and whole and context.params["input"] not in ("-", "INPUT"):
        assert context.params["input"].endswith(_INPUTS), line


@every_page
def test_options_exist(page: Page) -> None:
    """In pages for users, an option that is named alone is one of bertonnx."""
    if not page.name.startswith(("README", "docs/", "CHANGELOG")):
        pytest.skip("names options of other programs too")
    for span in page.spans:
        if span.startswith("--"):
            names = span.split()[0].split("=")[0]
            assert names in OPTIONS, f"{page.name}: {span}"


@every_page
def test_scripts_exist(page: Page) -> None:
    """What `python FILE`, `sh FILE` and `Rscript FILE` name is in this repository."""
    for line in (*_lines(page), *page.spans):
        found = re.match(r"(?:python|sh|Rscript) ([\w./]+)", line.strip())
        if found and "/" in found[1]:
            assert (ROOT / found[1]).exists(), f"{page.name}: {line}"


@every_page
def test_files_exist(page: Page) -> None:
    """A path of the repository that a page names in running text is there."""
    for span in page.spans:
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{page.name}: {span}"


@every_page
def test_excerpts_are_in_their_files(page: Page) -> None:
    """A block such as "```python models/tasks.py" shows lines of that file, in its order."""
    for place, excerpt in page.excerpts:
        lines = iter([line.strip() for line in (ROOT / place).read_text(encoding="utf-8").splitlines()])
        for shown in filter(None, map(str.strip, excerpt.splitlines())):
            assert shown == "..." or shown in lines, f"{page.name} shows of {place}: {shown}"


def test_every_room_is_on_the_map() -> None:
    """CONTRIBUTING names every folder with modules, and every module beside the folders."""
    text = PAGES["CONTRIBUTING.md"].text
    for top in ("runtime", "exporters"):
        for path in sorted((ROOT / top).iterdir()):
            if path.is_dir() and (path / "__init__.py").exists():
                assert f"`{path.name}/`" in text, f"{top}/{path.name} is not on the map"
            elif path.suffix == ".py" and path.stem != "__init__":
                assert f"`{path.name}`" in text, f"{top}/{path.name} is not on the map"
