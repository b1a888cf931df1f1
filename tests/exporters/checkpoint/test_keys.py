"""The account of keys that nothing reads: refused by name, lifted on request, listed where private."""

from __future__ import annotations

import pytest

from bertonnx.errors import CheckpointError
from bertonnx.exporters.checkpoint.keys import Account, shown
from bertonnx.wording import COMMAND_LINE, PYTHON, Message, R


def _refusal(account: Account, key: str = "attention_kind", value: object = "linear") -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        account.refuse("config.json", key, value, "which nobody knows", remedy="take another")
    return caught.value


def test_a_refusal_names_file_key_and_value_and_what_to_type_in_each_language() -> None:
    error = _refusal(Account())
    start = 'config.json has attention_kind "linear", which nobody knows; take another, or '
    assert error.worded(COMMAND_LINE) == f"{start}--ignore-key attention_kind leaves it out of account"
    assert error.worded(PYTHON) == f"{start}ignore_keys=['attention_kind'] leaves it out of account"
    assert error.worded(R) == f'{start}ignore_keys = c("attention_kind") leaves it out of account'


@pytest.mark.parametrize("asked", ["pooling_kind", "1_Pooling/config.json: pooling_kind"])
def test_a_key_is_ignored_on_request_and_taken_down(asked: str) -> None:
    account = Account([asked])
    account.refuse("1_Pooling/config.json", "pooling_kind", 3, "which nobody knows")
    account.refuse("1_Pooling/config.json", "pooling_kind", 3, "which nobody knows")
    assert account.ignored_keys == ("1_Pooling/config.json: pooling_kind",)
    assert [note.worded(COMMAND_LINE) for note in account.notes] == [
        "keys that were ignored, as asked: 1_Pooling/config.json: pooling_kind"
    ]


def test_a_key_of_another_name_or_file_is_still_refused() -> None:
    account = Account(["other", "tokenizer_config.json: attention_kind"])
    assert "attention_kind" in str(_refusal(account))
    assert account.ignored_keys == ()
    assert [note.worded(COMMAND_LINE) for note in account.notes] == [
        "--ignore-key other --ignore-key tokenizer_config.json: attention_kind was not needed: no such key "
        "was in the way"
    ]


def test_private_keys_are_listed_and_many_are_counted() -> None:
    account = Account()
    account.note(Message("a note of its own"))
    account.private("config.json", [f"key{number}" for number in range(11)])
    first, second = map(str, account.notes)
    assert first == "a note of its own"
    assert second.startswith("keys that no library reads: config.json: key0, config.json: key1, ")
    assert second.endswith("config.json: key7 and 3 more")
    assert account.private_keys[10] == "config.json: key10"


def test_long_values_are_cut() -> None:
    assert shown({"b": [1, None, "é"]}) == '{"b": [1, null, "é"]}'
    assert len(shown(list(range(1000)))) == 80
