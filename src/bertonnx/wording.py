"""One message, worded for whom it is for: the command line, Python and R each have their own terms.

An error or a note is a template and facts. Facts are plain values (numbers, names, texts), or one of the
terms below, which every face writes in its own way::

    UsageError("{asked} is more than the model takes ({limit} tokens)",
               asked=Option("max_length", 9999), limit=512)

    command line    --max-length 9999 is more than the model takes (512 tokens)
    Python          max_length=9999 is more than the model takes (512 tokens)
    R               max_length = 9999 is more than the model takes (512 tokens)

What a user typed goes into facts, never into a template: it may hold braces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from string import Formatter
from typing import Any

__all__ = [
    "COMMAND_LINE",
    "HTTP",
    "PYTHON",
    "Call",
    "Face",
    "Install",
    "Message",
    "Method",
    "Option",
    "Options",
    "R",
    "Term",
    "Words",
    "command_face",
    "making_folder",
    "printable",
    "said_by",
    "worded",
]

# Line ends and tabs stay: our own lines are made of them.
_CONTROL = (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))
_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: f"\\u{code:04x}" for code in (*_CONTROL, *_TURNING)}

_LONGEST_SAID = 300

# None cannot stand for it: an option can be set to None, and said to be.
_NO_VALUE = object()


def printable(text: str) -> str:
    """Return a text with its control characters as they are written in JSON, for terminals and pages.

    A model file, a column's name or a library's message can hold any of them: they move the cursor, change
    what stands there already, and some turn the order of what follows.
    """
    return text if text.isascii() and text.isprintable() else text.translate(_ESCAPES)


def said_by(error: BaseException) -> str:
    """Return what another library's exception says, on one line and cut where it is long.

    Its first line; with the second where that only ends in a colon, as those of torch and transformers do.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:_LONGEST_SAID]


class Term:
    """A part of a message that each face words in its own way."""

    def worded(self, face: Face) -> str:
        """Return the term in a face's words."""
        raise TypeError(f"{type(self).__name__} does not say how {face.name} words it")

    def __str__(self) -> str:
        return self.worded(PYTHON)


@dataclass(frozen=True)
class Option(Term):
    """An option or argument, by its name in Python, and its value where one is meant."""

    name: str
    value: Any = _NO_VALUE

    def worded(self, face: Face) -> str:
        """Return the option in a face's words."""
        return face.option(self.name) if self.value is _NO_VALUE else face.given(self.name, self.value)


@dataclass(frozen=True)
class Options(Term):
    """Several options, listed: "--quantize or --precision fp16"."""

    options: Sequence[Option]
    last: str = "or"

    def worded(self, face: Face) -> str:
        """Return the options in a face's words."""
        words = [option.worded(face) for option in self.options]
        return f" {self.last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class Call(Term):
    """What to type to call a function of bertonnx; `None` for an argument leaves it out.

    Args:
        function: "export", "load", "run", "check", "info", "doctor" or "bench".
        arguments: positional arguments, in order; upper-case words stand for what the user knows.
        options: by their names in Python.
    """

    def __init__(self, function: str, *arguments: object, **options: object) -> None:
        self.function = function
        self.arguments = arguments
        self.options = {name: value for name, value in options.items() if value is not None}

    def __eq__(self, other: object) -> bool:
        mine = (self.function, self.arguments, self.options)
        return isinstance(other, Call) and mine == (other.function, other.arguments, other.options)

    def __hash__(self) -> int:
        # Values of options are left out: a list has no hash.
        return hash((self.function, self.arguments, tuple(self.options)))

    def __repr__(self) -> str:
        return f"Call({self.worded(PYTHON)})"

    def worded(self, face: Face) -> str:
        """Return the line to type in a face's words."""
        return face.call(self.function, self.arguments, self.options)


@dataclass(frozen=True)
class Method(Term):
    """A method of a model, by its name in Python, such as "classify"."""

    name: str

    def worded(self, face: Face) -> str:
        """Return the method in a face's words."""
        return face.method(self.name)


@dataclass(frozen=True)
class Words(Term):
    """What is said otherwise to people of R, who have no terminal before them.

    Attributes:
        usual: a shell's line, or what only a shell has.
        r: what is typed in R for it; empty where there is no such thing.
    """

    usual: str
    r: str = ""

    def worded(self, face: Face) -> str:
        """Return what a face says."""
        return face.words(self)


def making_folder(folder: object) -> Words:
    """Return the line that makes a folder."""
    return Words(f"mkdir -p '{folder}'", r=f"dir.create({_r_text(str(folder))}, recursive = TRUE)")


