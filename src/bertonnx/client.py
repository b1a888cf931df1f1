"""`bertonnx.Client`: the methods of a model that a server has, over its own wire."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from bertonnx import errors
from bertonnx.errors import BertonnxError, MissingDependencyError, ModelFileError, RowError, ServerError
from bertonnx.models.card import Card
from bertonnx.runtime.arrow_methods import ArrowMethods
from bertonnx.runtime.decoders.sparse import Words
from bertonnx.runtime.decoders.tokens import TokenOptions
from bertonnx.runtime.options import DecodeOptions
from bertonnx.runtime.rows import Encoded, Item, Piece, Row, as_rows
from bertonnx.wording import Install, Message, Option, printable

if TYPE_CHECKING:
    import httpx

__all__ = ["Client"]

_TEXTS, _CHARACTERS = 256, 200_000
"""Texts that are sent together: far from any server's limit of bytes, and many enough to fill batches."""

_AGAIN = (429, 503)
"""Answers after which a request is sent again, until its time is up."""

_LEAST_WAIT, _MOST_WAIT = 0.05, 5.0

_UNAUTHORIZED = 401

_PREDICT = "predict"

_WORDS, _ARRAY = {"tokens", "ids", "weights"}, {"dtype", "shape", "data"}
"""Fields of a sparse embedding, and of an array."""

_NUMBERS = ("score",)
"""Fields of results that are numbers, wherever they stand."""

_MAKE_PAIRS = {"query", "labels"}
"""Options that make pairs of single texts."""

_USUAL = DecodeOptions()


class Client(ArrowMethods):
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
        provider: what runs it there, "cpu" or "cuda".

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
            self.provider = str(found["provider"])
            self._identity, self._notes = str(found["identity"]), tuple(map(str, found["notes"]))
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

    @property
    def identity(self) -> str:
        """SHA-256, in hex, of what decides a prediction, as `Model.identity`."""
        return self._identity

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the model there, as it was when this client began."""
        return self._notes

    @property
    def messages(self) -> tuple[Message, ...]:
        """The notes, as `Model.messages`."""
        return tuple(Message("{said}", said=note) for note in self._notes)

    def stream(
        self, rows: Iterable[Row | RowError], decode: DecodeOptions = _USUAL
    ) -> Generator[Item | RowError, None, None]:
        """Yield one result for each row, in order, reading ahead only a bounded number of rows.

        An error stands in place of a row's result; embeddings are float32 arrays of shape (width,).

        Raises:
            ServerError: the server cannot be reached, or has no answer.
            UsageError: an option is of other tasks, or there is no such prompt.
        """
        usual = {item.name: getattr(_USUAL, item.name) for item in fields(decode)}
        chosen = {name: getattr(decode, name) for name in usual if getattr(decode, name) != usual[name]}
        for line in self._lines(_PREDICT, rows, chosen):
            yield line if isinstance(line, RowError) else _result(line)

    def _results(
        self, texts: Sequence[str], pairs: Sequence[str] | None, decode: DecodeOptions
    ) -> Iterator[Item | RowError]:
        return self.stream(as_rows(texts, pairs), decode)

    def _token_results(self, texts: Sequence[str], asked: TokenOptions) -> Iterator[Item | RowError]:
        options = {name: value for name, value in vars(asked).items() if value is not None}
        for line in self._lines("embed_tokens", as_rows(texts), options):
            yield line if isinstance(line, RowError) else _tokens(line)

    def _encoded(
        self, texts: Sequence[str], pairs: Sequence[str] | None, prompt: str | None
    ) -> Iterator[Encoded | RowError]:
        rows = list(as_rows(texts, pairs))
        options = {} if prompt is None else {"prompt": prompt}
        lines = self._lines("tokenize", rows, options)
        for row, line in zip(rows, lines, strict=True):
            if isinstance(row, RowError):
                yield row
            elif isinstance(line, RowError):
                yield line
            else:
                yield _pieces(line, row if prompt is None else replace(row, prompt=prompt))

    def _lines(
        self, method: str, rows: Iterable[Row | RowError], options: Mapping[str, Any]
    ) -> Iterator[dict[str, Any] | RowError]:
        """Yield the server's line for each row, in order; an error in place of a row that failed."""
        for part in _parts(rows):
            # What is no text has its error here: JSON may not even be able to hold it.
            good = [row for row in part if isinstance(row, Row)]
            if part and not good:
                yield from (row for row in part if isinstance(row, RowError))
                continue
            prompt = next((row.prompt for row in good if row.prompt is not None), None)
            body: dict[str, Any] = {
                "model": self.model,
                "method": method,
                "texts": [row.text for row in good],
                "options": {**options, **({} if prompt is None else {"prompt": prompt}), **self._options},
                "exact": True,
            }
            # Of no rows nobody knows whether they are pairs; a model that must have them is given none.
            none = not good and self.card.needs_pair and not options.keys() & _MAKE_PAIRS
            if none or any(row.pair is not None for row in good):
                body["pairs"] = [row.pair for row in good]
            lines = iter(self._asked("POST", "/v1/predict", body)["results"])
            for row in part:
                yield row if isinstance(row, RowError) else _line(next(lines))

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


