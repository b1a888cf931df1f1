"""What is measured: bertonnx, PyTorch in several ways, Optimum; each from texts to vectors on the CPU.

All return the mean of the last layer's token vectors, scaled to length 1: float32 of shape (n, width).
PyTorch's get what bertonnx gives itself: the texts are tokenized in parallel on another thread ahead of
the device, batches are sorted by length where the name says so, their size is tuned in the warm-up,
vectors stay on the device and are copied once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from gpu.recipe import Shape, build
from peers.embedding import Embedding, Ids, Vectors, padded, tokenizer

__all__ = ["BUDGETS", "ENGINES", "Setup", "matrix_rate"]

Batch = list[list[int]]

BUDGETS = (8192, 32768, 131072)
"""Tokens a batch that PyTorch's engines are tuned over."""

_WINDOW = 16384
"""Texts that are tokenized and sorted together."""


@dataclass(frozen=True)
class Setup:
    """What engines are made of.

    Attributes:
        shape: the model's sizes.
        files: bertonnx's files by precision.
        optimum: a folder that Optimum made.
        tokenizer: tokenizer.json.
        device: "cuda", or "cpu" in a rehearsal.
    """

    shape: Shape
    files: dict[str, Path]
    optimum: Path
    tokenizer: Path
    device: str


class Engine(Embedding[Setup]):
    """One way to embed; `torch` says whether it is one of PyTorch's."""

    precision = "fp16"
    torch: ClassVar[bool] = False
    part: ClassVar[float] = 1.0
    """Share of the texts that it is measured with."""


class Bertonnx(Engine):
    """This project, in fp16."""

    name = "bertonnx"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import bertonnx

        provider: Any = setup.device
        self.model = bertonnx.load(setup.files[self.precision], provider)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.model.embed(texts)


class BertonnxFull(Bertonnx):
    """This project, in fp32."""

    name, precision, part = "bertonnx; a tenth of the texts", "fp32", 0.1


class Torch(Engine):
    """transformers' BertModel with SDPA, batches in the order of the texts, padded."""

    name, torch = "torch SDPA, padded", True
    budget = BUDGETS[0]
    sorts: ClassVar[bool] = False
    compiles: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.tokenizer = tokenizer(setup.tokenizer)
        model = build(setup.shape).to(setup.device, torch.float16)
        self.forward: Callable[..., Any] = self.made(model)
        if self.compiles:
            # In a rehearsal it is traced and not built, which takes minutes on a CPU.
            backend = "eager" if setup.device == "cpu" else "inductor"
            self.forward = torch.compile(self.forward, dynamic=True, backend=backend)

    def made(self, model: Any) -> Callable[..., Any]:
        def forward(ids: Any, mask: Any) -> Any:
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            weights = mask.unsqueeze(-1).float()
            return functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)

        return forward

    def embed(self, texts: Sequence[str]) -> Vectors:
        order: list[int] = []
        parts = []
        with torch.inference_mode():
            for start, ids in self._tokenized(texts):
                for places in self._batches(ids):
                    parts.append(self.run([ids[place] for place in places]))
                    order += [start + place for place in places]
            gathered = torch.cat(parts).cpu().numpy()
        vectors: Vectors = np.empty_like(gathered)
        vectors[order] = gathered
        return vectors

    def run(self, batch: Batch) -> Any:
        """Return the vectors of one batch, on the device."""
        ids, mask = padded(batch)
        return self.forward(self.sent(ids), self.sent(mask))

    def sent(self, array: Ids) -> Any:
        """Return an array on the device, from pinned memory where that is a GPU."""
        tensor = torch.from_numpy(array)
        if self.setup.device == "cpu":
            return tensor
        return tensor.pin_memory().to(self.setup.device, non_blocking=True)

    def _tokenized(self, texts: Sequence[str]) -> Iterator[tuple[int, Batch]]:
        starts = range(0, len(texts), _WINDOW)
        with ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(self._encode, texts[start : start + _WINDOW]) for start in starts]
            for start, future in zip(starts, waiting, strict=True):
                yield start, future.result()

    def _encode(self, texts: Sequence[str]) -> Batch:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def _batches(self, ids: Batch) -> Iterator[list[int]]:
        assert self.budget is not None
        places = list(range(len(ids)))
        if self.sorts:
            places.sort(key=lambda place: -len(ids[place]))
        batch: list[int] = []
        longest = 0
        for place in places:
            longest = max(longest, len(ids[place]))
            if batch and self.cost(len(batch) + 1, longest) > self.budget:
                yield batch
                batch, longest = [], len(ids[place])
            batch.append(place)
        yield batch

    def cost(self, texts: int, longest: int) -> int:
        """Return the tokens that a padded batch holds."""
        return texts * longest


class TorchSorted(Torch):
    """The same, sorted by length."""

    name, sorts = "torch SDPA, sorted", True


class TorchCompiled(Torch):
    """The same in order, compiled."""

    name, compiles = "torch.compile SDPA, padded", True


class TorchCompiledSorted(Torch):
    """The same, sorted and compiled."""

    name, compiles, sorts = "torch.compile SDPA, sorted", True, True


