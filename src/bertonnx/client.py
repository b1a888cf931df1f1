"""`bertonnx.Client`: the methods of a model that a server has, over its own wire."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from bertonnx import errors
from bertonnx.errors import BertonnxError, MissingDependencyError, ModelFileError, RowError, ServerError
from bertonnx.models.card import Card
from bertonnx.runtime.decoders.sparse import Words
from bertonnx.runtime.methods import Methods
from bertonnx.runtime.options import DecodeOptions, Encoding
from bertonnx.runtime.rows import Item, Row, as_rows
from bertonnx.runtime.vectors.encodings import DTYPES
from bertonnx.wording import Install, Option, printable

if TYPE_CHECKING:
    import httpx

__all__ = ["Client"]

_TEXTS, _CHARACTERS = 256, 200_000
"""Texts that are sent together: far from any server's limit of bytes, and many enough to fill batches."""

_AGAIN = (429, 503)
"""Answers after which a request is sent again, until its time is up."""

_LEAST_WAIT, _MOST_WAIT = 0.05, 5.0

_UNAUTHORIZED = 401

_WORDS = {"tokens", "ids", "weights"}

_NUMBERS = ("score",)
"""Fields of results that are numbers, wherever they stand."""

_USUAL = DecodeOptions()


class Client(Methods):
    """The methods of `bertonnx.Model`, answered by a server: the same bits, and the same errors.

    Safe to call from several threads, and a context manager. Long texts are cut as a local model cuts them,
    and `TruncationWarning` says so.

    Args:
        url: address of the server, such as "http://127.0.0.1:8080".
        model: its name there; None for the first that the server has.
        api_key: the server's key, if it asks for one.
        timeout: seconds for an answer, with the time that a server which is too busy asks to wait.

    Attributes:
        card: what the model says of itself.
        model: its name.

    Raises:
        ServerError: the server cannot be reached, or has no such model.
        MissingDependencyError: httpx is not installed.
    """

    def __init__(
        self, url: str, model: str | None = None, api_key: str | None = None, timeout: float = 60
    ) -> None:
        self._address = (url, model, api_key, timeout)
        self._timeout = timeout
        self._http = _http(url, api_key, timeout)
        try:
            found = self._model(model)
            self.model: str = found["id"]
            self._max_length = int(found["max_length"])
            self._options: Mapping[str, Any] = {"long_text": found["long_text"]}
            self.card = _card(found["card"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process makes its own connection.
        return (type(self), self._address)

    def __repr__(self) -> str:
        # Without the key.
        return f"bertonnx.Client({self._address[0]!r}, model={self.model!r}, task={self.card.task!r})"

    def close(self) -> None:
        """Let the connections go. The client cannot be used afterwards."""
        self._http.close()

    @property
    def max_length(self) -> int:
        """Longest input in tokens, special tokens included."""
        return self._max_length

    def _results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        chosen = {
            item.name: getattr(decode, item.name)
            for item in fields(decode)
            if getattr(decode, item.name) != getattr(_USUAL, item.name)
        }
        rows = list(as_rows(texts, pairs))
        for part in _parts(rows):
            # What is no text has its error here: JSON may not even be able to hold it.
            good = [row for row in part if isinstance(row, Row)]
            body: dict[str, Any] = {
                "model": self.model,
                "method": "predict",
                "texts": [row.text for row in good],
                "options": {**chosen, **self._options},
                "exact": True,
            }
            if pairs is not None:
                body["pairs"] = [row.pair for row in good]
            answer = self._asked("POST", "/v1/predict", body)
            lines = iter(answer["results"])
            for row in part:
                yield row if isinstance(row, RowError) else _result(next(lines), decode.encoding)

    def _model(self, name: str | None) -> dict[str, Any]:
        if name is None:
            models = self._asked("GET", "/v1/models")["data"]
            first: dict[str, Any] = models[0]
            return first
        return self._asked("GET", f"/v1/models/{quote(name, safe='/')}")

    def _asked(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return the server's answer; where it is too busy, ask again until the time is up."""
        until = time.monotonic() + self._timeout
        while True:
            response = self._sent(method, path, body)
            left = until - time.monotonic()
            if response.status_code not in _AGAIN or (wait := _wait(response)) > left:
                return self._read(response)
            time.sleep(wait)

    def _sent(self, method: str, path: str, body: Any) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(
                "the server at {url} cannot be reached: {why}",
                url=self._address[0],
                why=str(error) or type(error).__name__,
            ) from error

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError as fault:
            raise self._foreign(response) from fault
        if not isinstance(answer, dict):
            raise self._foreign(response)
        if response.is_success:
            return answer
        error = answer.get("error")
        if not isinstance(error, dict):
            raise self._foreign(response)
        raise _raised(error, response.status_code)

    def _foreign(self, response: httpx.Response) -> ServerError:
        return ServerError(
            "what answers at {url} is no server of bertonnx (status {status})",
            url=self._address[0],
            status=response.status_code,
        )


def _http(url: str, key: str | None, timeout: float) -> httpx.Client:
    if find_spec("httpx") is None:
        raise MissingDependencyError(
            "{client} needs httpx; type: {install}", client="bertonnx.Client", install=Install("client")
        )
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        return httpx.Client(base_url=url, headers=headers, timeout=timeout)
    except (httpx.InvalidURL, UnicodeEncodeError, TypeError) as error:
        raise ServerError("{url!r} is no address of a server: {why}", url=url, why=str(error)) from error


def _card(values: Any) -> Card:
    try:
        return Card.from_json(json.dumps(values))
    except ModelFileError as error:
        raise ServerError("the server's model cannot be used here: {why}", why=error.message) from error


def _parts(rows: Sequence[Row | RowError]) -> Iterator[Sequence[Row | RowError]]:
    """Yield rows that are sent together; once where there are none, so that options are checked."""
    start = characters = 0
    for place, row in enumerate(rows):
        characters += 0 if isinstance(row, RowError) else len(row.text) + len(row.pair or "")
        if place + 1 - start >= _TEXTS or characters >= _CHARACTERS:
            yield rows[start : place + 1]
            start, characters = place + 1, 0
    if start < len(rows) or not rows:
        yield rows[start:]


def _wait(response: httpx.Response) -> float:
    """Return for how many seconds the server asks to wait, and some more: not all shall come at once."""
    try:
        asked = float(response.headers.get("retry-after-ms", "")) / 1000
    except ValueError:
        asked = 1.0
    return min(max(asked, _LEAST_WAIT), _MOST_WAIT) * random.uniform(1.0, 1.2)


def _result(line: dict[str, Any], encoding: Encoding) -> Item | RowError:
    """Return the item of a line of `run`, with the float32 that its numbers stand for."""
    error = line.get("error")
    if isinstance(error, dict) and set(error) == {"type", "message"}:
        return RowError(str(error["type"]), "{said}", said=str(error["message"]))
    items = ((name, value) for name, value in line.items() if name != "row")
    return {name: _score(value) if name in _NUMBERS else _field(value, encoding) for name, value in items}


def _field(value: Any, encoding: Encoding) -> Any:
    if isinstance(value, dict) and set(value) == _WORDS:
        ids, weights = np.array(value["ids"], dtype=np.int64), np.array(value["weights"], dtype=np.float32)
        return Words(value["tokens"], ids, weights)
    # Lists of numbers are vectors, and no other result has any.
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(value, list) and (first is None or isinstance(first, int | float)):
        return np.array(value, dtype=DTYPES[encoding])
    if isinstance(value, list):
        return [_field(inner, encoding) for inner in value]
    if isinstance(value, dict):
        return {
            name: _score(inner) if name in _NUMBERS else _field(inner, encoding)
            for name, inner in value.items()
        }
    return _exact(value)


def _exact(value: Any) -> Any:
    """Return a value whose floats are float32 again; null stands for NaN."""
    return float(np.float32(value)) if isinstance(value, float) else value


def _score(value: Any) -> Any:
    return float("nan") if value is None else _exact(value)


def _raised(error: Mapping[str, Any], status: int) -> BertonnxError:
    """Return the error that the server had, of the same class."""
    said = printable(str(error.get("message") or f"status {status}"))
    name = error.get("class")
    kind = getattr(errors, name, None) if isinstance(name, str) and name in errors.__all__ else None
    if kind is RowError:
        return RowError(str(error.get("kind", "runtime")), "{said}", said=said)
    if isinstance(kind, type) and issubclass(kind, BertonnxError):
        return kind("{said}", said=said)
    if status == _UNAUTHORIZED:
        return ServerError(
            "the server needs a key, and {given}; give it as {option}",
            given="this one is not it" if error.get("code") == "invalid_api_key" else "none was given",
            option=Option("api_key"),
        )
    return ServerError("the server refused (status {status}): {said}", status=status, said=said)
