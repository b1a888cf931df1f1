"""Reads Markdown pages: their code blocks, code spans, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Page", "pages"]

ROOT = Path(__file__).resolve().parents[1]

_BLOCK = re.compile(r"^```(\w*)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        path: where it is.
        text: what it says.
    """

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return self.path.relative_to(ROOT).as_posix()

    def before(self, heading: str) -> Page:
        """Return the part before a heading, which must be there."""
        return Page(self.path, self.text[: self.text.index(f"\n{heading}\n")])

    def blocks(self, language: str) -> list[str]:
        """Return the text of every code block in a language; "" for blocks that name none."""
        return [text for named, _, text in _BLOCK.findall(self.text) if named == language]

    @property
    def excerpts(self) -> list[tuple[str, str]]:
        """The blocks that show a part of a file, as "```python models/tasks.py": the file and the part."""
        return [(file, text) for _, file, text in _BLOCK.findall(self.text) if file]

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """The code in the running text and in tables, each on one line."""
        return [" ".join(span.split()) for span in _SPAN.findall(self.prose)]

    @property
    def links(self) -> list[str]:
        """Targets of all links and pictures."""
        return _LINK.findall(_SPAN.sub("", self.prose))

    @property
    def anchors(self) -> set[str]:
        """Anchors of the headings, as GitHub makes them."""
        return {
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in _HEADING.findall(self.prose)
        }


def pages() -> dict[str, Page]:
    """Return every page of the repository by its path; those that are made by other tools are not read."""
    folders = (ROOT, ROOT / "docs", ROOT / "benchmarks", ROOT / "benchmarks/results", ROOT / "r")
    found = [path for folder in folders for path in sorted(folder.glob("*.md"))]
    return {page.name: page for page in (Page(path, path.read_text(encoding="utf-8")) for path in found)}
