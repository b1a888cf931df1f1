"""Where a checkpoint comes from: folders, and the Hub through the real huggingface_hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertonnx.errors import BertonnxError, CheckpointError, SourceError, UnsupportedError, UsageError
from bertonnx.exporters.checkpoint.folder import Source, resolve
from tests.hub import COMMIT, FakeHub, Repo, run_against, serving

BERT = json.dumps({"model_type": "bert", "architectures": ["BertModel"]}).encode()
OLD_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


def make(folder: Path, **files: bytes | str) -> Path:
    """Write files; `__` in a keyword stands for a dot and `___` for a slash."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def message(error: type[BertonnxError], *args: Any, **options: Any) -> str:
    with pytest.raises(error) as caught:
        resolve(*args, **options)
    return str(caught.value)


# Folders


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT, model__safetensors="x")
    assert resolve(tmp_path) == Source(str(tmp_path), "folder", None, tmp_path)
    assert resolve(str(tmp_path)).kind == "folder"


def test_a_sentence_transformers_folder_is_recognised(tmp_path: Path) -> None:
    make(tmp_path, modules__json="[]", config__json=BERT, model__safetensors="x")
    assert resolve(tmp_path).kind == "sentence-transformers"


def test_the_old_layout_of_sentence_transformers(tmp_path: Path) -> None:
    inner = {"0_Transformer___config__json": BERT, "0_Transformer___model__safetensors": b"x"}
    make(tmp_path, modules__json="[]", **inner)
    assert resolve(tmp_path).kind == "sentence-transformers"


def test_sharded_weights_are_weights(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT)
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert resolve(tmp_path).folder == tmp_path


def test_a_revision_of_a_folder_is_wrong_usage(tmp_path: Path) -> None:
    said = message(UsageError, tmp_path, revision="v1")
    assert "--revision v1" in said
    assert "local folder" in said
    assert "leave --revision out" in said


