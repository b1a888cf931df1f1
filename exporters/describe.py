"""What a card says of an export before anything is measured: the model, and the packages that made it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import onnx

from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.provenance import name_of, saved_by
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.models.card import Card
from bertonnx.models.tasks import outputs_of

__all__ = ["card_of"]


def card_of(
    checkpoint: Checkpoint, model: onnx.ModelProto, *, optimize: str, files: Mapping[str, str]
) -> Card:
    """Return the card of a checkpoint's fp32 graph, before anything was measured."""
    return Card(
        task=checkpoint.task,
        family=checkpoint.family,
        max_length=checkpoint.max_length,
        labels=checkpoint.labels,
        problem_type=checkpoint.problem_type,
        pairs=checkpoint.pairs,
        pooling=checkpoint.pooling,
        normalize=checkpoint.normalize,
        width=checkpoint.width,
        prompts=checkpoint.prompts,
        default_prompt=checkpoint.default_prompt,
        pooled_prompt=checkpoint.pooled_prompt,
        similarity=checkpoint.similarity,
        hidden_states=checkpoint.hidden_states,
        layers=checkpoint.hidden_layers,
        also=checkpoint.also,
        sparse=checkpoint.sparse,
        late=checkpoint.late,
        mask_token=checkpoint.mask_token,
        mask_token_id=checkpoint.mask_token_id,
        cls_token_id=checkpoint.cls_token_id,
        unk_token_id=checkpoint.unk_token_id,
        pad_token_id=checkpoint.pad_token_id,
        left_out_id=checkpoint.left_out_id,
        padding_side=checkpoint.padding_side,
        truncation_side=checkpoint.truncation_side,
        clean_up_spaces=checkpoint.clean_up_spaces,
        activation=checkpoint.activation,
        inputs=tuple(value.name for value in model.graph.input),
        outputs=tuple(outputs_of(checkpoint.task, checkpoint.also, checkpoint.hidden_states)),
        precision="fp32",
        optimize=optimize,
        source=_source(checkpoint.source),
        private_keys=checkpoint.private_keys,
        ignored_keys=checkpoint.ignored_keys,
        versions=_versions(),
        files=dict(files),
        saved_by=saved_by(checkpoint.source),
        tensors=() if checkpoint.source.replica is None else checkpoint.source.replica.tensors,
    )


def _source(source: Source) -> dict[str, str | None]:
    shown = source.id if source.kind == "hub" else _place(source).resolve().name
    said = {"id": shown, "kind": source.kind, "revision": source.revision}
    if source.replica is not None:
        said |= {"layout": source.replica.layout, **source.replica.asked}
    if source.passed_over:
        said["passed_over"] = ", ".join(source.passed_over)
    adapter = source.adapter
    if adapter is None:
        return said
    base = {"base": name_of(adapter.base_id), "base_revision": adapter.base_revision}
    return {**said, "adapter": adapter.kind, **base}


def _place(source: Source) -> Path:
    """Return where a local checkpoint lies: of TensorFlow's, the file or folder that the user typed."""
    return source.folder if source.replica is None else Path(source.id).expanduser()


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("bertonnx", "onnx", "onnxruntime", "onnxruntime-gpu", "optimum"):
        try:
            versions[package] = importlib.metadata.version(package)
        # Of onnxruntime and onnxruntime-gpu, which are one module, usually only one is installed.
        except importlib.metadata.PackageNotFoundError:
            continue
    for package in ("tokenizers", "torch", "transformers"):
        versions[package] = importlib.metadata.version(package)
    return versions
