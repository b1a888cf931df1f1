"""The command line from the outside: commands, options, exit codes, check, info, doctor and export."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import bertonnx
from bertonnx.runtime.modelfile.modelfile import read_model_file
from tests.commands import Command, process, with_metadata, written
from tests.tiny import MAX_LENGTH, save_tiny

# The program itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("module", [False, True])
def test_version_of_the_installed_command_and_of_the_module(module: bool) -> None:
    out, err = process("--version", module=module).communicate(timeout=300)
    assert (out.decode(), err) == (f"bertonnx {bertonnx.__version__}\n", b"")


def test_no_arguments_print_help(command: Command) -> None:
    outcome = command()
    assert outcome.code == 2
    for name in ("export", "run", "check", "info", "doctor"):
        assert re.search(rf"\b{name}\b", outcome.out + outcome.err)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "export",
            "--output --task --revision --quantize --calibration --min-agreement --dimensions --target "
            "--precision --optimize --max-length --pooling --normalize "
            "--no-normalize --ignore-key --force --trust-remote-code --allow-pickle",
        ),
        (
            "run",
            "--output --column --pair-column --provider --threads --top-k --max-length --long-text "
            "--on-error --resume",
        ),
        ("check", "--provider"),
        ("info", "--json"),
        ("doctor", ""),
    ],
)
def test_help_lists_every_option(command: Command, name: str, options: str) -> None:
    for flag in ("--help", "-h"):
        outcome = command(name, flag)
        assert outcome.code == 0
        # A terminal of 80 columns cuts the longest names short.
        shown = re.findall(r"--[a-z-]+", outcome.out)
        for option in options.split():
            assert any(option.startswith(name) for name in shown), (option, outcome.out)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run"],
        ["run", "MODEL"],
        ["run", "MODEL", "INPUT", "--nonsense"],
        ["run", "MODEL", "INPUT", "more"],
        ["run", "MODEL", "INPUT", "--top-k", "many"],
        ["run", "MODEL", "INPUT", "--top-k", "0"],
        ["run", "MODEL", "INPUT", "--threads", "0"],
        ["run", "MODEL", "INPUT", "--threads", "-1"],
        ["run", "MODEL", "INPUT", "--provider", "tpu"],
        ["run", "MODEL", "INPUT", "--long-text", "fold"],
        ["run", "MODEL", "INPUT", "--on-error", "panic"],
        ["run", "MODEL", "INPUT", "--max-length", "1"],
        ["run", "MODEL", "INPUT", "--max-length", "0"],
        ["run", "MODEL", "INPUT", "--max-length", str(MAX_LENGTH + 1)],
        ["run", "MODEL", "INPUT", "--column", "text"],
        ["run", "MODEL", "INPUT", "--resume"],
        ["run", "MODEL", "INPUT", "-o", "out.docx"],
        ["run", "MODEL", "INPUT", "-o", "out"],
        ["run", "MODEL", "INPUT", "-o", "INPUT"],
        ["check", "MODEL", "--provider", "tpu"],
        ["check"],
        ["info"],
        ["doctor", "MODEL"],
        ["export"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_names_what_was_wrong(
    command: Command, classifier: Path, tmp_path: Path, arguments: list[str]
) -> None:
    # The output may not be the input, which only a format that can be both can show.
    name = "in.jsonl" if "-o" in arguments else "in.txt"
    places = {"MODEL": classifier, "INPUT": written(tmp_path / name, '"a text"\n')}
    outcome = command(*[places.get(word, word) for word in arguments])
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    wrong = next((word for word in arguments if word.startswith("-") and word != "-o"), None)
    assert wrong is None or wrong in outcome.err, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [places["INPUT"].name]


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("--provider", "auto, cpu, cuda"),
        ("--long-text", "truncate, stride, error"),
        ("--on-error", "record, fail"),
    ],
)
def test_an_unknown_choice_lists_those_there_are(
    command: Command, classifier: Path, option: str, choices: str
) -> None:
    assert command("run", classifier, "-", option, "x").error == f"{option} x is unknown; it can be {choices}"


# check, info, doctor, export -----------------------------------------------------------------------


def test_check(command: Command, exported: dict[str, Path]) -> None:
    for file in exported.values():
        outcome = command("check", file, "--provider", "cpu")
        assert outcome.code == 0
        assert re.match(r"ok: \d+ golden examples on cpu, largest difference ", outcome.out)


def test_check_finds_drift(command: Command, classifier: Path, tmp_path: Path) -> None:
    def lowercased(metadata: dict[str, str]) -> None:
        tokenizer = json.loads(metadata["bertonnx.tokenizer"])
        tokenizer["normalizer"]["lowercase"] = False
        metadata["bertonnx.tokenizer"] = json.dumps(tokenizer)

    outcome = command("check", with_metadata(classifier, tmp_path / "model.onnx", lowercased))
    assert outcome.code == 1
    assert "tokenizer" in outcome.error


def test_info(command: Command, exported: dict[str, Path]) -> None:
    for task, file in exported.items():
        text = command("info", file)
        assert text.code == 0
        assert f"task        {task}" in text.out
        card = json.loads(command("info", file, "--json").out)
        assert next(iter(card)) == "format"
        assert card["task"] == task
        assert card == json.loads(json.dumps(read_model_file(file).card.as_dict()))


def test_info_of_what_others_made(command: Command, tmp_path: Path, classifier: Path) -> None:
    foreign = with_metadata(classifier, tmp_path / "model.onnx", dict.clear)
    assert "bertonnx export SOURCE" in command("info", foreign).error


def test_doctor(command: Command) -> None:
    outcome = command("doctor")
    assert outcome.code in (0, 1)
    assert "provider cpu: available" in outcome.out
    assert (outcome.code == 1) == any(line.startswith("problem") for line in outcome.out.splitlines())


def test_export_ends_with_a_summary_and_the_next_command(command: Command, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "checkpoint", task="feature-extraction")
    output = tmp_path / "model.onnx"
    options = ["--pooling", "cls", "--normalize", "--max-length", 32, "--optimize", "basic"]
    outcome = command("export", source, "-o", output, *options)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == f"next: bertonnx run {output} input.txt"
    for part in ("cls pooling, normalized", "up to 32 tokens", "largest difference"):
        assert part in outcome.out
    assert "comparing with PyTorch ..." in outcome.err
    card = read_model_file(output).card
    assert (card.pooling, card.normalize, card.max_length, card.optimize) == ("cls", True, 32, "basic")
    before = output.read_bytes()
    refused = command("export", source, "-o", output)
    assert refused.code == 1
    assert "--force" in refused.error
    assert output.read_bytes() == before
    assert command("export", source, "-o", output, "--force", "--no-normalize").code == 0
    assert not read_model_file(output).card.normalize
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "model.onnx"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--task", "translation"], 2, "--task translation"),
        (["--task", "fill-mask"], 1, "it can serve: --task"),
        (["--precision", "fp8"], 2, "--precision fp8"),
        (["--optimize", "max"], 2, "--optimize max"),
        (["--max-length", "2"], 2, "--max-length 2"),
        (["--max-length", "9999"], 2, "--max-length 9999"),
        (["--task", "feature-extraction", "--pooling", "best"], 2, "--pooling best"),
        (["--pooling", "cls"], 2, "--pooling"),
    ],
    ids=str,
)
def test_export_refuses(
    command: Command, classifier: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    outcome = command("export", classifier.parent / "checkpoint", "-o", tmp_path / "m.onnx", *options)
    assert outcome.code == code
    assert outcome.err.splitlines()[-1].startswith("error: ")
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_export_of_nothing_or_to_nowhere(command: Command, classifier: Path, tmp_path: Path) -> None:
    source = classifier.parent / "checkpoint"
    for arguments, said in (
        ([tmp_path / "none", "-o", tmp_path / "m.onnx"], str(tmp_path / "none")),
        ([source, "-o", tmp_path / "no" / "m.onnx"], "there is no folder"),
        ([source, "-o", tmp_path], "is a folder"),
        ([classifier, "-o", tmp_path / "m.onnx"], "is already an ONNX file"),
    ):
        outcome = command("export", *arguments)
        assert outcome.code == 1
        assert said in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_interrupted_leaves_nothing(
    command: Command, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertonnx.exporters import convert

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "compare", interrupted)
    outcome = command("export", classifier.parent / "checkpoint", "-o", tmp_path / "m.onnx")
    assert outcome.code == 130
    assert list(tmp_path.iterdir()) == []
