"""Which checkpoints are encoders that can be exported, told from config.json and transformers' own tables."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.keys import shown
from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import (
    EXCLUDED_FAMILIES,
    EXCLUDED_KEYS,
    FAMILIES,
    Family,
    family,
    family_of_code,
)
from bertonnx.models.tasks import TASKS, Task
from bertonnx.wording import Install

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = [
    "GRAPH_INPUTS",
    "accepted_inputs",
    "code_is_needless",
    "coded_family",
    "exportable_tasks",
    "in_place_of_code",
    "require_encoder",
    "without_cache",
]

GRAPH_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

_OTHER_INPUTS = frozenset(
    {"bbox", "decoder_input_ids", "global_attention_mask", "image", "input_features", "input_values"}
    | {"pixel_values", "visual_embeds", "visual_feats", "xpath_tags_seq"}
)
"""Arguments of `forward` that no tokenizer makes, and without which the model is another one."""

_LAYERS = ("num_hidden_layers", "n_layers")
_MOST_LAYERS = 1000
_DECODES = ("is_encoder_decoder", "is_decoder")
"""Keys that make a decoder of a family of encoders."""

_ENCODER = "AutoModel"
"""The class that loads an encoder without a head."""


def _require_layers(config: Mapping[str, Any]) -> None:
    # Transformers would make them one by one, for hours, before it looks at the weights.
    for key in _LAYERS:
        value = config.get(key)
        if isinstance(value, int) and not 0 <= value <= _MOST_LAYERS:
            raise CheckpointError(
                "config.json has {key} {value}, and encoders have 1 to {most} layers; correct config.json",
                key=key,
                value=value,
                most=_MOST_LAYERS,
            )


def _require_list(config: Mapping[str, Any]) -> None:
    # A text's letters would be read as names of classes, and the encoder exported without its head.
    named = config.get("architectures")
    if named is not None and not isinstance(named, list):
        raise CheckpointError(
            "config.json has architectures {found}, which is no list, so that no task can be told of it; "
            "write [{found}]",
            found=shown(named),
        )
    odd = [one for one in named or () if not isinstance(one, str)]
    if odd:
        raise CheckpointError(
            "config.json has architectures {found}, which names no class with {odd}; correct it",
            found=shown(named),
            odd=shown(odd[0]),
        )


def _require_keys(name: str, config: Mapping[str, Any]) -> None:
    for key, (value, reason) in EXCLUDED_KEYS.get(name, {}).items():
        if config.get(key) is value:
            raise UnsupportedError(
                "config.json of this {family} model has {key} {value}, with which it cannot be exported: "
                "{reason}",
                family=name,
                key=key,
                value=shown(value),
                reason=reason,
            )


def require_encoder(config: Mapping[str, Any], what: str) -> None:
    """Refuse what no option can make exportable. `config` is config.json, `what` names the checkpoint.

    Raises:
        CheckpointError: config.json names no `model_type`, no list of architectures, or more layers than any
            encoder has.
        UnsupportedError: excluded, a decoder, or a family that nobody here knows.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            "{what}: config.json has no model_type, so its architecture is unknown; add the line, such as "
            "{line}",
            what=what,
            line='"model_type": "bert"',
        )
    _require_layers(config)
    _require_list(config)
    if name in EXCLUDED_FAMILIES:
        raise UnsupportedError(
            "{what} is a {family} model, which cannot be exported: {reason}",
            what=what,
            family=name,
            reason=EXCLUDED_FAMILIES[name],
        )
    _require_keys(name, config)
    # A family of ours may still be set up as a decoder (is_decoder), with attention that looks back only.
    if any(config.get(key) for key in _DECODES) or _generates(name):
        raise UnsupportedError(
            "{what} is a {family} model that generates text (a decoder{key}); bertonnx exports encoders: "
            "{known}",
            what=what,
            key=next((f": {key} is true" for key in _DECODES if config.get(key)), ""),
            family=name,
            known=_known(),
        )
    # The checkpoint's own code is unknown to transformers' tables, which the rest of the checks ask.
    if "auto_map" in config:
        return
    if not _has_code(name):
        raise UnsupportedError(
            "{what} is a {family} model, and the installed transformers ({version}) has no code of it that "
            "can be exported; a newer one may: {install}",
            what=what,
            family=_by_both_names(name),
            version=_version(),
            install=Install("export", upgrade=True, packages=("transformers",)),
        )
    if family(name) is None and not _text_tasks(name):
        raise UnsupportedError(
            "{what} is a {family} model, and transformers has no text encoder of that kind with a head for a "
            "task; bertonnx exports: {known}",
            what=what,
            family=name,
            known=_known(),
        )


def _by_both_names(name: str) -> str:
    row = family_of_code(name, "")
    return name if row is None else f"{row.name} (by its own code: {name})"


def coded_family(config: Mapping[str, Any]) -> Family | None:
    """Return the family that the code is of which a checkpoint brings along, where a row knows that code.

    Args:
        config: config.json.
    """
    code = config.get("auto_map")
    named = str(code.get("AutoConfig", "")) if isinstance(code, Mapping) else ""
    name = str(config.get("model_type"))
    return family_of_code(name, named.rpartition(".")[2]) or family(name)


def code_is_needless(config: Mapping[str, Any]) -> bool:
    """Tell whether transformers has what the code computes that a checkpoint brings along.

    Args:
        config: config.json.
    """
    row = coded_family(config)
    return row is not None and row.stands_for_code and _has_code(row.name)


