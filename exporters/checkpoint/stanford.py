"""Checkpoints of Stanford's ColBERT: the projection among the encoder's weights, and artifact.metadata.

Read as `HF_ColBERT` and `ColBERTConfig` do (colbert/modeling/hf_colbert.py, colbert/infra/config/settings.py
in stanford-futuredata/ColBERT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import METADATA, read_json
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.weight_files import weight_files

__all__ = ["WEIGHT", "Stanford", "is_stanford", "read_stanford"]

_CLASS, WEIGHT = "HF_ColBERT", "linear.weight"

_READ = frozenset(
    {"query_token_id", "doc_token_id", "query_maxlen", "doc_maxlen", "attend_to_mask_tokens"}
    | {"mask_punctuation", "dim", "similarity", "interaction", "relu"}
)
_HARMLESS = frozenset(
    # How it was trained and indexed, where its files lay, and the older names of its markers.
    {
        "query_token",
        "doc_token",
        "root",
        "experiment",
        "index_root",
        "name",
        "overwrite",
        "checkpoint",
        "meta",
    }
    | {
        "triples",
        "collection",
        "queries",
        "index_name",
        "model_name",
        "rank",
        "nranks",
        "amp",
        "gpus",
        "version",
    }
    | {"avoid_fork_if_possible", "total_visible_gpus", "bsize", "lr", "maxsteps", "save_every", "warmup"}
    | {"warmup_bert", "nway", "use_ib_negatives", "reranker", "distillation_alpha", "ignore_scores", "resume"}
    | {"accumsteps", "seed", "index_path", "index_bsize", "nbits", "kmeans_niters", "partitions", "ncells"}
    | {
        "centroid_score_threshold",
        "ndocs",
        "load_index_with_mmap",
        "resume_optimizer",
        "fix_seed",
        "local_rank",
    }
    | {"time", "branch", "hash", "commit_datetime", "current_datetime", "cmd", "rerank_only", "resume_from"}
)
_USUAL: Mapping[str, tuple[Any, ...]] = {
    "similarity": ("cosine",),
    "interaction": ("colbert",),
    "relu": (False,),
}
"""Key that changes how vectors are made or compared -> the values that bertonnx follows."""


@dataclass(frozen=True, eq=False)
class Stanford:
    """What such a checkpoint has beside its encoder.

    Attributes:
        weight: of the projection, float32 of shape (width, hidden).
        metadata: what artifact.metadata says; empty where there is none.
    """

    weight: npt.NDArray[np.float32]
    metadata: Mapping[str, Any]


def is_stanford(config: Any) -> bool:
    """Tell whether config.json, as a `PretrainedConfig`, is of such a checkpoint."""
    return _CLASS in (config.architectures or ())


def read_stanford(source: Source, account: Account) -> Stanford:
    """Return the projection and the settings of a checkpoint.

    Raises:
        CheckpointError: the projection is missing or of another width than the settings say, or there are
            keys that nobody reads.
        UnsupportedError: vectors are compared in a way that bertonnx has not.
    """
    folder = source.model_folder
    path = folder / METADATA
    said = read_json(path) if path.is_file() else {}
    for key in sorted(set(said) - _READ - _HARMLESS):
        account.refuse(METADATA, key, said[key], "which ColBERT does not read")
    for key, usual in _USUAL.items():
        if said.get(key) is not None and said[key] not in usual:
            raise UnsupportedError(
                "{file} has {key} {value!r}, and bertonnx follows {usual}",
                file=METADATA,
                key=key,
                value=said[key],
                usual=", ".join(map(str, usual)),
            )
    weight = _projection(folder, allow_pickle=source.trust.allow_pickle)
    if said.get("dim") is not None and said["dim"] != len(weight):
        raise CheckpointError(
            "{file} has dim {dim!r}, and {weight} makes vectors of {width} numbers; the two do not belong "
            "together",
            file=METADATA,
            dim=said["dim"],
            weight=WEIGHT,
            width=len(weight),
        )
    return Stanford(weight, said)


def _projection(folder: Path, *, allow_pickle: bool) -> npt.NDArray[np.float32]:
    import torch
    from safetensors import SafetensorError, safe_open

    found: Any = None
    try:
        for path in weight_files(folder, pickled=allow_pickle):
            if path.suffix == ".bin":
                found = torch.load(path, map_location="cpu", weights_only=True).get(WEIGHT, found)
                continue
            with safe_open(path, framework="pt") as file:
                if WEIGHT in file.keys():  # noqa: SIM118  it is no mapping
                    found = file.get_tensor(WEIGHT)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(
            "the weights in {folder} cannot be read ({why}); download them again", folder=folder, why=error
        ) from error
    if found is None or found.ndim != 2:
        raise CheckpointError(
            "{folder} is a {kind}, and its weights have no {weight}, which projects vectors of tokens; use a "
            "complete checkpoint",
            folder=folder,
            kind=_CLASS,
            weight=WEIGHT,
        )
    weight: npt.NDArray[np.float32] = found.to(torch.float32).numpy()
    if not np.isfinite(weight).all():
        raise CheckpointError(
            "{folder}: {weight} holds NaN or infinity; the checkpoint is damaged",
            folder=folder,
            weight=WEIGHT,
        )
    return weight
