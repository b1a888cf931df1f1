"""Which checkpoints are cross-encoders, and what makes their scores; against the package in tests/whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bertonnx.errors import CheckpointError, UnsupportedError, UsageError
from tests.checkpoints import edit_json, message, read
from tests.tiny import save_tiny

TORCH = "torch.nn.modules."
IDENTITY, TANH, SOFTMAX = TORCH + "linear.Identity", TORCH + "activation.Tanh", TORCH + "activation.Softmax"

LISTED = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
]
CLASSIFIES = {"transformer_task": "sequence-classification"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    place = tmp_path_factory.mktemp("classifiers")
    return {
        count: save_tiny(place / str(count), "bert", "text-classification", labels=tuple("abc"[:count]))
        for count in (1, 3)
    }


@pytest.fixture
def folder(folders: dict[int, Path], tmp_path: Path) -> Any:
    """Return what makes a folder of as many labels, with changes to its two configurations."""

    def made(labels: int, settings: dict[str, Any] | None = None, **config: Any) -> Path:
        place = tmp_path / str(len([*tmp_path.iterdir()]))
        shutil.copytree(folders[labels], place)
        edit_json(place / "config.json", **config)
        if settings is not None:
            crosses = {"model_type": "CrossEncoder", **settings}
            (place / "config_sentence_transformers.json").write_text(json.dumps(crosses))
            (place / "modules.json").write_text(json.dumps(LISTED))
            (place / "sentence_bert_config.json").write_text(json.dumps(CLASSIFIES))
        return place

    return made


@pytest.mark.parametrize(
    ("labels", "settings", "config", "task", "activation"),
    [
        (1, {}, {}, "text-ranking", "sigmoid"),
        (1, {"activation_fn": IDENTITY}, {}, "text-ranking", "none"),
        (1, {"activation_fn": TANH}, {}, "text-ranking", "tanh"),
        (3, {}, {}, "text-classification", "none"),
        (3, {"activation_fn": SOFTMAX}, {}, "text-classification", "softmax"),
        # Older ones say it in config.json, in two ways; the newest place wins.
        (1, None, {"sbert_ce_default_activation_function": IDENTITY}, "text-ranking", "none"),
        (1, None, {"sentence_transformers": {"activation_fn": TANH}}, "text-ranking", "tanh"),
        (
            1,
            {"activation_fn": IDENTITY},
            {"sentence_transformers": {"activation_fn": TANH}},
            "text-ranking",
            "none",
        ),
        (
            1,
            None,
            {
                "sentence_transformers": {"activation_fn": TANH},
                "sbert_ce_default_activation_function": IDENTITY,
            },
            "text-ranking",
            "tanh",
        ),
        # Others are no cross-encoders.
        (1, None, {}, "text-classification", "sigmoid"),
        (3, None, {}, "text-classification", "softmax"),
    ],
)
def test_task_and_activation(
    folder: Any, labels: int, settings: Any, config: dict[str, Any], task: str, activation: str
) -> None:
    found = read(folder(labels, settings, **config))
    assert (found.task, found.activation) == (task, activation)
    crosses = settings is not None or bool(config)
    assert found.pairs is (True if crosses else None)
    assert any("cross-encoder with" in str(note) for note in found.notes) is crosses
    assert len(found.labels) == (0 if task == "text-ranking" else labels)


def test_a_plain_classifier_with_one_label_says_how_to_make_a_ranker_of_it(folder: Any) -> None:
    path = folder(1)
    assert any("task='text-ranking'" in str(note) for note in read(path).notes)
    found = read(path, task="text-ranking")
    assert (found.task, found.activation, found.pairs, found.labels) == ("text-ranking", "sigmoid", True, ())
    asked = read(path, task="text-classification")
    assert not any("text-ranking" in str(note) for note in asked.notes)


def test_a_ranker_has_one_output(folder: Any) -> None:
    said = message(UnsupportedError, folder(3), task="text-ranking")
    assert "has 3" in said
    assert "--task text-classification" in said
    assert "has 3" in message(UnsupportedError, folder(3, {}), task="text-ranking")


def test_several_scores_are_a_yes_or_no_for_each_only_as_sigmoids(folder: Any) -> None:
    each = {"problem_type": "multi_label_classification"}
    assert read(folder(3, {}, **each)).problem_type == "single_label_classification"
    sigmoid = {"activation_fn": TORCH + "activation.Sigmoid"}
    assert read(folder(3, sigmoid, **each)).problem_type == "multi_label_classification"


def test_an_activation_of_the_users(folder: Any) -> None:
    found = read(folder(1, {"activation_fn": IDENTITY}), activation="Tanh")
    assert found.activation == "tanh"
    assert any("scores use tanh, as asked" in str(note) for note in found.notes)
    assert read(folder(3), activation="torch.nn.Identity").activation == "none"
    said = message(UsageError, folder(3), activation="swoosh")
    assert "--activation swoosh is unknown; it can be none, sigmoid, softmax, tanh" in said
    said = message(UsageError, folder(3), task="feature-extraction", activation="tanh")
    assert "--activation tanh is for text-classification, text-ranking" in said


def test_an_activation_that_is_not_torchs(folder: Any) -> None:
    said = message(UnsupportedError, folder(1, {"activation_fn": "own.code.Scale"}))
    assert "config_sentence_transformers.json: the activation own.code.Scale cannot be exported" in said


def test_what_generates_is_refused_by_name(folder: Any) -> None:
    path = folder(1, {})
    kinds = ("Transformer", "LogitScore")
    prefix = "sentence_transformers.cross_encoder.modules."
    entries = [{"path": f"{i}_{kind}" if i else "", "type": prefix + kind} for i, kind in enumerate(kinds)]
    (path / "modules.json").write_text(json.dumps(entries))
    assert "module LogitScore cannot be exported: it scores by the next word" in message(
        UnsupportedError, path
    )


def test_modules_that_make_no_scores(folder: Any) -> None:
    path = folder(1, {})
    prefix = "sentence_transformers.models."
    entries = [
        {"path": "", "type": prefix + "Transformer"},
        {"path": "1_Pooling", "type": prefix + "Pooling"},
    ]
    (path / "modules.json").write_text(json.dumps(entries))
    (path / "sentence_bert_config.json").unlink()
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 32}')
    assert "none of them writes scores" in message(CheckpointError, path)


def test_the_transformers_own_options_count(folder: Any) -> None:
    path = folder(1, {"prompts": {"ask": "query: "}, "default_prompt_name": "ask"})
    entries = [{"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    (path / "modules.json").write_text(json.dumps(entries))
    options = {
        "transformer_task": "sequence-classification",
        "module_output_name": "scores",
        "max_seq_length": 24,
    }
    (path / "sentence_bert_config.json").write_text(json.dumps(options))
    found = read(path)
    assert (found.task, found.max_length, found.layers) == ("text-ranking", 24, ())
    assert (found.prompts, found.default_prompt) == ({"ask": "query: "}, "ask")
    edit_json(path / "sentence_bert_config.json", attention="own")
    assert "sentence_bert_config.json has attention" in message(CheckpointError, path)


def test_an_encoder_that_was_taken_out_of_a_cross_encoder_is_one_like_any_other(
    folder: Any, tmp_path: Path
) -> None:
    """Sentence-Transformers reads it by its modules, whatever config.json keeps of the cross-encoder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    key = "sbert_ce_default_activation_function"
    taken: Any = [Transformer(str(folder(1, None, **{key: IDENTITY}))), Pooling(32, "cls")]
    SentenceTransformer(modules=taken, device="cpu").save(str(tmp_path / "encoder"))
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())[key] == IDENTITY
    checkpoint = read(tmp_path / "encoder")
    assert (checkpoint.task, checkpoint.pooling) == ("feature-extraction", "cls")


