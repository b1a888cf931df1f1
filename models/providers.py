"""The providers: what can run a model, a row each, with all that is special about it.

Adding one is a row here, or `register` from outside. Fields that name code hold an import path, as in
`models.tasks`. No other module compares the names of providers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bertonnx.models.registry import Registry

__all__ = ["AUTO", "FALLBACK", "PROVIDERS", "Batching", "Provider", "choices", "provider", "register"]

AUTO = "auto"
"""The first provider that works, of those that are tried by themselves (`Provider.automatic`)."""

FALLBACK = "cpu"
"""What "auto" ends with: the provider that works on every machine."""


@dataclass(frozen=True)
class Batching:
    """How batches are made for a provider.

    Attributes:
        runs: batches at a time; None for as many as threads.
        ahead: chunks that are tokenized ahead on a thread of their own; 0 tokenizes each in parts,
            while what is tokenized already runs.
        part_characters: text in such a part.
        tokens: tokens a batch.
        tokens_vocabulary: tokens a batch where every token puts out a whole vocabulary.
        first_chunk: rows in the first chunk, so that results come soon.
        last_chunk: rows in later chunks, where texts of one length meet; chunks grow fourfold until then.
        chunk_characters: text that closes a chunk early, so that memory stays bounded with very
            long texts.
    """

    runs: int | None
    ahead: int
    part_characters: int
    tokens: int
    tokens_vocabulary: int
    first_chunk: int
    last_chunk: int
    chunk_characters: int


@dataclass(frozen=True)
class Provider:
    """One provider.

    Attributes:
        name: the value of `--provider`.
        execution_provider: ONNX Runtime's name of it.
        opens: `(onnxruntime, path, SessionOptions) -> OpenSession`: opens a checked file
            (`runtime.session.session`), or raises a ProviderError, or a ModelFileError whose cause is what
            ONNX Runtime raised.
        problem: `(onnxruntime, error text) -> Problem`: what is wrong and what mends it
            (`runtime.session.problem`), once it is known that the provider does not work: it is not in
            this ONNX Runtime, or opening failed and the file is not at fault. Empty where it always works.
        batching: how batches are made for it.
        tolerances: precision -> how far an output may be from its golden numbers there, as a share of the
            largest of them (`runtime.golden`).
        options: options of `load` that this provider alone takes.
        automatic: whether "auto" tries it before the providers behind it.
        by_cores: whether more threads run more batches at a time.
        saturates: whether INT8 that is not pair-safe can be wrong there on CPUs without VNNI.
    """

    name: str
    execution_provider: str
    opens: str
    batching: Batching
    tolerances: Mapping[str, float]
    problem: str = ""
    options: tuple[str, ...] = ()
    automatic: bool = False
    by_cores: bool = False
    saturates: bool = False


PROVIDERS: Registry[Provider] = Registry(
    "provider",
    Provider(
        "cpu",
        execution_provider="CPUExecutionProvider",
        opens="bertonnx.runtime.session.cpu_session:open_cpu",
        # Batches that stay in the caches of a core, one core each.
        batching=Batching(
            runs=None,
            ahead=0,
            part_characters=8_000,
            tokens=512,
            # A token's logits over 30,000 words are 120 KB.
            tokens_vocabulary=128,
            first_chunk=32,
            last_chunk=2048,
            chunk_characters=2_000_000,
        ),
        # Of INT8, a last bit that another CPU rounds otherwise can move an activation by a whole step.
        tolerances={"fp32": 1e-4, "fp16": 5e-3, "int8": 5e-2},
        # Not automatic: "auto" ends with it in any case (`FALLBACK`), and so after rows from outside.
        by_cores=True,
        saturates=True,
    ),
    Provider(
        "cuda",
        execution_provider="CUDAExecutionProvider",
        opens="bertonnx.runtime.session.cuda_session:open_cuda",
        problem="bertonnx.runtime.session.cuda_diagnosis:cuda_problem",
        # Batches that fill a GPU, and chunks in which enough texts of each length meet to fill them. While
        # one of two runs computes, the other's results are copied and decoded and its next batch is put
        # together.
        batching=Batching(
            runs=2,
            ahead=2,
            part_characters=0,
            tokens=32_768,
            tokens_vocabulary=2048,
            first_chunk=256,
            last_chunk=32_768,
            chunk_characters=16_000_000,
        ),
        # cuBLAS chooses kernels by the size of a product, and they add in different orders. fp16 was up to
        # 1.3% apart on an H200, with random weights of many families (benchmarks/results/gpu.md).
        tolerances={"fp32": 1e-3, "fp16": 2e-2, "int8": 5e-2},
        options=("tf32", "gpu_memory"),
        automatic=True,
    ),
)


def register(row: Provider) -> None:
    """Add a provider, from this package or another.

    Raises:
        ValueError: another provider has its name.
    """
    PROVIDERS.register(row)


def provider(name: str) -> Provider:
    """Return the provider called `name`.

    Raises:
        KeyError: no such provider.
    """
    return PROVIDERS[name]


def choices() -> tuple[str, ...]:
    """Return what `--provider` can be."""
    return (AUTO, *PROVIDERS.names)