def _r_text(text: str) -> str:
    """Return a text as R reads it: the escapes are those that JSON writes."""
    return json.dumps(text, ensure_ascii=False)


_BROUGHT = "cpu"
"""The extra that R's `bert_install()` brings where no other runtime is asked for."""


@dataclass(frozen=True)
class Install(Term):
    """What to type to install bertonnx with an extra.

    Attributes:
        extra: the extra, or several with commas between them; empty for those that are there.
        upgrade: whether newer versions are needed.
        remove: packages that must go first.
        packages: others, named beside it.
    """

    extra: str
    upgrade: bool = False
    remove: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def worded(self, face: Face) -> str:
        """Return the line to type in a face's words."""
        return face.install(self)


class Face:
    """Words of the command line; Python and R differ in what they override."""

    name = "command line"
    _names: Mapping[str, str] = {"vector_column": "column"}
    """What has a name of its own in messages, since R calls the same option in two ways."""

    _repeated: Mapping[str, str] = {
        "ignore_keys": "ignore_key",
        "verify_with": "verify_with",
    }
    """Options that are typed once for each value, and so have a name in the singular."""

    _listed: Mapping[str, str] = {**_repeated, "labels": "label"}
    """The same, and those that some commands have for one value: `export --labels FILE`."""

    def option(self, name: str) -> str:
        """Return an option's name."""
        name = self._names.get(name, name)
        return "--" + self._repeated.get(name, name).replace("_", "-")

    def given(self, name: str, value: Any) -> str:
        """Return an option with its value."""
        if name == "output":
            return f"-o {value}"
        if value is True:
            return self.option(name)
        if value is False:
            return self.option(f"no_{name}")
        if isinstance(value, (list, tuple)):
            if name in self._listed:
                return " ".join(f"--{self._listed[name].replace('_', '-')} {one}" for one in value)
            return f"{self.option(name)} {','.join(map(str, value))}"
        return f"{self.option(name)} {value}"

    def call(self, function: str, arguments: Sequence[object], options: Mapping[str, object]) -> str:
        """Return the line that calls a function."""
        words = [function, *map(str, arguments), *(self.given(*item) for item in options.items())]
        return " ".join(["bertonnx", *words])

    def method(self, name: str) -> str:
        """Return what calls a method of a model."""
        return f"{name}()"

    def words(self, what: Words) -> str:
        """Return what is said otherwise in R."""
        return what.usual

    def fact(self, value: Any) -> Any:
        """Return a plain fact, which is said as it is."""
        return value

    def install(self, what: Install) -> str:
        """Return the line that installs an extra."""
        first = f"pip uninstall -y {' '.join(what.remove)} && " if what.remove else ""
        package = f'"bertonnx[{what.extra}]"' if what.extra else "bertonnx"
        line = f"{first}pip install {'--upgrade ' if what.upgrade else ''}{package}"
        return " ".join([line, *what.packages])


class _Python(Face):
    name = "Python"
    _functions: Mapping[str, str] = {
        "run": "bertonnx.load({0}).predict(texts)",
        "info": "bertonnx info {0}",
        "doctor": "bertonnx doctor",
        "bench": "bertonnx bench {0}",
    }
    """What has no function of the same name here."""

    def option(self, name: str) -> str:
        return self._names.get(name, name)

    def given(self, name: str, value: Any) -> str:
        return f"{self.option(name)}={self._literal(value)}"

    def call(self, function: str, arguments: Sequence[object], options: Mapping[str, object]) -> str:
        literals = [self._argument(argument) for argument in arguments]
        if function in self._functions:
            return self._functions[function].format(*literals)
        given = [self.given(*item) for item in options.items()]
        return f"{self._function(function)}({', '.join([*literals, *given])})"

    def _function(self, name: str) -> str:
        return f"bertonnx.{name}"

    def _argument(self, argument: object) -> str:
        text = str(argument)
        return text.lower() if text.isupper() and text.isalpha() else self._literal(argument)

    def _literal(self, value: Any) -> str:
        return repr(str(value)) if isinstance(value, (str, PurePath)) else repr(value)