def test_a_rankers_prompts_are_not_its_encoders(folder: Any) -> None:
    from sentence_transformers import SentenceTransformer

    asked = {"prompts": {"rank": "rank: "}, "default_prompt_name": "rank"}
    ranker = folder(1, asked)
    theirs = SentenceTransformer(str(ranker), device="cpu")
    assert theirs.default_prompt_name is None
    assert "rank" not in theirs.prompts
    encoder = read(ranker, task="feature-extraction")
    assert (encoder.prompts, encoder.default_prompt) == ({}, None)
    assert (read(ranker).prompts, read(ranker).default_prompt) == ({"rank": "rank: "}, "rank")


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"activation_fn": TANH}, "activation_fn"),
        ({"prompts": {"rank": "rank: "}, "default_prompt_name": "rank"}, "default_prompt_name"),
    ],
)
def test_settings_that_are_not_read_without_a_list_of_modules(
    folder: Any, settings: dict[str, Any], keys: str
) -> None:
    """Sentence-Transformers makes a new cross-encoder of such a folder."""
    from sentence_transformers import CrossEncoder

    place = folder(1, settings)
    (place / "modules.json").unlink()
    theirs = CrossEncoder(str(place), device="cpu")
    assert (type(theirs.activation_fn).__name__, theirs.default_prompt_name) == ("Sigmoid", None)
    said = message(CheckpointError, place)
    assert f"has no modules.json, without which Sentence-Transformers does not read {keys} of" in said


def test_settings_without_a_list_of_modules_that_change_nothing(folder: Any) -> None:
    place = folder(1, {"activation_fn": TORCH + "activation.Sigmoid"})
    (place / "modules.json").unlink()
    assert (read(place).task, read(place).activation) == ("text-ranking", "sigmoid")
