"""How each kind of TensorFlow checkpoint names its tensors, and what PyTorch calls them: a row a kind.

A rule is a pattern of the whole name, PyTorch's name, and a name of `models.source_tensors.CHANGES`. The
first that fits holds. What no rule names is an error (`account`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bertonnx.exporters.checkpoint.tensorflow.stored import Stored

__all__ = [
    "BACKBONE",
    "HEAD",
    "LAYOUTS",
    "LOWER_CASE",
    "Layout",
    "Placed",
    "WordHead",
    "layout_of",
    "left_out",
    "own_key",
]

COPIED, TRANSPOSED, FLATTENED = "copied", "transposed", "flattened"
BACKBONE, HEAD = "backbone/", "head/"
"""What stands before the names of KerasHub's two parts, which are a file each in a preset."""

LOWER_CASE = "do_lower_case"
"""The variable in which the Model Garden's models of TensorFlow Hub say how their texts are read."""

HEADS_IN, HEADS_OUT = "heads joined and transposed", "heads joined in front and transposed"


@dataclass(frozen=True)
class Placed:
    """Where a tensor goes.

    Attributes:
        name: PyTorch's.
        how: a name of `CHANGES`.
    """

    name: str
    how: str


Rule = tuple[re.Pattern[str], str, str]


def _rules(*rows: tuple[str, str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), name, how) for pattern, name, how in rows)


@dataclass(frozen=True)
class WordHead:
    """What a head of masked words computes with, which config.json has no keys for.

    Attributes:
        activation: name of transformers.
        epsilon: of its layer normalization.
    """

    activation: str
    epsilon: float


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    Attributes:
        name: the value on the card.
        title: for people.
        family: `model_type` of its models; "" where config.json says it.
        marks: a pattern that one of its names has, and no other kind's.
        rules: from its names to PyTorch's.
        activation: `hidden_act` of what trained it, where its files do not say; "" where they must.
        authors: the GELU that its authors' own code means by "gelu", where it is another one than that.
        rename: what is done to a name before the rules are tried.
        prepare: what is done to all names before that, where one says what another means.
        words: what its head of masked words has otherwise than its encoder; None for the same.
        leaves: patterns of what belongs to no model that is exported, with the reason.
        generator: the kind that is read in its place for masked words; None for this one.
    """

    name: str
    title: str
    family: str
    marks: re.Pattern[str]
    rules: tuple[Rule, ...]
    activation: str = ""
    authors: str = ""
    rename: Callable[[str], str] = lambda name: name
    prepare: Callable[[Sequence[Stored]], Sequence[Stored]] = lambda found: found
    words: WordHead | None = None
    leaves: Sequence[tuple[re.Pattern[str], str]] = ()
    generator: Layout | None = None

    def placed(self, one: Stored) -> Placed | None:
        """Return where a tensor goes; None where no rule names it."""
        name = self.rename(one.name)
        for pattern, target, how in self.rules:
            found = pattern.fullmatch(name)
            if found:
                # Keras 2 numbers its heads' axes alone: a bias of one axis is no heads' bias.
                flat = how == FLATTENED and len(one.shape) == 1
                return Placed(_dotted(found.expand(target)), COPIED if flat else how)
        return None


def _dotted(name: str) -> str:
    return name.replace("/", ".")


# Variables of training, in the words of Google's optimizer, TensorFlow 1's, and Keras'.
_LEFT_OUT: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), why)
    for pattern, why in (
        (r".*/(adam_m|adam_v)(_\d+)?", "a slot of the optimizer"),
        (r"(.*/)?(AdamWeightDecayOptimizer|LAMBOptimizer|Adam|AdamW|LAMB)(_\d+)?", "a slot of the optimizer"),
        (r"(training|optimizer|optimizer_weights|Adam|AdamW|adam|adamw)/.*", "a slot of the optimizer"),
        (r".*/\.OPTIMIZER_SLOT/.*", "a slot of the optimizer"),
        (
            r"(.*/)?(beta1_power|beta2_power|_?(current_)?learning_rate|beta_1|beta_2|decay|momentum)",
            "a number of the optimizer",
        ),
        (r"(.*/)?(global_step|iter|_?iterations?|save_counter|step|steps)", "a counter of training"),
        (r"(.*/)?(good_steps|bad_steps|loss_scale|current_loss_scale)", "a number of training"),
        (r"(keras_api/)?(metrics|train_counter|test_counter)/.*", "a figure of training"),
        (r"(total|count|total_loss)(_\d+)?", "a figure of training"),
        (r"(.*/)?(seed_generator|rng|random_generator)/.*", "a random seed"),
        (LOWER_CASE, "it says whether texts are lower-cased"),
    )
)


def left_out(one: Stored) -> str:
    """Return why a tensor is none of the model's, or ""."""
    for name in (own_key(one), one.name):
        for pattern, why in _LEFT_OUT:
            if pattern.fullmatch(name):
                return why
    return "" if one.numeric else "it holds texts"