class _R(_Python):
    """Words of R.

    Args:
        named: files that this process wrote, as the user knows what is in them: a data frame's argument.
    """

    name = "R"

    def __init__(self, named: Mapping[str, str] | None = None) -> None:
        self._named = dict(named or {})

    def naming(self, named: Mapping[str, str]) -> Face:
        """Return the same words, where files are called otherwise than by their paths."""
        return _R(named)

    def fact(self, value: Any) -> Any:
        return self._named.get(str(value), value) if isinstance(value, (str, PurePath)) else value

    def words(self, what: Words) -> str:
        return what.r

    _functions: Mapping[str, str] = {
        "run": "bert_load({0})",
        "info": "bert_load({0})",
        "doctor": "bert_sitrep()",
        "bench": "bert_benchmark({0})",
    }
    _methods: Mapping[str, str] = {"predict": "predict()", "embed_tokens": "bert_hidden()"}
    _names: Mapping[str, str] = {
        "top_k": "top_n",
        "output": "path",
        "provider": "device",
        "column": "text",
        "pair_column": "pair",
        "pairs": "pair",
        "label_column": "label",
        "group_column": "group",
        "layer": "layers",
        "vector_column": "column",
    }

    def given(self, name: str, value: Any) -> str:
        return f"{self.option(name)} = {self._literal(value)}"

    def method(self, name: str) -> str:
        return self._methods.get(name, f"bert_{name}()")

    def install(self, what: Install) -> str:
        extras = what.extra.split(",")
        flags = ("gpu", "export", "adapters")
        options = [f"{name} = TRUE" for name in flags if name in extras]
        others = [extra for extra in extras if extra not in (*flags, _BROUGHT, "")]
        if others:
            options.append(f"extras = {self._literal(others if others[1:] else others[0])}")
        # An environment is always made anew, so that nothing has to be removed first.
        return f"bert_install({', '.join(options)})"

    def _function(self, name: str) -> str:
        return "bert_verify" if name == "check" else f"bert_{name}"

    def _literal(self, value: Any) -> str:
        if value is None or isinstance(value, bool):
            return {None: "NULL", True: "TRUE", False: "FALSE"}[value]
        if isinstance(value, (list, tuple)):
            return f"c({', '.join(map(self._literal, value))})"
        if isinstance(value, (str, PurePath)):
            return _r_text(str(value))
        return str(value)


class _Http(Face):
    name = "HTTP"

    def option(self, name: str) -> str:
        return f'"{name}"'

    def given(self, name: str, value: Any) -> str:
        # Most requests can only be cut or refused; our own says all that Python can.
        if name == "long_text":
            return '"truncate": true' if value == "truncate" else f'/v1/predict with "{name}": "{value}"'
        if isinstance(value, tuple):
            value = list(value)
        return f'"{name}": {json.dumps(value, ensure_ascii=False, default=str)}'

    def call(self, function: str, arguments: Sequence[object], options: Mapping[str, object]) -> str:
        # What is to be typed is for who runs the server.
        return COMMAND_LINE.call(function, arguments, options)


COMMAND_LINE, PYTHON, R, HTTP = Face(), _Python(), _R(), _Http()


def worded(text: str | Message, face: Face) -> str:
    """Return a text as it is, and a message in a face's words."""
    return text.worded(face) if isinstance(text, Message) else text


def command_face() -> Face:
    """Return for whom the command `bertonnx` speaks.

    R's `bert_export()` runs it in a process of its own, and shows what it says to people who type R.
    """
    return R if os.environ.get("BERTONNX_FACE") == R.name else COMMAND_LINE


class Message:
    """A text for people: a template and its facts.

    Args:
        template: a text with a name in braces for each fact; taken as it is where there are no facts.
        facts: values and terms by those names.
    """

    __slots__ = ("facts", "template")

    def __init__(self, template: str, /, **facts: Any) -> None:
        self.template = template
        self.facts = facts

    def worded(self, face: Face) -> str:
        """Return the message in a face's words."""
        # As it is, since a text without facts may hold braces of its own.
        if not self.facts:
            return self.template
        return _FORMATTER.vformat(self.template, (), _Worded(face, self.facts))

    def __str__(self) -> str:
        return self.worded(PYTHON)

    def __repr__(self) -> str:
        return f"Message({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and (self.template, self.facts) == (other.template, other.facts)

    def __hash__(self) -> int:
        # Facts may be lists, which have no hash; equal messages have the same template.
        return hash(self.template)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.template, self.facts)


def _rebuilt(template: str, facts: Mapping[str, Any]) -> Message:
    return Message(template, **facts)


class _Worded(Mapping[str, Any]):
    """Facts as a face words them, one at a time; numbers stay numbers, so that `{x:.2g}` works."""

    def __init__(self, face: Face, facts: Mapping[str, Any]) -> None:
        self._face = face
        self._facts = facts

    def __getitem__(self, name: str) -> Any:
        value = self._facts[name]
        return value.worded(self._face) if hasattr(value, "worded") else self._face.fact(value)

    def __iter__(self) -> Any:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)


_FORMATTER = Formatter()
