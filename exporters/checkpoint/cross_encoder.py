"""Cross-encoders of Sentence-Transformers: which checkpoints are one, and what makes their scores.

Read as `CrossEncoder` does (sentence_transformers/cross_encoder/model.py, `_parse_model_config`,
`get_default_activation_fn`, `num_labels`), in versions 2 to 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertonnx.errors import CheckpointError, UnsupportedError, UsageError
from bertonnx.exporters.checkpoint.module_list import LIST
from bertonnx.exporters.checkpoint.sentence_layers import SCORES, Layer, widths
from bertonnx.exporters.checkpoint.sentence_modules import read_activation
from bertonnx.exporters.checkpoint.sentence_settings import SETTINGS, Settings
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules
from bertonnx.exporters.checkpoint.task import Head
from bertonnx.exporters.options import ExportOptions, Trust
from bertonnx.models.activations import by_name
from bertonnx.models.registry import resolve
from bertonnx.models.tasks import CLASSIFIER, RANKER, TASKS, Task
from bertonnx.wording import Message, Option, Options

__all__ = ["CrossEncoder", "crossed_head", "read_cross_encoder", "require_activation"]

_ONE, _SEVERAL = "sigmoid", "none"
"""What makes scores where nothing says it, of one output and of several."""


@dataclass(frozen=True, eq=False)
class CrossEncoder:
    """A checkpoint that a Sentence-Transformers cross-encoder saved.

    Attributes:
        outputs: how many numbers it gives for a pair.
        layers: what makes them of token vectors; none where transformers' own head does.
        activation: name of a row of `models.activations`: what makes scores of them.
    """

    outputs: int
    layers: tuple[Layer, ...]
    activation: str

    @property
    def task(self) -> Task:
        """What it is exported for."""
        return RANKER if self.outputs == 1 else CLASSIFIER

    @property
    def note(self) -> Message:
        """Why it is exported for that."""
        return Message(
            "task {task}, because it is a Sentence-Transformers cross-encoder with {outputs}",
            task=self.task.name,
            outputs="one output" if self.outputs == 1 else f"{self.outputs} outputs",
        )


def read_cross_encoder(
    modules: SentenceModules | None, config: Any, raw: Mapping[str, Any], trust: Trust, *, folder: Path
) -> CrossEncoder | None:
    """Return what a checkpoint is as a cross-encoder; None for one that is none.

    Args:
        modules: of a Sentence-Transformers folder.
        config: the transformer's `PretrainedConfig`.
        raw: its config.json as it lies in the folder.
        trust: whether an activation of another package than torch is taken.
        folder: of the whole checkpoint.

    Raises:
        UnsupportedError: its activation cannot be exported.
        CheckpointError: its modules do not fit together, or their list is missing.
    """
    # An encoder taken out of a cross-encoder keeps the key in its config.json.
    if modules is not None and not modules.settings.crosses:
        return None
    path, file = _activation(modules, raw)
    if path is None and modules is None:
        return None
    layers = () if modules is None else modules.layers
    # A head that is not there gives one output, as transformers would make a new one for it.
    outputs = widths(layers, config.hidden_size, folder=folder)[SCORES] if layers else int(config.num_labels)
    usual = _ONE if outputs == 1 else _SEVERAL
    activation = usual if path is None else read_activation(path, file, trust).name
    if modules is not None and not (folder / LIST).is_file():
        own, place = _said_in_config(raw)
        unlisted = usual if own is None else read_activation(own, place, trust).name
        _require_alike(modules.settings, alike=activation == unlisted, folder=folder)
    return CrossEncoder(outputs, layers, activation)


def _require_alike(settings: Settings, *, alike: bool, folder: Path) -> None:
    """Refuse settings that Sentence-Transformers passes over, since there is no list of modules.

    Raises:
        CheckpointError: naming the keys, where scores would be others with them.
    """
    prompt = settings.default_prompt is not None and settings.prompts.get(settings.default_prompt)
    keys = [*([] if alike else ["activation_fn"]), *(["default_prompt_name"] if prompt else [])]
    if keys:
        raise CheckpointError(
            "{folder} has no {list}, without which Sentence-Transformers does not read {keys} of {file}; "
            "download the checkpoint again, with all of its files",
            folder=folder,
            list=LIST,
            keys=" and ".join(keys),
            file=SETTINGS,
        )


def _activation(modules: SentenceModules | None, raw: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the class that makes its scores, and the file that says so."""
    if modules is not None and modules.settings.activation:
        return str(modules.settings.activation), SETTINGS
    return _said_in_config(raw)


def _said_in_config(raw: Mapping[str, Any]) -> tuple[str | None, str]:
    # Version 4 kept it in config.json, those before it under another key.
    saved = raw.get("sentence_transformers")
    if isinstance(saved, Mapping) and saved.get("activation_fn"):
        return str(saved["activation_fn"]), "config.json"
    legacy = raw.get("sbert_ce_default_activation_function")
    return (str(legacy) if legacy else None), "config.json"


def crossed_head(
    row: Task, found: CrossEncoder | None, config: Any, raw: Mapping[str, Any], options: ExportOptions
) -> Head:
    """Return the head of a task: labels, problem type, and the activation that the user or checkpoint names.

    Args:
        row: the task.
        found: what the checkpoint is as a cross-encoder.
        config: the loaded `PretrainedConfig`.
        raw: config.json as it lies in the folder.
        options: what the user asks for.

    Raises:
        UnsupportedError: the task takes one output, and the checkpoint has several.
        CheckpointError: config.json contradicts itself.
    """
    if not row.activated or found is None:
        head: Head = resolve(row.head)(config, raw)
        return _asked(head, options)
    if row.ranks and found.outputs != 1:
        raise UnsupportedError(
            "{task} takes a cross-encoder with one output, and this one has {outputs}; export it "
            "with {option}",
            task=row.name,
            outputs=found.outputs,
            option=Option("task", CLASSIFIER.name),
        )
    head = _own_labels(row, found) if found.layers else resolve(row.head)(config, raw)
    return _asked(replace(head, problem_type=_problem(head, found), activation=found.activation), options)


def _asked(head: Head, options: ExportOptions) -> Head:
    row = None if options.head_activation is None else by_name(options.head_activation)
    return head if row is None else replace(head, activation=row.name)


def _own_labels(row: Task, found: CrossEncoder) -> Head:
    # config.json is the encoder's, and its labels are not those of the layers.
    labels = tuple(f"LABEL_{place}" for place in range(found.outputs))
    return Head() if row.ranks else Head(labels, "regression" if found.outputs == 1 else None)


def _problem(head: Head, found: CrossEncoder) -> str | None:
    # `predict` gives the scores of all labels alike: only sigmoids can be read as a yes or no for each.
    if found.outputs == 1 or (found.activation == _ONE and head.problem_type == _EACH):
        return head.problem_type
    return _BEST


_BEST, _EACH = "single_label_classification", "multi_label_classification"


def require_activation(row: Task, options: ExportOptions) -> None:
    """Refuse an activation for a task whose scores follow none.

    Raises:
        UsageError: naming the tasks that have one.
    """
    if options.head_activation is None or row.activated:
        return
    having = [other.name for other in TASKS if other.activated]
    raise UsageError(
        "{option} is for {having}, and the task is {task}; leave it out, or add {either}",
        option=Option("activation", options.head_activation),
        having=", ".join(having),
        task=row.name,
        either=Options([Option("task", name) for name in having]),
    )
