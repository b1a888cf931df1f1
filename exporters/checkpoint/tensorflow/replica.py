"""A TensorFlow checkpoint as a folder that transformers reads: config.json, safetensors, tokenizer.

All that follows is the ordinary export of that folder, so that nothing knows of TensorFlow.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.tensorflow.account import Account, open_account
from bertonnx.exporters.checkpoint.tensorflow.garden import require_published
from bertonnx.exporters.checkpoint.tensorflow.layouts import LOWER_CASE, Layout, WordHead, own_key
from bertonnx.exporters.checkpoint.tensorflow.locate import Located
from bertonnx.exporters.checkpoint.tensorflow.reading import kind_of, read_tensors
from bertonnx.exporters.checkpoint.tensorflow.sizes import draw
from bertonnx.exporters.checkpoint.tensorflow.stored import Stored
from bertonnx.exporters.checkpoint.tensorflow.tokens import copy_tokenizer
from bertonnx.exporters.options import ExportOptions
from bertonnx.exporters.quiet import quiet
from bertonnx.models.source_tensors import SourceTensor, change
from bertonnx.models.tasks import TASKS
from bertonnx.wording import Message, Option

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["UNPACKED", "Replica", "replicate"]

UNPACKED = "source"
"""The folder in a replica into which an archive is unpacked."""

_CLASSIFIER = "classifier."
_HEADS = ("classifier", "qa_outputs")
_IN_CLASS = re.compile(r"(^|/)tf_\w+_for_\w+/")
"""The scope of a class of Hugging Face's with a head."""


@dataclass(frozen=True)
class Replica:
    """What became of a TensorFlow checkpoint.

    Attributes:
        located: where it lies.
        layout: its kind (`layouts.LAYOUTS`).
        tensors: what became of each of its tensors.
        notes: what was chosen for the user.
        words: what its head of masked words has otherwise than its encoder.
        asked: what the user asked for that changes its weights or what is computed of them, for the card.
    """

    located: Located
    layout: str
    tensors: tuple[SourceTensor, ...]
    notes: tuple[Message, ...]
    words: WordHead | None = None
    asked: Mapping[str, str] = field(default_factory=dict)

    def settle(self, model: PreTrainedModel) -> None:
        """Give the head of masked words what its own library computes it with."""
        transform = getattr(getattr(getattr(model, "cls", None), "predictions", None), "transform", None)
        if self.words is None or transform is None:
            return
        from transformers.activations import ACT2FN

        transform.transform_act_fn = ACT2FN[self.words.activation]
        transform.LayerNorm.eps = self.words.epsilon


