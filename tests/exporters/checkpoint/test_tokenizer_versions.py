"""Tokenizers as the version that saved them reads them: 4's folders under 5, 5's under 4."""

from __future__ import annotations

import inspect
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, normalizers

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.tokenizer import TokenizerFacts, read_tokenizer
from bertonnx.exporters.checkpoint.tokenizer_classes import class_of
from bertonnx.exporters.checkpoint.tokenizer_folder import read_folder
from bertonnx.exporters.checkpoint.tokenizer_proof import difference, require_encodes
from bertonnx.exporters.quiet import quiet
from bertonnx.models.hard_texts import HARD_TEXTS
from bertonnx.wording import COMMAND_LINE
from tests import tokenizers_zoo
from tests.checkpoints import edit_json, read, save
from tests.corpus import SENTENCES

_XLM_R = "sentencepiece.bpe.model"
MAJOR = int(transformers.__version__.split(".")[0])
TABLE = "exporters/checkpoint/tokenizer_classes.json"
ROOT = Path(__file__).resolve().parents[3]
PAIRS = [(a, b) for a, b in zip(HARD_TEXTS, reversed(HARD_TEXTS), strict=True) if b]

V5 = {"backend": "tokenizers", "is_local": True, "local_files_only": False, "model_max_length": 64}
V4 = {"added_tokens_decoder": {}, "clean_up_tokenization_spaces": False, "model_max_length": 64}


