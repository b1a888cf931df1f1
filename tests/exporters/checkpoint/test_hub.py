"""Models of the Hub, through the real huggingface_hub against a stand-in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import BERT, make
from tests.hub import COMMIT, FakeHub, Repo, files_of, run_against, serving

NOBODY = "http://127.0.0.1:9"
"""The address of a Hub that is not there."""

OLD_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"

_TRY = """
import json
from bertonnx.errors import BertonnxError
from bertonnx.exporters.checkpoint.source import resolve
from bertonnx.exporters.options import Trust

def attempt(source, revision=None, **trust):
    try:
        found = resolve(source, revision, Trust(**trust))
    except BertonnxError as error:
        return [type(error).__name__, str(error)]
    answer = {"kind": found.kind, "revision": found.revision, "id": found.id, "files": names(found.folder)}
    adapter = found.adapter
    if adapter is not None:
        answer["base"] = [adapter.base_id, adapter.base_revision, names(adapter.base)]
    return answer

def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
"""


def calls_of(*models: str) -> list[str]:
    return [f"attempt('{model}')" for model in models]


def code(*calls: str) -> str:
    return _TRY + f"print(json.dumps([{', '.join(calls)}]))"


FILES = {
    "config.json": BERT,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "vocab.txt": b"a",
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": b"d",
    "model.safetensors": b"w",
    "pytorch_model.bin": b"p",
    "tf_model.h5": b"t",
    "onnx/model.onnx": b"o",
    "openvino/openvino_model.bin": b"v",
    "checkpoint-500/model.safetensors": b"c",
    "README.md": b"r",
}
WANTED = sorted(
    name
    for name in FILES
    if not name.startswith(("pytorch", "tf_", "onnx", "openvino", "checkpoint", "README"))
)


def adapter_of(base: str, revision: str | None, weights: str) -> dict[str, bytes]:
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "revision": revision}
    return {"adapter_config.json": json.dumps(settings).encode(), weights: b"a", "README.md": b"r"}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    """Serve on one port for all tests: processes are shared by those of one Hub and one cache."""
    with serving({}) as fake:
        yield fake


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub") / "home"


@pytest.fixture
def home(place: Path) -> Iterator[Path]:
    """Return the folder of the cache, empty."""
    yield place
    shutil.rmtree(place, ignore_errors=True)


def serve(server: FakeHub, repos: dict[str, Repo]) -> FakeHub:
    """Serve these and no others, as a Hub of which nothing was asked yet."""
    server.repos, server.down = repos, False
    server.requests.clear()
    return server


@pytest.fixture
def hub(server: FakeHub) -> FakeHub:
    remote = json.dumps({"model_type": "bert", "auto_map": {"AutoModel": "m.M"}}).encode()
    repos = {
        "org/good": Repo(
            {COMMIT: FILES, OLD_COMMIT: {"config.json": BERT, "model.safetensors": b"old"}},
            {"main": COMMIT, "v1": OLD_COMMIT},
        ),
        "org/gated": Repo({COMMIT: FILES}, gated=True),
        "org/private": Repo({COMMIT: FILES}, private=True),
        "org/pickle": Repo({COMMIT: {"config.json": BERT, "pytorch_model.bin": b"p"}}),
        "org/onnx": Repo({COMMIT: {"config.json": BERT, "onnx/model.onnx": b"o"}}),
        "org/adapter": Repo({COMMIT: adapter_of("org/good", "v1", "adapter_model.safetensors")}),
        "org/orphan": Repo({COMMIT: adapter_of("org/none", None, "adapter_model.safetensors")}),
        "org/pickled-adapter": Repo({COMMIT: adapter_of("org/good", None, "adapter_model.bin")}),
        "org/code": Repo({COMMIT: {"config.json": remote, "m.py": b"", "model.safetensors": b"w"}}),
        "org/gpt": Repo({COMMIT: {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"w"}}),
    }
    return serve(server, repos)


def test_a_model_is_resolved_once_to_a_commit(hub: FakeHub, home: Path) -> None:
    (main, tag, commit), _ = run_against(
        hub.endpoint,
        home,
        code(
            "attempt('org/good')",
            "attempt('org/good', revision='v1')",
            f"attempt('org/good', revision='{OLD_COMMIT}')",
        ),
    )
    assert main == {"kind": "hub", "revision": COMMIT, "id": "org/good", "files": WANTED}
    assert tag["revision"] == commit["revision"] == OLD_COMMIT
    assert tag["files"] == ["config.json", "model.safetensors"]
    resolved = [path for _, path, _ in hub.requests if "/resolve/" in path]
    assert all(f"/resolve/{COMMIT}/" in path or f"/resolve/{OLD_COMMIT}/" in path for path in resolved)


def test_what_the_hub_refuses(hub: FakeHub, home: Path) -> None:
    answers, stderr = run_against(
        hub.endpoint,
        home,
        code(
            "attempt('org/none')",
            "attempt('./no/such/folder')",
            "attempt('org/good', revision='nope')",
            "attempt('org/gated')",
            "attempt('org/private')",
        ),
    )
    missing, typo, revision, gated, private = answers
    for kind, _ in answers:
        assert kind == "SourceError"
    assert "no folder 'org/none' here, and no model 'org/none' on the Hub" in missing[1]
    assert hub.endpoint in missing[1]
    assert "there is no folder './no/such/folder' here" in typo[1]
    assert "cannot be the id of a model" in typo[1]
    assert "has no revision 'nope'" in revision[1]
    assert f"{hub.endpoint}/org/good/commits/main" in revision[1]
    assert "is gated: accept its terms" in gated[1]
    assert f"{hub.endpoint}/org/gated" in gated[1]
    assert "huggingface-cli login" in gated[1]
    assert "HF_TOKEN" in gated[1]
    assert "huggingface-cli login" in private[1]
    assert "Traceback" not in stderr


def test_a_token_opens_gated_and_private_models(hub: FakeHub, home: Path) -> None:
    answers, _ = run_against(
        hub.endpoint,
        home,
        code("attempt('org/gated')", "attempt('org/private')"),
        environment={"HF_TOKEN": "hf_secret"},
    )
    assert [answer["revision"] for answer in answers] == [COMMIT, COMMIT]


def test_what_is_refused_before_any_weight_is_downloaded(hub: FakeHub, home: Path) -> None:
    answers, stderr = run_against(
        hub.endpoint,
        home,
        code(
            "attempt('org/pickle')",
            "attempt('org/onnx')",
            "attempt('org/pickled-adapter')",
            "attempt('org/code')",
            "attempt('org/gpt')",
        ),
    )
    pickle, onnx, adapter, custom, gpt = answers
    assert "allow_pickle=True" in pickle[1]
    assert "only ONNX weights (onnx/model.onnx)" in onnx[1]
    assert "adapter_model.bin" in adapter[1]
    assert "trust_remote_code=True" in custom[1]
    assert gpt[0] == "UnsupportedError"
    assert set(hub.downloads()) == {"config.json"}
    # Nothing is reported home, and no bar is drawn into a pipe.
    assert not any("telemetry" in path for _, path, _ in hub.requests)
    assert not any("torch/" in agent for _, _, agent in hub.requests)
    assert stderr == ""


def test_consent_brings_pickles_and_code(hub: FakeHub, home: Path) -> None:
    (pickle, custom, both), _ = run_against(
        hub.endpoint,
        home,
        code(
            "attempt('org/pickle', allow_pickle=True)",
            "attempt('org/code', trust_remote_code=True)",
            "attempt('org/good', allow_pickle=True)",
        ),
    )
    assert pickle["files"] == ["config.json", "pytorch_model.bin"]
    assert custom["files"] == ["config.json", "m.py", "model.safetensors"]
    # Safetensors are preferred even where pickles are allowed.
    assert both["files"] == WANTED


def test_an_adapter_comes_with_its_base_model(hub: FakeHub, home: Path) -> None:
    calls = code("attempt('org/adapter')", "attempt('org/orphan')")
    found, _ = run_against(hub.endpoint, home, calls)
    hub.down = True
    cached, _ = run_against(hub.endpoint, home, code("attempt('org/adapter')"))
    for adapter in (found[0], cached[0]):
        assert adapter["files"] == ["adapter_config.json", "adapter_model.safetensors"]
        assert adapter["revision"] == COMMIT
        assert adapter["base"] == ["org/good", OLD_COMMIT, ["config.json", "model.safetensors"]]
    kind, said = found[1]
    assert kind == "SourceError"
    assert "org/orphan is a PEFT adapter of 'org/none', and that base model cannot be had" in said
    assert "no model 'org/none' on the Hub" in said
    assert "base_model_name_or_path" in said


def test_the_cache_serves_without_a_network(server: FakeHub, home: Path) -> None:
    fake = serve(server, {"org/good": Repo({COMMIT: FILES})})
    run_against(fake.endpoint, home, code("attempt('org/good')"))
    fake.down = True
    (down,), _ = run_against(fake.endpoint, home, code("attempt('org/good')"))
    calls = code("attempt('org/good')", "attempt('org/other')", "attempt('org/good', revision='v9')")
    gone, stderr = run_against(NOBODY, home, calls)
    offline, _ = run_against(NOBODY, home, calls, environment={"HF_HUB_OFFLINE": "1"})
    for answer in (down, gone[0], offline[0]):
        assert answer == {"kind": "hub", "revision": COMMIT, "id": "org/good", "files": WANTED}
    for kind, said in (gone[1], gone[2]):
        assert kind == "SourceError"
        assert f"the Hub ({NOBODY}) cannot be reached" in said
        assert "not in the cache" in said
    assert "no folder 'org/other' here" in gone[1][1]
    assert "revision v9 of org/good" in gone[2][1]
    for kind, said in (offline[1], offline[2]):
        assert kind == "SourceError"
        assert "HF_HUB_OFFLINE=1 forbids the network" in said
        assert "unset HF_HUB_OFFLINE" in said
    assert "Traceback" not in stderr


def test_a_half_filled_cache_is_told_from_a_model_without_weights(home: Path) -> None:
    snapshot = home / "hub" / "models--org--half" / "snapshots" / COMMIT
    make(snapshot, config__json=BERT, tokenizer__json="{}")
    make(home / "hub" / "models--org--half" / "refs", main=COMMIT)
    ((kind, said),), _ = run_against(
        NOBODY, home, code("attempt('org/half')"), environment={"HF_HUB_OFFLINE": "1"}
    )
    assert kind == "SourceError"
    assert "only partly in the cache" in said
    assert "has no weights" in said
    assert "Connect to the network" in said


GOOGLES = Path(__file__).parent / "tensorflow" / "data" / "google-albert" / "source"


def test_tensorflow_checkpoints_come_with_what_lies_beside_them(server: FakeHub, home: Path) -> None:
    google = files_of(GOOGLES)
    keras = {"config.json": BERT, "vocab.txt": b"a", "tf_model.h5": b"t", "README.md": b"r"}
    decoder = b'{"model_type": "gpt2"}'
    repos = {
        "org/keras": Repo(
            {COMMIT: {**keras, "pytorch_model.bin": b"p"}, OLD_COMMIT: {**keras, "tf_model.h5": b"old"}},
            {"main": COMMIT, "v1": OLD_COMMIT},
        ),
        "org/google": Repo({COMMIT: {"README.md": b"r", **{f"a/b/{n}": body for n, body in google.items()}}}),
        "org/several": Repo({COMMIT: {f"{folder}/model.ckpt.index": b"" for folder in ("cased", "uncased")}}),
        "org/gpt": Repo({COMMIT: {"config.json": decoder, "tf_model.h5": b"t"}}),
        "org/flax": Repo({COMMIT: {"config.json": BERT, "flax_model.msgpack": b"f"}}),
        "org/sentences": Repo({COMMIT: {**keras, "modules.json": b"[]", "1_Pooling/config.json": b"{}"}}),
    }
    read = (
        "[one.name for one in read_tensors(resolve('org/google').located, None)[0]]",
        "[str(resolve(name).located.paths[0].name) for name in ('org/keras', 'org/google')]",
    )
    calls = code(
        "attempt('org/keras')",
        "attempt('org/keras', revision='v1')",
        "attempt('org/google')",
        *(f"attempt('org/{name}')" for name in ("several", "gpt", "flax", "sentences")),
        "attempt('org/keras', allow_pickle=True)",
        *read,
    )
    reader = "from bertonnx.exporters.checkpoint.tensorflow.reading import read_tensors\n"
    fake = serve(server, repos)
    found, _ = run_against(fake.endpoint, home, reader + calls)
    fetched = fake.downloads()
    fake.down = True
    cached, _ = run_against(fake.endpoint, home, reader + code(*calls_of("org/keras", "org/google")))
    main, tag, nested, several, gpt, flax, sentences, pickle, names, paths = found
    assert main == {
        "kind": "hub",
        "revision": COMMIT,
        "id": "org/keras",
        "files": ["config.json", "tf_model.h5", "vocab.txt"],
    }
    assert tag["revision"] == OLD_COMMIT
    assert nested["revision"] == COMMIT
    assert nested["files"] == sorted(google)
    assert len(names) == 48
    assert paths == ["tf_model.h5", "albert_model.ckpt"]
    assert "org/several has TensorFlow checkpoints in several folders (cased, uncased)" in several[1]
    assert "gpt2 model that generates text" in gpt[1]
    assert "flax" in flax[1].lower()
    # Its pooling would be lost.
    assert sentences[0] == "SourceError"
    assert "pytorch_model.bin" in pickle["files"]
    assert fetched.count("tf_model.h5") == 2
    assert cached[1] == nested
    assert "tf_model.h5" in cached[0]["files"]