def own_key(one: Stored) -> str:
    """Return what a file calls a variable, without what TensorFlow 2 adds to each."""
    return one.key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")


def layout_of(found: Sequence[Stored]) -> Layout | None:
    """Return the kind of checkpoint that tensors belong to; None where no kind is like it."""
    names = [one.name for one in found if not left_out(one)]
    return next((row for row in LAYOUTS if any(map(row.marks.search, names))), None)


_KERNELS = (
    (r"(.*)/kernel", r"\1/weight", TRANSPOSED),
    (r"(.*)/gamma", r"\1/weight", COPIED),
    (r"(.*)/(?:beta|bias)", r"\1/bias", COPIED),
)

_BASES = "bert|distilbert|roberta|albert|electra|camembert|xlm-roberta"


def _hugging_face_name(name: str) -> str:
    """Return a name in the words of transformers' own conversion.

    `convert_tf_weight_name_to_pt_weight_name` of transformers 4 (modeling_tf_pytorch_utils.py): the level of
    the model goes, "a___b" is b, and "_._" parts levels.
    """
    name = name.removesuffix(":0")
    name = re.sub(r"(^|/)[^/]*___([^/]*)/", r"\1\2/", name).replace("_._", "/")
    # Whatever wraps the model, too: a Keras model around a TFBertModel adds its own level.
    parts = [part for part in name.split("/") if part]
    base = next((at for at, part in enumerate(parts) if re.fullmatch(_BASES, part)), None)
    if base is not None:
        return "/".join(parts[base:])
    return "/".join(parts[1:]) if parts[0].startswith("tf") else "/".join(parts)


_HUGGING_FACE = Layout(
    "hugging-face",
    "a TensorFlow model of Hugging Face",
    family="",
    marks=re.compile(r"_\._\d+/"),
    rules=_rules(
        (r"(.*_embeddings)/embeddings", r"\1/weight", COPIED),
        *_KERNELS,
        (r"(.*)/weight", r"\1/weight", COPIED),
    ),
    rename=_hugging_face_name,
)

_GOOGLE_HEADS = (
    (r"cls/predictions/output_bias", "cls/predictions/bias", COPIED),
    (r"cls/seq_relationship/output_weights", "cls/seq_relationship/weight", COPIED),
    (r"cls/seq_relationship/output_bias", "cls/seq_relationship/bias", COPIED),
    (r"cls/squad/output_weights", "qa_outputs/weight", COPIED),
    (r"cls/squad/output_bias", "qa_outputs/bias", COPIED),
    (r"(?:loss/)?output_weights", "classifier/weight", COPIED),
    (r"(?:loss/)?output_bias", "classifier/bias", COPIED),
)


def _google_name(name: str) -> str:
    return re.sub(r"/layer_(\d+)/", r"/layer/\1/", name.removeprefix("module/"))