def _folder(
    folder: Path, tokenizer: Tokenizer, config: dict[str, Any], *, family: str = "bert", saver: str = ""
) -> Path:
    """Write a tokenizer's files as a version of transformers does."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = {"model_type": family, **({"transformers_version": saver} if saver else {})}
    (folder / "config.json").write_text(json.dumps(model))
    return folder


def _facts(folder: Path, *ignore: str, embeddings: int = 5000) -> TokenizerFacts:
    return read_tokenizer(folder, embeddings=embeddings, account=Account(ignore))


def _refused(folder: Path, *ignore: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        _facts(folder, *ignore)
    return caught.value.worded(COMMAND_LINE)


def _ids(facts: TokenizerFacts, text: str, pair: str | None = None) -> list[int]:
    return list(Tokenizer.from_str(facts.text).encode(text, pair).ids)


def _typed_unigram() -> Tokenizer:
    """Return a Unigram tokenizer whose second texts are segment 1, as ALBERT's."""
    from tokenizers import processors

    made = tokenizers_zoo.unigram()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[(token, made.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return made


# The table


def test_the_table_is_that_of_the_installed_version() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_tokenizer_table.py"))["table"]()
    stored = json.loads((ROOT / TABLE).read_text(encoding="utf-8"))[str(MAJOR)]
    if stored["version"] != made["version"]:
        pytest.skip(f"the table is of transformers {stored['version']}, and {made['version']} is installed")
    assert made == stored


@pytest.mark.parametrize(
    ("version", "named", "family", "name", "typed"),
    [
        (4, "AlbertTokenizer", "albert", "AlbertTokenizerFast", True),
        (5, "AlbertTokenizer", "albert", "AlbertTokenizer", False),
        (4, None, "nystromformer", "AlbertTokenizerFast", True),
        (5, None, "nystromformer", "TokenizersBackend", False),
        (4, "PreTrainedTokenizerFast", "bert", "PreTrainedTokenizerFast", True),
        (5, "TokenizersBackend", "bert", "TokenizersBackend", False),
        (5, "PreTrainedTokenizerFast", "albert", "TokenizersBackend", False),
        # Version 5 takes its generic class where that is the family's, whatever the folder says.
        (5, "XLMRobertaTokenizerFast", "xlm-roberta-xl", "TokenizersBackend", False),
        (4, "SplinterTokenizer", "splinter", "SplinterTokenizerFast", True),
        (5, "SplinterTokenizer", "splinter", "SplinterTokenizer", False),
        (5, "DebertaV2TokenizerFast", "deberta-v2", "DebertaV2Tokenizer", True),
        (4, "EsmTokenizer", "esm", "EsmTokenizer", False),
    ],
)
def test_the_class_of_a_version(version: int, named: str | None, family: str, name: str, typed: bool) -> None:
    found = class_of(version, named, family)
    assert (found.name, "token_type_ids" in found.makes) == (name, typed)


# What the installed version makes of its own folders


def _vocabulary(kind: str) -> dict[str, int]:
    vocabulary: dict[str, int] = json.loads(getattr(tokenizers_zoo, kind)().to_str())["model"]["vocab"]
    return vocabulary


def _bert_files(folder: Path) -> None:
    vocabulary = _vocabulary("wordpiece")
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n")


def _roberta_files(folder: Path) -> None:
    made = tokenizers_zoo.bpe()
    merges = json.loads(made.to_str())["model"]["merges"]
    vocabulary = {**_vocabulary("bpe"), "<mask>": made.token_to_id("<mask>")}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = [" ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {}),
        ("bert", {"do_lower_case": False}),
        ("bert", {"strip_accents": False, "tokenize_chinese_chars": False}),
        ("distilbert", {}),
        ("electra", {"do_lower_case": False, "strip_accents": True}),
        ("mpnet", {}),
        ("splinter", {}),
        ("roberta", {}),
        ("roberta", {"add_prefix_space": True}),
        ("deberta", {}),
    ],
)
def test_a_folder_of_the_installed_version(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (_roberta_files if family in ("roberta", "deberta") else _bert_files)(files)
    model = {"model_type": family, "transformers_version": transformers.__version__}
    (files / "config.json").write_text(json.dumps(model))
    auto: Any = transformers.AutoTokenizer
    with quiet():
        own = auto.from_pretrained(files, **settings)
        token = AddedToken("Mixed", lstrip=True, normalized=False)
        own.add_tokens(["newword", token])
        own.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(model))
    facts = _facts(tmp_path)
    written = Tokenizer.from_str(facts.text)
    for text in (*HARD_TEXTS, "a newword here", "a   Mixed mixed"):
        assert written.encode(text).ids == own(text)["input_ids"]
    typed = "token_type_ids" in facts.input_names
    for text, pair in PAIRS:
        found, wanted = written.encode(text, pair), own(text, pair)
        assert found.ids == wanted["input_ids"]
        assert wanted.get("token_type_ids") == (found.type_ids if typed else None)
    assert (facts.mask_token_id, facts.pad_token_id) == (own.mask_token_id, own.pad_token_id)


# The version that saved a folder decides


@pytest.mark.parametrize("family", ["albert", "big_bird", "splinter", "bert"])
def test_a_folder_of_version_5_makes_what_5_makes(tmp_path: Path, family: str) -> None:
    config = {**V5, "tokenizer_class": "TokenizersBackend", "pad_token": "<pad>", "mask_token": "<mask>"}
    folder = _folder(tmp_path, _typed_unigram(), config, family=family)
    assert _facts(folder).input_names == ("input_ids", "attention_mask")
    edit_json(folder / "tokenizer_config.json", backend=None, tokenizer_class="PreTrainedTokenizerFast")
    assert "token_type_ids" in _facts(folder).input_names


def test_pairs_of_albert_go_by_the_version_that_saved_it(tmp_path: Path) -> None:
    folder = save(tmp_path, "AlbertForSequenceClassification", tokenizer="unigram", embedding_size=16)
    _typed_unigram().save(str(folder / "tokenizer.json"))
    tokens = {"cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>"}
    tokens |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    generic = {**tokens, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    for saver, typed in (("4.57.6", True), ("5.24.0", False), (None, True)):
        edit_json(folder / "config.json", transformers_version=saver)
        (folder / "tokenizer_config.json").write_text(json.dumps(generic))
        assert ("token_type_ids" in read(folder).input_names) is typed


def test_version_5_reads_a_folder_of_4_by_its_file(tmp_path: Path) -> None:
    # Version 5's class knows no such normalizer, and builds a tokenizer without it.
    made = _typed_unigram()
    made.normalizer = normalizers.Sequence([normalizers.Replace("film", "gift"), normalizers.NFKC()])
    tokens = {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    tokens |= {"cls_token": "<s>", "sep_token": "</s>", "bos_token": "<s>", "eos_token": "</s>"}
    config = {**V4, **tokens, "tokenizer_class": "DebertaV2Tokenizer"}
    folder = _folder(tmp_path, made, config, family="deberta-v2")
    facts = _facts(folder)
    assert [_ids(facts, text) for text in HARD_TEXTS] == [made.encode(text).ids for text in HARD_TEXTS]
    assert "token_type_ids" in facts.input_names


def test_tokenizer_files_of_4_beside_a_model_of_5(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    config = {**V4, "tokenizer_class": "BertTokenizer"}
    facts = _facts(_folder(tmp_path, made, config, saver="5.24.0"))
    assert [_ids(facts, text) for text in HARD_TEXTS] == [made.encode(text).ids for text in HARD_TEXTS]
    assert any("tokenizer.json is followed" in str(note) for note in facts.notes)


# Special tokens


def test_a_list_of_extra_special_tokens(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    made.add_special_tokens(["[E1]"])
    config = {**V5, "tokenizer_class": "BertTokenizer", "extra_special_tokens": ["[E1]"]}
    facts = _facts(_folder(tmp_path, made, config, saver="5.24.0"))
    assert _ids(facts, "a [E1] film") == made.encode("a [E1] film").ids
    assert made.token_to_id("[E1]") in _ids(facts, "a[E1]film")
    assert Tokenizer.from_str(facts.text).decode(_ids(facts, "the [E1]"), skip_special_tokens=True) == "the"


def test_a_special_token_that_the_file_lacks_gets_the_next_id(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    config = {**V5, "tokenizer_class": "BertTokenizer", "extra_special_tokens": ["[E1]"]}
    folder = _folder(tmp_path, made, config, saver="5.24.0")
    count = made.get_vocab_size()
    assert count in _ids(_facts(folder), "a [E1] film")
    with pytest.raises(CheckpointError, match=r"no embedding for: '\[E1\]'"):
        _facts(folder, embeddings=count)


def test_flags_of_added_tokens_are_those_of_tokenizer_config(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    made.add_tokens([AddedToken("[X]", normalized=False)])
    index = made.token_to_id("[X]")
    token = {"content": "[X]", "lstrip": False, "normalized": False, "rstrip": False, "special": True}
    config = {**V4, "tokenizer_class": "BertTokenizer", "additional_special_tokens": ["[X]"]}
    folder = _folder(tmp_path, made, {**config, "added_tokens_decoder": {str(index): token}})
    written = Tokenizer.from_str(_facts(folder).text)
    assert index in written.encode("a [X]").ids
    assert "[X]" not in written.decode(written.encode("a [X]").ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("config", "special"),
    [
        ({"tokenizer_class": "BertTokenizer"}, True),
        ({**V4, "tokenizer_class": "BertTokenizer"}, False),
        ({**V5, "tokenizer_class": "BertTokenizer"}, True),
        ({**V5, "tokenizer_class": "TokenizersBackend", "mask_token": "[MASK]"}, True),
    ],
)
def test_a_token_with_a_name_is_special(tmp_path: Path, config: dict[str, Any], special: bool) -> None:
    data = json.loads(tokenizers_zoo.wordpiece().to_str())
    for token in data["added_tokens"]:
        token["special"] = token["content"] != "[MASK]"
    folder = _folder(tmp_path, Tokenizer.from_str(json.dumps(data)), config)
    written = Tokenizer.from_str(_facts(folder).text)
    assert written.get_added_tokens_decoder()[4].special is special
    if ("backend" in config) is (MAJOR == 5):
        auto: Any = transformers.AutoTokenizer
        own = auto.from_pretrained(folder)
        assert own.backend_tokenizer.get_added_tokens_decoder()[4].special is special


def test_tokens_of_an_old_added_tokens_file(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    folder = _folder(tmp_path, made, {"tokenizer_class": "BertTokenizer", "model_max_length": 64})
    count = made.get_vocab_size()
    (folder / "added_tokens.json").write_text(json.dumps({"newword": count, "[MASK]": 4}))
    facts = _facts(folder)
    assert count in _ids(facts, "a newword here")
    assert facts.mask_token_id == 4


# Keys


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"do_lower_case": False}, "Hello"), ({"strip_accents": False}, "caf\u00e9")],
)
@pytest.mark.parametrize("kind", ["BertTokenizer", "MPNetTokenizer"])
def test_version_4_obeys_keys_of_the_normalizer(
    tmp_path: Path, kind: str, settings: dict[str, bool], text: str
) -> None:
    made = tokenizers_zoo.wordpiece()
    config = {**V4, "tokenizer_class": kind, **settings}
    wanted = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True), strip_accents=settings.get("strip_accents")
    )
    facts = _facts(_folder(tmp_path, made, config))
    made.normalizer = wanted
    assert _ids(facts, text) == made.encode(text).ids


def test_version_4_sets_the_prefix_space_of_any_class(tmp_path: Path) -> None:
    made = tokenizers_zoo.bpe()
    config = {**V4, "tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}
    folder = _folder(tmp_path, made, config, family="roberta")
    facts = _facts(folder)
    assert _ids(facts, "film") == made.encode(" film").ids
    # The offsets move with it.
    assert Tokenizer.from_str(facts.text).encode("film").offsets[1][0] == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("do_lower_case", False), ("strip_accents", False), ("tokenize_chinese_chars", False)],
)
def test_version_5_keys_that_contradict_the_file(tmp_path: Path, key: str, value: bool) -> None:
    config = {**V5, "tokenizer_class": "BertTokenizer", key: value}
    said = _refused(_folder(tmp_path, tokenizers_zoo.wordpiece(), config))
    assert f"tokenizer_config.json has {key} false" in said
    assert "tokenizer.json says true" in said
    assert f"--ignore-key {key}" in said
    facts, made = _facts(tmp_path, key), tokenizers_zoo.wordpiece()
    assert [_ids(facts, text) for text in HARD_TEXTS] == [made.encode(text).ids for text in HARD_TEXTS]


def test_what_a_class_takes_for_granted_and_the_file_contradicts(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    config = {**V5, "tokenizer_class": "BertTokenizer"}
    said = _refused(_folder(tmp_path, made, config))
    assert "BertTokenizer has do_lower_case true, where tokenizer_config.json does not say it" in said
    assert 'write "do_lower_case": false into tokenizer_config.json' in said
    facts = _facts(_folder(tmp_path, made, {**config, "do_lower_case": False}))
    assert _ids(facts, "Film") == made.encode("Film").ids


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "post_processor"])
@pytest.mark.parametrize("named", ["BertTokenizer", "TokenizersBackend"])
def test_a_part_of_the_file_that_a_class_of_5_does_not_read(tmp_path: Path, named: str, part: str) -> None:
    from tokenizers import pre_tokenizers, processors

    made = tokenizers_zoo.wordpiece()
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    other: dict[str, Any] = {
        "normalizer": normalizers.Sequence([made.normalizer, normalizers.Replace("l", "a")]),
        "pre_tokenizer": pre_tokenizers.WhitespaceSplit(),
        "post_processor": processors.TemplateProcessing("[SEP] $A", "[SEP] $A $B", ids),
    }
    setattr(made, part, other[part])
    folder = _folder(tmp_path, made, {**V5, "tokenizer_class": named})
    if MAJOR == 5:
        with quiet():
            own = transformers.AutoTokenizer.from_pretrained(folder)
        read_by_5 = [own(text)["input_ids"] for text in HARD_TEXTS]
        assert (read_by_5 == [made.encode(text).ids for text in HARD_TEXTS]) == (named == "TokenizersBackend")
    if named == "TokenizersBackend":
        assert [_ids(_facts(folder), text) for text in HARD_TEXTS[:9]] == [
            made.encode(text).ids for text in HARD_TEXTS[:9]
        ]
    else:
        assert "other ids than a BertTokenizer of transformers 5" in _refused(folder)


