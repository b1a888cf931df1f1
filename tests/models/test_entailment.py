"""Which labels mean entailment and contradiction, as people name them."""

from __future__ import annotations

import pytest

from bertonnx.models.entailment import Inference, inference_of


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (("contradiction", "neutral", "entailment"), (2, 0)),
        (("ENTAILMENT", "NEUTRAL", "CONTRADICTION"), (0, 2)),
        (("contradiction", "entailment", "neutral"), (1, 0)),
        (("neutral", "Entailment", "Contradiction"), (1, 2)),
        (("entailment", "not_entailment"), (0, 1)),
        (("not_entailment", "entailment"), (1, 0)),
        (("Non-Entailment", "Entails"), (1, 0)),
        (("0: entailment", "1: neutral", "2: contradiction"), (0, 2)),
        (("n", "c", "e"), (2, 1)),
        (("Widerspruch", "neutral", "Folgerung"), (2, 0)),
        (("implication", "neutre", "contradiction"), (0, 2)),
        (("implicación", "neutral", "contradicción"), (0, 2)),
        (("矛盾", "中立", "蕴含"), (2, 0)),
        (("矛盾", "中立", "含意"), (2, 0)),
        (("함의", "중립", "모순"), (0, 2)),
        (("следование", "нейтрально", "противоречие"), (0, 2)),
        (("ÇELİŞKİ", "nötr", "çıkarım"), (2, 0)),
        (("LABEL_0", "LABEL_1", "LABEL_2"), None),
        (("negative", "positive"), None),
        (("entailment", "strong entailment"), None),
        (("entailment",), None),
        ((), None),
    ],
)
def test_names(labels: tuple[str, ...], found: tuple[int, int] | None) -> None:
    assert inference_of(labels) == (None if found is None else Inference(*found))


def test_a_label_that_the_user_names() -> None:
    names = ("LABEL_0", "LABEL_1", "LABEL_2")
    assert inference_of(names, "LABEL_2") == (2, 0)
    assert inference_of(names, "LABEL_0") == (0, 2)
    # Neither end is the other one.
    assert inference_of(names, "LABEL_1") == (1, None)
    assert inference_of(("yes", "no"), "yes") == (0, 1)
