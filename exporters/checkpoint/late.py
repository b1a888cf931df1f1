"""Many vectors for a text: what projects the vectors of tokens, and how queries and documents are read.

Three kinds of folder say it in their own ways: those of PyLate and of Sentence-Transformers'
MultiVectorEncoder in their modules and settings, and those of Stanford's ColBERT (`exporters.checkpoint
.stanford`). Read as `MultiVectorEncoder` does in sentence-transformers 6.2
(multi_vector_encoder/model.py), and `ColBERT` in PyLate 1.6 (pylate/models/colbert.py).
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.embedding import Embedding, require_unpooled
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.sentence_kinds import COLBERT
from bertonnx.exporters.checkpoint.sentence_layers import TOKENS, Dense, Layer, Normalize, Skip, widths
from bertonnx.exporters.checkpoint.sentence_transformers import SentenceModules
from bertonnx.exporters.checkpoint.source import Source
from bertonnx.exporters.checkpoint.stanford import WEIGHT, is_stanford, read_stanford
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts
from bertonnx.exporters.options import ExportOptions
from bertonnx.models.retrieval import DOCUMENT, QUERY, LateInteraction, Side
from bertonnx.models.tasks import Task
from bertonnx.wording import Message

__all__ = ["SidePlan", "planned_late"]

_USUAL_QUERY = 32
"""Tokens of a query where a folder that fills them up does not say how many."""


@dataclass(frozen=True)
class SidePlan:
    """How queries, or documents, are read, as the checkpoint says it: tokens by their names.

    Attributes:
        max_length: longest input in tokens; None for the model's.
        marker: what is put behind the first token; empty for nothing.
        expanded: it is filled up to so many tokens; None where it is not.
        filler: with this token; None for the mask token.
        attended: whether other tokens attend to those.
        skipped: tokens whose vectors are left out.
    """

    max_length: int | None = None
    marker: str = ""
    expanded: int | None = None
    filler: str | None = None
    attended: bool = False
    skipped: tuple[str, ...] = ()


def planned_late(
    row: Task,
    modules: SentenceModules | None,
    options: ExportOptions,
    config: Any,
    *,
    source: Source,
    account: Account,
) -> Embedding:
    """Return how token vectors become those that are compared.

    Args:
        row: the task.
        modules: of a folder of Sentence-Transformers or PyLate; None for another checkpoint.
        options: what the user asks for.
        config: the encoder's `PretrainedConfig`.
        source: of the checkpoint.
        account: takes down keys that nothing reads.

    Raises:
        UsageError: the user asks for what the task does not have.
        UnsupportedError: nothing in the folder projects vectors of tokens, or as bertonnx does not.
        CheckpointError: the modules do not fit together, or say what cannot be.
    """
    require_unpooled(row, options)
    if modules is not None:
        layers, sides, mean = _of_modules(modules, account)
    elif is_stanford(config):
        stanford = read_stanford(source, account)
        layers = (
            Dense(weight=stanford.weight, bias=None, activation="none", reads=TOKENS, writes=TOKENS),
            _UNIT,
        )
        sides, mean = _of_metadata(stanford.metadata), False
    else:
        raise UnsupportedError(
            "{source} cannot be exported for {task}: it has no weights that project vectors of tokens; "
            "what can are folders of Sentence-Transformers' MultiVectorEncoder, of PyLate and of Stanford's "
            "ColBERT",
            source=source.id,
            task=row.name,
        )
    width = widths(layers, config.hidden_size, folder=source.folder)[TOKENS]
    lengths = [side.max_length for side in sides.values()]
    known = [length for length in lengths if length is not None]
    return Embedding(
        layers=layers,
        late=partial(
            _resolved,
            sides,
            width=width,
            mean=mean,
            asked=options.max_length is not None,
            reach=_reach(config),
        ),
        longest=max(known) if len(known) == len(lengths) else None,
        default_prompt=DOCUMENT,
        used=() if modules is not None else (WEIGHT,),
        notes=(_note(layers, sides, width),),
    )


_UNIT = Normalize(reads=TOKENS, writes=TOKENS)


def _of_modules(
    modules: SentenceModules, account: Account
) -> tuple[tuple[Layer, ...], Mapping[str, SidePlan], bool]:
    """Return the layers of a folder, how its sides are read, and whether scores are means."""
    settings, options = modules.settings, modules.options
    said = dict(settings.late)
    masks = [layer for layer in modules.layers if isinstance(layer, Skip)]
    layers = tuple(layer for layer in modules.layers if not isinstance(layer, Skip))
    if settings.kind == COLBERT:
        # PyLate's list ends with the projection; what follows is done without being listed.
        words = said.get("skiplist_words")
        masks = masks or [Skip(words=tuple(string.punctuation if words is None else map(str, words)))]
        layers = (*layers, _UNIT)
        said = {
            "query_length": _USUAL_QUERY,
            "document_length": 180,
            "query_prefix": "[Q] ",
            "document_prefix": "[D] ",
        } | {key: value for key, value in said.items() if value is not None}
    expansion = _expansion(options.expansion, said, masks, account)
    skipped = {
        name: tuple(word for mask in masks if name in mask.sides for word in mask.words)
        for name in (QUERY, DOCUMENT)
    }
    query_length, document_length = (
        said.get(key) if own is None else own
        for key, own in (("query_length", options.query_length), ("document_length", options.document_length))
    )
    sides = {
        QUERY: SidePlan(
            max_length=_count("query_length", expansion.get("most", query_length)),
            marker=str(said.get("query_prefix") or ""),
            expanded=_count("query_expansion", expansion.get("length")),
            filler=expansion.get("token"),
            attended=bool(expansion.get("attend")),
            skipped=skipped[QUERY],
        ),
        DOCUMENT: SidePlan(
            max_length=_count("document_length", document_length),
            marker=str(said.get("document_prefix") or ""),
            skipped=skipped[DOCUMENT],
        ),
    }
    return layers, sides, str(settings.similarity).lower() == "meanmaxsim"


_STRATEGIES = ("fixed", "min")
_EXPANSION_KEYS = frozenset({"strategy", "attend", "token", "length"})


def _expansion(
    given: Mapping[str, Any] | None, said: Mapping[str, Any], masks: Sequence[Skip], account: Account
) -> Mapping[str, Any]:
    """Return how queries are filled up: `length`, `attend`, `token`, and `most` where that cuts them."""
    given = given if given is not None else said.get("query_expansion")
    if (
        given is None
        and said
        and "query_expansion" not in said
        and said.get("do_query_expansion") is not False
    ):
        attend = said.get("attend_to_expansion_tokens", said.get("attend_to_mask_tokens"))
        given = {"strategy": "fixed", "attend": attend, "length": said.get("query_length") or _USUAL_QUERY}
    if given is None:
        return {}
    if not isinstance(given, Mapping) or given.get("strategy") not in _STRATEGIES:
        raise CheckpointError(
            "sentence_bert_config.json has query_expansion {given!r}, whose strategy is none of {known}; "
            "correct it",
            given=given,
            known=", ".join(_STRATEGIES),
        )
    for key in sorted(set(given) - _EXPANSION_KEYS):
        account.refuse(
            "sentence_bert_config.json",
            f"query_expansion.{key}",
            given[key],
            "which Sentence-Transformers does not read",
        )
    # Without this module the library attends to them, or not, and scores none of them.
    if not masks and not given.get("attend"):
        return {}
    return {**given, **({"most": given["length"]} if given["strategy"] == _STRATEGIES[0] else {})}


def _of_metadata(said: Mapping[str, Any]) -> Mapping[str, SidePlan]:
    """Return how Stanford's ColBERT reads queries and documents."""
    length = _count("query_maxlen", said.get("query_maxlen") or _USUAL_QUERY)
    skipped = tuple(string.punctuation) if said.get("mask_punctuation", True) else ()
    return {
        QUERY: SidePlan(
            max_length=length,
            marker=str(said.get("query_token_id") or "[unused0]"),
            expanded=length,
            attended=bool(said.get("attend_to_mask_tokens")),
        ),
        DOCUMENT: SidePlan(
            max_length=_count("doc_maxlen", said.get("doc_maxlen")),
            marker=str(said.get("doc_token_id") or "[unused1]"),
            skipped=skipped,
        ),
    }