_GOOGLE = Layout(
    "google-bert",
    "a checkpoint of Google's BERT",
    family="bert",
    marks=re.compile(r"^(module/)?bert/encoder/layer_\d+/attention/self/"),
    rules=_rules(
        *_GOOGLE_HEADS,
        (r"(bert/embeddings/(?:word|position|token_type)_embeddings)", r"\1/weight", COPIED),
        *((rf"((?:bert|cls)/{pattern[1:]}", name, how) for pattern, name, how in _KERNELS),
    ),
    activation="gelu",
    authors="gelu_new",
    rename=_google_name,
)


def _albert_name(name: str) -> str:
    return re.sub(
        r"^bert/encoder/transformer/group_(\d+)/inner_group_(\d+)/",
        r"albert/encoder/albert_layer_groups/\1/albert_layers/\2/",
        name.removeprefix("module/"),
    )


_IN_LAYER = r"(albert/encoder/albert_layer_groups/\d+/albert_layers/\d+)"

_ALBERT_PARTS = (
    (rf"{_IN_LAYER}/attention_1/self/(query|key|value)", r"\1/attention/\2"),
    (rf"{_IN_LAYER}/attention_1/output/dense", r"\1/attention/dense"),
    (rf"{_IN_LAYER}/LayerNorm", r"\1/attention/LayerNorm"),
    (rf"{_IN_LAYER}/LayerNorm_1", r"\1/full_layer_layer_norm"),
    (rf"{_IN_LAYER}/ffn_1/intermediate/dense", r"\1/ffn"),
    (rf"{_IN_LAYER}/ffn_1/intermediate/output/dense", r"\1/ffn_output"),
    (r"bert/encoder/embedding_hidden_mapping_in", "albert/encoder/embedding_hidden_mapping_in"),
    (r"bert/embeddings/LayerNorm", "albert/embeddings/LayerNorm"),
    (r"bert/pooler/dense", "albert/pooler"),
    (r"cls/predictions/transform/(dense|LayerNorm)", r"predictions/\1"),
)


def _of_parts(parts: Sequence[tuple[str, str]]) -> tuple[tuple[str, str, str], ...]:
    """Return rules for a layer's weights and biases, of rules for the layer."""
    return tuple(
        (f"{pattern}/{ending}", f"{name}/{target}", how)
        for pattern, name in parts
        for ending, target, how in (
            ("kernel", "weight", TRANSPOSED),
            ("gamma", "weight", COPIED),
            ("(?:beta|bias)", "bias", COPIED),
        )
    )


_ALBERT = Layout(
    "google-albert",
    "a checkpoint of Google's ALBERT",
    family="albert",
    marks=re.compile(r"bert/encoder/transformer/group_\d+/inner_group_\d+/"),
    rules=_rules(
        *_of_parts(_ALBERT_PARTS),
        (
            r"bert/embeddings/((?:word|position|token_type)_embeddings)",
            r"albert/embeddings/\1/weight",
            COPIED,
        ),
        (r"cls/predictions/output_bias", "predictions/bias", COPIED),
        (r"cls/seq_relationship/output_weights", "sop_classifier/classifier/weight", COPIED),
        (r"cls/seq_relationship/output_bias", "sop_classifier/classifier/bias", COPIED),
        *_GOOGLE_HEADS,
    ),
    activation="gelu_new",
    rename=_albert_name,
)


def _electra_name(name: str) -> str:
    return re.sub(r"/layer_(\d+)/", r"/layer/\1/", name)


_ELECTRA_TABLES = (r"(electra/embeddings/(?:word|position|token_type)_embeddings)", r"\1/weight", COPIED)

