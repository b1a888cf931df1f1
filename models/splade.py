"""How the logits of a masked language model become a sparse embedding (SPLADE), a row each.

Names are those of Sentence-Transformers (`sparse_encoder/modules/splade_pooling.py`). Fields that name code
hold an import path, as in `models.tasks`.
"""

from __future__ import annotations

from dataclasses import dataclass

from bertonnx.models.registry import Registry

__all__ = ["SATURATIONS", "STRATEGIES", "Saturation", "Strategy"]


@dataclass(frozen=True)
class Saturation:
    """What a logit becomes.

    Attributes:
        name: SpladePooling's `activation_function`.
        logarithms: how often log(1 + x) is taken, after what is below zero became zero.
    """

    name: str
    logarithms: int


@dataclass(frozen=True)
class Strategy:
    """How the weights that a text's tokens give a word become one.

    Attributes:
        name: SpladePooling's `pooling_strategy`.
        graph: `(Graph, str, str, Saturation) -> str`: adds the nodes for logits (batch, tokens, vocabulary)
            and a mask (batch, tokens), and returns the name of the weights (batch, vocabulary)
            (`exporters.steps.splade`).
        reference: `(logits, mask, Saturation) -> tensor`: the same in PyTorch (`exporters.verify.reference`).
    """

    name: str
    graph: str
    reference: str


def _row(name: str) -> Strategy:
    return Strategy(
        name,
        graph=f"bertonnx.exporters.steps.splade:splade_{name}",
        reference=f"bertonnx.exporters.verify.late_reference:splade_{name}",
    )


SATURATIONS: Registry[Saturation] = Registry(
    "activation of SPLADE", Saturation("relu", 1), Saturation("log1p_relu", 2)
)
STRATEGIES: Registry[Strategy] = Registry("pooling of SPLADE", _row("max"), _row("sum"))
