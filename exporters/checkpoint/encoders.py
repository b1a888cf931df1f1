"""Which checkpoints are encoders that can be exported, told from config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import EXCLUDED_FAMILIES, FAMILIES, family
from bertonnx.models.tasks import TASKS

__all__ = ["GRAPH_INPUTS", "exportable_tasks", "require_encoder"]

GRAPH_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def require_encoder(config: Mapping[str, Any], what: str) -> None:
    """Refuse what no option can make exportable. `config` is config.json, `what` names the checkpoint.

    Raises:
        CheckpointError: config.json names no `model_type`.
        UnsupportedError: excluded, a decoder, or a family that nobody here knows.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{what}: config.json has no model_type, so its architecture is unknown; "
            'add the line, such as "model_type": "bert"'
        )
    if name in EXCLUDED_FAMILIES:
        raise UnsupportedError(
            f"{what} is a {name} model, which cannot be exported: {EXCLUDED_FAMILIES[name]}"
        )
    if config.get("is_encoder_decoder") or config.get("is_decoder") or _generates(name):
        raise UnsupportedError(
            f"{what} is a {name} model that generates text (a decoder); bertonnx exports encoders: {_known()}"
        )
    if family(name) is None and "auto_map" not in config and not _optimum_tasks(name):
        raise UnsupportedError(
            f"{what} is a {name} model, and Optimum has no ONNX export of {name} as a text encoder; "
            f"bertonnx exports: {_known()}"
        )


def exportable_tasks(name: str) -> dict[str, str]:
    """Return, for every task, "" where family `name` can be exported for it, or else the reason."""
    row = family(name)
    if row is not None:
        return {task.name: row.gaps.get(task.name, "") for task in TASKS}
    supported = _optimum_tasks(name)
    reason = f"Optimum has no export of {name} for it"
    return {task.name: "" if task.name in supported else reason for task in TASKS}


def _known() -> str:
    return ", ".join(row.name for row in FAMILIES)


def _generates(name: str) -> bool:
    """Tell whether transformers knows the family for text generation and not for masked words."""
    if family(name) is not None:
        return False
    with quiet():
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        )

    if name in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return True
    return name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and name not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _optimum_tasks(name: str) -> tuple[str, ...]:
    """Return our tasks that Optimum exports for a family that reads only what a tokenizer makes."""
    with quiet():
        import optimum.exporters.onnx.model_configs  # noqa: F401  fills TasksManager
        from optimum.exporters.tasks import TasksManager
    try:
        makers = TasksManager.get_supported_tasks_for_model_type(
            name, exporter="onnx", library_name="transformers"
        )
    except KeyError:
        return ()
    return tuple(task.name for task in TASKS if task.name in makers and _reads_text(name, makers[task.name]))


def _reads_text(name: str, maker: Any) -> bool:
    from transformers import CONFIG_MAPPING

    if name not in CONFIG_MAPPING:
        return False
    try:
        with quiet():
            inputs = set(maker(CONFIG_MAPPING[name]()).inputs)
    except Exception:  # a config of another kind (vision, speech) may fail in any way
        return False
    return "input_ids" in inputs and inputs <= set(GRAPH_INPUTS)
