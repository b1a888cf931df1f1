"""config.json of a replica: what the source's own files say, and what the shapes of its tensors say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow.keras_hub import head_settings, require_followed
from bertonnx.exporters.checkpoint.tensorflow.layouts import Layout
from bertonnx.wording import Message, Option

__all__ = ["Drawn", "Shapes", "draw"]

Shapes = Mapping[str, tuple[int, ...]]
"""PyTorch's name -> shape, as PyTorch has it."""

_PER_HEAD = 64
"""Numbers that a head of every published BERT reads."""

_OWN_NAMES = ("bert_config.json", "albert_config.json", "electra_config.json", "config.json", "*config*.json")

_GOOGLE_KEYS = ("directionality", "pooler_", "finetuning_task")
_HUB_KEYS: Mapping[str, str] = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
}
_HUB_CLASSES = ("BertBackbone", "BertTextClassifier", "BertClassifier", "BertMaskedLM", "BertTextEmbedder")


@dataclass(frozen=True)
class Drawn:
    """A configuration, and how it came about.

    Attributes:
        config: config.json.
        architecture: the class of transformers.
        notes: what was chosen for the user.
    """

    config: dict[str, Any]
    architecture: str
    notes: tuple[Message, ...]


def draw(layout: Layout, folder: Path, shapes: Shapes, heads: int | None) -> Drawn:
    """Return the configuration of a source.

    Args:
        layout: its kind.
        folder: where its own configuration may lie.
        shapes: of its tensors.
        heads: how many heads of attention its shapes show; None where they do not.

    Raises:
        CheckpointError: its own configuration says other sizes than its tensors have, is no BERT's, or is not
            there and needed.
    """
    file, own = _own(folder)
    family = layout.family or str((own or {}).get("model_type") or _family(shapes))
    named = (own or {}).get("model_type", family)
    if named != family:
        raise CheckpointError(
            "{file} is of a {named} model, and the weights are those of {title}; put the configuration that "
            "belongs to the weights beside them",
            file=file,
            named=named,
            title=layout.title,
        )
    if not family or (own is None and family not in _SIZES):
        raise CheckpointError(
            "{folder} has no config.json, which says what kind of model the weights are; put the one that "
            "belongs to them beside them",
            folder=folder,
        )
    derived = dict(_derived(_SIZES.get(family, ()), shapes)) | (
        {} if heads is None else {"num_attention_heads": heads}
    )
    _require_numbers(file, own or {}, family)
    _require_agreement(file, own or {}, derived)
    config = {"model_type": family, **derived, **(own or {})}
    if family not in _SIZES:
        return Drawn(config, _architecture(config, family, shapes), ())
    if "num_hidden_layers" not in {*config, *(key for key, _, _ in _SIZES[family])}:
        raise CheckpointError(
            "nothing in {folder} says how many layers the model has, which share their weights; put the "
            "configuration that belongs to them, which says it as num_hidden_layers, beside them",
            folder=folder,
        )
    notes = [*_heads(config, folder), *_gelu(config, layout)]
    # Of all these kinds; transformers has another default for ELECTRA's relatives.
    config.setdefault("layer_norm_eps", 1e-12)
    return Drawn(config, _architecture(config, family, shapes), tuple(notes))


