"""What holds for any text: Hypothesis looks for one for which it does not, and shrinks what it finds.

Always the same examples, so that a failure is the change's; with `--fuzz-minutes`, other ones each time.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer

pytest.importorskip("hypothesis", reason="Hypothesis is not installed: pip install --group dev")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertonnx.runtime.io.job import Job
from bertonnx.runtime.io.writers import check_output
from bertonnx.runtime.options import RunOptions
from bertonnx.runtime.rows import Encoded, Row
from bertonnx.runtime.tokenization import TextTokenizer
from tests.fake_predictor import FakePredictor, card, result_of
from tests.tables import rows_of, written
from tests.tokenizers_zoo import bpe, unigram, wordpiece

# All of Unicode but halves of characters, which no UTF-8 holds; often what means something to a format.
TEXTS = st.text(
    st.sampled_from(" ,;\t\"'\n\r\0\\a=é🙂\u2028\x85\ufeff") | st.characters(exclude_categories=["Cs"])
)
LISTS = st.lists(TEXTS, min_size=1)


def holds_for(*strategies: st.SearchStrategy[object]) -> Callable[..., Callable[[pytest.Config], None]]:
    """Make a test of a check: it is called with examples, of which there are more with more time."""

    def made(check: Callable[..., None]) -> Callable[[pytest.Config], None]:
        def test(pytestconfig: pytest.Config) -> None:
            minutes = pytestconfig.getoption("--fuzz-minutes") or 0
            bounded = settings(
                max_examples=int(10_000 * minutes) or 40,
                derandomize=not minutes,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            bounded(given(*strategies)(check))()

        return test

    return made


@holds_for(LISTS, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]), st.sampled_from(["\n", "\r\n"]))
def test_a_csv_file_holds_the_texts_that_were_put_into_it(texts: list[str], quoting: int, end: str) -> None:
    file = io.StringIO()
    lines = csv.writer(file, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    lines.writerows([["n", "text"], *([place, text] for place, text in enumerate(texts))])
    _assert_holds(".csv", file.getvalue(), texts)


@holds_for(LISTS, st.booleans())
def test_json_lines_hold_the_texts_that_were_put_into_them(texts: list[str], ascii_only: bool) -> None:
    lines = (json.dumps({"text": text}, ensure_ascii=ascii_only) for text in texts)
    _assert_holds(".jsonl", "".join(f"{line}\n" for line in lines), texts)


def _assert_holds(ending: str, content: str, texts: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(written(Path(folder) / f"in{ending}", content.encode()), column="text")
    assert [row.text if isinstance(row, Row) else str(row) for row in rows] == list(texts)


@holds_for(LISTS, st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_what_an_output_says_reads_back(texts: list[str], ending: str) -> None:
    texts = [text.replace("FAIL", "") for text in texts]
    model = FakePredictor("text-classification", labels=(*texts, "other"))
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        input = written(Path(folder) / "in.jsonl", lines.encode())
        target = check_output(Path(folder) / f"out{ending}", input=input)
        Job(model, input, target, options=RunOptions(column="text")).run()
        content = target.path.read_bytes().decode()
    if ending == ".jsonl":
        found = [json.loads(line)["label"] for line in content.split("\n")[:-1]]
    else:
        records = csv.reader(io.StringIO(content, newline=""), delimiter="," if ending == ".csv" else "\t")
        found = [record[1] for record in records][1:]
    assert found == [result_of(model.card, Row(text))["label"] for text in texts]


@holds_for(TEXTS, st.integers(1, 400), st.sampled_from([wordpiece, bpe, unigram]))
def test_of_a_huge_text_the_tokens_are_those_of_the_whole(
    part: str, times: int, make: Callable[[], Tokenizer]
) -> None:
    text = (part or "x") * times * 20
    whole = make()
    (found,) = TextTokenizer(whole.to_str(), card("feature-extraction", max_length=16)).encode([Row(text)])
    whole.enable_truncation(16)
    assert isinstance(found, Encoded)
    assert found.pieces[0].ids.tolist() == whole.encode(text).ids
