"""Each key of config.json is read, translated, refused by name or private, whatever version saved it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint import config_account
from bertonnx.exporters.checkpoint.checkpoint import Checkpoint
from bertonnx.exporters.checkpoint.config_account import settled
from bertonnx.exporters.checkpoint.config_reads import Reads
from bertonnx.exporters.checkpoint.config_tables import Tables
from bertonnx.exporters.checkpoint.folder import read_json
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.weights import load_config
from bertonnx.exporters.steps.trace import trace
from bertonnx.wording import COMMAND_LINE
from tests.checkpoints import edit_json, edit_weights, message, read
from tests.exporters.checkpoint.make_configs import configs
from tests.tiny import missing_code, save_tiny

FULL, SLIDING = "full_attention", "sliding_attention"
IDS = torch.tensor([[2, *range(10, 40), 3]])

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Save a tiny checkpoint and change its config.json; None removes a key."""

    def made(family: str = "bert", task: str = "text-classification", **changes: Any) -> Path:
        folder = save_tiny(tmp_path / f"{family}-{len([*tmp_path.iterdir()])}", family, task)
        edit_json(folder / "config.json", **changes)
        return folder

    return made


def is_version_4() -> bool:
    import transformers

    return bool(transformers.__version__.startswith("4"))


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = checkpoint.model(IDS, attention_mask=torch.ones_like(IDS)).logits
    return output


def same_weights(folder: Path) -> Path:
    """Give all weights values that no version's way of starting them changes."""

    def seeded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        source = torch.Generator().manual_seed(0)
        return {name: torch.randn(weights[name].shape, generator=source) * 0.3 for name in sorted(weights)}

    edit_weights(folder, seeded)
    return folder


def rotary(full: float, sliding: float) -> dict[str, dict[str, object]]:
    return {
        FULL: {"rope_type": "default", "rope_theta": full},
        SLIDING: {"rope_type": "default", "rope_theta": sliding},
    }


OLD_KEYS = (
    "global_attn_every_n_layers",
    "global_rope_theta",
    "local_rope_theta",
    "layer_types",
    "rope_parameters",
)
EXPECTED = [0.6459, 0.0281, -0.7342]
MODERNBERTS: dict[str, dict[str, Any]] = {
    "version 4": {"global_attn_every_n_layers": 2, "global_rope_theta": 900.0, "local_rope_theta": 30.0},
    "version 4, by its other name": {
        "global_attn_every_n_layers": 2,
        "rope_theta": 900.0,
        "local_rope_theta": 30.0,
    },
    "version 5": {
        "layer_types": [FULL, SLIDING],
        "rope_parameters": rotary(900.0, 30.0),
        "transformers_version": "5.24.0",
    },
    "version 5, of a file of version 4": {
        "global_attn_every_n_layers": 2,
        "layer_types": [FULL, SLIDING],
        "rope_parameters": rotary(900.0, 30.0),
        "sliding_window": 8,
        "transformers_version": "5.24.0",
    },
}


@pytest.mark.parametrize("name", MODERNBERTS)
def test_modernbert_is_the_same_in_the_words_of_both_versions(make: Make, name: str) -> None:
    changes: dict[str, Any] = dict.fromkeys(OLD_KEYS) | MODERNBERTS[name]
    checkpoint = read(same_weights(make("modernbert", **changes)))
    # transformers 4.57.6 and 5.24.0 gave these for the first and the third; with the defaults they differ.
    assert logits(checkpoint)[0].tolist() == pytest.approx(EXPECTED, abs=1e-4)


