"""Write what Python makes of texts: `python identity.py MODEL TEXTS.jsonl OUT.json`."""

# ruff: noqa: PTH123

import json
import sys

import numpy as np

import bertonnx


def main() -> None:
    path, texts_path, out = sys.argv[1:]
    with open(texts_path, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    model = bertonnx.load(path, provider="cpu")
    found = {
        "feature-extraction": embedded,
        "text-classification": classified,
        "token-classification": recognized,
        "question-answering": answered,
    }[model.card.task](model, texts)
    found["floats"] = np.array(found["floats"], dtype="<f4").tobytes().hex()
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file)


def embedded(model, texts):
    tokens = [
        (row, piece.ids[i], *piece.encoding.offsets[i])
        for row, encoded in enumerate(model.tokenize(texts), start=1)
        for piece in encoded.pieces
        for i in range(len(piece.ids))
    ]
    names = ("rows", "ids", "starts", "ends")
    columns = {
        name: [int(value) for value in values]
        for name, values in zip(names, zip(*tokens, strict=True), strict=True)
    }
    return {"floats": model.embed(texts).ravel().tolist(), **columns}


def classified(model, texts):
    items = model.classify(texts)
    return {
        "floats": [score for item in items for score in item["scores"].values()],
        "labels": [item["label"] for item in items],
    }


def recognized(model, texts):
    found = [
        (row, entity)
        for row, item in enumerate(model.entities(texts), start=1)
        for entity in item["entities"]
    ]
    return {
        "floats": [entity["score"] for _, entity in found],
        "labels": [entity["entity"] for _, entity in found],
        "rows": [row for row, _ in found],
        "starts": [entity["start"] for _, entity in found],
        "ends": [entity["end"] for _, entity in found],
    }


def answered(model, texts):
    items = model.answer(["Who lived where?"] * len(texts), texts)
    return {
        "floats": [item["score"] for item in items],
        "starts": [item["start"] for item in items],
        "ends": [item["end"] for item in items],
    }


if __name__ == "__main__":
    main()
