"""What TensorFlow itself computes of the checkpoint that was exported: its own files, its own readers.

Nothing that was read, renamed or turned for the export is used here, but the replica's tokenizer.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.tensorflow.replica import Replica
from bertonnx.exporters.options import ExportOptions
from bertonnx.exporters.verify.google_graph import AlbertGraph, ElectraGraph, GoogleGraph
from bertonnx.exporters.verify.independent import Answers, CannotCheckError
from bertonnx.models.card import Card
from bertonnx.models.tasks import Task
from bertonnx.models.tasks import task as task_named
from bertonnx.runtime.rows import Row
from bertonnx.wording import Message

__all__ = ["is_replica", "tensorflow_answers"]

Feed = Mapping[str, Any]
"""What a tokenizer makes of one text: name -> int32 (1, tokens)."""

Model = Callable[[Feed], Mapping[str, Any]]
"""Returns outputs by the graph's names, each with an axis for the one text."""


@dataclass(frozen=True)
class _Wanted:
    """What is to be computed.

    Attributes:
        tf: the module.
        checkpoint: as it was exported.
        replica: of it.
        row: the task.
        outputs: names of the graph's outputs that are compared.
    """

    tf: Any
    checkpoint: Checkpoint
    replica: Replica
    row: Task
    outputs: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The prefix, file or folder that TensorFlow opens."""
        return self.replica.located.paths[0]

    @property
    def saved_model(self) -> Path | None:
        """The folder of a SavedModel; None where it is none."""
        folder = self.path.parent.parent
        return folder if (folder / "saved_model.pb").is_file() else None


def is_replica(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint is TensorFlow's."""
    return checkpoint.source.replica is not None


def tensorflow_answers(
    checkpoint: Checkpoint,
    options: ExportOptions,  # noqa: ARG001
    card: Card,
    rows: Sequence[Row],
) -> list[Answers]:
    """Return what TensorFlow gives for each text alone.

    Raises:
        CannotCheckError: the checkpoint is not TensorFlow's, or what computes it is not installed.
    """
    replica = checkpoint.source.replica
    if replica is None:
        raise CannotCheckError(Message("{source} is no TensorFlow checkpoint", source=checkpoint.source.id))
    import tensorflow as tf
    import transformers

    row = task_named(checkpoint.task)
    outputs = tuple(name for name in row.raw_outputs if name in row.outputs)
    wanted = _Wanted(tf, checkpoint, replica, row, outputs)
    model = _MODELS[replica.layout](wanted)
    own: Any = transformers.AutoTokenizer.from_pretrained(checkpoint.source.folder, local_files_only=True)
    found: list[Answers] = []
    for item in rows:
        given = own(
            item.text,
            item.pair,
            truncation="only_second" if row.pair_is_cut else True,
            max_length=card.max_length,
            return_tensors="np",
        )
        out = model({name: tf.constant(given[name], tf.int32) for name in card.inputs if name in given})
        found.append({name: np.asarray(out[name], np.float32)[0] for name in outputs})
    return found


def _hugging_face(wanted: _Wanted) -> Model:
    import transformers

    if wanted.saved_model is not None:
        return _signature(wanted, {"input_ids": "input_ids", "attention_mask": "attention_mask"})
    if not hasattr(transformers, "TFAutoModel"):
        raise CannotCheckError(
            Message(
                "transformers {version} has no classes for TensorFlow, and version 4 has",
                version=transformers.__version__,
            )
        )
    if wanted.path.name.startswith("tf_model"):
        # The class of the task, as its users load it; of a checkpoint with another head too.
        maker: Any = getattr(transformers, f"TF{wanted.row.auto_class}")
        model = maker.from_pretrained(wanted.replica.located.folder, local_files_only=True)
    else:
        kind = f"TF{(wanted.checkpoint.config.architectures or [''])[0]}"
        model = getattr(transformers, kind)(wanted.checkpoint.config)
        model(model.dummy_inputs)
        model.load_weights(str(wanted.path))

    def run(feed: Feed) -> Mapping[str, Any]:
        out = model(**feed, training=False)
        return {
            name: out["prediction_logits"] if name == "logits" and "prediction_logits" in out else out[name]
            for name in wanted.outputs
        }

    return run


def _signature(wanted: _Wanted, names: Mapping[str, str]) -> Model:
    """Return a SavedModel's own function, whichever inputs of ours it takes."""
    loaded = wanted.tf.saved_model.load(str(wanted.saved_model))
    serving = loaded.signatures["serving_default"]
    taken = set(serving.structured_input_signature[1])
    given = {"token_type_ids": "token_type_ids", **names}

    def run(feed: Feed) -> Mapping[str, Any]:
        out = serving(**{given[name]: value for name, value in feed.items() if given[name] in taken})
        absent = [name for name in wanted.outputs if name not in out]
        if absent:
            raise CannotCheckError(
                Message(
                    "its signature gives {there}, and {absent} is compared",
                    there=", ".join(out),
                    absent=", ".join(absent),
                )
            )
        return {name: out[name] for name in wanted.outputs}

    # Loaded, it lives as long as what its signature is part of.
    run.__dict__["loaded"] = loaded
    return run


