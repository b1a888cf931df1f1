"""The peers with runtimes of their own, which are given token ids: OpenVINO and CTranslate2."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from peers.embedding import Ids, Vectors, padded, pooled
from peers.engine import Engine, Padded, Setup

__all__ = ["RUNTIMES"]


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


RUNTIMES: dict[str, type[Engine]] = {
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
