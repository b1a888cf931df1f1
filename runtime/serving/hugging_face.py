"""`POST /`, as huggingface_hub's `InferenceClient` asks: what is meant, the fields and the task tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from bertonnx.models.registry import resolve
from bertonnx.runtime.options import AGGREGATIONS, TEMPLATE
from bertonnx.runtime.rows import Item
from bertonnx.runtime.serving.call import Call
from bertonnx.runtime.serving.embedding import embedded, ids_of, inputs_of
from bertonnx.runtime.serving.errors import RefusedError
from bertonnx.runtime.serving.fields import Fields
from bertonnx.runtime.serving.fleet import serves
from bertonnx.runtime.serving.http import Response, as_json
from bertonnx.runtime.serving.labels import ranked_labels
from bertonnx.runtime.serving.rerank import either
from bertonnx.runtime.serving.served import Replayed, Served
from bertonnx.runtime.serving.tei import predict, side_of, similarity

__all__ = ["answers", "by_task", "embeddings", "entities", "items", "labels", "masks", "zero_shot"]

T = TypeVar("T")

Handler = Callable[[Call], Awaitable[Response]]

_OUTSIDE = "O"


async def by_task(call: Call) -> Response:
    """`POST /`: the first model that can serve what was sent."""
    fields = call.fields
    inputs = fields.any("inputs")
    # As text-embeddings-inference has it at its root.
    if "query" in fields and "inputs" not in fields:
        return await either(call)
    if "inputs" not in fields:
        raise fields.refused("inputs", "is missing")
    # What is inside says more of what is meant than any model's task.
    if isinstance(inputs, dict):
        if "question" in inputs:
            return await answers(call)
        if "source_sentence" in inputs:
            return await similarity(call)
        wanted = "must hold `question` and `context`, or `source_sentence` and `sentences`, or be a text"
        raise fields.refused("inputs", wanted)
    if "candidate_labels" in fields.inside("parameters"):
        return await zero_shot(call)
    served = _chosen(call)
    nested = isinstance(inputs, list) and any(isinstance(one, list) for one in inputs)
    if nested and serves(served, "classify"):
        return await predict(call)
    handler: Handler = resolve(served.task.hub)
    return await handler(call)


def _chosen(call: Call) -> Served:
    """Return the model whose task fits what was sent, the first on the command line of several."""
    fields = call.fields
    parameters = fields.inside("parameters")
    wanted = next((method for name, method in _HINTS.items() if name in fields or name in parameters), None)
    for served in call.fleet if call.named is None else (call.named,):
        if not served.card.needs_pair and (wanted is None or serves(served, wanted)):
            return served
    if wanted is not None:
        return call.choose(wanted)
    raise RefusedError("wrong_task", "no model here answers texts by themselves")


_HINTS: Mapping[str, str] = {
    "aggregation_strategy": "entities",
    "function_to_apply": "classify",
    "prompt_name": "embed",
    "normalize": "embed",
}
"""Fields that only one task has, and the method that serves it."""


async def embeddings(call: Call) -> Response:
    """Feature extraction: always a list of embeddings."""
    fields = _merged(call.fields)
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


async def labels(call: Call) -> Response:
    """Text classification: a list of labels for each text, always nested."""
    texts, parameters = _texts(call)
    parameters.only("top_k", "function_to_apply", *_CUT)
    served = call.choose("classify")
    top, raw = parameters.whole("top_k"), _is_raw(parameters, served)
    found = await call.ask(
        served,
        lambda methods: methods.classify(texts, raw_scores=raw),
        texts,
        truncate=_truncate(call, parameters),
    )
    return as_json([ranked_labels(served.card, item)[:top] for item in found])


def _is_raw(parameters: Fields, served: Served) -> bool:
    """Return whether logits are asked for; any other function must be the model's own."""
    function = parameters.choice("function_to_apply", ("none", "sigmoid", "softmax"))
    if function is None or function == served.card.activation:
        return False
    if function == "none":
        return True
    own = served.card.activation
    raise parameters.refused("function_to_apply", f"is {own} in this file; ask for that, or for none")


async def zero_shot(call: Call) -> Response:
    """Zero-shot classification: a list of the labels that were given, or one for each text of a list."""
    texts, parameters = _texts(call)
    parameters.only("candidate_labels", "multi_label", "hypothesis_template", *_CUT)
    served = call.choose("zero_shot")
    given = parameters.any("candidate_labels")
    # Older clients join them.
    labels = given.split(",") if isinstance(given, str) else parameters.texts("candidate_labels")
    labels = [label.strip() for label in labels] if isinstance(given, str) else labels
    template = parameters.text_or_none("hypothesis_template") or TEMPLATE
    several = parameters.flag("multi_label")
    found = await call.ask(
        served,
        lambda methods: methods.zero_shot(texts, labels, template=template, multi_label=several),
        [*texts, *labels],
        truncate=_truncate(call, parameters),
    )
    return _single(call, [ranked_labels(served.card, item) for item in found])


