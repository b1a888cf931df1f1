"""The peers around transformers and ONNX files: torch, Sentence-Transformers, Optimum, fastembed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from peers.embedding import Vectors, padded, placed, pooled, tokenizer
from peers.engine import Engine, Padded, Setup, in_order, sorted_by_length
from peers.texts import LONGEST

__all__ = ["FRAMEWORKS"]


class SentenceTorch(Engine):
    """https://sbert.net/docs/sentence_transformer/usage/usage.html; `encode` sorts by itself."""

    name, package, sorts = "sentence-transformers, torch", "sentence-transformers", True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.model = self.load()

    def load(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(self.setup.cores)
        return SentenceTransformer(str(self.setup.checkpoint), device="cpu")

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors: Vectors = self.model.encode(list(texts), show_progress_bar=False, normalize_embeddings=True)
        return vectors


class SentenceOnnx(SentenceTorch):
    """https://sbert.net/docs/sentence_transformer/usage/efficiency.html#onnx."""

    name, environment = "sentence-transformers, ONNX", "older"

    def load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(self.setup.sentence_onnx),
            backend="onnx",
            device="cpu",
            model_kwargs={
                "file_name": "onnx/model.onnx",
                "provider": "CPUExecutionProvider",
                "session_options": _session_options(self.setup.cores),
            },
        )


class SentenceOpenVino(SentenceTorch):
    """https://sbert.net/docs/sentence_transformer/usage/efficiency.html#openvino, held to fp32."""

    name = "sentence-transformers, OpenVINO"

    def load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        options = {"INFERENCE_NUM_THREADS": self.setup.cores, "INFERENCE_PRECISION_HINT": "f32"}
        return SentenceTransformer(
            str(self.setup.sentence_openvino),
            backend="openvino",
            device="cpu",
            model_kwargs={"file_name": "openvino/openvino_model.xml", "ov_config": options},
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


class FastEmbedSorted(FastEmbed):
    """The same, sorted by length, and a batch size tuned like the others'."""

    name, latency, budget = "fastembed, sorted batches", False, 2048

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.tokenizer = tokenizer(setup.onnx / "tokenizer.json")

    def embed(self, texts: Sequence[str]) -> Vectors:
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        batches = sorted_by_length(ids, self.budget or 0)
        parts = [
            np.stack(list(self.model.embed([texts[i] for i in batch], batch_size=len(batch))))
            for batch in batches
        ]
        return placed(parts, batches)


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

    name, package, environment = "Optimum ORTModel, batches of 32", "optimum-onnx", "older"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from optimum.onnxruntime import ORTModelForFeatureExtraction
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(setup.onnx)
        folder, file = self.file()
        self.model = ORTModelForFeatureExtraction.from_pretrained(
            folder, file_name=file, session_options=_session_options(setup.cores)
        )

    def file(self) -> tuple[Path, str]:
        """Return the folder of the model, and its file in it."""
        return self.setup.onnx, "model.onnx"

    def embed(self, texts: Sequence[str]) -> Vectors:
        if self.budget is None:
            batches = in_order(texts)
        else:
            encoded = self.tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]
            batches = sorted_by_length(encoded, self.budget)
        return placed([self.forward([texts[place] for place in batch]) for batch in batches], batches)

    def forward(self, texts: list[str]) -> Vectors:
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="np")
        return pooled(self.model(**inputs).last_hidden_state, inputs["attention_mask"])


class OptimumSorted(Optimum):
    """The same, sorted by length."""

    name, latency, budget = "Optimum ORTModel, sorted batches", False, 2048


class OptimumInt8(OptimumSorted):
    """Quantized dynamically, as https://huggingface.co/docs/optimum-onnx/onnxruntime/usage_guides/quantization."""

    name, precision, latency = "Optimum ORTModel INT8 (dynamic), sorted batches", "int8", True

    def file(self) -> tuple[Path, str]:
        return self.setup.onnx_int8, "model_quantized.onnx"

    def one(self, text: str) -> Vectors:
        return self.forward([text])


def _session_options(cores: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    return options


FRAMEWORKS: dict[str, type[Engine]] = {
    "torch": Torch,
    "torch-sorted": TorchSorted,
    "sentence-torch": SentenceTorch,
    "sentence-onnx": SentenceOnnx,
    "sentence-openvino": SentenceOpenVino,
    "optimum": Optimum,
    "optimum-sorted": OptimumSorted,
    "optimum-int8": OptimumInt8,
    "fastembed": FastEmbed,
    "fastembed-bounded": FastEmbedBounded,
    "fastembed-sorted": FastEmbedSorted,
}
