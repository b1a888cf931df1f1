"""The peers, each behind the same two calls: many texts to vectors, and one text to a vector.

All return the mean of the last layer's token vectors, scaled to length 1: float32 of shape (n, width).
Each is set up as its own documentation shows; where that is slow on texts of unequal length, there is
a second entry that sorts the texts first, and whose batch size is tuned in the warm-up.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from peers.embedding import Embedding, Ids, Vectors, padded, placed, pooled, tokenizer
from peers.texts import LONGEST

__all__ = ["BUDGETS", "ENGINES", "Setup"]

DOCUMENTED_BATCH = 32
MOST_TEXTS = 64
BUDGETS = (512, 2048, 8192)
"""Padded tokens a batch that the sorted entries are tuned over."""


@dataclass(frozen=True)
class Setup:
    """What an engine is made of.

    Attributes:
        checkpoint: a Sentence-Transformers folder.
        onnx: a folder that optimum-cli made of it.
        sentence_onnx: a folder that Sentence-Transformers' ONNX backend saved.
        ctranslate2: a folder that CTranslate2's converter made of it.
        openvino_int8: a folder with OpenVINO's model, quantized by NNCF.
        ours: the bertonnx file; `ours_int8` the quantized one.
        cores: how many cores an engine may use.
    """

    checkpoint: Path
    onnx: Path
    sentence_onnx: Path
    ctranslate2: Path
    openvino_int8: Path
    ours: Path
    ours_int8: Path
    cores: int


class Engine(Embedding[Setup]):
    """A peer.

    Attributes:
        package: the distribution whose version is told.
        latency: whether single texts are measured too (once a peer is enough).
    """

    precision = "fp32"
    package: ClassVar[str]
    latency: ClassVar[bool] = True

    def one(self, text: str) -> Vectors:
        """Return the vector of one text, by the way that gives it soonest."""
        return self.embed([text])

    @property
    def version(self) -> str:
        """The package's version."""
        return importlib.metadata.version(self.package)


class Bertonnx(Engine):
    """This project."""

    name, package = "bertonnx", "onnxruntime"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import bertonnx

        self.model = bertonnx.load(self.file(), "cpu", setup.cores)

    def file(self) -> Path:
        return self.setup.ours

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.model.embed(texts)


class BertonnxInt8(Bertonnx):
    """This project's INT8."""

    name, precision = "bertonnx INT8", "int8"

    def file(self) -> Path:
        return self.setup.ours_int8


class SentenceTorch(Engine):
    """https://sbert.net/docs/sentence_transformer/usage/usage.html; `encode` sorts by itself."""

    name, package = "sentence-transformers, torch", "sentence-transformers"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.model = self.load()

    def load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(self.setup.checkpoint), device="cpu")

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors: Vectors = self.model.encode(list(texts), show_progress_bar=False, normalize_embeddings=True)
        return vectors


class SentenceOnnx(SentenceTorch):
    """https://sbert.net/docs/sentence_transformer/usage/efficiency.html#onnx."""

    name = "sentence-transformers, ONNX"

    def load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(self.setup.sentence_onnx),
            backend="onnx",
            device="cpu",
            model_kwargs={"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider"},
        )


