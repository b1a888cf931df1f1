"""Golden examples: what `check` must find, and what it must not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import bertonnx
from bertonnx.errors import DriftError, ModelFileError, ProviderError, UsageError
from bertonnx.exporters.onnxgraph import files
from bertonnx.exporters.onnxgraph.files import load_proto, save_proto
from bertonnx.models.card import CARD_KEY, GOLDEN_KEY, TOKENIZER_KEY, lasting
from bertonnx.models.figures import as_json
from bertonnx.models.providers import PROVIDERS
from bertonnx.models.tasks import TASKS as ALL
from bertonnx.runtime import golden
from bertonnx.runtime.golden import check, sha256_text
from bertonnx.runtime.modelfile.modelfile import graph_sha256, read_model_file, weights_sha256
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.session import cpu
from bertonnx.runtime.session.cpu import CpuFeatures
from bertonnx.runtime.session.ort_session import OrtSession
from bertonnx.runtime.tokenization import TextTokenizer
from tests.checkpoints import edit_weights
from tests.fake_cuda import pretend_cuda
from tests.figures import INT8_FIGURES
from tests.tiny import save_tiny

TASKS = (
    "feature-extraction",
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
)

WORD = torch.tensor([301])
"""The one that weighs something."""


def _entry(model: onnx.ModelProto, key: str) -> Any:
    return next(item for item in model.metadata_props if item.key == key)


def _forge(path: Path) -> None:
    """Put hashes of what is really there on the card, as who changes a file on purpose would."""
    file = read_model_file(path)
    card = dataclasses.replace(
        file.card,
        weights_sha256=weights_sha256(path),
        graph_sha256=graph_sha256(path),
        tokenizer_sha256=sha256_text(file.tokenizer),
    )
    model = load_proto(path)
    _entry(model, CARD_KEY).value = card.to_json()
    entries = json.loads(_entry(model, GOLDEN_KEY).value)
    for entry in entries:
        if "outputs" in entry:
            entry["card"] = sha256_text(lasting(card.to_json()))
    _entry(model, GOLDEN_KEY).value = json.dumps(entries, ensure_ascii=False)
    save_proto(model, path)


def _with_weight(source: Path, target: Path, name: str, change: Callable[[Any], None]) -> Path:
    model = load_proto(source)
    tensor = next(tensor for tensor in model.graph.initializer if name in tensor.name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.raw_data = array.tobytes()
    save_proto(model, target)
    return target


def _with_tokenizer(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    model = load_proto(source)
    entry = _entry(model, TOKENIZER_KEY)
    rules = json.loads(entry.value)
    change(rules)
    entry.value = json.dumps(rules, ensure_ascii=False, separators=(",", ":"))
    save_proto(model, target)
    return target


@pytest.mark.parametrize("task", TASKS)
def test_an_untouched_file_passes_with_no_difference(task: str, exported: dict[str, Path]) -> None:
    report = check(exported[task], "cpu")
    assert report.examples >= 5
    assert report.max_abs_difference == 0.0
    assert report.tolerance >= 1e-4
    assert report.provider == "cpu"


def test_saving_again_without_a_change_passes(exported: dict[str, Path], tmp_path: Path) -> None:
    save_proto(load_proto(exported["fill-mask"]), tmp_path / "m.onnx")
    assert check(tmp_path / "m.onnx").max_abs_difference == 0.0


def _one_element(array: Any) -> None:
    array.ravel()[5] += 0.5


@pytest.mark.parametrize("task", TASKS)
def test_one_changed_element_of_one_weight(task: str, exported: dict[str, Path], tmp_path: Path) -> None:
    path = _with_weight(exported[task], tmp_path / "m.onnx", "LayerNorm.weight", _one_element)
    with pytest.raises(DriftError, match=r"the weights in .* changed after export \(SHA-256"):
        check(path)


def test_the_last_bit_of_one_weight(exported: dict[str, Path], tmp_path: Path) -> None:
    def last_bit(array: Any) -> None:
        flat = array.reshape(-1)
        flat[-1] = np.nextafter(flat[-1], np.float32(np.inf))

    path = _with_weight(exported["fill-mask"], tmp_path / "m.onnx", "LayerNorm.bias", last_bit)
    with pytest.raises(DriftError, match="weights"):
        check(path)


@pytest.mark.parametrize("task", TASKS)
def test_a_changed_weight_with_a_forged_card(task: str, exported: dict[str, Path], tmp_path: Path) -> None:
    path = _with_weight(exported[task], tmp_path / "m.onnx", "LayerNorm.weight", _one_element)
    _forge(path)
    with pytest.raises(DriftError, match=r"golden example 0 of .* comes out differently: largest difference"):
        check(path)


def test_not_a_bit_may_depend_on_texts_of_other_lengths(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrtSession.run_together

    def nearly(*given: Any) -> Any:
        return [np.nextafter(array, np.float32(9)) for array in real(*given)]

    monkeypatch.setattr(OrtSession, "run_together", nearly)
    with pytest.raises(DriftError, match="in one batch with texts of other lengths"):
        check(exported["text-classification"], "cpu")


def test_nan_is_never_a_small_difference(exported: dict[str, Path], tmp_path: Path) -> None:
    def not_a_number(array: Any) -> None:
        array.ravel()[0] = np.nan

    path = _with_weight(exported["feature-extraction"], tmp_path / "m.onnx", "LayerNorm.bias", not_a_number)
    _forge(path)
    with pytest.raises(DriftError, match="largest difference inf"):
        check(path)


def _keeps_case(rules: Any) -> None:
    rules["normalizer"]["lowercase"] = False


def _keeps_accents(rules: Any) -> None:
    rules["normalizer"]["strip_accents"] = False


def _swaps_pieces(rules: Any) -> None:
    vocabulary = rules["model"]["vocab"]
    vocabulary["the"], vocabulary["in"] = vocabulary["in"], vocabulary["the"]


def _other_normalizer(rules: Any) -> None:
    rules["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}


def _no_template(rules: Any) -> None:
    rules["post_processor"] = None


CHANGES = [_keeps_case, _keeps_accents, _swaps_pieces, _other_normalizer, _no_template]


@pytest.mark.parametrize("change", CHANGES)
def test_one_changed_rule_of_the_tokenizer(
    change: Callable[[Any], None], exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _with_tokenizer(exported["text-classification"], tmp_path / "m.onnx", change)
    with pytest.raises(DriftError, match=r"the tokenizer in .* changed after export"):
        check(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_rule_with_a_forged_card(
    change: Callable[[Any], None], exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _with_tokenizer(exported["text-classification"], tmp_path / "m.onnx", change)
    _forge(path)
    with pytest.raises(DriftError, match=r"golden example \d+ is tokenized differently than at export"):
        check(path)


def test_changed_numbers_in_the_golden_examples(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["fill-mask"])
    entry = _entry(model, GOLDEN_KEY)
    golden = json.loads(entry.value)
    examples = [entry for entry in golden if "outputs" in entry]
    examples[-1]["outputs"]["logits"][7] += 0.01
    entry.value = json.dumps(golden)
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(DriftError, match=f"golden example {len(examples) - 1} of"):
        check(tmp_path / "m.onnx")


@pytest.mark.parametrize("numbers", [[], [0.0]])
def test_fewer_golden_numbers_are_no_agreement(
    numbers: list[float], exported: dict[str, Path], tmp_path: Path
) -> None:
    model = load_proto(exported["fill-mask"])
    entry = _entry(model, GOLDEN_KEY)
    golden = json.loads(entry.value)
    golden[0]["outputs"]["logits"] = numbers
    entry.value = json.dumps(golden)
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(DriftError, match="golden example 0"):
        check(tmp_path / "m.onnx")


def test_no_golden_examples(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["fill-mask"])
    _entry(model, GOLDEN_KEY).value = "[]"
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="carries no golden examples; export the checkpoint again"):
        check(tmp_path / "m.onnx")


def _with_card(source: Path, target: Path, **changes: Any) -> Path:
    model = load_proto(source)
    entry = _entry(model, CARD_KEY)
    entry.value = json.dumps(json.loads(entry.value) | changes)
    save_proto(model, target)
    _forge(target)
    return target


def test_an_unknown_precision(exported: dict[str, Path], tmp_path: Path) -> None:
    _with_card(exported["fill-mask"], tmp_path / "m.onnx", precision="fp7")
    with pytest.raises(ModelFileError, match="precision fp7"):
        check(tmp_path / "m.onnx")


def test_an_unknown_provider(exported: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="provider='tpu' is unknown; it can be auto, cpu, cuda"):
        check(exported["fill-mask"], "tpu")


@pytest.mark.parametrize("task", TASKS)
def test_what_an_example_holds(task: str, exported: dict[str, Path]) -> None:
    file = read_model_file(exported[task])
    lengths = {len(example["ids"]) for example in file.golden}
    assert len(lengths) >= 4
    assert max(lengths) == file.card.max_length  # one that is cut
    for example in file.golden:
        assert set(example) - {"batch"} == {"card", "text", "pair", "ids", "outputs"}
        assert (example["pair"] is not None) == (task == "question-answering")
        assert set(example["outputs"]) == set(file.card.outputs)
        assert all(0 < len(numbers) <= 1024 for numbers in example["outputs"].values())


# One batch, and texts by their ids ----------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_several_examples_of_one_length_run_as_one_batch(task: str, exported: dict[str, Path]) -> None:
    batch = [example for example in read_model_file(exported[task]).golden if example.get("batch")]
    assert len(batch) >= 3
    assert len({len(example["ids"]) for example in batch}) == 1
    assert len({tuple(example["ids"]) for example in batch}) == len(batch)
    assert check(exported[task], "cpu").batch == len(batch)


def _mixed(source: Path, target: Path, output: str) -> Path:
    """Give every row of a batch the mean of all rows, as a graph does that confused its axes."""
    model = load_proto(source)
    (node,) = [node for node in model.graph.node if output in node.output]
    node.output[list(node.output).index(output)] = "own"
    zero = numpy_helper.from_array(np.array([0], np.int64), "first_axis")
    nothing = numpy_helper.from_array(np.array(0, np.float32), "nothing")
    model.graph.initializer.extend([zero, nothing])
    model.graph.node.extend(
        [
            onnx.helper.make_node("ReduceMean", ["own", "first_axis"], ["mean"], keepdims=1),
            onnx.helper.make_node("Mul", ["own", "nothing"], ["zeros"]),
            onnx.helper.make_node("Add", ["zeros", "mean"], [output]),
        ]
    )
    save_proto(model, target)
    _forge(target)
    return target


@pytest.mark.parametrize(
    ("task", "output"), [("feature-extraction", "sentence_embedding"), ("question-answering", "end_logits")]
)
def test_rows_that_a_graph_mixes_up(
    task: str, output: str, exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _mixed(exported[task], tmp_path / "m.onnx", output)
    with pytest.raises(DriftError, match=r"the batch of golden examples .* comes out differently") as caught:
        check(path, "cpu")
    assert f"in {output}" in str(caught.value)


def _zeroed(source: Path, target: Path, output: str) -> Path:
    """Let a head give zeros, as one does whose weights were lost."""
    model = load_proto(source)
    (node,) = [node for node in model.graph.node if output in node.output]
    node.output[list(node.output).index(output)] = "own"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["own", "nothing"], [output]))
    save_proto(model, target)
    _forge(target)
    return target


@pytest.mark.parametrize(
    ("task", "output"),
    [(task.name, output) for task in ALL for output in task.outputs],
)
def test_a_head_that_is_dead(task: str, output: str, exported: dict[str, Path], tmp_path: Path) -> None:
    path = _zeroed(exported[task], tmp_path / "m.onnx", output)
    with pytest.raises(DriftError, match="comes out differently: largest difference"):
        check(path, "cpu")


@pytest.mark.parametrize("options", [{}, {"quantize": True}])
def test_a_head_that_is_dead_where_most_of_its_numbers_are_zero(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is evenly spread over thirty thousand words meets none of the few that weigh something."""
    monkeypatch.setattr(golden, "_NUMBERS", 8)
    folder = save_tiny(tmp_path / "folder", "bert", "fill-mask")

    def one_word(tensors: dict[str, Any]) -> dict[str, Any]:
        bias = tensors["cls.predictions.bias"]
        return {**tensors, "cls.predictions.bias": bias.new_full(bias.shape, -100).index_fill_(0, WORD, 1)}

    edit_weights(folder, one_word)
    sound = bertonnx.export(folder, tmp_path / "sound.onnx", task="sparse-embedding", **options).path
    assert max(_numbers(sound, "sparse_embedding")) == 0
    assert check(sound, "cpu").tolerance > 0
    with pytest.raises(DriftError, match="in sparse_embedding"):
        check(_zeroed(sound, tmp_path / "dead.onnx", "sparse_embedding"), "cpu")