def _count(key: str, value: Any) -> int | None:
    if value is None or (type(value) is int and value > 3):
        return value
    raise CheckpointError(
        "the checkpoint has {key} {value!r}, which leaves no room for text; correct it", key=key, value=value
    )


def _resolved(
    sides: Mapping[str, SidePlan],
    tokenizer: TokenizerFacts,
    longest: int,
    *,
    width: int,
    mean: bool,
    asked: bool,
    reach: int | None,
) -> LateInteraction:
    """Return how sides are read, tokens by their ids.

    Args:
        sides: as the checkpoint says it.
        tokenizer: has the tokens.
        longest: input in tokens.
        width: of a vector.
        mean: whether scores are means.
        asked: whether the user chose the longest input, which then is that of documents.
        reach: as of `_reach`.

    Raises:
        CheckpointError: the tokenizer has no such token.
        UnsupportedError: queries are filled up on the left, or beyond what every layer sees of them.
    """
    vocabulary = Tokenizer.from_str(tokenizer.text)
    found = {name: _side(side, vocabulary, tokenizer) for name, side in sides.items()}
    if asked:
        found[DOCUMENT] = Side(**{**vars(found[DOCUMENT]), "max_length": None})
    if any(side.expanded is not None and side.expanded > longest for side in found.values()):
        raise CheckpointError(
            "queries are filled up to {length} tokens, and the model takes {longest}; correct the length",
            length=found[QUERY].expanded,
            longest=longest,
        )
    _require_seen(found[QUERY], len(vocabulary.encode("").ids), reach)
    return LateInteraction(width, found, mean)


