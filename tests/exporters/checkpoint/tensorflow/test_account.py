"""Every tensor of a source is accounted for; what does not belong is an error that lists it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import bertonnx
from bertonnx.errors import BertonnxError, CheckpointError, InputError, SourceError, UsageError
from bertonnx.exporters.checkpoint.tensorflow.bundle import read_bundle
from bertonnx.exporters.checkpoint.tensorflow.locate import locate
from bertonnx.exporters.checkpoint.tensorflow.replica import Replica, replicate
from bertonnx.exporters.options import ExportOptions, Trust
from bertonnx.wording import COMMAND_LINE
from tests.environments.tensorflow.make_fixtures import electra_variables
from tests.exporters.checkpoint.tensorflow.bundles import write_bundle

DATA = Path(__file__).parent / "data"
GOOGLE = DATA / "google-pretraining" / "source"
QUERY = "bert/encoder/layer_0/attention/self/query/kernel"


def tensors() -> dict[str, Any]:
    return {one.name: np.array(one.values()) for one in read_bundle(GOOGLE / "bert_model.ckpt")}


def source(folder: Path, variables: Mapping[str, Any], *, config: Mapping[str, Any] | None = None) -> Path:
    write_bundle(folder / "bert_model.ckpt", variables)
    own = json.loads((GOOGLE / "bert_config.json").read_text())
    (folder / "bert_config.json").write_text(json.dumps(own if config is None else {**own, **config}))
    (folder / "vocab.txt").write_text((GOOGLE / "vocab.txt").read_text())
    return folder


def replica(folder: Path, into: Path, **options: Any) -> Replica:
    located = locate(folder, Trust())
    assert located is not None
    into.mkdir()
    return replicate("it", located, into, ExportOptions(**options))


def refused(folder: Path, into: Path, kind: type[BertonnxError] = CheckpointError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        replica(folder, into, **options)
    return caught.value.worded(COMMAND_LINE)


def test_all_that_is_wrong_is_listed_at_once(tmp_path: Path) -> None:
    given = tensors()
    given["bert/encoder/layer_0/surprise/kernel"] = given[QUERY]
    given["bert/encoder/layer_1/surprise/kernel"] = given[QUERY]
    given["something"] = given[QUERY]
    del given["bert/pooler/dense/bias"]
    given["bert/encoder/layer_1/attention/self/query/kernel"] = np.zeros((16, 8), np.float32)
    given["module/bert/embeddings/LayerNorm/beta"] = given["bert/embeddings/LayerNorm/beta"] + 1
    said = refused(source(tmp_path / "a", given), tmp_path / "b")
    assert "unknown: something, bert/encoder/layer_{0-1}/surprise/kernel" in said
    assert "missing: bert.pooler.dense.bias" in said
    assert "doubled: bert/embeddings/LayerNorm/beta and module/bert/embeddings/LayerNorm/beta" in said
    assert "misshapen: bert/encoder/layer_1/attention/self/query/kernel (16, 8)" in said
    assert "(8, 16), and (16, 16) is needed" in said
    assert "--ignore-key NAME" in said


def test_an_unknown_one_can_be_left_out_by_name(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", {**tensors(), "something/else": np.zeros(3, np.float32)})
    assert "unknown: something/else" in refused(folder, tmp_path / "b")
    made = replica(folder, tmp_path / "c", ignore_keys=("something/else",))
    assert {one.name: one.how for one in made.tensors if not one.became} == {
        "something/else": "left out: as asked"
    }


def test_a_whole_missing_layer_is_a_wrong_configuration(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors(), config={"num_hidden_layers": 12, "vocab_size": 61})
    said = refused(folder, tmp_path / "b")
    assert "num_hidden_layers 12 (2 in the weights)" in said
    assert "vocab_size 61 (60 in the weights)" in said


def test_moving_averages_are_asked_about(tmp_path: Path) -> None:
    given = tensors()
    averages = {f"{name}/ExponentialMovingAverage": value + 1 for name, value in given.items()}
    folder = source(tmp_path / "a", {**given, **averages})
    said = refused(folder, tmp_path / "b")
    assert "holds each weight twice" in said
    assert "--ignore-key ExponentialMovingAverage takes those that were trained" in said
    made = replica(folder, tmp_path / "c", ignore_keys=("ExponentialMovingAverage",))
    assert sum(bool(one.became) for one in made.tensors) == len(given)


def test_another_kind_of_model_is_told_by_its_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed, which reads Keras' files")
    folder = tmp_path / "a"
    folder.mkdir()
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file.attrs["layer_names"] = ["transformer"]
        file["transformer/tfgpt2/transformer/h_._0/attn/c_attn/weight:0"] = np.zeros((4, 12), np.float32)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(BertonnxError, match="gpt2 model"):
        bertonnx.export(folder, tmp_path / "m.onnx")
    (folder / "config.json").unlink()
    assert "no config.json" in refused(folder, tmp_path / "b")
    with h5py.File(folder / "tf_model.h5", "w") as file:
        file["resnet/conv1/kernel:0"] = np.zeros((4, 12), np.float32)
    assert "by names of no kind of BERT" in refused(folder, tmp_path / "c")


def test_heads_are_by_convention_or_asked_for(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors())
    (folder / "bert_config.json").unlink()
    said = refused(folder, tmp_path / "b")
    assert "how many heads the attention has, and a hidden size of 16" in said
    assert "bert_config.json" in said


def test_layers_that_share_weights_are_counted_by_the_configuration_alone(tmp_path: Path) -> None:
    shutil.copytree(DATA / "google-albert" / "source", tmp_path / "a")
    (tmp_path / "a" / "albert_config.json").unlink()
    assert "says how many layers the model has, which share their weights" in refused(
        tmp_path / "a", tmp_path / "b"
    )


def test_one_file_of_electra_has_two_models(tmp_path: Path) -> None:
    given = electra_variables()
    folder = tmp_path / "a"
    write_bundle(folder / "electra_model.ckpt", given)
    (folder / "vocab.txt").write_text((GOOGLE / "vocab.txt").read_text())
    query = "encoder/layer_0/attention/self/query/kernel"
    for task, scope, layout, kind in (
        (None, "electra", "google-electra", "ElectraForPreTraining"),
        ("fill-mask", "generator", "google-electra-generator", "ElectraForMaskedLM"),
    ):
        made = replica(folder, tmp_path / scope, task=task)
        assert made.layout == layout
        config = json.loads((tmp_path / scope / "config.json").read_text())
        assert config["architectures"] == [kind]
        assert (
            config["hidden_size"] == 64 * config["num_attention_heads"] == given[f"{scope}/{query}"].shape[0]
        )
        own = load_file(tmp_path / scope / "model.safetensors")
        name = "electra.encoder.layer.0.attention.self.query.weight"
        assert np.array_equal(own[name], given[f"{scope}/{query}"].T)
        # GELU by erf is its authors' own too: nothing is chosen for the user.
        assert not any("GELU" in str(note) for note in made.notes)
    assert np.array_equal(own["generator_lm_head.bias"], given["generator_predictions/output_bias"])


def test_a_configuration_of_another_family_does_not_belong(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors(), config={"model_type": "gpt2"})
    assert "is of a gpt2 model, and the weights are those of a checkpoint of Google's BERT" in refused(
        folder, tmp_path / "b"
    )


def test_labels_are_as_many_as_the_head_tells_apart(tmp_path: Path) -> None:
    shutil.copytree(DATA / "google-classifier" / "source", tmp_path / "a")
    config = tmp_path / "a" / "bert_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "id2label": {"0": "no", "1": "yes"}}))
    said = refused(tmp_path / "a", tmp_path / "b")
    assert "names 2 labels, and the head tells 3 apart; correct id2label, or add --labels FILE" in said


def test_a_vocabulary_of_another_model_is_told_by_its_size(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors())
    words = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").write_text(words + "more\n")
    assert "vocab.txt has 61 words, and the weights have embeddings for 60" in refused(folder, tmp_path / "b")
    (folder / "vocab.txt").write_text("")
    assert "vocab.txt has 0 words" in refused(folder, tmp_path / "c")
    (folder / "vocab.txt").write_text(words.rpartition("!")[0])
    assert replica(folder, tmp_path / "d").layout == "google-bert"


def test_a_graph_without_its_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt-7.meta").touch()
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
    for place in (tmp_path, tmp_path / "model.ckpt-7", tmp_path / "model.ckpt-7.meta"):
        with pytest.raises(
            SourceError, match=r"model.ckpt-7.meta holds a graph of TensorFlow without its weights"
        ):
            locate(place, Trust())
    (tmp_path / "model.ckpt-7.meta").rename(tmp_path / "old.ckpt")
    with pytest.raises(SourceError, match="older ones are to be saved again"):
        locate(tmp_path, Trust())


def test_weights_of_sentence_transformers_are_not_read_without_its_modules(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").touch()
    assert locate(tmp_path, Trust()) is not None
    (tmp_path / "modules.json").touch()
    assert locate(tmp_path, Trust()) is None


def test_a_vocabulary_is_needed(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors())
    (folder / "vocab.txt").unlink()
    assert "has no vocabulary" in refused(folder, tmp_path / "b")


@pytest.mark.parametrize(("word", "lower"), [("Berlin", False), ("berlin", True)])
def test_case_is_told_by_the_vocabulary(tmp_path: Path, word: str, lower: bool) -> None:
    folder = source(tmp_path / "a", tensors())
    words = (folder / "vocab.txt").read_text().splitlines()
    (folder / "vocab.txt").write_text("\n".join([*words[:-1], word]))
    made = replica(folder, tmp_path / "b")
    settings = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] is lower
    assert any("upper-case words" in str(note) for note in made.notes)


def test_folders_of_several_checkpoints_and_without_an_index(tmp_path: Path) -> None:
    folder = source(tmp_path / "a", tensors())
    write_bundle(folder / "model.ckpt-10", tensors())
    with pytest.raises(
        SourceError, match=r"several TensorFlow checkpoints \(bert_model.ckpt, model.ckpt-10\)"
    ):
        locate(folder, Trust())
    (folder / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt-10"\n')
    newest = locate(folder, Trust())
    assert newest is not None
    assert newest.paths[0].name == "model.ckpt-10"
    for place in ("bert_model.ckpt", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"):
        one = locate(folder / place, Trust())
        assert one is not None
        assert one.paths[0] == folder / "bert_model.ckpt"
    (folder / "bert_model.ckpt.index").unlink()
    with pytest.raises(CheckpointError, match=r"bert_model.ckpt.index is not there"):
        locate(folder / "bert_model.ckpt", Trust())


def test_labels_are_taken_from_a_file(tmp_path: Path) -> None:
    classifier = DATA / "google-classifier" / "source"
    labels = tmp_path / "labels.txt"
    labels.write_text("bad\nso so\ngood\n")
    report = bertonnx.export(classifier, tmp_path / "m.onnx", labels=labels)
    assert report.card.labels == ("bad", "so so", "good")
    labels.write_text("bad\ngood\n")
    with pytest.raises(UsageError, match="names 2 classes, and this checkpoint has 3"):
        bertonnx.export(classifier, tmp_path / "n.onnx", labels=labels)
    labels.write_text("bad\n\ngood\n")
    with pytest.raises(InputError, match="empty line"):
        bertonnx.export(classifier, tmp_path / "n.onnx", labels=labels)


def test_an_encoders_activation_is_for_tensorflow_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match="is an encoder's activation"):
        bertonnx.export(tmp_path, tmp_path / "m.onnx", activation="gelu_new")