@pytest.mark.parametrize(
    "largest", [[], {"sparse_embedding": {"places": [1], "numbers": []}}, {"sparse_embedding": [1]}]
)
def test_largest_numbers_that_are_none(largest: Any, exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["sparse-embedding"])
    entry = _entry(model, GOLDEN_KEY)
    examples = json.loads(entry.value)
    examples[0]["largest"] = largest
    entry.value = json.dumps(examples)
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="damaged golden examples"):
        check(tmp_path / "m.onnx")


def test_a_hundred_short_texts_are_there_by_their_ids(exported: dict[str, Path]) -> None:
    file = read_model_file(exported["fill-mask"])
    assert len(file.hard_texts) >= 100
    assert max(len(text) for text, _ in file.hard_texts) <= 80
    tokenizer = TextTokenizer(file.tokenizer, file.card)
    for text, ids in file.hard_texts:
        (encoded,) = tokenizer.encode([Row(text)])
        assert isinstance(encoded, Encoded)
        assert encoded.pieces[0].ids.tolist() == ids
    assert check(file.path).texts == len(file.hard_texts)
    size = sum(len(json.dumps(entry, ensure_ascii=False)) for entry in file.hard_texts)
    assert size < 20_000


def _other_word(rules: Any) -> None:
    rules["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Replace", "pattern": {"String": "running"}, "content": "ran"},
            rules["normalizer"],
        ],
    }