_GENERATOR = Layout(
    "google-electra-generator",
    "the generator of Google's ELECTRA",
    family="electra",
    # Read where it is asked for: its names lie in the same files as the discriminator's.
    marks=re.compile(r"^generator/encoder/layer_\d+/attention/self/"),
    rules=_rules(
        (r"generator_predictions/output_bias", "generator_lm_head/bias", COPIED),
        _ELECTRA_TABLES,
        *_of_parts(
            (
                # It has the discriminator's tables, with the layer normalization behind them.
                (r"electra/embeddings/LayerNorm", "electra/embeddings/LayerNorm"),
                (r"generator/(embeddings_project|encoder/.*)", r"electra/\1"),
                (r"generator_predictions/(dense|LayerNorm)", r"generator_predictions/\1"),
            )
        ),
    ),
    activation="gelu",
    rename=_electra_name,
    leaves=(
        (
            re.compile(r"electra/(encoder|embeddings_project)/.*|discriminator_predictions/.*"),
            "the discriminator, which has no part in masked words",
        ),
    ),
)

_ELECTRA = Layout(
    "google-electra",
    "a checkpoint of Google's ELECTRA",
    family="electra",
    marks=re.compile(r"^electra/encoder/layer_\d+/attention/self/"),
    rules=_rules(
        _ELECTRA_TABLES,
        *_of_parts(
            (
                (r"discriminator_predictions/dense_1", "discriminator_predictions/dense_prediction"),
                (r"(electra|discriminator_predictions)/(.*)", r"\1/\2"),
            )
        ),
    ),
    # By erf in its authors' code too.
    activation="gelu",
    rename=_electra_name,
    leaves=((re.compile(r"generator(_predictions)?/.*"), "the generator, which is for masked words alone"),),
    generator=_GENERATOR,
)


_LAYER = r"bert/encoder/layer/\1"
_GARDEN_SCOPE = r"(?:.*/)?"