def test_a_model_of_another_kind_than_the_class_of_5_has(tmp_path: Path) -> None:
    config = {**V5, "tokenizer_class": "RobertaTokenizer"}
    said = _refused(_folder(tmp_path, tokenizers_zoo.wordpiece(), config, family="roberta"))
    assert "has a WordPiece model, and a RobertaTokenizer of transformers 5 is made of a BPE model" in said


def test_where_tokens_begin_is_as_the_class_of_5_says(tmp_path: Path) -> None:
    made = tokenizers_zoo.bpe()
    config = {**V5, "tokenizer_class": "RobertaTokenizer", "trim_offsets": False}
    facts = _facts(_folder(tmp_path, made, config, family="roberta"))
    offsets = Tokenizer.from_str(facts.text).encode("the film").offsets
    assert (2, 3) not in [(start, end) for start, end in offsets]
    assert any("the film"[start] == " " for start, end in offsets if end > start)
    if MAJOR == 5:
        with quiet():
            own = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert own("the film", return_offsets_mapping=True)["offset_mapping"] == offsets


def test_split_special_tokens_is_refused(tmp_path: Path) -> None:
    config = {**V4, "tokenizer_class": "BertTokenizer", "split_special_tokens": True}
    assert "split_special_tokens true" in _refused(_folder(tmp_path, tokenizers_zoo.wordpiece(), config))