def test_modernbert_takes_the_global_base_where_the_local_is_null(make: Make) -> None:
    folder = same_weights(make("modernbert", **dict.fromkeys(OLD_KEYS)))
    edit_json(folder / "config.json", global_rope_theta=900.0, local_rope_theta=900.0)
    wanted = logits(read(folder))
    text = (
        (folder / "config.json").read_text().replace('"local_rope_theta": 900.0', '"local_rope_theta": null')
    )
    (folder / "config.json").write_text(text)
    assert torch.equal(logits(read(folder)), wanted)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"layer_types": [FULL, FULL], "global_attn_every_n_layers": 2},
            'layer_types ["full_attention", "full_attention"] and global_attn_every_n_layers 2, which '
            "contradict each other",
        ),
        ({"sliding_window": 4}, "sliding_window 4 and local_attention 16, which contradict each other"),
        ({"layer_types": [FULL]}, 'layer_types ["full_attention"], and num_hidden_layers 2'),
        ({"layer_types": [FULL, "mamba"]}, "it must say full_attention or sliding_attention for each layer"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "where rope_theta is not read"),
        (
            {"rope_parameters": {FULL: {"rope_type": "default", "factor": 2.0}}},
            "rope_parameters.full_attention.factor 2.0, which rope_type default does not read",
        ),
        (
            {"rope_parameters": {FULL: {"rope_type": "longrope"}}},
            'rope_parameters.full_attention.rope_type "longrope", a kind of rotary positions that cannot be',
        ),
    ],
)
def test_modernbert_is_refused_where_keys_cannot_be(make: Make, changes: dict[str, Any], said: str) -> None:
    assert said in message(CheckpointError, make("modernbert", **changes))


@pytest.mark.skipif("not is_version_4()", reason="version 5 reads them")
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"layer_types": [SLIDING, FULL]}, "layer_types"),
        (
            {"rope_parameters": {FULL: {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters.full_attention",
        ),
        ({"head_dim": 4}, "head_dim"),
        ({"tie_last_hidden_states": False}, "tie_last_hidden_states"),
    ],
)
def test_version_4_refuses_what_it_cannot_be_told(make: Make, changes: dict[str, Any], key: str) -> None:
    said = message(CheckpointError, make("modernbert", global_attn_every_n_layers=None, **changes))
    assert f"config.json has {key} " in said
    assert "5.24.0 does: its results would be others here" in said
    assert said.endswith('pip install "bertonnx[export]" transformers==5.24.0')


@pytest.mark.skipif("is_version_4()", reason="version 4 reads them")
@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("bert", "position_embedding_type", "relative_key"),
        ("electra", "position_embedding_type", "relative_key_query"),
        ("splinter", "position_embedding_type", "relative_key"),
        ("bert", "pruned_heads", {"0": [1]}),
        # It still has the key, and no code of this value.
        ("esm", "position_embedding_type", "relative_key"),
    ],
)
def test_version_5_refuses_what_it_dropped(make: Make, family: str, key: str, value: object) -> None:
    task = "question-answering" if family == "splinter" else "feature-extraction"
    said = message(CheckpointError, make(family, task, **{key: value}))
    assert f"config.json has {key} " in said
    assert said.endswith('pip install "bertonnx[export]" transformers==4.57.6')


def test_the_default_of_a_key_that_is_not_read_is_no_obstacle(make: Make) -> None:
    changes = {"pruned_heads": {}, "tie_encoder_decoder": False, "tie_last_hidden_states": True}
    checkpoint = read(make(position_embedding_type="absolute", **changes))
    assert checkpoint.private_keys == ()


def test_private_keys_are_noted(make: Make) -> None:
    checkpoint = read(make(directionality="bidi", pooler_fc_size=768))
    assert checkpoint.private_keys == ("config.json: directionality", "config.json: pooler_fc_size")
    assert any(
        note.worded(COMMAND_LINE)
        == "keys that no library reads: config.json: directionality, config.json: pooler_fc_size"
        for note in checkpoint.notes
    )


