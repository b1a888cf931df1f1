"""Runs beside each other come back in order, and not all are under way; PyTorch's threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bertonnx.exporters import beside as module
from bertonnx.exporters.beside import beside, torch_threads


def test_results_come_in_the_order_of_the_items() -> None:
    assert [(item, future.result()) for item, future in beside(lambda n: n * n, range(20))] == [
        (n, n * n) for n in range(20)
    ]
    assert list(beside(abs, [])) == []


def test_only_some_are_asked_for_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "allowed_cores", lambda: 2)
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(9):
            asked.append(number)
            yield number

    found = beside(abs, items())
    next(found)
    assert asked == [0, 1, 2]
    assert len(list(found)) == 8


def test_of_the_first_few_the_largest_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "allowed_cores", lambda: 1)
    ran: list[int] = []
    found = list(beside(ran.append, [3, 7, 9, 1], size=lambda number: number))
    assert [item for item, _ in found] == [3, 7, 9, 1]
    assert ran == [7, 3, 9, 1]


def test_what_fails_fails_where_its_result_is_read() -> None:
    (_, good), (_, bad) = beside(lambda n: 1 // n, [1, 0])
    assert good.result() == 1
    with pytest.raises(ZeroDivisionError):
        bad.result()


def test_pytorch_has_fewer_threads_for_a_while() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for asked, got in ((2, 2), (0, 1), (9, 3)):
            with torch_threads(asked):
                assert torch.get_num_threads() == got
            assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), torch_threads(1):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