def test_a_key_that_nobody_reads(tmp_path: Path) -> None:
    config = {**V4, "tokenizer_class": "BertTokenizer", "my_note": 1, "chat_template": "x", "is_local": True}
    account = Account()
    folder = _folder(tmp_path, tokenizers_zoo.wordpiece(), config)
    read_tokenizer(folder, embeddings=5000, account=account)
    assert account.private_keys == ("tokenizer_config.json: my_note",)


def test_a_key_of_a_newer_version(tmp_path: Path) -> None:
    config = {**V4, "tokenizer_class": "PreTrainedTokenizerFast", "split_by_moon": True}
    folder = _folder(tmp_path, tokenizers_zoo.wordpiece(), config, saver="99.1.0")
    said = _refused(folder)
    assert "split_by_moon true" in said
    assert "transformers 99.1.0" in said
    assert "--ignore-key split_by_moon" in said
    assert _facts(folder, "split_by_moon").max_length == 64


def test_no_special_tokens_around_a_text_of_version_5(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    made.post_processor = None
    config = {**V5, "tokenizer_class": "BertTokenizer"}
    assert "puts no special tokens around a text" in _refused(_folder(tmp_path, made, config))


@pytest.mark.parametrize("both", [True, False])
def test_the_class_of_mmbert_puts_its_own_tokens(tmp_path: Path, both: bool) -> None:
    made = tokenizers_zoo.unigram()
    tokens = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    config = {**V4, **tokens, "tokenizer_class": "GemmaTokenizerFast", "add_bos_token": True}
    folder = _folder(tmp_path, made, {**config, "add_eos_token": both}, family="modernbert")
    made.post_processor = None
    inner = [made.encode(text).ids for text in ("film", "the end")]
    bos, eos = made.token_to_id("<s>"), [made.token_to_id("</s>")] if both else []
    facts = _facts(folder)
    assert _ids(facts, "film") == [bos, *inner[0], *eos]
    pair = Tokenizer.from_str(facts.text).encode("film", "the end")
    assert pair.ids == [bos, *inner[0], *eos, bos, *inner[1], *eos]
    assert pair.type_ids == [0] * (1 + len(inner[0]) + both) + [1] * (1 + len(inner[1]) + both)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": None}))
    assert "add_bos_token true, and no bos_token" in _refused(folder)


@pytest.mark.parametrize("limit", [None, 10**30, 0])
def test_no_limit_of_the_tokenizer(tmp_path: Path, limit: int | None) -> None:
    config = {**V5, "tokenizer_class": "BertTokenizer", "model_max_length": limit}
    assert _facts(_folder(tmp_path, tokenizers_zoo.wordpiece(), config)).max_length is None


@pytest.mark.parametrize("limit", ["512", True, [64]])
def test_a_limit_that_is_no_number(tmp_path: Path, limit: object) -> None:
    config = {**V5, "tokenizer_class": "BertTokenizer", "model_max_length": limit}
    folder = _folder(tmp_path, tokenizers_zoo.wordpiece(), config)
    assert f"has model_max_length {json.dumps(limit)}, which is no number; correct it" in _refused(folder)


def test_sides_of_padding_and_cutting(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    made.enable_truncation(8, direction="left")
    folder = _folder(tmp_path, made, {**V5, "tokenizer_class": "BertTokenizer", "padding_side": "left"})
    facts = _facts(folder)
    assert (facts.padding_side, facts.truncation_side) == ("left", "left")
    edit_json(folder / "tokenizer_config.json", truncation_side="right")
    assert _facts(folder).truncation_side == "right"
    edit_json(folder / "tokenizer_config.json", truncation_side="top")
    assert "truncation_side 'top'" in _refused(folder)


def test_a_class_that_no_version_has(tmp_path: Path) -> None:
    config = {**V5, "tokenizer_class": "MoonTokenizer"}
    folder = _folder(tmp_path, tokenizers_zoo.wordpiece(), config, family="modernbert")
    assert _ids(_facts(folder), "Hello") == tokenizers_zoo.wordpiece().encode("Hello").ids


def test_a_tokenizer_without_its_unknown_token(tmp_path: Path) -> None:
    state = json.loads(tokenizers_zoo.wordpiece().to_str())
    state["model"]["unk_token"] = "<nowhere>"
    config = {**V5, "tokenizer_class": "TokenizersBackend"}
    folder = _folder(tmp_path, Tokenizer.from_str(json.dumps(state)), config)
    said = _refused(folder)
    assert "cannot read the text" in said
    assert "Missing [UNK] token" in said


def test_a_class_that_takes_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_boxes(*_: Any, **__: Any) -> Any:
        raise ValueError("Words must be of type list[str]")

    config = {**(V4 if MAJOR == 4 else V5), "tokenizer_class": "LayoutLMv2Tokenizer"}
    folder = _folder(tmp_path, tokenizers_zoo.wordpiece(), config, saver=transformers.__version__)
    auto: Any = transformers.AutoTokenizer
    monkeypatch.setattr(auto, "from_pretrained", lambda *_, **__: of_boxes)
    facts = _facts(folder)
    assert _ids(facts, "Hello") == tokenizers_zoo.wordpiece().encode("Hello").ids
    assert "cannot be used to compare them (Words must be" in str(facts.notes[-1])


# Vocabularies without a tokenizer.json


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("added_tokens.json", {"[SEP]": 1200}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1300": {"content": "New", "special": False}}}),
        ("tokenizer_config.json", {"additional_special_tokens": ["New"]}),
    ],
)
def test_tokens_that_another_version_adds_to_a_vocabulary(tmp_path: Path, file: str, data: Any) -> None:
    _bert_files(tmp_path)
    saver = "5.24.0" if MAJOR == 4 else "4.57.6"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "transformers_version": saver}))
    ids = _ids(_facts(tmp_path), "the film")
    assert ids == tokenizers_zoo.wordpiece().encode("the film").ids
    (tmp_path / file).write_text(json.dumps(data))
    assert "which it adds to its vocabulary, is read by transformers" in _refused(tmp_path)


