"""Google's BERT, ALBERT and ELECTRA as TensorFlow computes them, by the names of a checkpoint's variables.

Written after `modeling.py` of https://github.com/google-research/bert (Devlin et al., 2018), of
https://github.com/google-research/albert (Lan et al., 2019), and `model/modeling.py` and
`run_pretraining.py` of https://github.com/google-research/electra (Clark et al., 2020): the same variables,
the same GELU unless told otherwise, the same constant for what is masked. It shares no reader and no names
with the rest of this package, so that it can judge them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["AlbertGraph", "ElectraGraph", "GoogleGraph"]


@dataclass(frozen=True)
class GoogleGraph:
    """A checkpoint's graph.

    Attributes:
        tf: the module.
        variables: name -> tensor, of the whole checkpoint.
        layers: how many.
        heads: of attention.
        gelu: "gelu_new" for Google's own form, by tanh, or "gelu" for that by erf.
    """

    tf: Any
    variables: Mapping[str, Any]
    layers: int
    heads: int
    gelu: str = "gelu_new"

    def sequence(self, ids: Any, mask: Any, segments: Any) -> Any:
        """Return the last layer, float32 (batch, tokens, hidden), of int32 arrays (batch, tokens)."""
        hidden = self._embedded("bert/embeddings", ids, segments)
        return self._layered("bert/encoder", hidden, mask)

    def _layered(self, scope: str, hidden: Any, mask: Any) -> Any:
        adder = self._adder(mask)
        for number in range(self.layers):
            hidden = self._layer(f"{scope}/layer_{number}", hidden, adder)
        return hidden

    def _adder(self, mask: Any) -> Any:
        return (1.0 - self.tf.cast(mask[:, None, None, :], self.tf.float32)) * -10000.0

    def pooled(self, sequence: Any) -> Any:
        """Return the first token, pooled, (batch, hidden)."""
        return self.tf.tanh(self._dense("bert/pooler/dense", sequence[:, 0]))

    def words(self, sequence: Any) -> Any:
        """Return the logits of masked words, (batch, tokens, vocabulary)."""
        return self._words("cls/predictions/transform", "bert/embeddings", "cls/predictions", sequence)

    def _words(self, transform: str, tables: str, head: str, sequence: Any) -> Any:
        hidden = self._norm(f"{transform}/LayerNorm", self._act(self._dense(f"{transform}/dense", sequence)))
        table = self.variables[f"{tables}/word_embeddings"]
        return self.tf.einsum("bth,vh->btv", hidden, table) + self.variables[f"{head}/output_bias"]

    def next_sentence(self, sequence: Any) -> Any:
        """Return the logits of the next sentence, (batch, 2)."""
        return self._head("cls/seq_relationship/", self.pooled(sequence))

    def classes(self, sequence: Any) -> Any:
        """Return the logits of `run_classifier.py`, (batch, labels)."""
        return self._head("", self.pooled(sequence))

    def tokens(self, sequence: Any) -> Any:
        """Return the logits of each token, (batch, tokens, labels)."""
        return self._head("", sequence)

    def answer(self, sequence: Any) -> tuple[Any, Any]:
        """Return the logits of start and end of `run_squad.py`, (batch, tokens) each."""
        logits = self._head("cls/squad/", sequence)
        return logits[..., 0], logits[..., 1]

    def _head(self, prefix: str, value: Any) -> Any:
        weights = self.variables[f"{prefix}output_weights"]
        return self.tf.matmul(value, weights, transpose_b=True) + self.variables[f"{prefix}output_bias"]

    def _embedded(self, scope: str, ids: Any, segments: Any) -> Any:
        tables = {
            part: self.variables[f"{scope}/{part}_embeddings"] for part in ("word", "position", "token_type")
        }
        total = self.tf.gather(tables["word"], ids) + self.tf.gather(tables["token_type"], segments)
        return self._norm(f"{scope}/LayerNorm", total + tables["position"][None, : ids.shape[1]])

    def _layer(self, name: str, hidden: Any, adder: Any) -> Any:
        mixed = self._dense(
            f"{name}/attention/output/dense", self._attention(f"{name}/attention/self", hidden, adder)
        )
        hidden = self._norm(f"{name}/attention/output/LayerNorm", mixed + hidden)
        inner = self._act(self._dense(f"{name}/intermediate/dense", hidden))
        return self._norm(f"{name}/output/LayerNorm", self._dense(f"{name}/output/dense", inner) + hidden)

    def _attention(self, name: str, hidden: Any, adder: Any) -> Any:
        batch, tokens, width = hidden.shape

        def heads(part: str) -> Any:
            value = self._dense(f"{name}/{part}", hidden)
            return self.tf.transpose(self.tf.reshape(value, (batch, tokens, self.heads, -1)), (0, 2, 1, 3))

        scores = self.tf.matmul(heads("query"), heads("key"), transpose_b=True)
        shares = self.tf.nn.softmax(scores / math.sqrt(width // self.heads) + adder)
        context = self.tf.transpose(self.tf.matmul(shares, heads("value")), (0, 2, 1, 3))
        return self.tf.reshape(context, (batch, tokens, width))

    def _dense(self, name: str, value: Any) -> Any:
        return self.tf.matmul(value, self.variables[f"{name}/kernel"]) + self.variables[f"{name}/bias"]

    def _norm(self, name: str, value: Any) -> Any:
        mean, variance = self.tf.nn.moments(value, axes=[-1], keepdims=True)
        scaled = (value - mean) * self.tf.math.rsqrt(variance + 1e-12)
        return scaled * self.variables[f"{name}/gamma"] + self.variables[f"{name}/beta"]

    def _act(self, value: Any) -> Any:
        if self.gelu == "gelu":
            return 0.5 * value * (1.0 + self.tf.math.erf(value / math.sqrt(2.0)))
        inner = math.sqrt(2 / math.pi) * (value + 0.044715 * self.tf.pow(value, 3))
        return 0.5 * value * (1.0 + self.tf.tanh(inner))


@dataclass(frozen=True)
class AlbertGraph(GoogleGraph):
    """An ALBERT, whose layers share their weights in groups."""

    def sequence(self, ids: Any, mask: Any, segments: Any) -> Any:
        """Return the last layer, float32 (batch, tokens, hidden), of int32 arrays (batch, tokens)."""
        adder = self._adder(mask)
        hidden = self._embedded("bert/embeddings", ids, segments)
        hidden = self._dense("bert/encoder/embedding_hidden_mapping_in", hidden)
        for number in range(self.layers):
            group = f"bert/encoder/transformer/group_{number * self._count('group') // self.layers}"
            for inner in range(self._count("inner_group")):
                hidden = self._shared(f"{group}/inner_group_{inner}", hidden, adder)
        return hidden

    def _count(self, kind: str) -> int:
        parts = {part for name in self.variables for part in name.split("/")}
        return sum(part.startswith(f"{kind}_") for part in parts)

    def _shared(self, name: str, hidden: Any, adder: Any) -> Any:
        context = self._attention(f"{name}/attention_1/self", hidden, adder)
        mixed = self._dense(f"{name}/attention_1/output/dense", context)
        hidden = self._norm(f"{name}/LayerNorm", mixed + hidden)
        inner = self._act(self._dense(f"{name}/ffn_1/intermediate/dense", hidden))
        out = self._dense(f"{name}/ffn_1/intermediate/output/dense", inner)
        return self._norm(f"{name}/LayerNorm_1", out + hidden)


@dataclass(frozen=True)
class ElectraGraph(GoogleGraph):
    """One of ELECTRA's two encoders.

    Attributes:
        scope: "electra" for the discriminator, "generator" for the other, which has the same embeddings.
    """

    scope: str = "electra"

    def sequence(self, ids: Any, mask: Any, segments: Any) -> Any:
        """Return the last layer, float32 (batch, tokens, hidden), of int32 arrays (batch, tokens)."""
        hidden = self._embedded("electra/embeddings", ids, segments)
        if f"{self.scope}/embeddings_project/kernel" in self.variables:
            hidden = self._dense(f"{self.scope}/embeddings_project", hidden)
        return self._layered(f"{self.scope}/encoder", hidden, mask)

    def words(self, sequence: Any) -> Any:
        """Return the generator's logits of masked words, (batch, tokens, vocabulary)."""
        head = "generator_predictions"
        return self._words(head, "electra/embeddings", head, sequence)
