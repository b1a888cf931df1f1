"""Tiny folders of Sentence-Transformers, one for each module and setting, and what the library answers."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertonnx.exporters.quiet import quiet
from tests.matrix.kinds import save_other_kinds, unmet_modules
from tests.matrix.texts import CASES
from tests.tiny import save_tiny
from tests.tokenizers_zoo import pretrained

__all__ = ["save_sentence_folders"]

WIDTH = 32


def save_sentence_folders(target: Path) -> Iterator[Path]:
    """Yield each folder, saved with `reference.npz`; what the installed version does not have is left out.

    Raises:
        LookupError: the installed version has a module that no folder has.
    """
    encoder = save_tiny(target / "base-encoder", "bert", "feature-extraction")
    with quiet():
        for name, make in _embedding_folders().items():
            torch.manual_seed(0)
            modules = make(_transformer(encoder))
            if modules is not None:
                yield _saved_encoder(target / name, modules)
        for name, settings in _PROMPTS.items():
            torch.manual_seed(0)
            yield _saved_encoder(target / name, [_transformer(encoder), _pooling()], settings)
        for name, make_ranker in _ranking_folders(target).items():
            torch.manual_seed(0)
            yield _saved_ranker(target / name, make_ranker())
        yield _renamed(_saved_encoder(target / "CLIPModel", [_transformer(encoder), _pooling()]), "CLIPModel")
        yield from save_other_kinds(target)
    if unmet := unmet_modules(target):
        raise LookupError(f"no folder has the modules {', '.join(unmet)} of this sentence-transformers")
    for base in target.glob("base-*"):
        shutil.rmtree(base)


def _renamed(folder: Path, name: str) -> Path:
    """Let the list name another module in the first one's place: one whose own files need pictures."""
    file = folder / "modules.json"
    first, *rest = json.loads(file.read_text())
    first["type"] = f"sentence_transformers.sentence_transformer.modules.{name}"
    file.write_text(json.dumps([first, *rest]))
    return folder


_PROMPTS: Mapping[str, Mapping[str, Any]] = {
    "prompts": {"prompts": {"query": "query: ", "document": "passage: "}},
    "default prompt": {"prompts": {"query": "query: ", "sts": "compare: "}, "default_prompt_name": "sts"},
    "truncate_dim": {"truncate_dim": 8},
    "similarity dot": {"similarity_fn_name": "dot"},
}


def _modules() -> Any:
    from sentence_transformers.sentence_transformer import modules

    return modules


def _transformer(folder: Path, **settings: Any) -> Any:
    return _modules().Transformer(str(folder), **settings)


def _pooling(mode: Any = "mean", **settings: Any) -> Any:
    return _modules().Pooling(WIDTH, mode, **settings)


def _dense(**settings: Any) -> Any:
    """Return a dense layer, or None where the installed version has no such setting."""
    dense = _modules().Dense
    if set(settings) - set(inspect.signature(dense.__init__).parameters):
        return None
    return dense(**{"in_features": WIDTH, "out_features": WIDTH, **settings})


def _all_there(*modules: Any) -> list[Any] | None:
    return None if any(module is None for module in modules) else [*modules]


Make = Callable[[Any], Sequence[Any] | None]
"""Makes a model's modules of its transformer; None where the installed version does not have them."""


def _embedding_folders() -> dict[str, Make]:
    return {**_pooling_folders(), **_layer_folders(), **_transformer_folders(), **_other_folders()}


