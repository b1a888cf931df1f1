"""Plain lines of `serve` are read without the parser, and mean the same."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from bertonnx.cli import app
from bertonnx.errors import UsageError
from bertonnx.plain_serve import plain_serve

LINES: list[tuple[str, dict[str, str]]] = [
    ("serve a.onnx", {}),
    ("serve a.onnx b=c.onnx --port 0 --host 0.0.0.0", {}),
    ("serve --provider cpu --threads 3 a.onnx --max-queue 7 --max-body 99", {}),
    ("serve a.onnx --auto-truncate --no-access-log", {}),
    ("serve a.onnx --access-log --port 1 --port 2", {}),
    ("serve a.onnx --port 9", {"BERTONNX_PORT": "8", "BERTONNX_HOST": "::1", "BERTONNX_MAX_QUEUE": "5"}),
    ("serve a.onnx", {"BERTONNX_API_KEY": "one, two", "BERTONNX_THREADS": "2", "BERTONNX_OTHER": "x"}),
]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the parser hands on to the server, which does not start."""
    found: list[Any] = []
    monkeypatch.setattr("bertonnx.runtime.serving.server.run", lambda *given: found.append(given))
    return found


@pytest.mark.parametrize(("line", "variables"), LINES)
def test_plain_lines_mean_what_the_parser_reads(
    parsed: list[Any], monkeypatch: pytest.MonkeyPatch, line: str, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    plain = plain_serve(line.split(), variables)
    assert CliRunner().invoke(app, line.split()).exit_code == 0
    # Options do not show their keys, and equal ones are equal.
    assert [plain] == parsed


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("serve", {}),
        ("run a.onnx b.txt", {}),
        ("serve a.onnx --help", {}),
        ("serve a.onnx -h", {}),
        ("serve a.onnx --port", {}),
        ("serve a.onnx --port x", {}),
        ("serve a.onnx --port -1", {}),
        ("serve a.onnx --port=1", {}),
        ("serve a.onnx --threads 0", {}),
        ("serve a.onnx --port ١", {}),
        ("serve a.onnx --host --port", {}),
        ("serve a.onnx --cors *", {}),
        ("serve -- a.onnx", {}),
        ("serve a.onnx", {"BERTONNX_CORS": "*"}),
        ("serve a.onnx", {"BERTONNX_AUTO_TRUNCATE": "1"}),
        ("serve a.onnx", {"BERTONNX_PORT": "x"}),
    ],
)
def test_all_else_is_the_parsers(line: str, variables: dict[str, str]) -> None:
    assert plain_serve(line.split(), variables) is None


def test_what_is_out_of_range_is_said() -> None:
    with pytest.raises(UsageError):
        plain_serve(["serve", "a.onnx", "--port", "70000"], {})
    with pytest.raises(UsageError):
        plain_serve(["serve", "a.onnx", "--provider", "tpu"], {})