def _no_control_characters(rules: Any) -> None:
    rules["normalizer"]["clean_text"] = False


@pytest.mark.parametrize("change", [_other_word, _no_control_characters])
def test_a_changed_rule_that_only_hard_texts_show(
    change: Callable[[Any], None], exported: dict[str, Path], tmp_path: Path
) -> None:
    path = _with_tokenizer(exported["text-classification"], tmp_path / "m.onnx", change)
    _forge(path)
    with pytest.raises(DriftError, match=r"\d+ of \d+ texts in .* are tokenized differently than at export"):
        check(path)


def test_files_of_format_1_have_neither(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["text-classification"])
    card = json.loads(_entry(model, CARD_KEY).value)
    for name in ("files", "saved_by", "prompts", "default_prompt", "pooled_prompt"):
        card.pop(name)
    _entry(model, CARD_KEY).value = json.dumps({**card, "format": 1, "prefix": ""})
    entries = [e for e in json.loads(_entry(model, GOLDEN_KEY).value) if "outputs" in e and "batch" not in e]
    digest = sha256_text(_entry(model, CARD_KEY).value)
    _entry(model, GOLDEN_KEY).value = json.dumps([{**entry, "card": digest} for entry in entries])
    save_proto(model, tmp_path / "old.onnx")
    report = check(tmp_path / "old.onnx", "cpu")
    assert (report.examples, report.batch, report.texts) == (len(entries), 0, 0)
    with bertonnx.load(tmp_path / "old.onnx") as old, bertonnx.load(exported["text-classification"]) as new:
        assert old.predict(["Ada"]) == new.predict(["Ada"])