class TorchUnpadded(Torch):
    """Tokens of all texts one after the other, and flash attention of variable length: no padding at all."""

    name, sorts = "torch varlen flash, unpadded", True

    def made(self, model: Any) -> Callable[..., Any]:
        embeddings, eps = model.embeddings, model.config.layer_norm_eps
        layers = [_Layer(layer, self.setup.shape, eps) for layer in model.encoder.layer]
        base = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]

        def forward(ids: Any, positions: Any, starts: Any, owners: Any, longest: int, texts: int) -> Any:
            hidden = embeddings.LayerNorm(embeddings.word_embeddings(ids) + base[positions])
            for layer in layers:
                hidden = layer(hidden, starts, longest)
            sums = torch.zeros(texts, hidden.shape[1], device=hidden.device).index_add_(
                0, owners, hidden.float()
            )
            # A mean differs from a sum in its length only, and all get length 1.
            return functional.normalize(sums, dim=1)

        return forward

    def run(self, batch: Batch) -> Any:
        lengths = np.array([len(row) for row in batch])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return self.forward(
            self.sent(np.concatenate(batch)),
            self.sent(np.concatenate([np.arange(length) for length in lengths])),
            self.sent(starts).int(),
            self.sent(np.repeat(np.arange(len(batch)), lengths)),
            int(lengths.max()),
            len(batch),
        )


class TorchUnpaddedCompiled(TorchUnpadded):
    """The same, compiled."""

    name, compiles = "torch.compile varlen flash, unpadded", True


class _Layer:
    """One layer over concatenated tokens, its three projections in one product."""

    def __init__(self, layer: Any, shape: Shape, eps: float) -> None:
        attention = layer.attention.self
        parts = (attention.query, attention.key, attention.value)
        self.weight = torch.cat([part.weight for part in parts])
        self.bias = torch.cat([part.bias for part in parts])
        self.layer, self.heads, self.eps = layer, shape.heads, eps

    def __call__(self, hidden: Any, starts: Any, longest: int) -> Any:
        tokens, width = hidden.shape
        query, key, value = (
            functional.linear(hidden, self.weight, self.bias)
            .view(tokens, 3, self.heads, width // self.heads)
            .unbind(1)
        )
        mixed = _attention(query, key, value, starts, longest).reshape(tokens, width)
        output = self.layer.attention.output
        hidden = output.LayerNorm(output.dense(mixed) + hidden)
        inner = functional.gelu(self.layer.intermediate.dense(hidden))
        return self.layer.output.LayerNorm(self.layer.output.dense(inner) + hidden)


def _attention(query: Any, key: Any, value: Any, starts: Any, longest: int) -> Any:
    """Attend within each text; (tokens, heads, size) in and out."""
    if query.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        return varlen_attn(query, key, value, starts, starts, longest, longest)
    # In a rehearsal only: there is no such kernel for the CPU.
    parts = [
        functional.scaled_dot_product_attention(
            *(part[None, start:end].transpose(1, 2) for part in (query, key, value))
        )[0].transpose(0, 1)
        for start, end in pairwise(starts.tolist())
    ]
    return torch.cat(parts)


class Optimum(Engine):
    """optimum-cli's graph as Optimum's ORTModel runs it: padded batches of 32, bound to PyTorch's memory.

    The class itself does not install beside transformers 5; what it does on a GPU does (`_bound`).
    """

    name, precision = "ONNX Runtime as Optimum's ORTModel, batches of 32; a tenth of the texts", "fp32"
    part = 0.1

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import onnxruntime

        provider = "CUDAExecutionProvider" if setup.device == "cuda" else "CPUExecutionProvider"
        self.session = onnxruntime.InferenceSession(str(setup.optimum / "model.onnx"), providers=[provider])
        self.inputs = {item.name for item in self.session.get_inputs()}
        self.output = self.session.get_outputs()[0].name
        self.tokenizer = tokenizer(setup.tokenizer)

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.concatenate([self._batch(texts[i : i + 32]) for i in range(0, len(texts), 32)])

    def _batch(self, texts: Sequence[str]) -> Vectors:
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        ids, mask = (torch.from_numpy(array).to(self.setup.device) for array in padded(rows))
        made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        hidden = self._bound({name: made[name] for name in made if name in self.inputs})
        weights = mask.unsqueeze(-1).float()
        vectors: Vectors = functional.normalize((hidden * weights).sum(1), dim=1).cpu().numpy()
        return vectors

    def _bound(self, feeds: dict[str, Any]) -> Any:
        """Return the last layer's token vectors of one batch, on the device."""
        first = next(iter(feeds.values()))
        hidden = torch.empty((*first.shape, self.setup.shape.width), device=first.device)
        binding = self.session.io_binding()
        for name, tensor in feeds.items():
            binding.bind_input(name, tensor.device.type, 0, np.int64, tensor.shape, tensor.data_ptr())
        binding.bind_output(self.output, hidden.device.type, 0, np.float32, hidden.shape, hidden.data_ptr())
        binding.synchronize_inputs()
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return hidden


ENGINES: dict[str, type[Engine]] = {
    "bertonnx": Bertonnx,
    "bertonnx-fp32": BertonnxFull,
    "torch": Torch,
    "torch-sorted": TorchSorted,
    "torch-compiled": TorchCompiled,
    "torch-compiled-sorted": TorchCompiledSorted,
    "torch-unpadded": TorchUnpadded,
    "torch-unpadded-compiled": TorchUnpaddedCompiled,
    "optimum": Optimum,
}


def matrix_rate(device: str, size: int, *, repeats: int = 20) -> float:
    """Return TFLOP/s of bf16 matrix products of a size, the best of a few trials."""
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    right = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        seconds = _timed(lambda: [left @ right for _ in range(repeats)], device)
        best = max(best, 2 * size**3 * repeats / seconds / 1e12)
    return best


def _timed(work: Callable[[], object], device: str) -> float:
    import time

    for _ in range(2):  # the first warms up
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds
