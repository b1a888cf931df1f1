"""Makes TensorFlow checkpoints of every kind, with what TensorFlow itself computes of them.

    python make_fixtures.py FOLDER [NAME...]

In an environment with TensorFlow (requirements.txt beside). Each fixture is a folder: `source/` is the
checkpoint as its library writes it, and `values.npz` holds inputs (`ids_N`, `segments_N`) and outputs
(`NAME_N`) of TensorFlow, a text at a time. Without names, all are made; those that the main suite reads
lie in tests/exporters/checkpoint/tensorflow/data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    ".",
    ",",
    "!",
]
SIZES: Mapping[str, int] = {"hidden": 16, "layers": 2, "heads": 2, "inner": 24, "positions": 64, "types": 2}
EMBEDDED = 8
"""Width of embeddings where it is not that of layers."""
IDS = ([2, 5, 31, 40, 3, 9, 57, 3], [2, 20, 4, 33, 44, 35, 58, 59, 3], [2, 3])
SEGMENTS = ([0, 0, 0, 0, 0, 1, 1, 1], [0] * 9, [0, 0])
LABELS = 3

Values = dict[str, Any]
Outputs = Callable[[Any, Any, Any], Mapping[str, Any]]


def main(arguments: list[str]) -> None:
    """Make the fixtures; those of Keras 2 and of Keras 3 in processes of their own."""
    out, names = Path(arguments[0]), arguments[1:] or list(FIXTURES)
    if os.environ.get("FIXTURES_CHILD"):
        for name in names:
            FIXTURES[name](out / name)
        return
    for keras in ("2", "3"):
        chosen = [name for name in names if name.startswith("hub-") == (keras == "3")]
        if chosen:
            settings = {
                "FIXTURES_CHILD": "1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_USE_LEGACY_KERAS": "1" if keras == "2" else "0",
            }
            command = [sys.executable, __file__, str(out), *chosen]
            subprocess.run(command, check=True, env={**os.environ, **settings})


def write_values(folder: Path, outputs: Outputs) -> None:
    """Write what TensorFlow gives for each text alone."""
    import tensorflow as tf

    values: Values = {}
    for number, (ids, segments) in enumerate(zip(IDS, SEGMENTS, strict=True)):
        values |= {f"ids_{number}": np.array([ids]), f"segments_{number}": np.array([segments])}
        mask = tf.ones((1, len(ids)), tf.int32)
        found = outputs(tf.constant([ids], tf.int32), mask, tf.constant([segments], tf.int32))
        values |= {f"{name}_{number}": np.asarray(value, np.float32) for name, value in found.items()}
    np.savez_compressed(folder / "values.npz", **values)


def write_vocabulary(folder: Path) -> None:
    """Write vocab.txt beside a checkpoint."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")


def drawn(name: str, shape: Any, seed: int = 0) -> Any:
    """Return numbers for a variable: gains around 1, all else around 0."""
    generator = np.random.default_rng([seed, *name.encode()])
    numbers = generator.normal(size=tuple(shape)).astype(np.float32) * 0.25
    return numbers + 1 if "gamma" in name else numbers


def fill(model: Any) -> None:
    """Give each variable of a model numbers of its own, biases too, so that none can be taken for another."""
    for number, variable in enumerate(model.variables):
        if "float" in str(variable.dtype):
            gain = "gamma" in str(getattr(variable, "path", variable.name))
            variable.assign(drawn("gamma" if gain else "other", variable.shape, number))


# Google's TensorFlow 1 checkpoints.