def _reach(config: Any) -> int | None:
    """Return how far to each side some layers see; None where all see the whole text."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return int(config.sliding_window) if "sliding_attention" in kinds else None
    # Version 4 has of ModernBERT the width of both sides, and which layers are not local.
    width = getattr(config, "local_attention", None)
    return None if width is None or config.global_attn_every_n_layers == 1 else int(width) // 2


def _require_seen(query: Side, special: int, reach: int | None) -> None:
    """Refuse fillers that see no token of a short query in some layers.

    There PyTorch's fused attention gives nothing, and any other the mean of all that must not be seen: the
    library's own answer depends on which of them is used.
    """
    if query.expanded is None or query.attended or reach is None:
        return
    most = reach + special + (query.marker is not None)
    if query.expanded > most:
        raise UnsupportedError(
            "queries are filled up to {length} tokens that none attends to, and some layers of this model "
            "see {reach} tokens to each side: what they make of a token that sees nothing depends on how "
            "attention is computed; what can be exported is a query_length of at most {most}",
            length=query.expanded,
            reach=reach,
            most=most,
        )


def _side(side: SidePlan, vocabulary: Tokenizer, tokenizer: TokenizerFacts) -> Side:
    if side.expanded and tokenizer.padding_side == "left":
        raise UnsupportedError(
            "the tokenizer pads on the left, and queries that are filled up there cannot be exported; "
            "correct padding_side in tokenizer_config.json"
        )
    filler = tokenizer.mask_token if side.filler is None else side.filler
    # A word that is no single token is never met as one.
    ids = (vocabulary.token_to_id(word) for word in side.skipped)
    return Side(
        max_length=side.max_length,
        marker=_marker(side.marker, vocabulary),
        expanded=side.expanded,
        filler=_required(filler, vocabulary, "fills queries up") if side.expanded else 0,
        attended=side.attended,
        skipped=tuple(sorted({number for number in ids if number is not None})),
    )


def _marker(text: str, vocabulary: Tokenizer) -> int | None:
    if not text.strip():
        return None
    # PyLate keeps "[Q] " with its space as one token, others the token and a space behind it.
    whole = vocabulary.token_to_id(text)
    return int(whole) if whole is not None else _required(text.split()[0], vocabulary, "marks a side")


def _required(token: str | None, vocabulary: Tokenizer, what: str) -> int:
    number = None if token is None else vocabulary.token_to_id(token)
    if number is None:
        raise CheckpointError(
            "the tokenizer has no token {token!r}, which {what}; put the checkpoint's own tokenizer in its "
            "place",
            token=token or "[MASK]",
            what=what,
        )
    return int(number)


def _note(layers: Sequence[Layer], sides: Mapping[str, SidePlan], width: int) -> Message:
    query, document = sides[QUERY], sides[DOCUMENT]
    return Message(
        "a vector of {width} numbers for each token, {unit}; queries {query}, documents {document}",
        width=width,
        unit="normalized" if any(isinstance(layer, Normalize) for layer in layers) else "not normalized",
        query=f"are filled up to {query.expanded} tokens" if query.expanded else "are not filled up",
        document=f"leave out {len(document.skipped)} tokens" if document.skipped else "leave out nothing",
    )
