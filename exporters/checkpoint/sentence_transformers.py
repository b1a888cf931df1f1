"""Reads what a Sentence-Transformers folder adds to a checkpoint: the modules behind its transformer.

Only its files are read; the package itself is not needed. Names and defaults are those of
sentence-transformers 5.7 and 6.2 (`base/modules/`, `sentence_transformer/modules/`, `cross_encoder/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import model_folder
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.module_list import LIST, Module, read_list, require_known
from bertonnx.exporters.checkpoint.sentence_kinds import KINDS
from bertonnx.exporters.checkpoint.sentence_layers import SCORES, TOKENS, Layer, Normalize, Pool
from bertonnx.exporters.checkpoint.sentence_modules import read_layer
from bertonnx.exporters.checkpoint.sentence_options import TransformerOptions, read_options
from bertonnx.exporters.checkpoint.sentence_settings import Settings, read_settings
from bertonnx.exporters.options import Trust

__all__ = ["SentenceModules", "read_modules"]

_TRANSFORMERS = ("Transformer", "MLMTransformer")


@dataclass(frozen=True, eq=False)
class SentenceModules:
    """A Sentence-Transformers folder.

    Attributes:
        folder: where the transformer's config.json and weights lie.
        settings: of the whole model.
        options: of its transformer.
        layers: what follows the transformer, in order; none where its own classification head makes scores.
    """

    folder: Path
    settings: Settings = field(default_factory=Settings)
    options: TransformerOptions = field(default_factory=TransformerOptions)
    layers: tuple[Layer, ...] = ()


def read_modules(folder: Path, account: Account, trust: Trust) -> SentenceModules | None:
    """Return the modules of a Sentence-Transformers folder, or None for any other folder.

    Raises:
        UnsupportedError: a module, or something in it, that bertonnx has not.
        CheckpointError: a file is missing or broken, or has keys that nobody reads.
        SourceError: a module's weights lie in a pickle file, which is not trusted.
    """
    settings = read_settings(folder, account)
    if not (folder / LIST).is_file():
        # Until version 5.4 cross-encoders had no list of modules: transformers' own head is all there is.
        return SentenceModules(model_folder(folder), settings) if settings.crosses else None
    modules = read_list(folder)
    require_known(modules, folder, KINDS[settings.kind].modules)
    _require_transformer(modules, folder)
    first, *rest = modules
    kind = KINDS[settings.kind]
    options = read_options(first, account, late=kind.reads == TOKENS)
    read = (read_layer(module, account, trust, reads=kind.reads) for module in rest)
    layers = [layer for layer in read if layer is not None]
    kept = _prompted(_effective(layers), settings)
    found = SentenceModules(first.path, settings, options, tuple(kept))
    _require_result(found, modules, folder)
    return found


_GIVEN = {True: "logits of words", False: "vectors"}


def _require_transformer(modules: Sequence[Module], folder: Path) -> None:
    names = [module.name for module in modules]
    if [name in _TRANSFORMERS for name in names] != [True, *[False] * (len(names) - 1)]:
        raise UnsupportedError(
            "{folder}: its modules are {modules}; bertonnx exports one Transformer, and what follows it",
            folder=folder,
            modules=" -> ".join(names) or "none",
        )


def _effective(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers without those that Sentence-Transformers passes over."""
    written, kept = {TOKENS}, []
    for layer in layers:
        # It normalizes what is there, and is content where nothing is.
        if isinstance(layer, Normalize) and layer.reads not in written:
            continue
        written.add(layer.writes)
        kept.append(layer)
    return kept


def _prompted(layers: Sequence[Layer], settings: Settings) -> list[Layer]:
    """Return the layers, of which none leaves out a prompt where the model has none."""
    if any(settings.prompts.values()):
        return list(layers)
    return [replace(layer, prompt=True) if isinstance(layer, Pool) else layer for layer in layers]


def _require_result(found: SentenceModules, modules: Sequence[Module], folder: Path) -> None:
    """Refuse modules whose end is no embedding, or no scores where it is a cross-encoder."""
    crosses, options = found.settings.crosses, found.options
    classifies = options.classifies or (crosses and not found.layers)
    names = " -> ".join(module.name for module in modules)
    if classifies and (found.layers or not crosses):
        raise UnsupportedError(
            "{folder}: its modules are {modules}, and the transformer's own head classifies "
            "(sentence_bert_config.json); bertonnx exports that for a CrossEncoder of this one module",
            folder=folder,
            modules=names,
        )
    kind = KINDS[found.settings.kind]
    if kind.words != options.words:
        raise UnsupportedError(
            "{folder} is a {kind}, and its transformer gives {given} for each token, where {wanted} are "
            "wanted; correct transformer_task in sentence_bert_config.json",
            folder=folder,
            kind=found.settings.kind,
            given=_GIVEN[options.words],
            wanted=_GIVEN[kind.words],
        )
    handed, wanted = options.writes, SCORES if options.classifies else TOKENS
    if handed != wanted:
        raise UnsupportedError(
            "{folder}: sentence_bert_config.json has module_output_name {name}, and bertonnx exports "
            "{wanted}",
            folder=folder,
            name=handed,
            wanted=wanted,
        )
    if not classifies and kind.result not in [layer.writes for layer in found.layers]:
        raise CheckpointError(
            "{folder}: its modules are {modules}, and none of them writes {result}; add the one that is "
            "missing to modules.json ({hint})",
            folder=folder,
            modules=names,
            result=kind.result,
            hint=kind.hint,
        )