class FastEmbed(Engine):
    """https://qdrant.github.io/fastembed, with a model added as its documentation says, from a folder."""

    name, package = "fastembed", "fastembed"
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            model="peer/model",
            pooling=PoolingType.MEAN,
            normalization=True,
            # Never fetched: the folder below is used. fastembed wants a source all the same.
            sources=ModelSource(hf="peer/model"),
            dim=1,
            model_file="model.onnx",
        )
        self.model = TextEmbedding(
            "peer/model", specific_model_path=str(setup.onnx), threads=setup.cores, **self.options
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.stack(list(self.model.embed(list(texts))))


class FastEmbedBounded(FastEmbed):
    """The same without ONNX Runtime's arena, whose memory grows with new shapes, at times without end."""

    name, latency = "fastembed, without an arena", False
    options: ClassVar[dict[str, Any]] = {"enable_cpu_mem_arena": False}


class Padded(Engine):
    """Those that are given token ids: batches of 32 in the order of the texts, padded."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.tokenizer = tokenizer(setup.onnx / "tokenizer.json")

    def embed(self, texts: Sequence[str]) -> Vectors:
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        batches = _in_order(ids) if self.budget is None else _sorted(ids, self.budget)
        return placed(self.forward_all([[ids[place] for place in batch] for batch in batches]), batches)

    def forward_all(self, batches: list[list[list[int]]]) -> list[Vectors]:
        """Return the vectors of each batch."""
        return [self.forward(batch) for batch in batches]

    @abstractmethod
    def forward(self, batch: list[list[int]]) -> Vectors:
        """Return the vectors of one batch."""


class Torch(Padded):
    """https://huggingface.co/docs/transformers: AutoModel with its default attention (SDPA)."""

    name, package = "torch (transformers), batches of 32", "torch"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import torch
        from transformers import AutoModel

        torch.set_num_threads(setup.cores)
        self.model = AutoModel.from_pretrained(setup.checkpoint).eval()

    def forward(self, batch: list[list[int]]) -> Vectors:
        import torch

        ids, mask = padded(batch)
        with torch.inference_mode():
            hidden = self.model(
                input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
            ).last_hidden_state
        return pooled(hidden.numpy(), mask)


class TorchSorted(Torch):
    """The same, sorted by length."""

    name, latency, budget = "torch (transformers), sorted batches", False, 2048


class Optimum(Engine):
    """https://huggingface.co/docs/optimum-onnx: tokenizer and ORTModel, batches of 32."""

    name, package = "Optimum ORTModel, batches of 32", "optimum-onnx"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from optimum.onnxruntime import ORTModelForFeatureExtraction
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(setup.onnx)
        self.model = ORTModelForFeatureExtraction.from_pretrained(setup.onnx)

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self.budget is None:
            batches = _in_order(texts)
        else:
            encoded = self.tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]
            batches = _sorted(encoded, self.budget)
        return placed([self.forward([texts[place] for place in batch]) for batch in batches], batches)

    def forward(self, texts: list[str]) -> Vectors:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="np")
        return pooled(self.model(**inputs).last_hidden_state, inputs["attention_mask"])


class OptimumSorted(Optimum):
    """The same, sorted by length."""

    name, latency, budget = "Optimum ORTModel, sorted batches", False, 2048


class FastEmbedSorted(FastEmbed):
    """The same, sorted by length, and a batch size tuned like the others'."""

    name, latency, budget = "fastembed, sorted batches", False, 2048

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.tokenizer = tokenizer(setup.onnx / "tokenizer.json")

    def embed(self, texts: Sequence[str]) -> Vectors:
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        batches = _sorted(ids, self.budget or 0)
        parts = [
            np.stack(list(self.model.embed([texts[i] for i in batch], batch_size=len(batch))))
            for batch in batches
        ]
        return placed(parts, batches)


class OpenVino(Padded):
    """https://docs.openvino.ai: a compiled model with the hint LATENCY, which it says is for one request."""

    name, package = "OpenVINO, batches of 32", "openvino"
    options: ClassVar[dict[str, Any]] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.compiled = self.compile(**self.options)
        self.inputs = {name for item in self.compiled.inputs for name in item.names}
        self.request = self.compiled.create_infer_request()

    def compile(self, **options: Any) -> Any:
        import openvino

        core = openvino.Core()
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": self.setup.cores})
        return core.compile_model(str(self.file()), "CPU", options)

    def file(self) -> Path:
        return self.setup.onnx / "model.onnx"

    def feeds(self, ids: Ids, mask: Ids) -> dict[str, Ids]:
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: array for name, array in feeds.items() if name in self.inputs}

    def forward(self, batch: list[list[int]]) -> Vectors:
        ids, mask = padded(batch)
        return pooled(self.request.infer(self.feeds(ids, mask))[0], mask)


class OpenVinoStreams(OpenVino):
    """A stream a core and an asynchronous queue, as its guide to throughput says; sorted by length."""

    name, latency, budget = "OpenVINO, sorted batches, a stream a core", False, 2048
    options: ClassVar[dict[str, Any]] = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f32",
    }

    def __init__(self, setup: Setup) -> None:
        import openvino

        super().__init__(setup)
        self.queue = openvino.AsyncInferQueue(self.compiled, 2 * setup.cores)

    def compile(self, **options: Any) -> Any:
        return super().compile(**options, NUM_STREAMS=self.setup.cores)

    def forward_all(self, batches: list[list[list[int]]]) -> list[Vectors]:
        done: list[Any] = [None] * len(batches)

        def keep(request: Any, place: tuple[int, Ids]) -> None:
            done[place[0]] = pooled(request.get_output_tensor(0).data, place[1])

        self.queue.set_callback(keep)
        for place, batch in enumerate(batches):
            ids, mask = padded(batch)
            self.queue.start_async(self.feeds(ids, mask), (place, mask))
        self.queue.wait_all()
        return done


class OpenVinoDefault(OpenVinoStreams):
    """The same with the precision that OpenVINO chooses itself: bf16 where the CPU has it, else fp32."""

    name, precision = "OpenVINO, sorted, its own choice of precision", "auto"
    options: ClassVar[dict[str, Any]] = {"PERFORMANCE_HINT": "THROUGHPUT"}