def google_variables(head: str) -> dict[str, Any]:
    """Return the variables of a BERT by the names of Google's modeling.py."""
    hidden, inner = SIZES["hidden"], SIZES["inner"]
    shapes: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (len(VOCABULARY), hidden),
        "bert/embeddings/position_embeddings": (SIZES["positions"], hidden),
        "bert/embeddings/token_type_embeddings": (SIZES["types"], hidden),
        **_norm("bert/embeddings/LayerNorm"),
        **_dense("bert/pooler/dense", hidden, hidden),
    }
    for number in range(SIZES["layers"]):
        layer = f"bert/encoder/layer_{number}"
        for part in ("self/query", "self/key", "self/value", "output/dense"):
            shapes |= _dense(f"{layer}/attention/{part}", hidden, hidden)
        shapes |= _norm(f"{layer}/attention/output/LayerNorm")
        shapes |= _dense(f"{layer}/intermediate/dense", hidden, inner)
        shapes |= _dense(f"{layer}/output/dense", inner, hidden)
        shapes |= _norm(f"{layer}/output/LayerNorm")
    heads: Mapping[str, dict[str, tuple[int, ...]]] = {
        "pretraining": {
            **_dense("cls/predictions/transform/dense", hidden, hidden),
            **_norm("cls/predictions/transform/LayerNorm"),
            "cls/predictions/output_bias": (len(VOCABULARY),),
            "cls/seq_relationship/output_weights": (2, hidden),
            "cls/seq_relationship/output_bias": (2,),
        },
        "classifier": {"output_weights": (LABELS, hidden), "output_bias": (LABELS,)},
        "squad": {"cls/squad/output_weights": (2, hidden), "cls/squad/output_bias": (2,)},
    }
    shapes |= heads[head]
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def _dense(name: str, width: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (width, out), f"{name}/bias": (out,)}


def _norm(name: str, width: int = SIZES["hidden"]) -> dict[str, tuple[int, ...]]:
    return {f"{name}/gamma": (width,), f"{name}/beta": (width,)}


def save_tf1(prefix: Path, variables: Mapping[str, Any]) -> None:
    """Write a checkpoint as TensorFlow 1's Saver does."""
    import tensorflow as tf

    prefix.parent.mkdir(parents=True, exist_ok=True)
    v1: Any = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        for name, value in variables.items():
            v1.get_variable(name, initializer=value)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix), write_meta_graph=False, write_state=False)


def albert_variables() -> dict[str, Any]:
    """Return the variables of a pre-trained ALBERT, of two groups of one layer, by Google's names."""
    hidden, inner = SIZES["hidden"], SIZES["inner"]
    shapes = {
        **_tables("bert/embeddings", EMBEDDED),
        **_dense("bert/encoder/embedding_hidden_mapping_in", EMBEDDED, hidden),
        **_dense("bert/pooler/dense", hidden, hidden),
        **_dense("cls/predictions/transform/dense", hidden, EMBEDDED),
        **_norm("cls/predictions/transform/LayerNorm", EMBEDDED),
        "cls/predictions/output_bias": (len(VOCABULARY),),
        "cls/seq_relationship/output_weights": (2, hidden),
        "cls/seq_relationship/output_bias": (2,),
    }
    for group in range(2):
        layer = f"bert/encoder/transformer/group_{group}/inner_group_0"
        for part in ("self/query", "self/key", "self/value", "output/dense"):
            shapes |= _dense(f"{layer}/attention_1/{part}", hidden, hidden)
        shapes |= {**_norm(f"{layer}/LayerNorm"), **_norm(f"{layer}/LayerNorm_1")}
        shapes |= _dense(f"{layer}/ffn_1/intermediate/dense", hidden, inner)
        shapes |= _dense(f"{layer}/ffn_1/intermediate/output/dense", inner, hidden)
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def electra_variables() -> dict[str, Any]:
    """Return the variables of a pre-trained ELECTRA by Google's names; heads take 64 numbers, as always."""
    shapes: dict[str, tuple[int, ...]] = {
        **_tables("electra/embeddings", EMBEDDED),
        **_encoder("electra", 128, 1),
        **_encoder("generator", 64, 1),
        **_dense("discriminator_predictions/dense", 128, 128),
        **_dense("discriminator_predictions/dense_1", 128, 1),
        **_dense("generator_predictions/dense", 64, EMBEDDED),
        **_norm("generator_predictions/LayerNorm", EMBEDDED),
        "generator_predictions/output_bias": (len(VOCABULARY),),
    }
    variables = {name: drawn(name, shape) for name, shape in shapes.items()}
    # Wider than the others, so that their products are kept as small.
    return {
        name: value / 4 if name.endswith("kernel") and value.shape[0] >= 64 else value
        for name, value in variables.items()
    }


def _tables(scope: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{scope}/word_embeddings": (len(VOCABULARY), width),
        f"{scope}/position_embeddings": (SIZES["positions"], width),
        f"{scope}/token_type_embeddings": (SIZES["types"], width),
        **_norm(f"{scope}/LayerNorm", width),
    }


