"""The activations: what follows a dense layer, or makes `scores` of `logits`, a row each.

Names are those of `--activation` and of the card; classes are PyTorch's. Fields that name code hold an
import path, as in `models.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bertonnx.models.registry import Registry

__all__ = ["ACTIVATIONS", "ENCODER_ACTIVATIONS", "Activation", "by_class", "by_name", "register"]

ENCODER_ACTIVATIONS = ("gelu_new",)
"""Names of transformers that `--activation` takes for an encoder's own layers, where a source leaves open
which form of GELU it means; all others are those of a head."""

_MODULES = ("torch.nn.modules.activation", "torch.nn.modules.linear", "torch.nn.modules", "torch.nn")
"""Where a checkpoint may say that a class of `torch.nn` lies."""

_OTHERS = "transformers.activations."


@dataclass(frozen=True)
class Activation:
    """One activation.

    Attributes:
        name: the value of `--activation`, and of `Card.activation`.
        torch: the class of `torch.nn` that computes it.
        graph: `(Graph, str, str) -> str`: adds the nodes for a value, named after a hint, and returns the
            result's name (`exporters.steps.activations`).
        settings: what the class is made with; checkpoints keep its name alone.
        others: classes of other packages that compute the same.
        over_classes: whether a number depends on those beside it.
        scale: what its numbers are where logits go in: probabilities, logits, or numbers of no such meaning.
    """

    name: str
    torch: str
    graph: str
    settings: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    over_classes: bool = False
    scale: Literal["probability", "logit", ""] = ""


def _row(
    name: str,
    torch: str,
    *others: str,
    over_classes: bool = False,
    scale: Literal["probability", "logit", ""] = "",
) -> Activation:
    return Activation(
        name,
        torch,
        graph=f"bertonnx.exporters.steps.activations:{name}",
        settings={"approximate": "tanh"} if name == "gelu_tanh" else {},
        others=tuple(_OTHERS + other for other in others),
        over_classes=over_classes,
        scale=scale,
    )


ACTIVATIONS: Registry[Activation] = Registry(
    "activation",
    _row("none", "Identity", scale="logit"),
    _row("sigmoid", "Sigmoid", scale="probability"),
    _row("softmax", "Softmax", over_classes=True, scale="probability"),
    _row("tanh", "Tanh"),
    _row("relu", "ReLU"),
    _row("relu6", "ReLU6"),
    _row("leaky_relu", "LeakyReLU"),
    _row("gelu", "GELU", "GELUActivation"),
    # Checkpoints of torch's class never say which form: it is read back in its first, by erf.
    _row("gelu_tanh", "GELU", "NewGELUActivation", "PytorchGELUTanh", "GELUTanh"),
    _row("silu", "SiLU", "SiLUActivation"),
    _row("mish", "Mish", "MishActivation"),
    _row("elu", "ELU"),
    _row("celu", "CELU"),
    _row("selu", "SELU"),
    _row("softplus", "Softplus"),
    _row("softsign", "Softsign"),
    _row("logsigmoid", "LogSigmoid"),
    _row("tanhshrink", "Tanhshrink"),
    _row("hardtanh", "Hardtanh"),
    _row("hardsigmoid", "Hardsigmoid"),
    _row("hardswish", "Hardswish"),
    _row("hardshrink", "Hardshrink"),
    _row("softshrink", "Softshrink"),
    _row("softmin", "Softmin", over_classes=True),
    _row("log_softmax", "LogSoftmax", over_classes=True),
)


def register(row: Activation) -> None:
    """Add an activation, from this package or another.

    Raises:
        ValueError: another activation has its name.
    """
    ACTIVATIONS.register(row)


def by_name(name: str) -> Activation | None:
    """Return the row that a user means: by its name or by PyTorch's class, whatever the case."""
    short = name.rpartition(".")[2].lower()
    return next((row for row in ACTIVATIONS if short in (row.name, row.torch.lower())), None)


def by_class(path: str) -> Activation | None:
    """Return the row of a class that a checkpoint names by its import path; None where there is none."""
    module, _, name = path.rpartition(".")
    if module in _MODULES:
        return next((row for row in ACTIVATIONS if row.torch == name), None)
    return next((row for row in ACTIVATIONS if path in row.others), None)
