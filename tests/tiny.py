"""Tiny random checkpoints of every family: real architecture, real tokenizer, no training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import FAMILIES, Family
from bertonnx.models.tasks import TASKS
from bertonnx.models.tasks import task as task_named
from tests.retrieval import write_modules
from tests.tokenizers_zoo import pretrained

__all__ = ["CELLS", "FAMILY_CONFIGS", "HEADS", "TinyFamily", "missing_code", "one_of_each", "save_tiny"]

MAX_LENGTH = 96

HEADS = {task.auto_class: task.name for task in reversed([*TASKS])}
"""Class of transformers -> the first of the tasks that it serves: the others have the same graph."""

CELLS = [(family, task) for family in FAMILIES for task in HEADS.values() if task not in family.gaps]
"""The families and tasks of which each has a graph of its own."""


def one_of_each(first: int) -> list[tuple[Family, str]]:
    """Return a cell of each family, for what changes encoders whatever their head.

    Every other family, from this one on, has the head of fill-mask where it can, which alone is the family's
    own; the others have the other tasks in turn.
    """
    chosen = []
    for place, family in enumerate(FAMILIES):
        tasks = [task for of, task in CELLS if of is family]
        own = [task for task in tasks if task == "fill-mask"]
        others = [task for task in tasks if task not in own]
        fits = own if own and place % 2 == first else others
        chosen.append((family, fits[place // 2 % len(fits)]))
    return chosen


@dataclass(frozen=True)
class TinyFamily:
    """A family's tiny configuration.

    Attributes:
        tokenizer: "wordpiece", "bpe" or "unigram", as the family's well-known checkpoints have.
        config: what differs from the common tiny sizes.
    """

    tokenizer: str = "wordpiece"
    config: Mapping[str, Any] = field(default_factory=dict)


_COMMON: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    # Weights of the usual 0.02 would make every output nearly the same number.
    "initializer_range": 0.3,
}
_DEBERTA: Mapping[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "max_relative_positions": -1,
}
_XLM: Mapping[str, Any] = {
    "emb_dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "embed_init_std": 0.3,
    "init_std": 0.3,
}

FAMILY_CONFIGS: Mapping[str, TinyFamily] = {
    "bert": TinyFamily(),
    "distilbert": TinyFamily(config={"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "roberta": TinyFamily("bpe"),
    "xlm-roberta": TinyFamily("unigram"),
    "camembert": TinyFamily("unigram"),
    "electra": TinyFamily(config={"embedding_size": 16}),
    "albert": TinyFamily("unigram", {"embedding_size": 16, "num_hidden_layers": 3, "inner_group_num": 2}),
    "mpnet": TinyFamily(),
    "deberta": TinyFamily("bpe", _DEBERTA),
    "deberta-v2": TinyFamily(
        "unigram", {**_DEBERTA, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    ),
    "mobilebert": TinyFamily(
        config={
            "embedding_size": 16,
            "intra_bottleneck_size": 16,
            "true_hidden_size": 16,
            "num_feedforward_networks": 2,
            # Without layer normalization, 0.3 makes scores of attention so large that it is one-hot: a last
            # bit then decides which token is read, for PyTorch against ONNX Runtime as for INT8.
            "initializer_range": 0.15,
        }
    ),
    # Four groups, as its checkpoints have, of 16 channels each.
    "squeezebert": TinyFamily(config={"embedding_size": 64, "hidden_size": 64, "intermediate_size": 64}),
    "roformer": TinyFamily(config={"embedding_size": 32}),
    "convbert": TinyFamily(config={"embedding_size": 32, "head_ratio": 2}),
    "flaubert": TinyFamily("bpe", _XLM),
    "xlm": TinyFamily("bpe", _XLM),
    "nystromformer": TinyFamily("unigram", {"num_landmarks": 64, "segment_means_seq_len": 64}),
    "modernbert": TinyFamily("bpe", {"global_attn_every_n_layers": 2, "local_attention": 16}),
    "data2vec-text": TinyFamily("bpe"),
    "ibert": TinyFamily("bpe"),
    "rembert": TinyFamily("unigram", {"input_embedding_size": 16, "output_embedding_size": 16}),
    "megatron-bert": TinyFamily(),
    "big_bird": TinyFamily("unigram"),
    "splinter": TinyFamily(),
    "esm": TinyFamily(config={"position_embedding_type": "rotary"}),
    "ernie": TinyFamily(),
    "xlm-roberta-xl": TinyFamily("unigram"),
    "xmod": TinyFamily("unigram", {"languages": ["en_XX", "de_DE"], "default_language": "de_DE"}),
    "roberta-prelayernorm": TinyFamily("bpe"),
    "eurobert": TinyFamily("bpe"),
    "nomic_bert": TinyFamily(),
    # By default it has one segment, and this tokenizer makes two.
    "gte": TinyFamily(config={"type_vocab_size": 2}),
    "jina_embeddings_v3": TinyFamily("unigram"),
    "esmc": TinyFamily(),
    "ultrabert": TinyFamily(),
}


def missing_code(family: str) -> str:
    """Return why the installed transformers cannot make a family's checkpoints, or ""."""
    import transformers
    from packaging.version import Version

    version = transformers.__version__
    since = FAMILIES[family].since
    there = family in transformers.CONFIG_MAPPING and Version(version) >= Version(since or "4")
    return "" if there else f"transformers {version} has no code for {family} that can be traced"


def save_tiny(
    folder: Path,
    family: str = "bert",
    task: str = "text-classification",
    *,
    labels: tuple[str, ...] = ("negative", "neutral", "positive"),
    seed: int = 0,
    tokenizer: str | None = None,
    **config: Any,
) -> Path:
    """Save a random checkpoint with its tokenizer and return its folder.

    Skips the test where the installed transformers has no such family.

    Args:
        folder: where to save; made if missing.
        family: one of `FAMILY_CONFIGS`.
        task: what its head is for.
        labels: of the classification tasks; a ranker, saved as a cross-encoder, has one.
        seed: of the weights.
        tokenizer: another than the family's.
        config: entries of the configuration that differ.
    """
    import torch
    import transformers

    if missing_code(family):
        pytest.skip(missing_code(family))
    tiny = FAMILY_CONFIGS[family]
    own = pretrained(tokenizer or tiny.tokenizer, model_max_length=MAX_LENGTH)
    row = task_named(task)
    names = dict(enumerate(labels[:1] if row.ranks else labels)) if row.labelled or row.ranks else None
    settings = {
        **_COMMON,
        "vocab_size": len(own),
        # RoBERTa's relatives lose the positions up to the padding index.
        "max_position_embeddings": MAX_LENGTH + 2,
        "pad_token_id": own.pad_token_id,
        "bos_token_id": own.cls_token_id,
        "cls_token_id": own.cls_token_id,
        "eos_token_id": own.sep_token_id,
        "sep_token_id": own.sep_token_id,
        **({"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}),
        **tiny.config,
        **config,
    }
    torch.manual_seed(seed)
    with quiet():  # version 5 of transformers shows a bar for every file
        made = transformers.CONFIG_MAPPING[family](**settings)
        auto_class = getattr(transformers, row.auto_class)
        auto_class.from_config(made).eval().save_pretrained(folder)
        own.save_pretrained(folder)
    if row.library:
        write_modules(folder, row, width=_COMMON["hidden_size"])
    if row.ranks:
        settings_file = folder / "config_sentence_transformers.json"
        settings_file.write_text(json.dumps({"model_type": "CrossEncoder"}))
    return folder