def _encoder(scope: str, hidden: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes = _dense(f"{scope}/embeddings_project", EMBEDDED, hidden)
    for number in range(layers):
        layer = f"{scope}/encoder/layer_{number}"
        for part in ("self/query", "self/key", "self/value", "output/dense"):
            shapes |= _dense(f"{layer}/attention/{part}", hidden, hidden)
        shapes |= _dense(f"{layer}/intermediate/dense", hidden, SIZES["inner"])
        shapes |= _dense(f"{layer}/output/dense", SIZES["inner"], hidden)
        shapes |= _norm(f"{layer}/attention/output/LayerNorm", hidden)
        shapes |= _norm(f"{layer}/output/LayerNorm", hidden)
    return shapes


def google(head: str, *, slots: bool = False) -> Callable[[Path], None]:
    """Return what makes a checkpoint of Google's BERT with a head, and with the optimizer's slots."""

    def make(folder: Path) -> None:
        from bertonnx.exporters.verify.google_graph import GoogleGraph

        variables = google_variables(head)
        tf, stored = saved_by_google(folder, "bert", variables, GOOGLE_CONFIG, slots=slots)
        graphs = {
            kind: GoogleGraph(tf, stored, SIZES["layers"], SIZES["heads"], kind)
            for kind in ("gelu", "gelu_new")
        }

        def outputs(ids: Any, mask: Any, segments: Any) -> Values:
            found: Values = {}
            for kind, graph in graphs.items():
                last = graph.sequence(ids, mask, segments)
                named: Values = {"last_hidden_state": last}
                if head == "pretraining":
                    named |= {"logits": graph.words(last), "pooler_output": graph.pooled(last)}
                if head == "classifier":
                    named |= {"logits": graph.classes(last), "token_logits": graph.tokens(last)}
                if head == "squad":
                    named |= dict(zip(("start_logits", "end_logits"), graph.answer(last), strict=True))
                found |= {f"{kind}_{name}": value for name, value in named.items()}
            return found

        write_values(folder, outputs)

    return make


def google_albert(folder: Path) -> None:
    """Make a checkpoint of Google's ALBERT."""
    from bertonnx.exporters.verify.google_graph import AlbertGraph

    tf, stored = saved_by_google(folder, "albert", albert_variables(), ALBERT_CONFIG)
    graph = AlbertGraph(tf, stored, ALBERT_CONFIG["num_hidden_layers"], SIZES["heads"])

    def outputs(ids: Any, mask: Any, segments: Any) -> Values:
        last = graph.sequence(ids, mask, segments)
        return {"last_hidden_state": last, "logits": graph.words(last)}

    write_values(folder, outputs)


def google_electra(folder: Path) -> None:
    """Make a checkpoint of Google's ELECTRA, which comes without a configuration."""
    from bertonnx.exporters.verify.google_graph import ElectraGraph

    tf, stored = saved_by_google(folder, "electra", electra_variables(), None)
    discriminator = ElectraGraph(tf, stored, 1, 2, "gelu")
    generator = ElectraGraph(tf, stored, 1, 1, "gelu", scope="generator")

    def outputs(ids: Any, mask: Any, segments: Any) -> Values:
        words = generator.words(generator.sequence(ids, mask, segments))
        return {"last_hidden_state": discriminator.sequence(ids, mask, segments), "logits": words}

    write_values(folder, outputs)


def saved_by_google(
    folder: Path,
    kind: str,
    variables: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    *,
    slots: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Write a checkpoint with what lies beside it; returns TensorFlow, and the variables as it reads them."""
    import tensorflow as tf

    source = folder / "source"
    more: Values = {}
    if slots:
        more = {f"{name}/adam_{part}": value * 0 + 0.5 for name, value in variables.items() for part in "mv"}
        more["global_step"] = np.array(7, np.int64)
    prefix = source / f"{kind}_model.ckpt"
    save_tf1(prefix, {**variables, **more})
    if config is not None:
        (source / f"{kind}_config.json").write_text(json.dumps(config))
    write_vocabulary(source)
    # Through TensorFlow's own reader, so that what was written is what is computed.
    reader = tf.train.load_checkpoint(str(prefix))
    return tf, {name: tf.constant(reader.get_tensor(name)) for name in variables}


GOOGLE_CONFIG: Mapping[str, Any] = {
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": SIZES["hidden"],
    "initializer_range": 0.02,
    "intermediate_size": SIZES["inner"],
    "max_position_embeddings": SIZES["positions"],
    "num_attention_heads": SIZES["heads"],
    "num_hidden_layers": SIZES["layers"],
    "pooler_fc_size": 768,
    "type_vocab_size": SIZES["types"],
    "vocab_size": len(VOCABULARY),
}
ALBERT_CONFIG: Mapping[str, Any] = {
    "attention_probs_dropout_prob": 0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0,
    "embedding_size": EMBEDDED,
    "hidden_size": SIZES["hidden"],
    "initializer_range": 0.02,
    "intermediate_size": SIZES["inner"],
    "max_position_embeddings": SIZES["positions"],
    "num_attention_heads": SIZES["heads"],
    "num_hidden_layers": 4,
    "num_hidden_groups": 2,
    "net_structure_type": 0,
    "gap_size": 0,
    "num_memory_blocks": 0,
    "inner_group_num": 1,
    "down_scale_factor": 1,
    "type_vocab_size": SIZES["types"],
    "vocab_size": len(VOCABULARY),
}


# Hugging Face's classes for TensorFlow.


def hugging_face(kind: str, container: str = "h5") -> Callable[[Path], None]:
    """Return what makes a checkpoint of one of transformers' TensorFlow classes."""

    def make(folder: Path) -> None:
        import transformers

        source = folder / "source"
        maker = getattr(transformers, kind)
        model = maker(hugging_face_config(maker, kind))
        model(model.dummy_inputs)
        fill(model)
        if container == "tf2":
            source.mkdir(parents=True, exist_ok=True)
            model.save_weights(str(source / "model"))
            model.config.save_pretrained(source)
        elif container == "weights":
            source.mkdir(parents=True, exist_ok=True)
            model.save_weights(str(source / "weights.h5"))
            model.config.save_pretrained(source)
        elif container == "shards":
            model.save_pretrained(source, max_shard_size="6KB")
        else:
            model.save_pretrained(source, saved_model=container == "saved")
            if container == "saved":
                (source / "tf_model.h5").unlink()
        config = source / "config.json"
        # As `save_pretrained` of the class names it; the others write none.
        data = {**json.loads(config.read_text()), "architectures": [kind.removeprefix("TF")]}
        config.write_text(json.dumps(data))
        write_vocabulary(source)
        if kind.startswith("TFAlbert"):
            # Its own would be a model of SentencePiece, which plays no part in the numbers.
            settings = {"tokenizer_class": "BertTokenizer", "model_max_length": SIZES["positions"]}
            (source / "tokenizer_config.json").write_text(json.dumps(settings))
        segmented = not kind.startswith("TFDistil")

        def outputs(ids: Any, mask: Any, segments: Any) -> Values:
            given = {"input_ids": ids, "attention_mask": mask}
            out = model(**given, **({"token_type_ids": segments} if segmented else {}), training=False)
            return {"logits" if name == "prediction_logits" else name: value for name, value in out.items()}

        write_values(folder, outputs)

    return make


def hugging_face_config(maker: Any, kind: str) -> Any:
    """Return a tiny configuration of a class."""
    hidden, layers, heads, inner = (SIZES[name] for name in ("hidden", "layers", "heads", "inner"))
    common = {
        "vocab_size": len(VOCABULARY),
        "num_labels": 2 if kind.endswith("Answering") else LABELS,
    }
    if kind.startswith("TFDistil"):
        return maker.config_class(
            dim=hidden,
            n_layers=layers,
            n_heads=heads,
            hidden_dim=inner,
            max_position_embeddings=SIZES["positions"],
            **common,
        )
    small = {"embedding_size": 8} if kind.startswith(("TFAlbert", "TFElectra")) else {}
    if kind.startswith("TFMobile"):
        small = {"embedding_size": hidden, "intra_bottleneck_size": hidden}
    return maker.config_class(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=SIZES["positions"] + 2,
        **small,
        **common,
    )


# TensorFlow's Model Garden.


def garden(
    version: int, container: str = "checkpoint", head: str = "", activation: str = ""
) -> Callable[[Path], None]:
    """Return what makes a checkpoint of the Model Garden's encoder, alone or with a head."""

    def make(folder: Path) -> None:
        import tensorflow as tf
        from official.modeling import activations
        from official.nlp.modeling import models
        from official.nlp.modeling.networks import bert_encoder

        sizes: Values = {
            "vocab_size": len(VOCABULARY),
            "hidden_size": SIZES["hidden"],
            "num_layers": SIZES["layers"],
            "num_attention_heads": SIZES["heads"],
            "max_sequence_length": SIZES["positions"],
        }
        if activation:
            sizes["activation"] = tf.keras.activations.get(activation)
        if version == 1:
            encoder = bert_encoder.BertEncoder(intermediate_size=SIZES["inner"], **sizes)
        else:
            encoder = bert_encoder.BertEncoderV2(inner_dim=SIZES["inner"], **sizes)
        heads: Mapping[str, Callable[[], Any]] = {
            "": lambda: encoder,
            "classifier": lambda: models.BertClassifier(encoder, LABELS),
            "tokens": lambda: models.BertTokenClassifier(encoder, LABELS),
            "span": lambda: models.BertSpanLabeler(encoder),
            "words": lambda: models.BertPretrainerV2(encoder, mlm_activation=activations.gelu),
        }
        model = heads[head]()

        def run(ids: Any, mask: Any, segments: Any) -> Any:
            given = {"input_word_ids": ids, "input_mask": mask, "input_type_ids": segments}
            if head == "words":
                given["masked_lm_positions"] = tf.range(ids.shape[1])[None]
            return model(given, training=False)

        first = tf.constant([IDS[0]], tf.int32)
        run(first, tf.ones_like(first), tf.zeros_like(first))
        fill(model)
        source = folder / "source"
        source.mkdir(parents=True, exist_ok=True)
        if container == "saved":
            model.save(str(source))
        else:
            tf.train.Checkpoint(model=model).save(str(source / "ckpt"))
        write_vocabulary(source)

        def outputs(ids: Any, mask: Any, segments: Any) -> Values:
            out = run(ids, mask, segments)
            if head == "" and isinstance(out, list):
                pooled, last = sorted(out, key=lambda value: len(value.shape))
                return {"last_hidden_state": last, "pooler_output": pooled}
            if head == "":
                return {"last_hidden_state": out["sequence_output"], "pooler_output": out["pooled_output"]}
            if head == "words":
                return {"logits": out["mlm_logits"]}
            if head == "span":
                return dict(zip(("start_logits", "end_logits"), out, strict=True))
            return {"logits": out["logits"] if isinstance(out, dict) else out}

        write_values(folder, outputs)

    return make


def garden_hub(folder: Path) -> None:
    """Make a model of TensorFlow Hub, by the tool that made those that are there."""
    import tensorflow as tf
    from official.legacy.bert import configs
    from official.nlp.modeling import models
    from official.nlp.tools import export_tfhub_lib

    config = configs.BertConfig(
        len(VOCABULARY),
        hidden_size=SIZES["hidden"],
        num_hidden_layers=SIZES["layers"],
        num_attention_heads=SIZES["heads"],
        intermediate_size=SIZES["inner"],
        max_position_embeddings=SIZES["positions"],
        type_vocab_size=SIZES["types"],
    )
    encoder = export_tfhub_lib.get_bert_encoder(config)
    model = models.BertPretrainerV2(encoder)
    fill(model)
    work = folder / "work"
    work.mkdir(parents=True)
    path = tf.train.Checkpoint(model=model, encoder=encoder).save(str(work / "ckpt"))
    write_vocabulary(work)
    export_tfhub_lib.export_model(
        str(folder / "source"),
        bert_config=config,
        encoder_config=None,
        model_checkpoint_path=path,
        with_mlm=False,
        vocab_file=str(work / "vocab.txt"),
        # Which the vocabulary does not show.
        do_lower_case=False,
    )
    read = tf.saved_model.load(str(folder / "source"))

    def outputs(ids: Any, mask: Any, segments: Any) -> Values:
        out = read({"input_word_ids": ids, "input_mask": mask, "input_type_ids": segments})
        return {"last_hidden_state": out["sequence_output"], "pooler_output": out["pooled_output"]}

    write_values(folder, outputs)


# KerasHub.


def hub(kind: str, container: str) -> Callable[[Path], None]:
    """Return what makes a checkpoint of KerasHub's BERT."""

    def make(folder: Path) -> None:
        import keras_hub
        import tensorflow as tf

        models: Any = keras_hub.models
        backbone = models.BertBackbone(
            vocabulary_size=len(VOCABULARY),
            num_layers=SIZES["layers"],
            num_heads=SIZES["heads"],
            hidden_dim=SIZES["hidden"],
            intermediate_dim=SIZES["inner"],
            max_sequence_length=SIZES["positions"],
        )
        tokenizer = models.BertTokenizer(vocabulary=VOCABULARY, lowercase=True)
        model = backbone
        if kind == "classifier":
            before = models.BertTextClassifierPreprocessor(tokenizer, sequence_length=16)
            model = models.BertTextClassifier(backbone, num_classes=LABELS, preprocessor=before)
        if kind == "words":
            before = models.BertMaskedLMPreprocessor(tokenizer, sequence_length=16)
            model = models.BertMaskedLM(backbone, preprocessor=before)
        fill(model)
        source = folder / "source"
        source.mkdir(parents=True, exist_ok=True)
        if container == "preset":
            model.save_to_preset(str(source))
        elif container == "weights":
            model.save_weights(str(source / "bert.weights.h5"))
        else:
            model.save(str(source / "bert.keras"))
            _compress(source / "bert.keras")
        if container != "preset" or kind == "backbone":
            write_vocabulary(source)

        def outputs(ids: Any, mask: Any, segments: Any) -> Values:
            given = {"token_ids": ids, "padding_mask": mask, "segment_ids": segments}
            if kind == "words":
                given["mask_positions"] = tf.range(ids.shape[1])[None]
            out = model(given, training=False)
            if kind == "backbone":
                return {"last_hidden_state": out["sequence_output"], "pooler_output": out["pooled_output"]}
            return {"logits": out}

        write_values(folder, outputs)

    return make


def _compress(path: Path) -> None:
    """Write an archive again with compression, which Keras leaves out: its HDF5 is mostly empty here."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


FIXTURES: Mapping[str, Callable[[Path], None]] = {
    "google-pretraining": google("pretraining"),
    "google-classifier": google("classifier", slots=True),
    "google-squad": google("squad"),
    "google-albert": google_albert,
    "google-electra": google_electra,
    "hf-model": hugging_face("TFBertModel"),
    "hf-pretraining": hugging_face("TFBertForPreTraining"),
    "hf-words": hugging_face("TFBertForMaskedLM"),
    "hf-classifier": hugging_face("TFBertForSequenceClassification"),
    "hf-tokens": hugging_face("TFBertForTokenClassification"),
    "hf-answers": hugging_face("TFBertForQuestionAnswering"),
    "hf-shards": hugging_face("TFBertForSequenceClassification", "shards"),
    "hf-weights": hugging_face("TFBertForSequenceClassification", "weights"),
    "hf-tf2": hugging_face("TFBertForTokenClassification", "tf2"),
    "hf-saved": hugging_face("TFBertForSequenceClassification", "saved"),
    "distilbert": hugging_face("TFDistilBertForSequenceClassification"),
    "distilbert-words": hugging_face("TFDistilBertForMaskedLM"),
    "roberta": hugging_face("TFRobertaForSequenceClassification"),
    "roberta-words": hugging_face("TFRobertaForMaskedLM"),
    "mobilebert-words": hugging_face("TFMobileBertForMaskedLM"),
    "xlm-roberta": hugging_face("TFXLMRobertaForTokenClassification"),
    "camembert": hugging_face("TFCamembertForMaskedLM"),
    "albert": hugging_face("TFAlbertForSequenceClassification"),
    "electra": hugging_face("TFElectraForTokenClassification"),
    "garden-1": garden(1),
    "garden-2": garden(2),
    "garden-saved": garden(1, "saved"),
    "garden-relu": garden(1, "saved", activation="relu"),
    "garden-hub": garden_hub,
    "garden-classifier": garden(1, head="classifier"),
    "garden-tokens": garden(1, head="tokens"),
    "garden-span": garden(1, head="span"),
    "garden-words": garden(2, head="words"),
    "hub-backbone": hub("backbone", "keras"),
    "hub-weights": hub("backbone", "weights"),
    "hub-classifier": hub("classifier", "keras"),
    "hub-words": hub("words", "keras"),
    "hub-preset": hub("backbone", "preset"),
    "hub-classifier-preset": hub("classifier", "preset"),
    "hub-words-preset": hub("words", "preset"),
}

if __name__ == "__main__":
    main(sys.argv[1:])