def _google(kind: Callable[..., GoogleGraph]) -> Callable[[_Wanted], Model]:
    """Return what opens a checkpoint of Google's, by the graph of its kind."""

    def open_model(wanted: _Wanted) -> Model:
        tf, config = wanted.tf, wanted.checkpoint.config
        reader = tf.train.load_checkpoint(str(wanted.path))
        used = [one.name for one in wanted.replica.tensors if one.became]
        variables = {name.removeprefix("module/"): tf.constant(reader.get_tensor(name)) for name in used}
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        return _of_graph(kind(tf, variables, layers, heads, str(config.hidden_act)), wanted)

    return open_model


def _of_graph(graph: GoogleGraph, wanted: _Wanted) -> Model:
    heads: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
        "AutoModel": lambda last: {"last_hidden_state": last},
        "AutoModelForMaskedLM": lambda last: {"logits": graph.words(last)},
        "AutoModelForSequenceClassification": lambda last: {"logits": graph.classes(last)},
        "AutoModelForTokenClassification": lambda last: {"logits": graph.tokens(last)},
        "AutoModelForQuestionAnswering": lambda last: dict(
            zip(("start_logits", "end_logits"), graph.answer(last), strict=True)
        ),
    }
    head = heads[wanted.row.auto_class]

    def run(feed: Feed) -> Mapping[str, Any]:
        last = graph.sequence(feed["input_ids"], feed["attention_mask"], feed["token_type_ids"])
        return head(last)

    return run


def _garden(wanted: _Wanted) -> Model:
    names = {
        "input_ids": "input_word_ids",
        "attention_mask": "input_mask",
        "token_type_ids": "input_type_ids",
    }
    if wanted.row.auto_class != "AutoModel":
        raise CannotCheckError(Message("of the Model Garden it compares encoders alone"))
    if importlib.util.find_spec("official") is None:
        raise CannotCheckError(Message("the Model Garden (tf-models-official) is not installed"))
    from official.nlp.modeling.networks import bert_encoder

    config = wanted.checkpoint.config
    encoder = bert_encoder.BertEncoder(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_sequence_length=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        dict_outputs=True,
    )
    stored = dict(_by_full_name(wanted))
    for variable in encoder.variables:
        name = variable.name.removesuffix(":0")
        # Under whatever scope it was trained in; the pooler may have been left out then.
        found = [value for key, value in stored.items() if f"/{key}".endswith(f"/{name}")]
        if found:
            variable.assign(found[0])

    def run(feed: Feed) -> Mapping[str, Any]:
        out = encoder({names[name]: value for name, value in feed.items()}, training=False)
        return {"last_hidden_state": out["sequence_output"]}

    return run


def _by_full_name(wanted: _Wanted) -> Iterator[tuple[str, Any]]:
    """Yield full names and numbers of a checkpoint's variables, as TensorFlow itself reads both."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    reader = wanted.tf.train.load_checkpoint(str(wanted.path))
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    for node in graph.nodes:
        for attribute in node.attributes:
            if attribute.full_name:
                yield attribute.full_name, reader.get_tensor(attribute.checkpoint_key)


def _keras_hub(wanted: _Wanted) -> Model:
    if importlib.util.find_spec("keras_hub") is None:
        raise CannotCheckError(Message("KerasHub (keras-hub) is not installed"))
    import keras
    import keras_hub

    path, kind = wanted.path, wanted.replica.located.kind
    if kind == "archive":
        model = keras.saving.load_model(path, safe_mode=True, compile=False)
    elif kind == "preset":
        tasks = {
            "AutoModelForMaskedLM": keras_hub.models.BertMaskedLM,
            "AutoModelForSequenceClassification": keras_hub.models.BertTextClassifier,
        }
        maker = tasks.get(wanted.row.auto_class, keras_hub.models.BertBackbone)
        model = maker.from_preset(str(wanted.replica.located.folder))
    else:
        raise CannotCheckError(
            Message("KerasHub opens archives and presets, and this file holds weights alone")
        )
    if wanted.row.auto_class == "AutoModel":
        model = getattr(model, "backbone", model)
    names = {"input_ids": "token_ids", "attention_mask": "padding_mask", "token_type_ids": "segment_ids"}

    def run(feed: Feed) -> Mapping[str, Any]:
        given = {names[name]: value for name, value in feed.items()}
        if "mask_positions" in model.input:
            given["mask_positions"] = wanted.tf.range(feed["input_ids"].shape[1])[None]
        return _named(wanted, model(given, training=False))

    return run


def _named(wanted: _Wanted, out: Any) -> Mapping[str, Any]:
    if isinstance(out, Mapping):
        return {"last_hidden_state": out["sequence_output"]}
    return {wanted.outputs[0]: out}


_MODELS: Mapping[str, Callable[[_Wanted], Model]] = {
    "hugging-face": _hugging_face,
    "google-bert": _google(GoogleGraph),
    "google-albert": _google(AlbertGraph),
    "google-electra": _google(ElectraGraph),
    "google-electra-generator": _google(partial(ElectraGraph, scope="generator")),
    "model-garden": _garden,
    "keras-hub": _keras_hub,
}