def _attention(names: Mapping[str, str], endings: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield rules of Keras' attention, whose kernels have an axis of heads, and its biases too."""
    for part, name in names.items():
        inner = part != "output"
        target = f"{_LAYER}/attention/{f'self/{part}' if inner else 'output/dense'}"
        yield f"{name}/{endings[0]}", f"{target}/weight", HEADS_IN if inner else HEADS_OUT
        yield f"{name}/{endings[1]}", f"{target}/bias", FLATTENED if inner else COPIED


def _garden_rules() -> tuple[tuple[str, str, str], ...]:
    block = rf"{_GARDEN_SCOPE}transformer/layer_(\d+)"
    rows = [
        (rf"{_GARDEN_SCOPE}{mine}/embeddings", f"bert/embeddings/{theirs}/weight", COPIED)
        for mine, theirs in (
            ("word_embeddings", "word_embeddings"),
            ("position_embedding", "position_embeddings"),
            ("type_embeddings", "token_type_embeddings"),
        )
    ]
    mine = rf"{block}/self_attention"
    names = {part: f"{mine}/{part}" for part in ("query", "key", "value")}
    rows += _attention({**names, "output": f"{mine}/attention_output"}, ("kernel", "bias"))
    out = f"{_LAYER}/attention/output"
    rows += _of_parts(
        (
            (rf"{block}/self_attention_layer_norm", f"{out}/LayerNorm"),
            (rf"{block}/intermediate", f"{_LAYER}/intermediate/dense"),
            (rf"{block}/output", f"{_LAYER}/output/dense"),
            (rf"{block}/output_layer_norm", f"{_LAYER}/output/LayerNorm"),
            (rf"{_GARDEN_SCOPE}embeddings/layer_norm", "bert/embeddings/LayerNorm"),
            (rf"{_GARDEN_SCOPE}pooler_transform", "bert/pooler/dense"),
            (r"(?:.*/)?cls/predictions/transform/(dense|LayerNorm)", r"cls/predictions/transform/\1"),
            (r"(?:.*/)?predictions/transform/logits", "classifier"),
            (r"(?:.*/)?sentence_prediction/logits", "classifier"),
        )
    )
    rows.append((r"(?:.*/)?cls/predictions/output_bias(?:/bias)?", "cls/predictions/bias", COPIED))
    return tuple(rows)


_GARDEN = Layout(
    "model-garden",
    "an encoder of TensorFlow's Model Garden",
    family="bert",
    marks=re.compile(r"(^|/)transformer/layer_\d+/self_attention/query/kernel$"),
    rules=_rules(*_garden_rules()),
    activation="gelu_new",
)


def _keras_hub_names(found: Sequence[Stored]) -> list[Stored]:
    """Tell the backbone's layers from the head's, by what lies inside the backbone."""
    inner = "layers/bert_backbone/"
    # A backbone that was saved alone is no part of anything; a preset's two files are told apart already.
    alone = not any(one.name.startswith((inner, BACKBONE, HEAD)) for one in found)

    def named(name: str) -> str:
        if name.startswith(inner):
            name = BACKBONE + name.removeprefix(inner)
        elif name.startswith("layers/"):
            name = (BACKBONE if alone else HEAD) + name
        # The first of a kind has no number.
        return name.replace("/transformer_encoder/", "/transformer_encoder_0/")

    return [replace(one, name=named(one.name)) for one in found]


_HUB_LAYER = r"backbone/layers/transformer_encoder_(\d+)"


def _keras_hub_rules() -> tuple[tuple[str, str, str], ...]:
    rows: list[tuple[str, str, str]] = [
        (rf"backbone/layers/{mine}/vars/0", f"bert/embeddings/{theirs}/weight", COPIED)
        for mine, theirs in (
            ("reversible_embedding", "word_embeddings"),
            ("position_embedding", "position_embeddings"),
            ("embedding", "token_type_embeddings"),
        )
    ]
    mine, attention = rf"{_HUB_LAYER}/_self_attention_layer", f"{_LAYER}/attention"
    parts = ("query", "key", "value", "output")
    rows += _attention({part: f"{mine}/{part}_dense" for part in parts}, ("vars/0", "vars/1"))
    for layer, target, how in (
        (rf"{_HUB_LAYER}/_self_attention_layer_norm", f"{attention}/output/LayerNorm", COPIED),
        (rf"{_HUB_LAYER}/_feedforward_intermediate_dense", f"{_LAYER}/intermediate/dense", TRANSPOSED),
        (rf"{_HUB_LAYER}/_feedforward_output_dense", f"{_LAYER}/output/dense", TRANSPOSED),
        (rf"{_HUB_LAYER}/_feedforward_layer_norm", f"{_LAYER}/output/LayerNorm", COPIED),
        (r"backbone/layers/layer_normalization", "bert/embeddings/LayerNorm", COPIED),
        (r"backbone/layers/dense", "bert/pooler/dense", TRANSPOSED),
        # Behind the backbone: the task's own.
        (r"head/layers/dense", "classifier", TRANSPOSED),
        (r"head/layers/masked_lm_head/_intermediate_dense", "cls/predictions/transform/dense", TRANSPOSED),
        (
            r"head/layers/masked_lm_head/_intermediate_layer_norm",
            "cls/predictions/transform/LayerNorm",
            COPIED,
        ),
    ):
        rows += [(f"{layer}/vars/0", f"{target}/weight", how), (f"{layer}/vars/1", f"{target}/bias", COPIED)]
    rows.append((r"head/layers/masked_lm_head/vars/0", "cls/predictions/bias", COPIED))
    return tuple(rows)


_KERAS_HUB = Layout(
    "keras-hub",
    "a BERT of KerasHub",
    family="bert",
    marks=re.compile(r"layers/transformer_encoder(_\d+)?/_self_attention_layer/query_dense/vars/0$"),
    rules=_rules(*_keras_hub_rules()),
    activation="gelu_new",
    prepare=_keras_hub_names,
    # `MaskedLMHead` gets "gelu", which Keras computes by erf, and keeps its own epsilon.
    words=WordHead("gelu", 1e-5),
)

LAYOUTS: Sequence[Layout] = (_KERAS_HUB, _GARDEN, _ALBERT, _ELECTRA, _GOOGLE, _HUGGING_FACE)