@pytest.mark.parametrize("task", ["feature-extraction", "question-answering"])
def test_replayed_on_cuda_with_its_own_tolerance(
    task: str, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = check(exported[task], "cpu")
    assert cpu.placement is None
    pretend_cuda(monkeypatch)
    report = check(exported[task], "cuda")
    assert report.provider == "cuda"
    # That of the output that came closest to its limit, which need not be the same.
    golden = read_model_file(exported[task]).golden
    largest = {
        name: max(float(np.abs(example["outputs"][name]).max()) for example in golden)
        for name in golden[0]["outputs"]
    }
    limits = [1e-3 * max(1.0, size) for size in largest.values()]
    assert any(report.tolerance == pytest.approx(limit, rel=1e-5) for limit in limits)
    assert report.placement is not None
    assert report.placement.nodes > report.placement.on_cpu > 0


def test_fp32_on_cuda_is_within_a_thousandth() -> None:
    assert PROVIDERS["cuda"].tolerances["fp32"] == 1e-3
    assert PROVIDERS["cpu"].tolerances["fp32"] == 1e-4


def test_loading_and_checking_refuse_a_cpu_that_would_saturate_in_one_way(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: CpuFeatures("x86_64", "Milan", ("avx2",), known=True))
    path = _with_card(exported["fill-mask"], tmp_path / "m.onnx", quantization=as_json(INT8_FIGURES))
    said = []
    for use in (check, bertonnx.load):
        with pytest.raises(ProviderError, match="can saturate") as caught:
            use(path)
        said.append(str(caught.value))
    assert said[0] == said[1]
    pretend_cuda(monkeypatch)
    assert check(path, "cuda").provider == "cuda"  # where nothing saturates, the same file runs


def test_swapped_labels(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["text-classification"])
    card = json.loads(_entry(model, CARD_KEY).value)
    card["labels"] = card["labels"][::-1]
    _entry(model, CARD_KEY).value = json.dumps(card, ensure_ascii=False)
    save_proto(model, tmp_path / "swapped.onnx")
    with pytest.raises(DriftError, match=r"the card in .* changed after export"):
        check(tmp_path / "swapped.onnx")


def _with_numbers(path: Path, output: str, change: Callable[[float], float]) -> None:
    """Change the golden numbers of one output."""
    model = load_proto(path)
    entry = _entry(model, GOLDEN_KEY)
    examples = json.loads(entry.value)
    for example in (example for example in examples if "outputs" in example):
        example["outputs"][output] = [change(number) for number in example["outputs"][output]]
    entry.value = json.dumps(examples)
    save_proto(model, path)


@pytest.fixture
def embedder(exported: dict[str, Path], tmp_path: Path) -> Path:
    """Return an embedding model that passes with the wide tolerance of INT8."""
    path = _with_card(exported["feature-extraction"], tmp_path / "m.onnx", precision="int8")
    assert check(path, "cpu").max_abs_difference == 0.0
    return path


def _times(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let every output come out multiplied."""
    run = golden._run
    monkeypatch.setattr(
        golden, "_run", lambda *given: {name: factor * array for name, array in run(*given).items()}
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_small_numbers_may_not_be_zero(
    precision: str, embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _with_card(embedder, tmp_path / "small.onnx", precision=precision)
    for output in ("sentence_embedding", "last_hidden_state"):  # below 0.05, as of a normalized embedding
        _with_numbers(path, output, lambda number: number / 100)
    with monkeypatch.context() as same:
        _times(same, 0.01)
        assert check(path, "cpu").max_abs_difference < 1e-6
    _times(monkeypatch, 0.0)
    with pytest.raises(DriftError, match="comes out differently"):
        check(path, "cpu")


def _numbers(path: Path, output: str) -> list[float]:
    examples = read_model_file(path).golden
    return [abs(number) for example in examples for number in example["outputs"][output]]


def test_one_output_does_not_loosen_another(embedder: Path) -> None:
    small = max(_numbers(embedder, "sentence_embedding"))
    large = max(_numbers(embedder, "last_hidden_state"))
    assert small < large
    off = 0.05 * (small + large) / 2
    _with_numbers(embedder, "sentence_embedding", lambda number: number - off * (number > 0))
    with pytest.raises(DriftError, match="in sentence_embedding"):
        check(embedder, "cpu")


def test_the_report_is_of_the_output_closest_to_its_limit(embedder: Path) -> None:
    embedding, hidden = (
        max(_numbers(embedder, name)) for name in ("sentence_embedding", "last_hidden_state")
    )
    _with_numbers(embedder, "sentence_embedding", lambda number: number + 0.02 * embedding)
    _with_numbers(embedder, "last_hidden_state", lambda number: number + 0.01 * hidden)
    report = check(embedder, "cpu")
    assert report.max_abs_difference == pytest.approx(0.02 * embedding, rel=1e-3)
    assert report.tolerance == pytest.approx(0.05 * max(_numbers(embedder, "sentence_embedding")))


def test_fp32_keeps_an_absolute_tolerance_for_small_numbers(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    save_proto(load_proto(exported["text-classification"]), path)
    _with_numbers(path, "scores", lambda number: number + 9e-5)
    report = check(path, "cpu")
    assert report.max_abs_difference == pytest.approx(9e-5, rel=1e-2)
    assert report.tolerance == 1e-4


def test_an_infinite_golden_number_allows_nothing(exported: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_proto(load_proto(exported["fill-mask"]), path)
    _with_numbers(path, "logits", lambda number: float("inf") if number > 1 else number)
    with pytest.raises(ModelFileError, match="it holds Infinity, which is no number"):
        check(path, "cpu")


def test_an_example_that_cannot_be_tokenized(exported: dict[str, Path], tmp_path: Path) -> None:
    model = load_proto(exported["question-answering"])
    entry = _entry(model, GOLDEN_KEY)
    examples = json.loads(entry.value)
    examples[1]["text"] = "Who? " * 200  # leaves no room for the context
    entry.value = json.dumps(examples)
    save_proto(model, tmp_path / "m.onnx")
    with pytest.raises(
        ModelFileError, match=r"golden example 1 of .* cannot be tokenized .*export the check"
    ):
        check(tmp_path / "m.onnx", "cpu")


def test_a_changed_graph_is_seen_even_where_no_example_shows_it(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    """Examples run one by one, and an axis or a limit may matter for more than one text alone."""
    source = exported["text-classification"]
    card = read_model_file(source).card
    assert card.graph_sha256 == graph_sha256(source)

    def removed(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Gather")
        node.attribute.add(name="axis", type="INT", i=0)  # the default, so that all answers stay

    def swapped(model: onnx.ModelProto) -> None:
        model.opset_import[0].version += 1

    for change in (removed, swapped):
        model = load_proto(source)
        change(model)
        save_proto(model, tmp_path / "m.onnx")
        assert weights_sha256(tmp_path / "m.onnx") == card.weights_sha256
        with pytest.raises(DriftError, match=r"the graph in .* changed after export"):
            bertonnx.check(tmp_path / "m.onnx")


def test_the_graphs_hash_is_the_same_wherever_the_weights_lie(
    exported: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = exported["text-classification"]
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 1000)
    save_proto(load_proto(source), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").is_file()
    assert graph_sha256(tmp_path / "m.onnx") == graph_sha256(source)
