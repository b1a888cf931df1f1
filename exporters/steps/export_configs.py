"""What Optimum is told of an encoder: its inputs, its outputs and an example, for every family and task.

Optimum's core looks exporter configurations up by exporter, family and task (`TasksManager`). bertonnx is an
exporter of its own there, with one configuration for all encoders: what differs between families is which
inputs their `forward` accepts, and that is read off the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig

from bertonnx.exporters.checkpoint.encoders import GRAPH_INPUTS
from bertonnx.models.tasks import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["EXPORTER", "EncoderConfig", "export_config"]

EXPORTER = "bertonnx"
"""Our name among Optimum's exporters."""

_TOKENS: Mapping[int, str] = {0: "batch_size", 1: "sequence_length"}
_TEXTS: Mapping[int, str] = {0: "batch_size"}

_GRAPHS: Mapping[str, tuple[str, Mapping[str, Mapping[int, str]]]] = {
    "AutoModel": ("feature-extraction", {"last_hidden_state": _TOKENS}),
    "AutoModelForSequenceClassification": ("text-classification", {"logits": _TEXTS}),
    "AutoModelForTokenClassification": ("token-classification", {"logits": _TOKENS}),
    "AutoModelForQuestionAnswering": (
        "question-answering",
        {"start_logits": _TOKENS, "end_logits": _TOKENS},
    ),
    "AutoModelForMaskedLM": ("fill-mask", {"logits": _TOKENS}),
}
"""Class that loads the model -> Optimum's name of what it does, and the outputs with their dynamic axes."""


class EncoderConfig(ExporterConfig):  # type: ignore[misc]  # optimum has no types
    """An encoder for one task.

    Args:
        config: the model's.
        task: Optimum's name of it.
        input_names: those of `GRAPH_INPUTS` that the graph gets.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    def __init__(
        self, config: PretrainedConfig, task: str, *, input_names: Sequence[str] = GRAPH_INPUTS
    ) -> None:
        super().__init__(config, task)
        self._input_names = tuple(input_names)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Inputs of the graph with their dynamic axes, in the order in which they are fed."""
        return {name: dict(_TOKENS) for name in self._input_names}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Outputs of the graph with their dynamic axes."""
        graphs = dict(_GRAPHS.values())
        return {name: dict(axes) for name, axes in graphs[self.task].items()}

    def generate_dummy_inputs(self, framework: str = "pt") -> dict[str, torch.Tensor]:
        """Return two texts, the second shorter: what a model does only where there is padding is traced too.

        Args:
            framework: "pt", the only one.

        Returns:
            int64 tensors of shape (2, 16) by the names of the inputs.

        Raises:
            ValueError: another framework.
        """
        if framework != "pt":
            raise ValueError(f"bertonnx makes examples for PyTorch, not for {framework}")
        mask = torch.ones((2, 16), dtype=torch.int64)
        mask[-1, 8:] = 0
        ids = torch.arange(mask.numel()).reshape(mask.shape) % int(self._normalized_config.vocab_size)
        made = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
        return {name: made[name] for name in self._input_names}


_register = TasksManager.create_register(EXPORTER)


def export_config(model: PreTrainedModel, task: Task, input_names: Sequence[str]) -> EncoderConfig:
    """Return the configuration that Optimum knows for a model and task, registered on first use.

    Args:
        model: what is to be traced.
        task: what its head is for.
        input_names: those of `GRAPH_INPUTS` that its graph gets.
    """
    family, name = str(model.config.model_type), _GRAPHS[task.auto_class][0]
    _register(family, name)(EncoderConfig)
    constructor = TasksManager.get_exporter_config_constructor(
        EXPORTER,
        model_type=family,
        task=name,
        library_name="transformers",
        exporter_config_kwargs={"input_names": tuple(input_names)},
    )
    made: EncoderConfig = constructor(model.config)
    return made