def test_unknown_keys_of_a_newer_version_are_refused_until_ignored(make: Make) -> None:
    folder = make(transformers_version="99.0.1", attention_kind="new", gate=2)
    said = message(CheckpointError, folder)
    assert said.startswith(
        'config.json has attention_kind "new", gate 2, which bertonnx does not know: transformers 99.0.1 '
        "saved it, and bertonnx knows "
    )
    assert said.endswith("--ignore-key attention_kind --ignore-key gate leaves them out of account")
    assert "config.json has gate 2, " in message(CheckpointError, folder, ignore_keys=("attention_kind",))
    checkpoint = read(folder, ignore_keys=("attention_kind", "config.json: gate"))
    assert checkpoint.ignored_keys == ("config.json: attention_kind", "config.json: gate")
    assert checkpoint.private_keys == ()
    # A version that was written by hand tells nothing.
    edit_json(folder / "config.json", transformers_version="mine")
    assert "config.json: gate" in read(folder).private_keys


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "so its weights are quantized already"),
        ({"quantization_config": {}}, "which names no method, and on which transformers fails; take the key"),
        ({"add_cross_attention": True}, "so that it reads another model's output"),
        ({"transformers_weights": "ema.safetensors"}, "so its weights lie in that file"),
        ({"is_causal": True}, "has is_causal true, so that tokens read only those before them"),
        ({"per_layer_config": {"0": {"hidden_act": "relu"}}}, "its layers differ from each other"),
        ({"hidden_act": "foo"}, 'no model can be made of config.json, which has hidden_act "foo"'),
    ],
)
def test_what_cannot_be_exported_is_refused_by_its_key(
    make: Make, changes: dict[str, Any], said: str
) -> None:
    assert said in message(CheckpointError, make(**changes))


def test_no_quantization_is_none(make: Make) -> None:
    """As version 5 of transformers says null; version 4 fails on it."""
    assert torch.equal(logits(read(make(quantization_config=None))), logits(read(make())))


def test_a_decoder_is_refused_by_its_key(make: Make) -> None:
    with pytest.raises(UnsupportedError, match="a decoder: is_decoder is true"):
        read(make(is_decoder=True))


@pytest.mark.parametrize(
    ("family", "flags"),
    [
        ("bert", {"torchscript": True}),
        ("bert", {"chunk_size_feed_forward": 1}),
        ("bert", {"return_dict": False, "use_return_dict": False}),
        ("bert", {"output_hidden_states": True, "output_attentions": True, "_attn_implementation": "sdpa"}),
        ("bert", {"use_cache": True, "gradient_checkpointing": True, "problem_type": "regression"}),
        ("albert", {"chunk_size_feed_forward": 1, "torchscript": True}),
        ("modernbert", {"reference_compile": True, "torchscript": True}),
    ],
)
def test_flags_of_forward_change_nothing(make: Make, family: str, flags: dict[str, Any]) -> None:
    plain, flagged = read(make(family)), read(make(family, **flags))
    assert torch.equal(logits(flagged), logits(plain))
    # A tuple, a chunk or an output too many would end the trace or change its outputs.
    assert [output.name for output in trace(flagged).graph.output] == ["logits"]


def test_a_checkpoint_with_code_of_its_own_is_left_to_it() -> None:
    account = Account()
    raw = {"model_type": "bert", "auto_map": {"AutoModel": "own.Model"}, "mine": 1}
    assert settled(raw, account) == raw
    assert account.private_keys == ()


def layers(config: Any) -> list[tuple[bool, float]]:
    """Return of each layer of a ModernBERT whether its attention is full, and the base of its positions."""
    if hasattr(config, "rope_parameters"):
        return [(kind == FULL, config.rope_parameters[kind]["rope_theta"]) for kind in config.layer_types]
    bases = (config.local_rope_theta, config.global_rope_theta)
    full = [layer % config.global_attn_every_n_layers == 0 for layer in range(config.num_hidden_layers)]
    return [(one, bases[one]) for one in full]


def held(raw: dict[str, Any], config: Any) -> dict[str, object]:
    """Return keys of a file that a loaded configuration holds another value of."""
    others = {"dtype", "transformers_version", "use_cache"}
    # XLM's files say it twice, and version 5 takes one; both tell padding by the mask.
    if "pad_index" in raw:
        others |= {"pad_index", "pad_token_id"}
    if raw["model_type"] == "modernbert":
        others |= {"global_attn_every_n_layers", "global_rope_theta", "layer_types", "local_rope_theta"}
        others |= {"rope_parameters"}
    values = config.to_dict()
    return {
        key: values.get(key)
        for key, value in raw.items()
        if key not in others and values.get(key) != value and getattr(config, key, None) != value
    }


