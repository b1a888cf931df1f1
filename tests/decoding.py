"""What the decoders' tests share: tiny PyTorch models, whose outputs go to a pipeline and to a decoder."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertonnx.errors import RowError
from bertonnx.models.card import Card
from bertonnx.models.tasks import task
from bertonnx.runtime.options import LongText
from bertonnx.runtime.rows import Decoder, Encoded, Item, Outputs, Piece, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.tokenizers_zoo import pretrained

__all__ = ["MAX_LENGTH", "Checkpoint", "outputs_of", "shared_checkpoint", "shared_folder", "tiny_checkpoint"]

MAX_LENGTH = 128


def outputs_of(model: torch.nn.Module, piece: Piece, inputs: Sequence[str], activation: str) -> Outputs:
    """Return what the finished graph would put out for one piece: no batch dimension, float32."""
    mask = np.ones_like(piece.ids)
    arrays = {"input_ids": piece.ids, "token_type_ids": piece.type_ids, "attention_mask": mask}
    with torch.inference_mode():
        raw = model(**{name: torch.from_numpy(arrays[name])[None] for name in inputs})
        outputs = {name: tensor[0] for name, tensor in raw.items()}
        if "logits" in outputs:
            logits = outputs["logits"]
            outputs["scores"] = {
                "softmax": lambda: logits.softmax(-1),
                "sigmoid": logits.sigmoid,
                "none": lambda: logits,
            }[activation]()
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def remembering(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a model's `forward` that computes once for equal inputs: it takes most of these tests' time."""
    known: dict[Any, Any] = {}

    @functools.wraps(forward)
    def remembered(**inputs: Any) -> Any:
        key = tuple(
            (name, (tuple(value.shape), value.numpy().tobytes()) if torch.is_tensor(value) else value)
            for name, value in sorted(inputs.items())
        )
        if key not in known:
            known[key] = forward(**inputs)
        made = known[key]
        # Whoever writes into what it gets writes into its own.
        return type(made)(**{name: value.clone() for name, value in made.items()})

    return remembered


class Checkpoint:
    """A model and its tokenizer, as transformers' pipeline sees them and as the runtime does."""

    def __init__(self, task_name: str, model: Any, tokenizer: Any, activation: str) -> None:
        self.model = model.eval()
        model.forward = remembering(model.forward)
        self.tokenizer = tokenizer
        self.tokenizer_json: str = tokenizer.backend_tokenizer.to_str()
        self.activation = activation
        self.labels = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
        self.card = Card(
            task=task_name,
            family="bert",
            max_length=tokenizer.model_max_length,
            inputs=tuple(tokenizer.model_input_names),
            outputs=tuple(task(task_name).outputs),
        )

    def pipeline(self, **options: Any) -> Any:
        make: Any = transformers.pipeline  # its overloads want a literal task
        return make(self.card.task, model=self.model, tokenizer=self.tokenizer, framework="pt", **options)

    def encode(
        self, rows: Sequence[Row], *, long_text: LongText = "truncate", stride: int | None = None
    ) -> list[Encoded]:
        encode = TextTokenizer(self.tokenizer_json, self.card, long_text=long_text, stride=stride).encode
        results = encode(rows)
        assert not [result for result in results if isinstance(result, RowError)]
        return [result for result in results if isinstance(result, Encoded)]

    def outputs(self, encoded: Encoded) -> list[Outputs]:
        return [outputs_of(self.model, piece, self.card.inputs, self.activation) for piece in encoded.pieces]

    def decode(self, decoder: Decoder, encoded: Encoded) -> Item:
        """Run one row through the model and the decoder, with only the outputs it fetches."""
        kept = []
        for piece, outputs in zip(encoded.pieces, self.outputs(encoded), strict=True):
            fetched = {name: np.array(outputs[name]) for name in decoder.fetch}
            kept.append(decoder.keep(piece, fetched))
            for array in fetched.values():
                array.fill(np.nan)  # a view of the batch would now be spoiled
        return decoder.decode(encoded, kept)


def tiny_checkpoint(
    task_name: str,
    kind: str,
    *,
    labels: Sequence[str] = ("LABEL_0", "LABEL_1"),
    activation: str = "softmax",
    problem_type: str | None = None,
    initializer_range: float = 0.5,
) -> Checkpoint:
    """Return a random model whose predictions vary, over a real tokenizer of `tests.tokenizers_zoo`."""
    torch.manual_seed(5)
    tokenizer = pretrained(kind, model_max_length=MAX_LENGTH)
    make_config: Any = transformers.BertConfig  # untyped
    config = make_config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH + 2,
        initializer_range=initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=problem_type,
    )
    auto_class = getattr(transformers, task(task_name).auto_class)
    return Checkpoint(task_name, auto_class.from_config(config), tokenizer, activation)


def shared_folder() -> Path:
    """Return the folder of real models and data, or skip the test."""
    folder = os.environ.get("BERTONNX_SHARED")
    if not folder:
        pytest.skip("BERTONNX_SHARED does not name the folder of real models and data")
    return Path(folder)


def shared_checkpoint(task_name: str, name: str) -> Checkpoint:
    """Return a real checkpoint in float32, or skip the test."""
    folder = shared_folder() / "models" / name
    auto_class = getattr(transformers, task(task_name).auto_class)
    model = auto_class.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return Checkpoint(task_name, model, tokenizer, "softmax")