def _parts(rows: Iterable[Row | RowError]) -> Iterator[list[Row | RowError]]:
    """Yield rows that are sent together; once where there are none, so that options are checked."""
    part: list[Row | RowError] = []
    characters, kind, any_yet = 0, _kind(None), False
    for row in rows:
        # One body has one prompt, and pairs of all texts or of none.
        full = len(part) >= _TEXTS or characters >= _CHARACTERS
        if full or (isinstance(row, Row) and kind is not None and _kind(row) != kind):
            yield part
            part, characters, kind, any_yet = [], 0, None, True
        part.append(row)
        if isinstance(row, Row):
            kind = _kind(row)
            characters += len(row.text) + len(row.pair or "")
    if part or not any_yet:
        yield part


def _kind(row: Row | None) -> tuple[str | None, bool] | None:
    return None if row is None else (row.prompt, row.pair is not None)


def _wait(response: httpx.Response) -> float:
    """Return for how many seconds the server asks to wait, and some more: not all shall come at once."""
    try:
        asked = float(response.headers.get("retry-after-ms", "")) / 1000
    except ValueError:
        asked = 1.0
    return min(max(asked, _LEAST_WAIT), _MOST_WAIT) * random.uniform(1.0, 1.2)


def _line(line: dict[str, Any]) -> dict[str, Any] | RowError:
    """Return a line without its number, or the error that it tells."""
    error = line.get("error")
    if isinstance(error, dict) and set(error) == {"type", "message"}:
        return RowError(str(error["type"]), "{said}", said=str(error["message"]))
    return {name: value for name, value in line.items() if name != "row"}


def _result(line: dict[str, Any]) -> Item:
    """Return the item of a line of `run`, with the float32 that its numbers stand for."""
    return {name: _score(value) if name in _NUMBERS else _field(value) for name, value in line.items()}


def _tokens(line: dict[str, Any]) -> Item:
    """Return the item of `embed_tokens`, whose places are pairs."""
    item = _result(line)
    item["offsets"] = [(start, end) for start, end in line["offsets"]]
    return item


def _pieces(line: dict[str, Any], row: Row) -> Encoded:
    """Return how a row reaches the model, as its tokenizer made it."""
    pieces = tuple(
        Piece(
            _field(piece["ids"]),
            _field(piece["type_ids"]),
            _encoding(piece["encoding"]),
            prompt=int(piece["prompt"]),
            unseen=int(piece["unseen"]),
        )
        for piece in line["pieces"]
    )
    return Encoded(row, pieces, truncated=bool(line.get("truncated")))


def _encoding(values: Any) -> Encoding:
    made = Encoding()
    made.__setstate__(json.dumps(values).encode())
    return made


def _field(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == _ARRAY:
            return _array(value)
        if set(value) == _WORDS:
            return Words(value["tokens"], _field(value["ids"]), _field(value["weights"]))
        return {name: _score(inner) if name in _NUMBERS else _field(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_field(inner) for inner in value]
    return _exact(value)


def _array(packed: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the array that base64 of little-endian numbers stands for, which the caller may write into."""
    kind = np.dtype(packed["dtype"])
    numbers = np.frombuffer(base64.b64decode(packed["data"]), kind.newbyteorder("<"))
    return numbers.astype(kind).reshape(packed["shape"])


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