@pytest.mark.parametrize(("family", "file"), [("rembert", "sentencepiece.model"), ("deberta", "vocab.json")])
def test_defaults_of_a_vocabulary_alone_are_those_of_the_python_class(
    tmp_path: Path, family: str, file: str
) -> None:
    (tmp_path / file).write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    folder = read_folder(tmp_path)
    assert folder.named["pad_token"].content == "[PAD]"
    assert folder.named["mask_token"].lstrip
    if MAJOR == 4:
        slow = getattr(transformers, folder.kind.name.removesuffix("Fast"))
        assert inspect.signature(slow).parameters["pad_token"].default == "[PAD]"


def test_a_converter_that_fails(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"no model")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "albert"}))
    said = _refused(tmp_path)
    assert ("no AlbertTokenizer can be made of the files" in said) == (MAJOR == 5)


def test_a_tokenizer_that_panics(tmp_path: Path) -> None:
    panic = type("PanicException", (BaseException,), {})

    class Broken:
        def encode(self, _: str) -> None:
            raise panic("bad split")

    folder = read_folder(_folder(tmp_path, tokenizers_zoo.wordpiece(), V4))
    broken: Any = Broken()
    with pytest.raises(CheckpointError, match="cannot read the text"):
        require_encodes(broken, folder)