@pytest.mark.parametrize("version", ["4.57.6", "5.24.0"])
def test_every_family_is_read_alike_or_refused_by_name(version: str, tmp_path: Path) -> None:
    refused = set()
    count = 0
    for raw in configs(version):
        name = raw["model_type"]
        if missing_code(name):
            continue
        try:
            config = load_config(tmp_path, settled(raw, Account()), trust_remote_code=False)
        except CheckpointError as error:
            refused.add((name, str(error.facts["key"])))
            continue
        count += 1
        assert not held(raw, config), name
        if name == "modernbert":
            unusual = raw["classifier_pooling"] == "mean"
            every, full, local = (4, 90.0, 80.0) if unusual else (3, 160000.0, 10000.0)
            assert layers(config) == [(i % every == 0, local if i % every else full) for i in range(22)]
    dropped = {"albert", "bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "ibert"}
    dropped |= {"megatron-bert", "nystromformer", "roberta", "roberta-prelayernorm", "splinter"}
    dropped |= {"xlm-roberta", "xlm-roberta-xl", "xmod"}
    theirs = {(name, "position_embedding_type") for name in dropped if not missing_code(name)}
    expected = {
        ("4.57.6", False): theirs | {("esm", "position_embedding_type")},
        ("5.24.0", True): {("esm", "rope_theta")},
        ("5.24.0", False): {("esm", "position_embedding_type")},
    }
    assert refused == expected.get((version, is_version_4()), set())
    assert count > 60


@pytest.mark.skipif("not is_version_4()", reason="the numbers are those of version 4's random weights")
def test_bases_of_version_5_are_not_lost(tmp_path: Path) -> None:
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    made = transformers.ModernBertConfig(
        **sizes,
        intermediate_size=48,
        initializer_range=0.3,
        pad_token_id=1,
        global_rope_theta=150000.0,
        local_rope_theta=160000.0,
        num_labels=3,
    )
    torch.manual_seed(0)
    transformers.ModernBertForSequenceClassification(made).save_pretrained(tmp_path)
    edit_json(
        tmp_path / "config.json",
        **dict.fromkeys(OLD_KEYS[:3]),
        rope_parameters=rotary(150000.0, 160000.0),
        layer_types=[FULL, SLIDING, SLIDING, FULL],
        transformers_version="5.24.0",
    )
    config = load_config(
        tmp_path, settled(read_json(tmp_path / "config.json"), Account()), trust_remote_code=False
    )
    model = transformers.ModernBertForSequenceClassification.from_pretrained(tmp_path, config=config).eval()
    ids = torch.tensor([[0, *[4, 5, 6, 7, 8] * 10, 2]])
    with torch.no_grad():
        scores = model(ids, attention_mask=torch.ones_like(ids)).logits.softmax(-1)[0].tolist()
    # With the bases of a file that says nothing: 0.458, 0.322, 0.220.
    assert scores == pytest.approx([0.441, 0.347, 0.212], abs=6e-4)


def test_a_key_that_was_left_out_has_the_default_of_the_version_that_saved_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if the installed version had another one."""
    old, new = (
        Reads({"a": 1, "b": 1, "same": 1, "gone": 1}, kept={"tie_word_embeddings": False}),
        Reads({"a": 2, "b": 2, "same": 1, "tie_word_embeddings": True, "none": None}, aliases={"other": "b"}),
    )
    shared: dict[str, Any] = {"4.57.6": {"tie_word_embeddings": True, "none": 3}, "5.24.0": {}}
    tables = Tables(shared, {"4.57.6": {"bert": old}, "5.24.0": {"bert": new}})
    for name in ("read_tables", "shared_keys", "installed_reads"):
        values = {"read_tables": tables, "shared_keys": {}, "installed_reads": new}
        monkeypatch.setattr(config_account, name, lambda *_, value=values[name]: value)
    monkeypatch.setattr(config_account, "_installed", lambda: "5.24.0")
    raw = {"model_type": "bert", "transformers_version": "4.30.2"}
    changed = {"a": 1, "b": 1, "tie_word_embeddings": False}
    assert settled(raw, Account()) == {**raw, **changed}
    assert settled({"model_type": "bert"}, Account()) == {"model_type": "bert", **changed}
    # What it says itself stands, under any of its names.
    said = {**raw, "a": 5, "other": 6, "tie_word_embeddings": True}
    assert settled(said, Account()) == said
    newer = {**raw, "transformers_version": "5.1.0"}
    assert settled(newer, Account()) == newer