def _own(folder: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the source's own configuration in transformers' words, and where it lies."""
    for name in _OWN_NAMES:
        # The last of the names matches it, and it is no model's.
        paths = [path for path in sorted(folder.glob(name)) if path.name != "tokenizer_config.json"]
        read = {path: own for path in paths if (own := _read(path, folder)) is not None}
        if not read:
            continue
        first = next(iter(read))
        if any(own != read[first] for own in read.values()):
            raise CheckpointError(
                "{folder} has several configurations ({names}), and nothing says which belongs to the "
                "weights; name that one bert_config.json, or take the others away",
                folder=folder,
                names=", ".join(path.name for path in read),
            )
        return first, read[first]
    return None, None


def _read(path: Path, folder: Path) -> dict[str, Any] | None:
    """Return what a file says of a model; None where it says nothing of any."""
    data = _json(path)
    if "class_name" in data:
        require_followed(folder)
        return _of_hub(path, data) | head_settings(folder)
    if "model_type" in data:
        return dict(data)
    if "hidden_size" in data and "num_hidden_layers" in data:
        return {key: value for key, value in data.items() if not key.startswith(_GOOGLE_KEYS)}
    return None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            "{path} cannot be read as JSON ({why}); put the checkpoint's original file in its place",
            path=path,
            why=error,
        ) from error
    return data if isinstance(data, dict) else {}


def _of_hub(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    name, config = data.get("class_name"), data.get("config")
    inner = config.get("backbone") if isinstance(config, Mapping) else None
    if name not in _HUB_CLASSES or not isinstance(config, Mapping):
        raise CheckpointError(
            "{path} is of a Keras model of the class {name}, and KerasHub's BERT is read: {known}",
            path=path,
            name=name,
            known=", ".join(_HUB_CLASSES),
        )
    if isinstance(inner, Mapping):
        return _of_hub(path, inner)
    return {theirs: config[mine] for mine, theirs in _HUB_KEYS.items() if mine in config}


def _family(shapes: Shapes) -> str:
    """Return the family that the names of weights begin with."""
    return next((name for name in _SIZES if any(key.startswith(f"{name}.") for key in shapes)), "")


Size = tuple[str, str, Callable[[Sequence[tuple[int, ...]]], int]]


def _axis(number: int) -> Callable[[Sequence[tuple[int, ...]]], int]:
    return lambda found: found[0][number]


_COMMON: tuple[Size, ...] = (
    ("vocab_size", r"embeddings\.word_embeddings\.weight", _axis(0)),
    ("max_position_embeddings", r"embeddings\.position_embeddings\.weight", _axis(0)),
    ("type_vocab_size", r"embeddings\.token_type_embeddings\.weight", _axis(0)),
)
_LAYERED: tuple[Size, ...] = (
    ("hidden_size", r"encoder\.layer\.0\.attention\.self\.query\.weight", _axis(1)),
    ("num_hidden_layers", r"encoder\.layer\.\d+\.output\.dense\.weight", len),
    ("intermediate_size", r"encoder\.layer\.0\.intermediate\.dense\.weight", _axis(0)),
)
_ALBERT_LAYER = r"encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+"
_SIZES: Mapping[str, tuple[Size, ...]] = {
    "bert": (*_COMMON, *_LAYERED),
    "electra": (*_COMMON, *_LAYERED, ("embedding_size", r"embeddings\.word_embeddings\.weight", _axis(1))),
    "albert": (
        *_COMMON,
        ("embedding_size", r"embeddings\.word_embeddings\.weight", _axis(1)),
        ("hidden_size", r"encoder\.embedding_hidden_mapping_in\.weight", _axis(0)),
        ("intermediate_size", rf"{_ALBERT_LAYER}\.ffn\.weight", _axis(0)),
        ("num_hidden_groups", r"encoder\.albert_layer_groups\.\d+\.albert_layers\.0\.ffn\.weight", len),
        ("inner_group_num", r"encoder\.albert_layer_groups\.0\.albert_layers\.\d+\.ffn\.weight", len),
    ),
}
"""Family -> the sizes that shapes show: key of config.json, pattern of a name behind the family's, size."""


def _derived(sizes: Sequence[Size], shapes: Shapes) -> Iterator[tuple[str, int]]:
    for key, pattern, size in sizes:
        found = [
            shape
            for name, shape in shapes.items()
            if re.fullmatch(rf"\w+\.{pattern}", name) and len(shape) == 2
        ]
        if found:
            yield key, size(found)


def _require_numbers(file: Path | None, own: Mapping[str, Any], family: str) -> None:
    counts = ("num_attention_heads", *(key for key, _, _ in _SIZES.get(family, ())))
    wrong = [
        f"{key} {json.dumps(own[key])}"
        for key in counts
        if key in own and not (type(own[key]) is int and own[key] > 0)
    ]
    if wrong:
        raise CheckpointError(
            "{file} says {wrong}, where a whole number above 0 has to be; correct it",
            file=file,
            wrong=", ".join(wrong),
        )


def _require_agreement(file: Path | None, own: Mapping[str, Any], derived: Mapping[str, int]) -> None:
    wrong = [
        f"{key} {own[key]} ({size} in the weights)"
        for key, size in derived.items()
        if own.get(key, size) != size
    ]
    if wrong:
        raise CheckpointError(
            "{file} and the weights do not belong together: it says {wrong}; put the configuration that "
            "belongs to the weights beside them",
            file=file,
            wrong=", ".join(wrong),
        )


def _heads(config: dict[str, Any], folder: Path) -> list[Message]:
    if "num_attention_heads" in config:
        return []
    size = int(config.get("hidden_size") or 0)
    if not size or size % _PER_HEAD:
        raise CheckpointError(
            "nothing in {folder} says how many heads the attention has, and a hidden size of {size} leaves "
            "it open; put bert_config.json, which says it as num_attention_heads, beside the weights",
            folder=folder,
            size=size,
        )
    config["num_attention_heads"] = size // _PER_HEAD
    return [
        Message(
            "heads of attention: {heads}, of {each} numbers each as all published models have; no "
            "configuration beside the weights says it",
            heads=size // _PER_HEAD,
            each=_PER_HEAD,
        )
    ]


def _gelu(config: dict[str, Any], layout: Layout) -> list[Message]:
    """Choose between the two forms of GELU, which differ by 2e-4, where a source says only "gelu"."""
    # Google wrote "gelu" into its configurations and computed it by tanh; so did those after it.
    if not layout.activation:
        return []
    if isinstance(config.get("hidden_act"), str):
        # Which their code does not tell apart.
        config["hidden_act"] = config["hidden_act"].lower()
    own = config.get("hidden_act")
    if layout.activation == "gelu_new" and own in (None, "gelu"):
        config["hidden_act"] = "gelu_new"
        return [Message("GELU by tanh (gelu_new), as {title} computes it", title=layout.title)]
    config.setdefault("hidden_act", layout.activation)
    if config["hidden_act"] != "gelu" or not layout.authors:
        return []
    return [
        Message(
            "GELU by erf, as Hugging Face reads {title}; {option} is by tanh, as Google's own code",
            title=layout.title,
            option=Option("activation", layout.authors),
        )
    ]


_CLASSES: Mapping[str, str] = {
    "bert": "Bert",
    "electra": "Electra",
    "albert": "Albert",
}


def _architecture(config: Mapping[str, Any], family: str, shapes: Shapes) -> str:
    """Return the class that config.json names, or that has the heads that are there."""
    tops = {name.split(".")[0] for name in shapes}
    # Read in another's place, whose class a configuration beside it names.
    if "generator_lm_head" in tops and family == "electra":
        return "ElectraForMaskedLM"
    named = config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0].removeprefix("TF")
    start = _CLASSES.get(family, "")
    if not start:
        return ""
    # By the heads that are there: no TensorFlow checkpoint but Hugging Face's names its class.
    words = {"cls", "predictions"} & tops
    if words and (
        "sop_classifier" in tops or any(name.startswith("cls.seq_relationship.") for name in shapes)
    ):
        return f"{start}ForPreTraining"
    if "discriminator_predictions" in tops:
        return f"{start}ForPreTraining"
    if words:
        return f"{start}ForMaskedLM"
    if "qa_outputs" in tops:
        return f"{start}ForQuestionAnswering"
    if "classifier" in tops:
        pooled = any(".pooler." in name for name in shapes)
        return f"{start}For{'Sequence' if pooled or family == 'electra' else 'Token'}Classification"
    return f"{start}Model"
