"""The table of what each version of transformers reads of config.json: made from its code, and still so."""

from __future__ import annotations

import json

import pytest

from bertonnx.exporters.checkpoint.config_reads import Reads, installed_reads, shared_keys
from bertonnx.exporters.checkpoint.config_tables import TABLES, Tables, read_tables, written
from bertonnx.models.families import FAMILIES

OLD, NEW = "4.57.6", "5.24.0"


def test_the_part_of_the_installed_version_is_up_to_date() -> None:
    import transformers

    version = str(transformers.__version__)
    if version not in read_tables().versions:
        pytest.skip(f"the table is not made from transformers {version}")
    assert read_tables().shared[version] == shared_keys()
    # A few families stand for all, as importing the code of each takes a second.
    for name in {"bert", "modernbert", "xlm", "esm", "esmc"} & {*read_tables().families[version]}:
        assert read_tables().of(name)[version] == installed_reads(name), "python tools/make_config_tables.py"


def test_the_file_is_what_the_command_writes() -> None:
    assert TABLES.read_text(encoding="utf-8") == written(read_tables())
    assert TABLES.stat().st_size < 60_000


def test_every_family_is_in_it() -> None:
    found = {name for families in read_tables().families.values() for name in families}
    assert {row.name for row in FAMILIES} <= found
    # Encoders without a row of their own are exported too.
    assert {"funnel", "luke", "mra", "yoso"} <= found


def test_what_the_versions_read_differently() -> None:
    old, new = read_tables().of("bert").values()
    assert old.reads["position_embedding_type"] == "absolute"
    assert "position_embedding_type" not in new.known
    assert old.reads["hidden_act"] == new.reads["hidden_act"] == "gelu"
    old, new = read_tables().of("modernbert").values()
    assert (old.reads["global_rope_theta"], old.aliases) == (160000.0, {"rope_theta": "global_rope_theta"})
    assert {"rope_parameters", "layer_types", "sliding_window"} <= {*new.reads} - {*old.known}
    known = [{*reads.values["position_embedding_type"]} for reads in read_tables().of("esm").values()]
    assert known[0] - known[1] == {"relative_key", "relative_key_query"}
    # Looked up with a fallback, which is its default.
    assert read_tables().of("big_bird")[OLD].reads["position_embedding_type"] == "absolute"
    assert read_tables().of("esm")[NEW].reads["rope_theta"] == 10000.0
    # In a head that lies beside no family, and where the outputs of all are collected.
    assert read_tables().of("esmc")[NEW].reads["token_classification_bias"] is True
    assert "token_classification_bias" not in read_tables().of("bert")[NEW].known
    assert "tie_last_hidden_states" in read_tables().shared[NEW].keys() - read_tables().shared[OLD].keys()
    assert list(read_tables().of("eurobert")) == [NEW]


def test_defaults_that_no_encoder_reads_are_all_that_changed() -> None:
    """What a version leaves out of config.json since it is its default is another's default as well."""
    changed = set()
    for family in read_tables().families[OLD].keys() & read_tables().families[NEW].keys():
        old, new = (
            {**read_tables().shared[version], **reads.reads, **reads.kept}
            for version, reads in read_tables().of(family).items()
        )
        changed |= {(family, key) for key in old.keys() & new.keys() if old[key] != new[key]}
    # ModernBERT's are translated; outputs are set by the export.
    assert {pair for pair in changed if pair[1] != "output_attentions"} == {
        *((family, "eos_token_id") for family in ("esm", "flaubert", "xlm")),
        *(("modernbert", key) for key in ("global_rope_theta", "local_rope_theta")),
    }
    assert read_tables().of("rembert")[OLD].kept["tie_word_embeddings"] is False


def test_a_version_is_replaced_or_taken_out() -> None:
    reads = Reads({"a": 1.0, "b": None}, ("c",), {"d": "a"}, {"b": ("x", "y")}, {"x": False})
    one = Tables().replaced("4.1.0", {"x": True}, {"f": reads})
    both = one.replaced("10.0.0", {"x": 1}, {"f": Reads({"a": 1.0}), "g": Reads()})
    assert both.versions == ("4.1.0", "10.0.0")
    data = json.loads(written(both))
    # True and 1 are two defaults; what is alike is written once.
    assert data["shared"] == {"4.1.0": {"x": True}, "10.0.0": {"x": 1}}
    assert data["families"]["f"]["reads"] == {"all": {"a": 1.0}, "4.1.0": {"b": None}}
    assert data["families"]["f"]["values"] == {"4.1.0": {"b": ["x", "y"]}}
    assert data["families"]["f"]["kept"] == {"4.1.0": {"x": False}}
    assert data["families"]["g"] == {"in": ["10.0.0"]}
    assert both.without("10.0.0") == one