def test_a_file_is_refused_with_the_folder_to_type(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    said = message(SourceError, path)
    assert "is a file" in said
    assert f"bertonnx export {tmp_path}" in said


def test_an_onnx_file_needs_no_export(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    assert f"bertonnx run {path} input.txt" in message(SourceError, path)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "gone")
    assert "does not exist" in message(SourceError, path)


def test_pickled_weights_need_consent(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT, pytorch_model__bin="x")
    said = message(SourceError, tmp_path)
    assert "pytorch_model.bin" in said
    assert "can run any code" in said
    assert "--allow-pickle" in said
    assert "safe_serialization=True" in said
    assert resolve(tmp_path, allow_pickle=True).folder == tmp_path


@pytest.mark.parametrize(
    ("file", "kind", "advice"),
    [
        ("tf_model.h5", "TensorFlow", "from_tf=True"),
        ("bert_model.ckpt.index", "TensorFlow", "from_tf=True"),
        ("flax_model.msgpack", "Flax", "from_flax=True"),
        ("model.onnx", "ONNX", "bertonnx run"),
        ("onnx/model.onnx", "ONNX", "bertonnx run"),
        ("openvino_model.bin", "OpenVINO", "PyTorch checkpoint"),
        ("model.gguf", "GGUF", "PyTorch checkpoint"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_foreign_weights_are_named(
    tmp_path: Path, file: str, kind: str, advice: str, with_config: bool
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    if with_config:
        make(tmp_path, config__json=BERT)
    said = message(SourceError, tmp_path)
    assert f"only {kind} weights ({file})" in said
    assert advice in said


def test_no_weights_at_all(tmp_path: Path) -> None:
    make(tmp_path, config__json=BERT)
    said = message(SourceError, tmp_path)
    assert "has no weights" in said
    assert "config.json" in said


def test_a_folder_that_is_no_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    make(tmp_path, notes__txt="x")
    said = message(SourceError, tmp_path)
    assert "no config.json" in said
    assert "notes.txt" in said
    assert "save_pretrained" in said


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "it holds nothing" in message(SourceError, tmp_path)


def test_an_adapter_must_be_merged_first(tmp_path: Path) -> None:
    make(tmp_path, adapter_config__json="{}", adapter_model__safetensors="x")
    said = message(SourceError, tmp_path)
    assert "PEFT adapter" in said
    assert "merge_and_unload" in said


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_custom_code_needs_consent(tmp_path: Path, file: str) -> None:
    make(tmp_path, config__json=BERT, model__safetensors="x")
    content = {"model_type": "bert", "auto_map": {"AutoModel": "modeling.Mine"}}
    (tmp_path / file).write_text(json.dumps(content))
    said = message(SourceError, tmp_path)
    assert "its own Python code" in said
    assert file in said
    assert "AutoModel" in said
    assert "--trust-remote-code" in said
    assert resolve(tmp_path, trust_remote_code=True).folder == tmp_path


@pytest.mark.parametrize(("content", "reason"), [("{", "read as JSON"), ("[1]", "an object is expected")])
def test_a_broken_config_is_named(tmp_path: Path, content: str, reason: str) -> None:
    make(tmp_path, config__json=content, model__safetensors="x")
    said = message(CheckpointError, tmp_path)
    assert str(tmp_path / "config.json") in said
    assert reason in said


def test_a_config_without_model_type(tmp_path: Path) -> None:
    make(tmp_path, config__json="{}", model__safetensors="x")
    assert "no model_type" in message(CheckpointError, tmp_path)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gpt2"}, "generates text"),
        ({"model_type": "t5"}, "generates text"),
        ({"model_type": "bert", "is_decoder": True}, "generates text"),
        ({"model_type": "layoutlm"}, "bbox"),
        ({"model_type": "vit"}, "no text encoder of that kind"),
        ({"model_type": "nonsense"}, "has no code for"),
    ],
)
def test_families_that_cannot_work(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    make(tmp_path, config__json=json.dumps(config), model__safetensors="x")
    said = message(UnsupportedError, tmp_path)
    assert reason in said
    assert config["model_type"] in said


def test_a_family_outside_the_table_that_reads_text(tmp_path: Path) -> None:
    make(tmp_path, config__json='{"model_type": "mra"}', model__safetensors="x")
    assert resolve(tmp_path).folder == tmp_path


# The Hub

_TRY = """
import json
from bertonnx.errors import BertonnxError
from bertonnx.exporters.checkpoint.folder import resolve

def attempt(source, **options):
    try:
        found = resolve(source, **options)
    except BertonnxError as error:
        return [type(error).__name__, str(error)]
    files = sorted(p.relative_to(found.folder).as_posix() for p in found.folder.rglob("*") if p.is_file())
    return {"kind": found.kind, "revision": found.revision, "id": found.id, "files": files}
"""


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


@pytest.fixture
def hub() -> Iterator[FakeHub]:
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
        "org/adapter": Repo({COMMIT: {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}}),
        "org/code": Repo({COMMIT: {"config.json": remote, "m.py": b"", "model.safetensors": b"w"}}),
        "org/gpt": Repo({COMMIT: {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"w"}}),
    }
    with serving(repos) as fake:
        yield fake


def test_a_model_is_resolved_once_to_a_commit(hub: FakeHub, tmp_path: Path) -> None:
    (main, tag, commit), _ = run_against(
        hub.endpoint,
        tmp_path,
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


def test_what_the_hub_refuses(hub: FakeHub, tmp_path: Path) -> None:
    answers, stderr = run_against(
        hub.endpoint,
        tmp_path,
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


def test_a_token_opens_gated_and_private_models(hub: FakeHub, tmp_path: Path) -> None:
    answers, _ = run_against(
        hub.endpoint,
        tmp_path,
        code("attempt('org/gated')", "attempt('org/private')"),
        environment={"HF_TOKEN": "hf_secret"},
    )
    assert [answer["revision"] for answer in answers] == [COMMIT, COMMIT]


def test_what_is_refused_before_any_weight_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    answers, stderr = run_against(
        hub.endpoint,
        tmp_path,
        code(
            "attempt('org/pickle')",
            "attempt('org/onnx')",
            "attempt('org/adapter')",
            "attempt('org/code')",
            "attempt('org/gpt')",
        ),
    )
    pickle, onnx, adapter, custom, gpt = answers
    assert "--allow-pickle" in pickle[1]
    assert "only ONNX weights (onnx/model.onnx)" in onnx[1]
    assert "PEFT adapter" in adapter[1]
    assert "--trust-remote-code" in custom[1]
    assert gpt[0] == "UnsupportedError"
    assert set(hub.downloads()) == {"config.json"}
    # Nothing is reported home, and no bar is drawn into a pipe.
    assert not any("telemetry" in path for _, path, _ in hub.requests)
    assert not any("torch/" in agent for _, _, agent in hub.requests)
    assert stderr == ""


def test_consent_brings_pickles_and_code(hub: FakeHub, tmp_path: Path) -> None:
    (pickle, custom, both), _ = run_against(
        hub.endpoint,
        tmp_path,
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


def test_the_cache_serves_without_a_network(tmp_path: Path) -> None:
    with serving({"org/good": Repo({COMMIT: FILES})}) as fake:
        run_against(fake.endpoint, tmp_path, code("attempt('org/good')"))
        fake.down = True
        (down,), _ = run_against(fake.endpoint, tmp_path, code("attempt('org/good')"))
    calls = code("attempt('org/good')", "attempt('org/other')", "attempt('org/good', revision='v9')")
    gone, stderr = run_against(fake.endpoint, tmp_path, calls)
    offline, _ = run_against(fake.endpoint, tmp_path, calls, environment={"HF_HUB_OFFLINE": "1"})
    for answer in (down, gone[0], offline[0]):
        assert answer == {"kind": "hub", "revision": COMMIT, "id": "org/good", "files": WANTED}
    for kind, said in (gone[1], gone[2]):
        assert kind == "SourceError"
        assert f"the Hub ({fake.endpoint}) cannot be reached" in said
        assert "not in the cache" in said
    assert "no folder 'org/other' here" in gone[1][1]
    assert "revision v9 of org/good" in gone[2][1]
    for kind, said in (offline[1], offline[2]):
        assert kind == "SourceError"
        assert "HF_HUB_OFFLINE=1 forbids the network" in said
        assert "unset HF_HUB_OFFLINE" in said
    assert "Traceback" not in stderr


def test_a_half_filled_cache_is_told_from_a_model_without_weights(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--half" / "snapshots" / COMMIT
    make(snapshot, config__json=BERT, tokenizer__json="{}")
    make(tmp_path / "hub" / "models--org--half" / "refs", main=COMMIT)
    ((kind, said),), _ = run_against(
        "http://127.0.0.1:9", tmp_path, code("attempt('org/half')"), environment={"HF_HUB_OFFLINE": "1"}
    )
    assert kind == "SourceError"
    assert "only partly in the cache" in said
    assert "has no weights" in said
    assert "Connect to the network" in said
