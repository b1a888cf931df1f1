"""The interface of text-embeddings-inference, by the names of its paths."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertonnx import __version__
from bertonnx.errors import RowError
from bertonnx.runtime.rows import Array, Item
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.embedding import embedded, ids_of, inputs_of
from bertonnx.runtime.serving.errors import RefusedError, refusal_of
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.labels import ranked_labels
from bertonnx.runtime.serving.served import Replayed, Served, Side

__all__ = [
    "decode",
    "embed",
    "embed_all",
    "embed_sparse",
    "info",
    "predict",
    "side_of",
    "similarity",
    "tokenize",
]

_SIDES: tuple[Side, ...] = ("left", "right")

_MOST_IDS = 2**32


async def embed(call: Call) -> Response:
    """`POST /embed`."""
    fields = call.fields
    served = call.choose("embed")
    vectors = await embedded(
        call,
        served,
        ids_of(fields, "inputs") or inputs_of(fields, "inputs"),
        prompt=fields.text_or_none("prompt_name"),
        dimensions=fields.whole("dimensions"),
        normalize=fields.flag_or_none("normalize"),
        truncate=fields.flag_or_none("truncate"),
        side=side_of(fields),
    )
    return as_json(await call.listed(lambda start, stop: list(vectors[start:stop]), len(vectors)))


async def embed_sparse(call: Call) -> Response:
    """`POST /embed_sparse`: tokens that weigh something, the heaviest first."""
    fields = call.fields
    served, texts = call.choose("embed_sparse"), inputs_of(fields, "inputs")
    prompt = fields.text_or_none("prompt_name")
    found = await call.ask(
        served,
        lambda methods: methods.embed_sparse(texts, prompt=prompt),
        texts,
        truncate=fields.flag_or_none("truncate"),
        side=side_of(fields),
    )
    return as_json(
        [
            [
                {"index": number, "value": weight}
                for number, weight in zip(item["ids"].tolist(), item["weights"].tolist(), strict=True)
            ]
            for item in found
        ]
    )


async def embed_all(call: Call) -> Response:
    """`POST /embed_all`: a vector for each token."""
    fields = call.fields
    served, texts = call.choose("embed_tokens"), inputs_of(fields, "inputs")
    prompt = fields.text_or_none("prompt_name")
    found = await call.ask(
        served,
        lambda methods: methods.embed_tokens(texts, prompt=prompt),
        texts,
        truncate=fields.flag_or_none("truncate"),
        side=side_of(fields),
    )
    return as_json([np.ascontiguousarray(item["vectors"]) for item in found])


async def similarity(call: Call) -> Response:
    """`POST /similarity`: how near each sentence is to one, also as Hugging Face asks for it."""
    fields = call.fields
    inputs, parameters = fields.inside("inputs"), fields.inside("parameters")
    source, sentences = inputs.text("source_sentence"), inputs.texts("sentences")
    if not sentences:
        raise RefusedError("empty", "`inputs.sentences` is empty; give at least one text", "inputs.sentences")
    served = call.choose("embed")
    said, prompt = fields.flag_or_none("truncate"), parameters.text_or_none("prompt_name")

    def compare(methods: Replayed) -> Array:
        a, b = (methods.embed(texts, prompt=prompt) for texts in ([source], sentences))
        return methods.similarity(a, b)

    near = await call.ask(
        served,
        compare,
        [source, *sentences],
        truncate=parameters.flag_or_none("truncate") if said is None else said,
        side=side_of(parameters),
    )
    return as_json(near[0].tolist())


def side_of(fields: Fields) -> Side | None:
    """Return the end that is cut: "Left" or "Right", in any case."""
    asked = fields.text_or_none("truncation_direction")
    for side in _SIDES:
        if asked is not None and asked.lower() == side:
            return side
    if asked is not None:
        raise fields.refused("truncation_direction", "must be Left or Right")
    return None


async def predict(call: Call) -> Response:
    """`POST /predict`: labels of texts or pairs, best first."""
    fields = call.fields
    served = call.choose("classify")
    rows, single = _rows(fields)
    raw, truncate = fields.flag("raw_scores"), fields.flag_or_none("truncate")
    side = side_of(fields)
    # A model reads texts or pairs in one call.
    found: dict[int, Item] = {}
    for paired in (False, True):
        places = [place for place, row in enumerate(rows) if (len(row) > 1) == paired]
        texts = [rows[place][0] for place in places]
        pairs = [rows[place][1] for place in places] if paired else None
        if texts:
            items = await _classified(call, served, texts, pairs, raw=raw, truncate=truncate, side=side)
            found.update(zip(places, items, strict=True))
    answers = [ranked_labels(served.card, found[place]) for place in range(len(rows))]
    return as_json(answers[0] if single else answers)


async def _classified(
    call: Call,
    served: Served,
    texts: list[str],
    pairs: list[str] | None,
    *,
    raw: bool,
    truncate: bool | None,
    side: Side | None,
) -> list[Item]:
    def classify(methods: Replayed) -> list[Item]:
        return methods.classify(texts, pairs, raw_scores=raw)

    both = [*texts, *(pairs or ())]
    return await call.ask(served, classify, both, truncate=truncate, side=side)


def _rows(fields: Fields) -> tuple[list[list[str]], bool]:
    """Return texts and pairs, each as a list of one or two; and whether there is but one, by itself."""
    value: Any = fields.any("inputs")
    if isinstance(value, str):
        return [[value]], True
    if value == []:
        raise RefusedError("empty", "`inputs` is empty; give at least one text", "inputs")
    if not isinstance(value, list):
        raise fields.refused("inputs", "must be a text, a pair of texts, or a list of lists of them")
    # Two texts in a list are a pair there, and not two texts.
    if isinstance(value[0], str):
        if len(value) != 2:
            raise fields.refused(
                "inputs", "is a flat list, which is a pair of texts; write [[text], [text], ...] for several"
            )
        return [fields.all_texts("inputs", value)], True
    for place, row in enumerate(value):
        if not isinstance(row, list) or len(row) not in (1, 2):
            raise fields.refused(f"inputs.{place}", "must be a list of one or two texts")
        fields.all_texts(f"inputs.{place}", row)
    return value, False


async def tokenize(call: Call) -> Response:
    """`POST /tokenize`: tokens of whole texts, with their places in code points."""
    fields = call.fields
    served = call.served = call.named or next(iter(call.fleet))
    prompt = served.card.prompt_text(fields.text_or_none("prompt_name") or "")
    # With its prompt, as it reaches the model: places count from the prompt's beginning.
    texts = [prompt + text for text in inputs_of(fields, "inputs")]
    special = fields.flag("add_special_tokens", True)
    with served.admission.admitted(len(texts), sum(map(len, texts))):
        spelled = await call.apart(lambda: served.model.tokenizer.spelled(texts, add_special_tokens=special))
    return as_json([_tokens(text, one) for text, one in zip(texts, spelled, strict=True)])


def _tokens(text: str, encoding: Any) -> list[dict[str, Any]]:
    if isinstance(encoding, RowError):
        raise RefusedError("tokenizer", refusal_of(encoding).message)
    tokens: list[dict[str, Any]] = []
    parts = zip(encoding.ids, encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    for number, token, (start, stop), special in parts:
        if special:
            tokens.append({"id": number, "text": token, "special": True, "start": None, "stop": None})
        else:
            tokens.append(
                {"id": number, "text": text[start:stop], "special": False, "start": start, "stop": stop}
            )
    return tokens


async def decode(call: Call) -> Response:
    """`POST /decode`: texts of token ids."""
    fields = call.fields
    served = call.served = call.named or next(iter(call.fleet))
    skip = fields.flag("skip_special_tokens", True)
    rows = _ids(fields)
    tokenizer = served.model.tokenizer
    with served.admission.admitted(len(rows), sum(map(len, rows))):
        texts = await call.apart(lambda: [tokenizer.decode_ids(ids, skip) for ids in rows])
    return as_json(texts)


def _ids(fields: Fields) -> list[list[int]]:
    value: Any = fields.any("ids")
    if not isinstance(value, list):
        raise fields.refused("ids", "must be a list of token ids, or a list of such lists")
    if not value:
        raise RefusedError("empty", "`ids` is empty; give at least one id", "ids")
    rows = value if isinstance(value[0], list) else [value]
    for row in rows:
        if not isinstance(row, list) or not all(_is_id(number) for number in row):
            raise fields.refused("ids", "must be a list of token ids, or a list of such lists")
    return rows


def _is_id(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _MOST_IDS


async def info(call: Call) -> Response:
    """`GET /info`: what a model is, as text-embeddings-inference tells it."""
    served = call.served = call.named or next(iter(call.fleet))
    card, options = served.card, call.state.options
    return as_json(
        {
            "model_id": card.source.get("id") or served.name,
            "model_sha": card.source.get("revision") or card.weights_sha256 or None,
            "model_dtype": {"fp32": "float32", "fp16": "float16"}.get(card.precision, card.precision),
            "served_model_name": served.name,
            "model_type": _model_type(served),
            "max_concurrent_requests": options.max_queue,
            "max_input_length": served.model.max_length,
            "max_batch_tokens": options.max_queue * served.model.max_length,
            "max_client_batch_size": options.max_queue,
            "max_batch_requests": None,
            "auto_truncate": options.auto_truncate,
            "tokenization_workers": served.model.threads,
            "version": __version__,
            "sha": None,
            "docker_label": None,
            "task": card.task,
            "provider": served.model.provider,
        }
    )


def _model_type(served: Served) -> dict[str, Any]:
    card = served.card
    labels = dict(enumerate(card.labels))
    names = {str(place): label for place, label in labels.items()}
    named = {"id2label": names, "label2id": {label: place for place, label in labels.items()}}
    if served.task.pooled:
        return {"embedding": {"pooling": card.pooling}}
    if served.task.ranks:
        return {"reranker": named}
    return {"classifier" if served.task.labelled else served.task.method: named}