def _pooling_folders() -> dict[str, Make]:
    def pooled(transformer: Any, modes: Any) -> Sequence[Any]:
        return [transformer, _pooling(modes)]

    modes = ("mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
    several = (("cls", "mean"), ("lasttoken", "max", "weightedmean"))
    return {
        **{f"pooling {mode}": partial(pooled, modes=mode) for mode in modes},
        **{f"pooling {', '.join(joined)}": partial(pooled, modes=joined) for joined in several},
        "pooling without the prompt": lambda t: [t, _pooling("mean", include_prompt=False)],
    }


def _layer_folders() -> dict[str, Make]:
    m, nn = _modules(), torch.nn

    def activated(transformer: Any, activation: Any) -> Sequence[Any]:
        return [transformer, _pooling(), _dense(activation_function=activation)]

    activations: tuple[Any, ...] = (
        *(nn.Identity(), nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.GELU(approximate="tanh")),
        *(nn.SiLU(), nn.LeakyReLU(), nn.ELU(), nn.Mish(), nn.Softplus(), nn.Hardtanh(), nn.SELU()),
        *(nn.Hardswish(), nn.Softsign(), nn.LogSigmoid(), nn.Softmax(dim=-1), nn.PReLU(), nn.ReLU6()),
    )
    return {
        **{f"Dense with {_name(one)}": partial(activated, activation=one) for one in activations},
        "Dense without a bias": lambda t: [t, _pooling(), _dense(bias=False, out_features=16)],
        "Dense with a residual": lambda t: _all_there(
            t, _pooling(), _dense(use_residual=True, activation_function=nn.GELU())
        ),
        "Dense on tokens": lambda t: [t, _dense(module_input_name="token_embeddings"), _pooling()],
        "two Dense": lambda t: [t, _pooling(), _dense(out_features=16), _dense(in_features=16)],
        "LayerNorm": lambda t: [t, _pooling(), _random(m.LayerNorm(WIDTH))],
        "Normalize": lambda t: [t, _pooling(), m.Normalize()],
        "Normalize before Dense": lambda t: [t, _pooling(), m.Normalize(), _dense()],
        "Normalize of tokens": lambda t: _all_there(t, _normalize_tokens(), _pooling()),
        "Dropout": lambda t: [t, _pooling(), m.Dropout(0.5), _dense()],
        "Dense, LayerNorm, Normalize": lambda t: [
            *(t, _pooling("cls"), _dense(activation_function=nn.SiLU())),
            *(m.LayerNorm(WIDTH), m.Normalize()),
        ],
    }


def _transformer_folders() -> dict[str, Make]:
    return {
        "lower-casing": lambda t: [_lower(t), _pooling()],
        "max_seq_length": lambda t: [_short(t), _pooling()],
    }


def _other_folders() -> dict[str, Make]:
    """Return modules that stand in place of a transformer, or between it and its pooling."""
    m = _modules()
    return {
        "WeightedLayerPooling": lambda t: [t, m.WeightedLayerPooling(WIDTH, num_hidden_layers=2), _pooling()],
        "CNN": lambda t: [t, m.CNN(WIDTH, out_channels=8), _pooling_of(24)],
        "LSTM": lambda t: [t, m.LSTM(WIDTH, hidden_dim=8), _pooling_of(16)],
        "Router": lambda t: [m.Router.for_query_document([t, _pooling()], [t, _pooling("cls")])],
        "StaticEmbedding": lambda t: [m.StaticEmbedding(t.tokenizer.backend_tokenizer, embedding_dim=16)],
        "WordEmbeddings": lambda _: [*_word_embeddings(), _pooling_of(8)],
        "WordWeights": lambda _: [*_word_embeddings(), _word_weights(), _pooling_of(8)],
        "BoW": lambda _: [m.BoW(vocab=["a", "b", "film"])],
    }


def _name(module: Any) -> str:
    return str(module).removesuffix("()")


def _normalize_tokens() -> Any:
    normalize: Any = _modules().Normalize
    settable = "module_input_name" in inspect.signature(normalize.__init__).parameters
    return normalize("token_embeddings") if settable else None


def _pooling_of(width: int) -> Any:
    return _modules().Pooling(width, "mean")


_WORDS = ["PADDING_TOKEN", "film", "mars", "red", "word"]


def _word_embeddings() -> list[Any]:
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    table = np.random.default_rng(0).normal(size=(len(_WORDS), 8))
    return [_modules().WordEmbeddings(WhitespaceTokenizer(_WORDS), table)]


def _word_weights() -> Any:
    from sentence_transformers.sentence_transformer.modules.word_weights import WordWeights

    return WordWeights(_WORDS, {"mars": 2.0, "red": 0.5})


def _random(module: Any) -> Any:
    """Return a module whose weights are not those that leave everything as it is."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def _lower(transformer: Any) -> Any:
    return type(transformer)(transformer.auto_model.config._name_or_path, do_lower_case=True)


def _short(transformer: Any) -> Any:
    transformer.max_seq_length = 16
    return transformer


def _ranking_folders(target: Path) -> dict[str, Callable[[], Any]]:
    """Return, by name, what makes a cross-encoder."""
    from sentence_transformers import CrossEncoder

    nn = torch.nn
    one = str(save_tiny(target / "base-ranker", "bert", "text-classification", labels=("score",)))
    three = str(save_tiny(target / "base-classes", "bert", "text-classification", labels=("a", "b", "c")))
    made: dict[str, Callable[[], Any]] = {
        "CrossEncoder": lambda: CrossEncoder(one),
        "CrossEncoder with 3 labels": lambda: CrossEncoder(three),
        "CrossEncoder with max_length": lambda: CrossEncoder(one, max_length=12),
    }
    activations: tuple[Any, ...] = (nn.Identity(), nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.Softmax(dim=1))
    for activation in activations:
        name = _name(activation)
        made[f"CrossEncoder with {name}"] = partial(CrossEncoder, one, activation_fn=activation)
        made[f"CrossEncoder with 3 labels and {name}"] = partial(
            CrossEncoder, three, activation_fn=activation
        )

    def modular(*layers: Any) -> Any:
        encoder = _transformer(target / "base-ranker")
        return CrossEncoder(modules=[encoder, _pooling("cls"), *layers], activation_fn=nn.Identity())

    scores = {"module_output_name": "scores", "activation_function": nn.Identity()}
    made["modular CrossEncoder"] = lambda: modular(_dense(out_features=1, **scores))
    made["modular CrossEncoder, two Dense and LayerNorm"] = lambda: modular(
        _dense(activation_function=nn.GELU()),
        _random(_modules().LayerNorm(WIDTH)),
        _dense(out_features=1, **scores),
    )
    made["LogitScore"] = lambda: _next_word_ranker(target / "base-generates")
    return made


def _next_word_ranker(folder: Path) -> Any:
    import transformers
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import LogitScore

    own = pretrained("wordpiece", model_max_length=64)
    config = transformers.GPT2Config(vocab_size=len(own), n_embd=WIDTH, n_layer=1, n_head=2, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    own.save_pretrained(folder)
    return CrossEncoder(modules=[_transformer(folder, transformer_task="text-generation"), LogitScore(7, 8)])


def _saved_encoder(folder: Path, modules: Sequence[Any], settings: Mapping[str, Any] | None = None) -> Path:
    from sentence_transformers import SentenceTransformer

    made = SentenceTransformer(modules=[*modules], device="cpu", **(settings or {}))
    made.save(str(folder))
    read = SentenceTransformer(str(folder), device="cpu")
    texts = [text for text, _ in CASES]
    answers: tuple[Any, ...] = ()
    # A module that the library saves and cannot run: nothing but a refusal is right then.
    with suppress(Exception):
        # Under these two names every model answers, with a prompt of its own or with none.
        answers = (read.encode(texts), read.encode_query(texts), read.encode_document(texts))
    np.savez(
        folder / "reference.npz", **dict(zip(("embeddings", "query", "document"), answers, strict=False))
    )
    return folder


def _saved_ranker(folder: Path, made: Any) -> Path:
    from sentence_transformers import CrossEncoder

    made.save_pretrained(str(folder))
    read = CrossEncoder(str(folder), device="cpu")
    pairs = [(text, pair) for text, pair in CASES if pair is not None]
    # One at a time, since a tokenizer of text generation may have no padding.
    np.savez(folder / "reference.npz", predicted=np.concatenate([read.predict([pair]) for pair in pairs]))
    return folder