async def entities(call: Call) -> Response:
    """Token classification: a list of entities, or one for each text of a list."""
    texts, parameters = _texts(call)
    parameters.only("aggregation_strategy", "ignore_labels", *_CUT)
    served = call.choose("entities")
    how = parameters.choice("aggregation_strategy", AGGREGATIONS) or "simple"
    ignored = set(parameters.texts("ignore_labels")) if "ignore_labels" in parameters else {_OUTSIDE}
    if _OUTSIDE not in ignored:
        raise parameters.refused("ignore_labels", f"must hold {_OUTSIDE}, which is no entity")
    items = await call.ask(
        served,
        lambda methods: methods.entities(texts, aggregation=how),
        texts,
        truncate=_truncate(call, parameters),
    )
    name = "entity_group" if how != "none" else "entity"
    found = [
        [_entity(entity, name) for entity in item["entities"] if entity["entity"] not in ignored]
        for item in items
    ]
    return _single(call, found)


def _entity(entity: Item, name: str) -> dict[str, Any]:
    return {
        name: entity["entity"],
        "score": entity["score"],
        "word": entity["text"],
        "start": entity["start"],
        "end": entity["end"],
    }


async def answers(call: Call) -> Response:
    """Question answering: the best answer, or a list where several are asked for."""
    inputs = call.fields.inside("inputs")
    parameters = call.fields.inside("parameters")
    parameters.only("top_k", "handle_impossible_answer", "align_to_words", *_CUT)
    if not parameters.flag("align_to_words", True):
        raise parameters.refused("align_to_words", "must be true; answers are whole words here")
    served = call.choose("answer")
    question, context = inputs.text("question"), inputs.text("context")
    top, maybe = parameters.whole("top_k") or 1, parameters.flag("handle_impossible_answer")
    (item,) = await call.ask(
        served,
        lambda methods: methods.answer([question], [context], top_k=top, no_answer=maybe),
        [question, context],
        truncate=_truncate(call, parameters),
    )
    return as_json(item["answers"] if top > 1 else _without_mark(item))


async def masks(call: Call) -> Response:
    """Fill-mask: candidates for the mask, or a list of such lists for several masks."""
    texts, parameters = _texts(call)
    parameters.only("top_k", *_CUT)
    served = call.choose("fill_mask")
    top = parameters.whole("top_k") or served.task.candidates
    found = await call.ask(
        served,
        lambda methods: methods.fill_mask(texts, top_k=top),
        texts,
        truncate=_truncate(call, parameters),
    )
    filled = [[[_candidate(one) for one in mask] for mask in item["masks"]] for item in found]
    return _single(call, [masks[0] if len(masks) == 1 else masks for masks in filled])


def _candidate(candidate: Item) -> dict[str, Any]:
    return {
        "score": candidate["score"],
        "token": candidate["token_id"],
        "token_str": candidate["token"],
        "sequence": candidate["sequence"],
    }


async def items(call: Call) -> Response:
    """Any other task: what `Model.predict` gives for each text."""
    texts, parameters = _texts(call)
    served = call.choose("predict")

    def predict(methods: Replayed) -> list[Item]:
        return methods.predict(texts)

    return as_json(await call.ask(served, predict, texts, truncate=_truncate(call, parameters)))


_CUT = ("truncate", "truncation", "padding")
"""How texts are cut. What is padded makes no difference here."""


def _truncate(call: Call, parameters: Fields) -> bool | None:
    for fields, name in ((parameters, "truncate"), (call.fields, "truncate"), (parameters, "truncation")):
        if name in fields and isinstance(fields.any(name), bool):
            return fields.flag(name)
    return None


def _texts(call: Call) -> tuple[list[str], Fields]:
    return inputs_of(call.fields, "inputs"), call.fields.inside("parameters")


def _merged(fields: Fields) -> Fields:
    """Return fields with those of `parameters` beside them: clients of several versions send either."""
    inner = fields.inside("parameters")
    both = {name: inner.any(name) for name in inner.names}
    return Fields({**both, **{name: fields.any(name) for name in fields.names}})


def _single(call: Call, found: list[Any]) -> Response:
    return as_json(found[0] if isinstance(call.fields.any("inputs"), str) else found)


def _without_mark(item: Item) -> Item:
    return {name: value for name, value in item.items() if name != "truncated"}
