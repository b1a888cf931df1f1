"""The rate of fp32 matrix products that this machine reaches, and by whose kernels."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_info

__all__ = ["sgemm"]

Way = Callable[[], object]


def sgemm(cores: int, size: int = 2048, seconds: float = 0.7) -> tuple[float, str]:
    """Return the best GFLOP/s of matrix products on so many threads, and what reached it.

    Both NumPy and torch are asked: which is faster depends on the CPU.
    """
    torch.set_num_threads(cores)
    left = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    right = left.T.copy()
    out = np.empty_like(left)
    left_tensor, right_tensor, out_tensor = (torch.from_numpy(array) for array in (left, right, out))
    ways: dict[str, Way] = {
        f"NumPy with {_kernels()}": lambda: np.matmul(left, right, out=out),
        f"torch {torch.__version__}": lambda: torch.matmul(left_tensor, right_tensor, out=out_tensor),
    }
    rates = {name: 2 * size**3 / _fastest(way, seconds) / 1e9 for name, way in ways.items()}
    best = max(rates, key=lambda name: rates[name])
    return rates[best], best


def _kernels() -> str:
    found = [item for item in threadpool_info() if item["user_api"] == "blas"]
    return " and ".join(
        f"{item['internal_api']} {item['version']} for {item['architecture']}" for item in found
    )


def _fastest(work: Way, seconds: float) -> float:
    work()
    times: list[float] = []
    while sum(times) < seconds:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