class OpenVinoInt8(OpenVinoStreams):
    """The same with the model that NNCF quantized for transformers, on texts of the corpus."""

    name, precision = "OpenVINO INT8 (NNCF), sorted batches, a stream a core", "int8"

    def file(self) -> Path:
        return self.setup.openvino_int8 / "model.xml"


class OpenVinoInt8Latency(OpenVino):
    """The same for one request at a time, on all cores."""

    name, precision = "OpenVINO INT8 (NNCF), batches of 32", "int8"

    def file(self) -> Path:
        return self.setup.openvino_int8 / "model.xml"


class CTranslate(Padded):
    """https://opennmt.net/CTranslate2/guides/transformers.html#bert, batches of 32."""

    name, package = "CTranslate2, batches of 32", "ctranslate2"
    compute: ClassVar[str] = "float32"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.encoder = self.load(inter=1, intra=setup.cores)

    def load(self, *, inter: int, intra: int) -> Any:
        import ctranslate2

        return ctranslate2.Encoder(
            str(self.setup.ctranslate2),
            device="cpu",
            compute_type=self.compute,
            inter_threads=inter,
            intra_threads=intra,
        )

    def forward(self, batch: list[list[int]]) -> Vectors:
        return self.forward_with(self.encoder, batch)

    def forward_with(self, encoder: Any, batch: list[list[int]]) -> Vectors:
        hidden = np.array(encoder.forward_batch(batch).last_hidden_state, copy=False)
        return pooled(hidden, padded(batch)[1])


class CTranslateSorted(CTranslate):
    """Sorted by length, a worker a core: its guide to parallel execution."""

    name, latency, budget = "CTranslate2, sorted batches, a worker a core", False, 2048

    def __init__(self, setup: Setup) -> None:
        Padded.__init__(self, setup)
        self.encoder = self.load(inter=setup.cores, intra=1)
        self.pool = ThreadPoolExecutor(setup.cores)

    def forward_all(self, batches: list[list[list[int]]]) -> list[Vectors]:
        return list(self.pool.map(self.forward, batches))


class CTranslateInt8(CTranslateSorted):
    """The same in INT8; one text alone runs on all cores."""

    name, precision, compute, latency = (
        "CTranslate2 INT8, sorted batches, a worker a core",
        "int8",
        "int8",
        True,
    )

    @functools.cached_property
    def single(self) -> Any:
        return self.load(inter=1, intra=self.setup.cores)

    def one(self, text: str) -> Vectors:
        return self.forward_with(self.single, [self.tokenizer.encode(text).ids])


class CTranslateInt8Packed(CTranslateInt8):
    """The same with packed weights (CT2_USE_EXPERIMENTAL_PACKED_GEMM, docs/environment_variables.md)."""

    name = "CTranslate2 INT8, packed weights, sorted batches, a worker a core"

    def load(self, *, inter: int, intra: int) -> Any:
        # Read when a model is loaded.
        os.environ["CT2_USE_EXPERIMENTAL_PACKED_GEMM"] = "1"
        return super().load(inter=inter, intra=intra)


ENGINES: dict[str, type[Engine]] = {
    "bertonnx": Bertonnx,
    "bertonnx-int8": BertonnxInt8,
    "torch": Torch,
    "torch-sorted": TorchSorted,
    "sentence-torch": SentenceTorch,
    "sentence-onnx": SentenceOnnx,
    "optimum": Optimum,
    "optimum-sorted": OptimumSorted,
    "fastembed": FastEmbed,
    "fastembed-bounded": FastEmbedBounded,
    "fastembed-sorted": FastEmbedSorted,
    "openvino": OpenVino,
    "openvino-sorted": OpenVinoStreams,
    "openvino-default": OpenVinoDefault,
    "openvino-int8": OpenVinoInt8Latency,
    "openvino-int8-sorted": OpenVinoInt8,
    "ctranslate2": CTranslate,
    "ctranslate2-sorted": CTranslateSorted,
    "ctranslate2-int8": CTranslateInt8,
    "ctranslate2-int8-packed": CTranslateInt8Packed,
}


def _in_order(texts: Sequence[object]) -> list[list[int]]:
    places = list(range(len(texts)))
    return [places[i : i + DOCUMENTED_BATCH] for i in range(0, len(places), DOCUMENTED_BATCH)]


def _sorted(ids: Sequence[Sequence[int]], budget: int) -> list[list[int]]:
    """Return batches by falling length, each of at most `budget` padded tokens and 64 texts."""
    batches: list[list[int]] = []
    for place in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
        room = min(MOST_TEXTS, max(1, budget // len(ids[batches[-1][0]]))) if batches else 0
        if not batches or len(batches[-1]) >= room:
            batches.append([])
        batches[-1].append(place)
    return batches