def test_a_file_that_the_library_panics_at(tmp_path: Path) -> None:
    folder = _folder(tmp_path, tokenizers_zoo.bpe(), V4, family="roberta")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit_json(folder / "tokenizer.json", model=model | {"continuing_subword_prefix": "@@"})
    assert f"{folder / 'tokenizer.json'} cannot be loaded as a tokenizer (" in _refused(folder)


def test_a_class_of_5_that_fails_on_what_the_file_reads(tmp_path: Path) -> None:
    config = {**V5, "tokenizer_class": "BertTokenizer", "unk_token": "[NONE]"}
    said = _refused(_folder(tmp_path, tokenizers_zoo.wordpiece(), config))
    assert "other ids than a BertTokenizer of transformers 5" in said


def test_an_unknown_piece_that_the_file_has_not(tmp_path: Path) -> None:
    config = {**V5, "tokenizer_class": "BigBirdTokenizer", "unk_token": "▁the"}
    said = _refused(_folder(tmp_path, tokenizers_zoo.unigram(), config, family="big_bird"))
    assert "has unk_token '▁the', and tokenizer.json another" in said


def test_a_tokenizer_of_4_that_is_made_anew_of_its_vocabulary(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    folder = _folder(tmp_path, made, {**V4, "from_slow": True})
    assert _ids(_facts(folder), "the film") == made.encode("the film").ids
    words = sorted(made.get_vocab(), key=made.get_vocab().__getitem__)
    # Another order of the words, as of files that do not belong together.
    (folder / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]), encoding="utf-8")
    if MAJOR == 4:
        assert "give different ids" in _refused(folder)
    else:
        assert "from_slow true, by which transformers 4 makes the tokenizer anew of vocab.txt" in _refused(
            folder
        )
        assert _ids(_facts(folder, "from_slow"), "the film") == made.encode("the film").ids


def test_a_vocabulary_alone_with_the_list_of_its_own_special_tokens(tmp_path: Path) -> None:
    _bert_files(tmp_path)
    saver = "5.24.0" if MAJOR == 4 else "4.57.6"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "transformers_version": saver}))
    own = tokenizers_zoo.wordpiece().get_added_tokens_decoder()
    listed = {str(index): _flagged(token.content, "special") for index, token in own.items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    assert _ids(_facts(tmp_path), "the film") == tokenizers_zoo.wordpiece().encode("the film").ids


def test_decoded_text_of_a_vocabulary_alone_is_cleaned_up_as_version_4_does(tmp_path: Path) -> None:
    _bert_files(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert _facts(tmp_path).clean_up_spaces
    if MAJOR == 4:
        with quiet():
            own = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert own.clean_up_tokenization_spaces
    # A tokenizer.json is read by the fast class alone, which has another default.
    assert not _facts(_folder(tmp_path, tokenizers_zoo.wordpiece(), {})).clean_up_spaces


def _lines(blank: str) -> tuple[str, int]:
    vocabulary = _vocabulary("wordpiece")
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    text = {
        "last": "\n".join(lines) + "\n\n",
        "inside": "\n".join([*lines[:50], "", *lines[50:]]) + "\n",
        "twice": "\n".join([*lines, lines[40]]) + "\n",
        "crlf": "\r\n".join(lines) + "\r\n",
    }[blank]
    return text, len(lines) + {"inside": 1, "twice": 1}.get(blank, 0)


@pytest.mark.parametrize("blank", ["last", "inside", "twice", "crlf"])
def test_a_vocabulary_with_odd_lines(tmp_path: Path, blank: str) -> None:
    text, count = _lines(blank)
    (tmp_path / "vocab.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    facts = _facts(tmp_path, embeddings=count)
    auto: Any = transformers.AutoTokenizer
    own = auto.from_pretrained(tmp_path)
    assert [_ids(facts, text) for text in HARD_TEXTS] == [own(text)["input_ids"] for text in HARD_TEXTS]


def test_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + _lines("last")[0].encode())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "vocab.txt begins with a byte order mark" in _refused(tmp_path)


@pytest.mark.parametrize(("family", "file"), [("deberta-v2", "spm.model"), ("xlm-roberta", _XLM_R)])
def test_sentencepiece_alone(tmp_path: Path, family: str, file: str) -> None:
    import sentencepiece

    (tmp_path / "text").write_text("\n".join(SENTENCES), encoding="utf-8")
    pad, cls, sep, unknown = (
        ("[PAD]", "[CLS]", "[SEP]", "[UNK]") if family == "deberta-v2" else ("<pad>", "<s>", "</s>", "<unk>")
    )
    ids: Any = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    if family != "deberta-v2":  # fairseq's ids are moved by one
        ids = {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / file.removesuffix(".model")),
        vocab_size=600,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        pad_piece=pad,
        bos_piece=cls,
        eos_piece=sep,
        unk_piece=unknown,
        **ids,
    )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    if MAJOR == 5 and family == "xlm-roberta":
        # 5 makes other ids of such a file than 4.
        assert "makes another XLMRobertaTokenizer of its files than 5" in _refused(tmp_path)
        return
    facts = _facts(tmp_path)
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / file))
    for text in (*SENTENCES[:20], "\u2460 \uff21 film  of two"):
        # SentencePiece folds what looks alike; version 5's own class for DeBERTa would not.
        wanted = own.encode(text)
        if family != "deberta-v2":
            wanted = [index + 1 if index else 3 for index in wanted]
        assert _ids(facts, text)[1:-1] == wanted


