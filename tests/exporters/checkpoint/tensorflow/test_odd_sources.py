"""Sources as people have them: odd vocabularies and configurations, other optimizers, heads of one's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bertonnx
from bertonnx.errors import CheckpointError, SourceError, UnsupportedError
from bertonnx.exporters.checkpoint.tensorflow.replica import Replica
from bertonnx.exporters.checkpoint.tensorflow.tokens import copy_tokenizer
from tests.exporters.checkpoint.tensorflow.test_account import (
    GOOGLE,
    QUERY,
    refused,
    replica,
    source,
    tensors,
)
from tests.exporters.checkpoint.tensorflow.test_replica import DATA
from tests.tensorflow_values import furthest

WORDS = (GOOGLE / "vocab.txt").read_text().split("\n")[:-1]


def with_words(folder: Path, words: list[str], *, ending: str = "\n") -> Path:
    source(folder, tensors())
    (folder / "vocab.txt").write_text("\n".join(words) + ending, encoding="utf-8")
    return folder


def lower_cased(into: Path) -> bool:
    return bool(json.loads((into / "tokenizer_config.json").read_text())["do_lower_case"])


def said(made: Replica) -> str:
    return "; ".join(map(str, made.notes))


# Vocabularies.


@pytest.mark.parametrize("word", ["\u2028", "\x85", "\x1c"])
def test_a_word_that_unicode_takes_for_the_end_of_a_line_is_one_word(word: str, tmp_path: Path) -> None:
    words = [word, *WORDS[1:-1], "[PAD]"]
    replica(with_words(tmp_path / "a", words), tmp_path / "b")
    assert (tmp_path / "b" / "vocab.txt").read_bytes().decode().split("\n")[:-1] == words
    assert json.loads((tmp_path / "b" / "config.json").read_text())["pad_token_id"] == len(words) - 1


def test_empty_lines_at_the_end_are_no_words(tmp_path: Path) -> None:
    replica(with_words(tmp_path / "a", WORDS, ending="\n\n\n"), tmp_path / "b")
    assert (tmp_path / "b" / "vocab.txt").read_text().split("\n")[:-1] == WORDS


def test_a_vocabulary_in_another_encoding_is_refused(tmp_path: Path) -> None:
    folder = with_words(tmp_path / "a", WORDS)
    (folder / "vocab.txt").write_bytes("\n".join([*WORDS[:-1], "é"]).encode("latin-1"))
    assert f"{folder / 'vocab.txt'} is not UTF-8" in refused(folder, tmp_path / "b")
    (folder / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(WORDS).encode())
    assert f"{folder / 'vocab.txt'} begins with a byte order mark" in refused(folder, tmp_path / "c")


def test_of_two_vocabularies_none_is_taken(tmp_path: Path) -> None:
    folder = with_words(tmp_path / "a", WORDS)
    (folder / "vocab.txt").rename(folder / "our_vocab.txt")
    (folder / "old_vocab.txt").write_text("\n".join(WORDS))
    assert "several vocabularies (old_vocab.txt, our_vocab.txt)" in refused(folder, tmp_path / "b")
    shutil.copyfile(folder / "our_vocab.txt", folder / "old_vocab.txt")
    replica(folder, tmp_path / "c")
    shutil.copyfile(folder / "our_vocab.txt", folder / "vocab.txt")
    (folder / "old_vocab.txt").write_text("another")
    replica(folder, tmp_path / "d")


@pytest.mark.parametrize(
    ("upper", "lower"),
    [
        ((), True),
        (("COVID", "NASA"), True),
        (("Z",), False),
        (("##Z",), False),
        (("ACG", "ACT", "CGT", "CCC"), False),
    ],
)
def test_a_few_words_of_upper_case_make_no_cased_vocabulary(
    upper: tuple[str, ...], lower: bool, tmp_path: Path
) -> None:
    words = [*WORDS, *(f"word{number}" for number in range(300)), *upper]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    into = tmp_path / "replica"
    into.mkdir()
    notes = copy_tokenizer([tmp_path], into, {"model_type": "bert", "vocab_size": len(words)})
    assert lower_cased(into) == lower
    assert ("2 upper-case words alone, such as COVID" in str(notes[0])) == ("COVID" in upper)


@pytest.mark.parametrize("lower", [True, False])
def test_a_model_of_tensorflow_hub_says_itself_how_its_texts_are_read(lower: bool, tmp_path: Path) -> None:
    folder = source(tmp_path / "a", {**tensors(), "do_lower_case": np.array(lower)})
    made = replica(folder, tmp_path / "b")
    assert lower_cased(tmp_path / "b") == lower
    assert "as the checkpoint says" in said(made)
    assert "do_lower_case" not in json.loads((tmp_path / "b" / "config.json").read_text())


# Configurations.


@pytest.mark.parametrize("heads", ["2", 2.0, True, 0, -2, None])
def test_what_is_no_number_of_heads_is_named(heads: Any, tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors(), config={"num_attention_heads": heads})
    wanted = f"bert_config.json says num_attention_heads {json.dumps(heads)}, where a whole number"
    assert wanted in refused(folder, tmp_path / "b")


def test_of_two_configurations_none_is_taken(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors(), config={"num_attention_heads": 4})
    (folder / "bert_config.json").rename(folder / "a_config.json")
    shutil.copyfile(GOOGLE / "bert_config.json", folder / "b_config.json")
    assert "several configurations (a_config.json, b_config.json)" in refused(folder, tmp_path / "b")
    shutil.copyfile(GOOGLE / "bert_config.json", folder / "bert_config.json")
    replica(folder, tmp_path / "c")
    assert json.loads((tmp_path / "c" / "config.json").read_text())["num_attention_heads"] == 2


def test_googles_code_reads_activations_in_any_case(tmp_path: Path) -> None:
    replica(source(tmp_path / "a", tensors(), config={"hidden_act": "GELU"}), tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["hidden_act"] == "gelu"


# Tensors.


@pytest.mark.parametrize(
    "slots", [("Momentum",), ("RMSProp", "RMSProp_1"), ("lamb_m", "lamb_v"), ("adafactor_vr", "accum")]
)
def test_what_an_optimizer_keeps_of_a_variable_is_left_out(slots: tuple[str, ...], tmp_path: Path) -> None:
    given = tensors()
    more = {f"{name}/{slot}": value[:1] for name, value in given.items() for slot in slots}
    more |= {"current_learning_rate": np.float32(1), "iteration": np.int64(3)}
    made = replica(source(tmp_path / "a", {**given, **more}), tmp_path / "b")
    assert [one.name for one in made.tensors if one.became] == sorted(given)


def test_weights_in_whole_numbers_are_refused(tmp_path: Path) -> None:
    given = tensors()
    given[QUERY] = np.round(given[QUERY] * 100).astype(np.int8)
    told = refused(source(tmp_path / "a", given), tmp_path / "b")
    assert f"quantized, in whole numbers: {QUERY}" in told


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors())
    file = folder / "bert_model.ckpt.data-00000-of-00001"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 100\n")
    assert f"{file} is a Git LFS pointer" in refused(folder, tmp_path / "b")


def test_a_checkpoint_of_lightning_is_none_of_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "epoch=1.ckpt").write_bytes(b"PK\3\4")
    with pytest.raises(SourceError, match="a file of PyTorch, as Lightning writes it"):
        bertonnx.export(tmp_path, tmp_path / "model.onnx")


def test_an_error_names_the_users_folder_and_no_copy(tmp_path: Path) -> None:
    folder = with_words(tmp_path / "a", ["[CLX]" if word == "[CLS]" else word for word in WORDS])
    with pytest.raises(CheckpointError, match="no embedding for") as caught:
        bertonnx.export(folder, tmp_path / "model.onnx")
    assert f"the tokenizer in {folder} " in str(caught.value)


# The Model Garden's SavedModels.


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('"inner_activation": "<lambda>", "norm_first": false', ""),
        ('"inner_activation": "Text>gelu"', ""),
        ('"inner_activation": "relu"', "was made with inner_activation relu"),
        ('"inner_activation": "<lambda>", "norm_first": true', "was made with norm_first"),
    ],
)
def test_an_encoder_that_was_changed_is_refused_where_it_says_so(
    keys: str, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    shutil.copytree(DATA / "garden-2" / "source", folder / "variables")
    for file in (folder / "variables").glob("ckpt-1.*"):
        file.rename(file.with_name(f"variables{file.suffix}"))
    shutil.copyfile(DATA / "garden-2" / "source" / "vocab.txt", folder / "vocab.txt")
    (folder / "saved_model.pb").write_bytes(b"")
    (folder / "keras_metadata.pb").write_bytes(b"\n\x10{" + keys.encode() + b"}")
    if said:
        assert said in refused(folder, tmp_path / "b", UnsupportedError)
    else:
        replica(folder, tmp_path / "b")


# Hugging Face's files.


def hugging_face(folder: Path, renamed: Callable[[str], str], *, named: bool) -> Path:
    """Copy a classifier of tokens, its arrays by other paths."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed, which reads Keras' files")
    shutil.copytree(DATA / "hf-tokens" / "source", folder)
    paths: list[str] = []
    with h5py.File(DATA / "hf-tokens" / "source" / "tf_model.h5") as old:
        old.visititems(lambda name, one: paths.append(name) if isinstance(one, h5py.Dataset) else None)
        with h5py.File(folder / "tf_model.h5", "w") as new:
            for path in paths:
                new[renamed(path)] = old[path][()]
            new.attrs["layer_names"] = [renamed(path) for path in paths] if named else ["bert", "classifier"]
    return folder