def in_place_of_code(config: Mapping[str, Any], *, trusted: bool) -> Mapping[str, Any]:
    """Return config.json for transformers' class where that stands for the checkpoint's own code.

    Args:
        config: config.json.
        trusted: whether that code may run, which then is what counts.
    """
    if trusted and config.get("auto_map"):
        return config
    # Whatever else looks for the key would run that code, or refuse it; null there stands for no code.
    kept = {key: value for key, value in config.items() if key != "auto_map"}
    row = coded_family(config)
    if row is None or not code_is_needless(config):
        return config if config.get("auto_map") else kept
    return {**kept, "model_type": row.name}


def exportable_tasks(name: str, own: Collection[str] = ()) -> dict[str, str]:
    """Return, for every task, "" where family `name` can be exported for it, or else the reason.

    Args:
        name: `model_type`.
        own: classes that the checkpoint's own Python code provides (the keys of `auto_map`).
    """
    row = family(name)
    gaps = {} if row is None else row.gaps
    there = _text_tasks(name) if row is None else [task for task in TASKS if _head(task, name) is not None]
    missing = f"transformers {_version()} has no such head for it"
    return {
        task.name: gaps.get(task.name, "" if task in there or task.auto_class in own else missing)
        for task in TASKS
    }


def accepted_inputs(model: PreTrainedModel, made: Iterable[str]) -> tuple[str, ...]:
    """Return those of the inputs that a tokenizer makes which the model's `forward` takes, in their order.

    Raises:
        UnsupportedError: the model takes more of them than our files can hold.
    """
    taken = inspect.signature(model.forward).parameters
    # The mask is there even where the tokenizer does not list it: batches of unequal texts need it.
    made = {*made, "attention_mask"}
    # Code of a checkpoint's own may hand on whatever it is given, without naming it.
    hands_on = any(item.kind is item.VAR_KEYWORD for item in taken.values()) and "input_ids" not in taken
    wanted = made if hands_on else {name for name in made if name in taken}
    others = sorted(wanted - {*GRAPH_INPUTS})
    if others:
        raise UnsupportedError(
            "the tokenizer of this {family} model makes {others} too, which the model reads; bertonnx makes "
            "{known} alone, so its numbers would be others",
            family=model.config.model_type,
            others=" and ".join(others),
            known=", ".join(GRAPH_INPUTS),
        )
    return tuple(name for name in GRAPH_INPUTS if name in wanted)


def without_cache(model: PreTrainedModel) -> dict[str, Any]:
    """Return what keeps `forward` from filling a cache where it does so unasked, as XLM and FlauBERT do."""
    taken = inspect.signature(model.forward).parameters
    return {"cache": _no_cache()} if "cache" in taken and "use_cache" not in taken else {}


def _no_cache() -> _NoCache:
    from transformers import Cache

    # Version 4.55 makes a cache of its own of whatever is no instance of its class.
    made: _NoCache = type("NoCache", (_NoCache, Cache), {})()
    return made


class _NoCache:
    """A cache of keys and values that keeps nothing."""

    def __init__(self) -> None:
        # Without that of transformers' class, which differs from version to version.
        pass

    def get_seq_length(self) -> int:
        """Return how many tokens it holds."""
        return 0

    def __getitem__(self, layer: int) -> _NoCache:
        """Return that of one layer, as FlauBERT with `pre_norm` asks for it."""
        return self

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, kwargs: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values as they are."""
        del kwargs
        return keys, values


def _known() -> str:
    return ", ".join(row.name for row in FAMILIES)


def _version() -> str:
    import transformers

    return str(transformers.__version__)


def _has_code(name: str) -> bool:
    with quiet():
        from packaging.version import Version
        from transformers import CONFIG_MAPPING

        row = family(name)
        old = row is not None and row.since and Version(_version()) < Version(row.since)
        return name in CONFIG_MAPPING and not old


def _generates(name: str) -> bool:
    """Tell whether transformers knows the family for text generation and not for masked words."""
    if family(name) is not None:
        return False
    with quiet():
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            MODEL_FOR_PRETRAINING_MAPPING_NAMES,
            MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        )

    if name in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return True
    # A few stand in another table alone, such as that of models of images and texts.
    pretrained = str(MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(name, ""))
    generates = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or pretrained.endswith("ForCausalLM")
    return generates and name not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _text_tasks(name: str) -> list[Task]:
    """Return the tasks for which transformers has a class of a family that reads what a tokenizer makes.

    A family without any head is no encoder that people fine-tune, but a part of a larger model.
    """
    if not _has_code(name):
        return []
    found = [task for task in TASKS if _reads_text(_head(task, name))]
    return found if any(task.auto_class != _ENCODER for task in found) else []


def _head(task: Task, name: str) -> Any:
    """Return transformers' class for a family and task, or None where it has none."""
    with quiet():
        import transformers

        if name not in transformers.CONFIG_MAPPING:
            return None
        config: Any = transformers.CONFIG_MAPPING[name]
        classes = getattr(transformers, task.auto_class)._model_mapping
        if config not in classes:
            return None
        try:
            found = classes[config]
        except (ImportError, ValueError):
            # Its tables name a few classes that its code has not.
            return None
    # A few families map to several classes; the first is the one that transformers takes by default.
    return found[0] if isinstance(found, tuple) else found


def _reads_text(model: Any) -> bool:
    if model is None:
        return False
    try:
        taken = set(inspect.signature(model.forward).parameters)
    except ImportError:
        # A stand-in for a class whose packages are missing; models of text alone need none.
        return False
    return {"input_ids", "attention_mask"} <= taken and not taken & _OTHER_INPUTS