PROTEINS = ("MKTVRQERLKSIVRILERSKEPVSGAQ", "M K T <mask> V", "mkt MKXBZ.-", "MKT<mask>VR qq", "<cls>MK<eos>")


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_esm_from_its_vocabulary(tmp_path: Path, end: str) -> None:
    lines = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + end)
    (tmp_path / "config.json").write_text('{"model_type": "esm"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')
    facts = _facts(tmp_path, embeddings=len(lines))
    own: Any = transformers.EsmTokenizer.from_pretrained(tmp_path)
    for text in (*PROTEINS, *HARD_TEXTS):
        assert _ids(facts, text) == own(text)["input_ids"]
    assert _ids(facts, *PROTEINS[:2]) == own(*PROTEINS[:2])["input_ids"]
    assert facts.input_names == ("input_ids", "attention_mask")
    assert facts.mask_token_id == own.mask_token_id
    ids, written = _ids(facts, PROTEINS[0]), Tokenizer.from_str(facts.text)
    assert written.decode(ids, skip_special_tokens=True) == own.decode(ids, skip_special_tokens=True)


def test_esm_without_its_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("L\nA\nG\n")
    (tmp_path / "config.json").write_text('{"model_type": "esm"}')
    assert "<eos>" in _refused(tmp_path)


# Added tokens that are listed twice


def _flagged(content: str, *flags: str) -> dict[str, Any]:
    names = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return {"content": content, **{name: name in flags for name in names}}


def _as_own(folder: Path, *texts: str) -> Tokenizer:
    """Return what is written down of a folder; where the installed version saved it, it must give its ids."""
    facts = _facts(folder)
    written = Tokenizer.from_str(facts.text)
    if ("backend" in json.loads((folder / "tokenizer_config.json").read_text())) is (MAJOR == 5):
        auto: Any = transformers.AutoTokenizer
        own = auto.from_pretrained(folder)
        for text in texts:
            ids = own(text)["input_ids"]
            assert written.encode(text).ids == ids
            assert written.decode(ids) == own.decode(ids, skip_special_tokens=True)
    return written