def test_a_head_of_ones_own_is_refused_unless_its_class_is_named(tmp_path: Path) -> None:
    def own(path: str) -> str:
        inner = path.partition("/")[2].partition("/")[2]
        return f"classifier/{inner}" if inner.startswith("classifier") else f"bert/tf_bert_model/{inner}"

    folder = hugging_face(tmp_path / "a", own, named=False)
    replica(folder, tmp_path / "b")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    told = refused(folder, tmp_path / "c")
    assert "a Keras model of one's own" in told
    assert "what its head (classifier/bias, classifier/kernel) reads" in told


def test_a_shard_names_its_arrays_without_a_layer(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "a", lambda path: path.partition("/")[2].partition("/")[2], named=True)
    report = bertonnx.export(folder, tmp_path / "model.onnx")
    assert furthest(report, DATA / "hf-tokens", {"logits": "logits"}) < 1


def test_a_configuration_without_a_class_is_named(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "a", lambda path: path.replace("bert", "roberta"), named=False)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "roberta", "architectures": None}
    (folder / "config.json").write_text(json.dumps(config))
    assert "names no class of transformers" in refused(folder, tmp_path / "b")


def test_keras_shards_are_refused(tmp_path: Path) -> None:
    for name in ("model.weights.json", "model_00000.weights.h5", "model_00001.weights.h5"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"model\.weights\.json .* without max_shard_size"):
        bertonnx.export(tmp_path, tmp_path / "model.onnx")