def replicate(what: str, located: Located, into: Path, options: ExportOptions) -> Replica:
    """Write a TensorFlow checkpoint into an empty folder as transformers saves it.

    Args:
        what: what the user typed.
        located: the checkpoint.
        into: the folder; its inner folder `UNPACKED` is for what is unpacked.
        options: the task that it is exported for, its encoder's activation, what is left out.

    Raises:
        CheckpointError: a file is missing or damaged, or tensors are unknown, missing, doubled or misshapen.
        UnsupportedError: it is of a BERT that was changed.
        MissingDependencyError: h5py is not installed and needed.
    """
    scratch = into / UNPACKED
    scratch.mkdir()
    found, folder = read_tensors(located, scratch)
    layout = _read_as(kind_of(what, found), options)
    if layout.name == "model-garden":
        require_published(located.paths[0])
    account = open_account(what, found, layout, options.ignore_keys)
    shapes = {name: one.shape for name, one in account.placed.items()}
    drawn = draw(layout, folder, shapes, _heads(account))
    config = drawn.config
    _require_own_head(what, config, account, layout)
    notes = [*drawn.notes]
    if options.encoder_activation is not None:
        config["hidden_act"] = options.encoder_activation
        notes = [Message("the encoder's activation is {name}, as asked", name=options.encoder_activation)]
    architecture = _asked(drawn.architecture, account, options)
    notes += _labelled(config, architecture, account, options)
    notes += _cased(config, found)
    notes += copy_tokenizer(list(dict.fromkeys((folder, located.folder))), into, config)
    config.pop(LOWER_CASE, None)
    config["architectures"] = [architecture]
    _settle(account, config, architecture, named=not layout.family)
    if _is_untied(account):
        config["tie_word_embeddings"] = False
    (into / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tensors = _write(account, into / "model.safetensors")
    notes = [*_said(tensors, layout.title), *notes]
    return Replica(located, layout.name, tensors, tuple(notes), layout.words, dict(_noted(options)))


def _cased(config: dict[str, Any], found: Sequence[Stored]) -> Iterator[Message]:
    """Take from a variable whether texts are lower-cased."""
    said = next((one for one in found if own_key(one) == LOWER_CASE and one.dtype == "bool"), None)
    if said is None or said.shape:
        return
    lower = bool(said.values())
    config["do_lower_case"] = lower
    kept = "texts are lower-cased" if lower else "upper and lower case are kept apart"
    yield Message("{kept}, as the checkpoint says", kept=kept)


def _require_own_head(what: str, config: Mapping[str, Any], account: Account, layout: Layout) -> None:
    """Refuse the head of a Keras model that someone built around one of Hugging Face's."""
    # It may read the pooled text, the first token or a mean, which no tensor shows.
    if layout.family or config.get("architectures"):
        return
    own = [one.stored.name for name, one in account.placed.items() if name.split(".")[0] in _HEADS]
    stray = [name for name in own if not _IN_CLASS.search(name)]
    if stray:
        raise CheckpointError(
            "{what} is a Keras model of one's own around a model of Hugging Face, and its tensors do not "
            "show what its head ({names}) reads; where it is what a class of transformers computes, name "
            'that class in config.json: "architectures": ["BertForSequenceClassification"]',
            what=what,
            names=", ".join(sorted(stray)),
        )


def _noted(options: ExportOptions) -> Iterator[tuple[str, str]]:
    if options.encoder_activation is not None:
        yield "hidden_act", options.encoder_activation
    if options.ignore_keys:
        yield "ignored", ", ".join(options.ignore_keys)


def _read_as(layout: Layout, options: ExportOptions) -> Layout:
    """Return the kind that is read for the task that was asked for."""
    words = options.task is not None and "ForMaskedLM" in TASKS[options.task].architectures
    return layout.generator if words and layout.generator is not None else layout


def _said(tensors: tuple[SourceTensor, ...], title: str) -> tuple[Message, ...]:
    used = sum(bool(one.became) for one in tensors)
    reasons: dict[str, int] = {}
    for one in tensors:
        if not one.became:
            why = one.how.removeprefix("left out: ")
            why = "there twice" if why.startswith("the same as") else why
            reasons[why] = reasons.get(why, 0) + 1
    listed = ", ".join(f"{count} ({why})" for why, count in reasons.items())
    rest: Message | str = Message("; left out: {listed}", listed=listed) if listed else ""
    return (
        Message(
            "read as {title}, without TensorFlow: {used} of {all} tensors{rest}",
            title=title,
            used=used,
            all=len(tensors),
            rest=rest,
        ),
    )


def _heads(account: Account) -> int | None:
    """Return how many heads attention has, where its tensors have an axis of heads."""
    for name, one in account.placed.items():
        if name.endswith("attention.self.query.weight") and len(one.stored.shape) == 3:
            return one.stored.shape[1]
    return None


def _asked(architecture: str, account: Account, options: ExportOptions) -> str:
    """Return the class of the task that was asked for, where a head's tensors leave open whose they are."""
    own = any(name.startswith((_CLASSIFIER, "qa_outputs.")) for name in account.placed)
    if options.task is None or not own:
        return architecture
    for head in ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"):
        if architecture.endswith(head):
            endings = TASKS[options.task].architectures
            if endings[0].startswith("For"):
                return architecture.removesuffix(head) + endings[0]
    return architecture


def _labelled(
    config: dict[str, Any], architecture: str, account: Account, options: ExportOptions
) -> list[Message]:
    """Write as many labels as the classifier has rows, where config.json does not name them."""
    table = account.placed.get("classifier.weight") or account.placed.get("classifier.out_proj.weight")
    if table is None or "ForQuestionAnswering" in architecture or not architecture.endswith("Classification"):
        return []
    count = table.shape[0]
    named = config.get("id2label")
    if isinstance(named, Mapping) and len(named) == count:
        return []
    if isinstance(named, Mapping) and options.labels is None:
        raise CheckpointError(
            "config.json names {named} labels, and the head tells {count} apart; correct id2label, or add "
            "{option}",
            named=len(named),
            count=count,
            option=Option("labels", "FILE"),
        )
    config["id2label"] = {str(number): f"LABEL_{number}" for number in range(count)}
    config["label2id"] = {f"LABEL_{number}": number for number in range(count)}
    config.pop("num_labels", None)
    if options.labels is not None or count == 1:
        return []
    return [
        Message(
            "{count} labels that nothing names are numbered, {first} and so on; {option} names them",
            count=count,
            first="LABEL_0",
            option=Option("labels", "FILE"),
        )
    ]


def _settle(account: Account, config: Mapping[str, Any], architecture: str, *, named: bool) -> None:
    """Compare the tensors with what transformers' class has; their own names say what they are, or not."""
    # Asked of transformers itself, so that what it needs in this version is what is compared.
    model = _empty(config, architecture)
    prefix = f"{model.base_model_prefix}."
    base = model.base_model is model
    wanted = {
        (prefix + name if base else name): tuple(value.shape)
        for name, value in model.state_dict().items()
        if not name.endswith(("position_ids", "token_type_ids"))
    }
    if "qa_outputs.weight" in wanted and not named:
        account.rename({_CLASSIFIER + end: f"qa_outputs.{end}" for end in ("weight", "bias")})
    tied = {
        name
        for name in wanted
        if ".decoder." in f".{name}"
        or name.startswith("generator_lm_head.weight")
        or name.endswith("vocab_projector.weight")
    }
    # A pooler that no tensor belongs to is no part of what is exported, unless a head reads it.
    pooler = {name for name in wanted if ".pooler." in name and (base or not _pooled(architecture))}
    account.settle(architecture, wanted, tied | pooler)


def _is_untied(account: Account) -> bool:
    """Tell whether the decoder of masked words has other numbers than the table of words."""
    # TensorFlow's MobileBERT trains the two apart, which transformers' class in PyTorch takes for one.
    placed = account.placed
    decoder = next((one for name, one in placed.items() if name.endswith(".decoder.weight")), None)
    table = next(
        (one for name, one in placed.items() if name.endswith("embeddings.word_embeddings.weight")), None
    )
    if decoder is None or table is None or decoder.shape != table.shape:
        return False
    return decoder.stored.sha256() != table.stored.sha256()


def _pooled(architecture: str) -> bool:
    return architecture.endswith(("ForSequenceClassification", "ForPreTraining", "ForNextSentencePrediction"))


def _empty(config: Mapping[str, Any], architecture: str) -> PreTrainedModel:
    """Return the class with these sizes, without values."""
    with quiet():
        import torch
        import transformers

        if not architecture:
            raise CheckpointError(
                "config.json names no class of transformers, without which the weights of a {family} model "
                'may be those of any task; name it: "architectures": ["RobertaForTokenClassification"], say',
                family=config.get("model_type"),
            )
        maker = getattr(transformers, architecture, None)
        family = str(config.get("model_type"))
        if maker is None or family not in transformers.CONFIG_MAPPING:
            raise CheckpointError(
                "config.json names {architecture} of the family {family}, which the installed transformers "
                "({version}) does not have; correct config.json",
                architecture=architecture,
                family=family,
                version=transformers.__version__,
            )
        try:
            settings = transformers.CONFIG_MAPPING[family].from_dict(copy.deepcopy(dict(config)))
            with torch.device("meta"):
                made: PreTrainedModel = maker(settings)
        except Exception as error:  # any value of the source's configuration may be of a wrong kind
            raise CheckpointError(
                "no {architecture} can be made of the source's configuration ({why}); correct it",
                architecture=architecture,
                why=f"{type(error).__name__}: {error}"[:200],
            ) from error
    return made


def _write(account: Account, path: Path) -> tuple[SourceTensor, ...]:
    from safetensors.numpy import save_file

    # One file for all: what is too large for memory is too large to be exported as well.
    values, rows = {}, []
    for one in account.entries:
        rows.append(one.row())
        if one.placed is not None:
            array = change(one.placed.how).apply(one.stored.values())
            values[one.placed.name] = np.ascontiguousarray(array, dtype=np.float32)
    save_file(values, path, metadata={"format": "pt"})
    return tuple(rows)