def test_a_token_that_is_listed_again_is_looked_for_where_it_was(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    config = {**V4, "tokenizer_class": "BertTokenizer", "mask_token": "[MASK]"}
    config["added_tokens_decoder"] = {"4": _flagged("[MASK]", "lstrip", "normalized", "special")}
    written = _as_own(_folder(tmp_path, made, config), "a [mask] film", "a [MASK] film")
    assert 4 not in written.encode("a [mask] film").ids
    assert written.encode("a [MASK] film").offsets[2] == (1, 8)


@pytest.mark.parametrize("version", [V4, V5])
def test_a_listed_token_with_a_name_is_special_whatever_both_files_say(
    tmp_path: Path, version: dict[str, Any]
) -> None:
    data = json.loads(tokenizers_zoo.wordpiece().to_str())
    data["added_tokens"][4]["special"] = False
    listed = {"4": _flagged("[MASK]")} if version is V4 else {}
    config = {**version, "tokenizer_class": "BertTokenizer", "mask_token": "[MASK]"}
    if listed:
        config["added_tokens_decoder"] = listed
    folder = _folder(tmp_path, Tokenizer.from_str(json.dumps(data)), config)
    written = _as_own(folder, "a [MASK] film")
    assert "[MASK]" not in written.decode(written.encode("a [MASK] film").ids)


def test_a_token_that_was_special_stays_so(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    made.add_special_tokens(["[x]"])
    config = {**V4, "tokenizer_class": "BertTokenizer"}
    config["added_tokens_decoder"] = {str(made.token_to_id("[x]")): _flagged("[x]", "normalized")}
    written = _as_own(_folder(tmp_path, made, config), "a [x] film")
    assert "x" not in written.decode(written.encode("a [x] film").ids)


def test_a_mask_with_flags_is_that_of_tokenizer_config(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    mask = {**_flagged("[MASK]", "lstrip"), "__type": "AddedToken"}
    config = {**V4, "tokenizer_class": "BertTokenizer", "mask_token": mask}
    written = _as_own(_folder(tmp_path, made, config), "a [MASK] film")
    assert written.encode("a [MASK] film").offsets[2] == (1, 8)


def test_a_token_of_special_tokens_map_with_flags_is_special(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece()
    folder = _folder(tmp_path, made, {"tokenizer_class": "BertTokenizer", "model_max_length": 64})
    new = {name: value for name, value in _flagged("[NEW]", "lstrip").items() if name != "special"}
    (folder / "special_tokens_map.json").write_text(json.dumps({"mask_token": new}))
    count = made.get_vocab_size()
    (folder / "added_tokens.json").write_text(json.dumps({"[NEW]": count}))
    written = _as_own(folder, "a [NEW] film", "a [new] film")
    assert count in written.encode("a [NEW] film").ids
    assert count not in written.encode("a [new] film").ids
    assert "[NEW]" not in written.decode([count])


def test_a_normalizer_that_would_lose_an_added_token(tmp_path: Path) -> None:
    made = tokenizers_zoo.wordpiece(lowercase=False)
    made.add_tokens(["NewWord"])
    folder = _folder(tmp_path, made, {**V4, "tokenizer_class": "BertTokenizer", "do_lower_case": True})
    said = _refused(folder)
    assert "contradicts tokenizer.json in how texts are normalized" in said
    assert "'NewWord' is not found where it is written" in said
    edit_json(folder / "tokenizer_config.json", do_lower_case=False)
    with pytest.raises(CheckpointError, match="do_lower_case of Sentence-Transformers"):
        read_tokenizer(folder, embeddings=5000, account=Account(), lower=True)


@pytest.mark.parametrize("named", ["ElectraTokenizer", "LayoutLMTokenizer", "LongformerTokenizerFast"])
def test_names_of_version_4_that_5_finds_by_their_converter(named: str) -> None:
    typed = not named.startswith("Longformer")
    assert ("token_type_ids" in class_of(5, named, "bert").makes) is typed
    assert class_of(5, named, "bert").known


def test_tokenizer_files_of_4_beside_an_electra_of_5_make_segments(tmp_path: Path) -> None:
    config = {**V4, "tokenizer_class": "ElectraTokenizer"}
    folder = _folder(tmp_path, tokenizers_zoo.wordpiece(), config, family="electra", saver="5.24.0")
    assert "token_type_ids" in _facts(folder).input_names


@pytest.mark.parametrize(("named", "found"), [("BertTokenizer", False), ("TokenizersBackend", True)])
def test_version_5_reads_added_tokens_of_one_file(tmp_path: Path, named: str, found: bool) -> None:
    made = tokenizers_zoo.wordpiece()
    made.add_tokens(["newword"])
    index = made.token_to_id("newword")
    tokens = {
        str(i): _flagged(token.content, "special") for i, token in made.get_added_tokens_decoder().items()
    }
    del tokens[str(index)]
    config = {**V5, "tokenizer_class": named, "added_tokens_decoder": tokens}
    written = _as_own(_folder(tmp_path, made, config), "a newword here")
    assert (index in written.encode("a newword here").ids) is found


class _Panicking:
    """A tokenizer that Rust panics in, at one text."""

    def __init__(self, made: Tokenizer) -> None:
        self.made = made

    def __call__(self, text: str, pair: str | None) -> dict[str, list[int]]:
        if text == "Hello, world!":
            raise type("PanicException", (BaseException,), {})("AddedVocabulary bad split")
        return {"input_ids": self.made.encode(text, pair).ids}


def test_a_text_that_both_panic_at_is_no_difference() -> None:
    made = tokenizers_zoo.wordpiece()
    assert difference(_Panicking(made), made, typed=False) is None
    assert difference(_Panicking(tokenizers_zoo.bpe()), made, typed=False) is not None
