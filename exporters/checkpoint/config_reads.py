"""Which keys of config.json the installed transformers reads for a family, found in its code.

A configuration class takes any key and keeps it, so that taking one says nothing. What counts is that the
code of the class or of the models mentions it: `config.KEY`, `getattr(config, "KEY", ...)`,
`kwargs.pop("KEY", ...)`, or `self.KEY` in the class itself.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

from bertonnx.errors import UnsupportedError
from bertonnx.exporters.checkpoint.encoders import require_encoder
from bertonnx.exporters.quiet import quiet
from bertonnx.models.families import family as family_named
from bertonnx.models.tasks import TASKS

__all__ = ["Reads", "exportable_families", "installed_reads", "shared_keys"]

_COMMON_CODE = ("modeling_utils", "modeling_rope_utils", "masking_utils", "pytorch_utils", "modeling_layers")
_HEADS = "transformers.modeling_layers"
_CONFIG_NAMES = frozenset({"config", "cfg", "text_config"})
_KWARGS = frozenset({"kwargs", "rope_parameters"})
_KEPT = frozenset({"name_or_path", "num_labels", "output_attentions", "torch_dtype", "use_return_dict"})
"""Properties that every class has."""

_MADE_UP = ("rope_scaling", "rope_theta")
"""Keys that every class of version 5 looks for, to warn of them where a class has no use for them."""


@dataclass(frozen=True)
class Reads:
    """What one version of transformers reads for one family.

    Attributes:
        reads: key -> its default, as JSON; for keys that the code mentions. None also where there is none.
            Those that every class takes (`shared_keys`) are left out.
        idle: keys that the class has, and no code mentions.
        aliases: other names of keys (`attribute_map`).
        values: key -> the texts that the code compares it with, where it does.
        kept: key that every class takes -> its default, where this class has another than they.
    """

    reads: Mapping[str, Any] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        """All keys that this version knows of."""
        return frozenset({*self.reads, *self.idle, *self.aliases})


def exportable_families() -> list[str]:
    """Return the families that can be exported, with this version of transformers or with another."""
    with quiet():
        from transformers import CONFIG_MAPPING

        names = sorted(CONFIG_MAPPING)
    # A version whose code of a family cannot be traced may still have saved its checkpoints.
    return [name for name in names if family_named(name) is not None or _exportable(name)]


def _exportable(name: str) -> bool:
    try:
        require_encoder({"model_type": name}, name)
    except UnsupportedError:
        return False
    return True


@cache
def shared_keys() -> dict[str, Any]:
    """Return the keys that every configuration class of the installed transformers takes, with defaults."""
    with quiet():
        from transformers import GenerationConfig, PretrainedConfig

        # Version 5 takes some keys in a step of its own after the others.
        steps = [PretrainedConfig.__init__, getattr(PretrainedConfig, "__post_init__", None)]
        taken = {name for step in steps if step is not None for name in _looked_up_in(step)}
        taken |= {*_looked_up_of_outputs()}
        # Settings of text generation, which both versions keep from an encoder's configuration.
        return {
            **dict.fromkeys(sorted((taken | {*GenerationConfig().to_dict()}) - {*_MADE_UP})),
            **_fields(PretrainedConfig),
        }


def _looked_up_of_outputs() -> Iterable[str]:
    """Return the keys that version 5 looks up where it collects the outputs of any model."""
    try:
        module = importlib.import_module("transformers.utils.output_capturing")
    except ImportError:
        return ()
    return _Mentions.of(module).looked_up


def _looked_up_in(step: Any) -> Iterator[str]:
    """Yield the keys that a function takes out of its `kwargs`."""
    try:
        source = textwrap.dedent(inspect.getsource(step))
    except OSError:
        # A dataclass's own `__init__` is made on the fly, and takes nothing out of them.
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _taken(node):
            yield from dict(_looked_up(node))


@cache
def installed_reads(family: str) -> Reads:
    """Return what the installed transformers reads for a family that it has a configuration class of."""
    with quiet():
        from transformers import CONFIG_MAPPING

        config: Any = CONFIG_MAPPING[family]
        defaults = _fields(config)
        aliases = {str(alias): str(key) for alias, key in config.attribute_map.items()}
        code = [_Mentions.of(module) for module in _modules(config)]
        code.extend(_Mentions.within(inspect.getsource(base)) for base in _shared_heads(config))
        looked_up = {name: value for part in code for name, value in part.looked_up.items()}
        looked_up |= dict.fromkeys(_rope_keys(config, defaults))
    mentioned = {*looked_up, *_common_mentions()}.union(*(part.attributes for part in code))
    # A model may mention a key by its other name.
    mentioned |= {aliases[name] for name in mentioned if name in aliases}
    reads = {name: defaults[name] for name in mentioned if name in defaults}
    # What is only looked up, or set through a property, has no field of its own.
    reads |= {
        name: looked_up.get(name) for name in mentioned if name not in defaults and _settable(config, name)
    }
    reads |= {
        name: value for name, value in looked_up.items() if name not in reads and _is_free(config, name)
    }
    shared = shared_keys()
    idle = tuple(sorted(name for name in defaults if name not in reads and name not in shared))
    reads = {name: reads[name] for name in sorted(reads) if name not in shared}
    values = {
        name: tuple(sorted({text for part in code for text in part.compared.get(name, ())})) for name in reads
    }
    values = {name: texts for name, texts in values.items() if texts}
    return Reads(reads, idle, aliases, values, _kept(config, shared))


def _kept(config: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a class for keys of models that every class takes, where they are its own."""
    with quiet():
        made = config()
    # Others that differ are settings of text generation, which version 4 fills in for all.
    names = sorted(name for name in shared if name.endswith("_token_id") or name == "tie_word_embeddings")
    found = {name: _json(getattr(made, name, None)) for name in names}
    return {name: value for name, value in found.items() if value is not None and value != shared[name]}


def _rope_keys(config: Any, defaults: Mapping[str, Any]) -> Iterator[str]:
    """Yield the older names from which version 5 fills `rope_parameters`."""
    convert = getattr(config, "convert_rope_params_to_dict", None)
    if convert is not None and "rope_parameters" in defaults:
        yield from _looked_up_in(convert)


def _fields(config: Any) -> dict[str, Any]:
    """Return the keys that a class has, with their defaults as JSON."""
    found: dict[str, Any] = {}
    for base in reversed(config.__mro__):
        if dataclasses.is_dataclass(base):
            found.update({item.name: _default(item) for item in dataclasses.fields(base)})
        elif "__init__" in vars(base) and "transformers" in base.__module__:
            parameters = inspect.signature(base.__init__).parameters.values()
            kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            found.update({item.name: item.default for item in parameters if item.kind in kinds})
    found.pop("self", None)
    return {name: _json(value) for name, value in found.items() if not name.startswith("_")}


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def _json(value: Any) -> Any:
    if value is inspect.Parameter.empty or value is dataclasses.MISSING:
        return None
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return str(value)


def _settable(config: Any, name: str) -> bool:
    own = inspect.getattr_static(config, name, None)
    own_key = name not in _KEPT and not name.startswith("_")
    return own_key and isinstance(own, property) and own.fset is not None


def _is_free(config: Any, name: str) -> bool:
    """Tell whether a class has nothing of its own by a name, so that a file can set it."""
    return not name.startswith("_") and inspect.getattr_static(config, name, None) is None


def _modules(config: Any) -> Iterator[ModuleType]:
    """Yield the modules with the code of a family: its configuration's and its models'."""
    names = [base.__module__ for made in [config, *_models(config)] for base in made.__mro__]
    seen = dict.fromkeys(name for name in names if name.startswith("transformers.models."))
    # Some families take layers from the code of another.
    for name in list(seen):
        for value in list(vars(sys.modules[name]).values()):
            other = getattr(value, "__module__", None) or ""
            if inspect.isclass(value) and other.startswith("transformers.models.") and ".modeling_" in other:
                seen[other] = None
    yield from (sys.modules[name] for name in seen if ".auto." not in name)


def _models(config: Any) -> Iterator[Any]:
    import transformers

    for task in TASKS:
        mapping = getattr(transformers, task.auto_class)._model_mapping
        if config in mapping:
            found = mapping[config]
            yield from found if isinstance(found, tuple) else (found,)


def _shared_heads(config: Any) -> Iterable[Any]:
    """Return the classes of heads that a family has in common with others, and that lie beside no family."""
    bases = [base for made in _models(config) for base in made.__mro__]
    return dict.fromkeys(base for base in bases if base.__module__ == _HEADS)


@cache
def _common_mentions() -> frozenset[str]:
    modules = [importlib.import_module(f"transformers.{name}") for name in _COMMON_CODE]
    return frozenset(name for module in modules for name in _Mentions.of(module).attributes)


@dataclass(frozen=True)
class _Mentions:
    """The keys that a module's code reads from a configuration.

    Attributes:
        attributes: those that must be there: `config.KEY`.
        looked_up: those that need not, with what is taken without them.
        compared: name of an attribute, of whatever object -> texts that it is compared with.
    """

    attributes: frozenset[str]
    looked_up: Mapping[str, Any]
    compared: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, module: ModuleType) -> _Mentions:
        """Read a module's code."""
        return cls.within(inspect.getsource(module), configures=".configuration_" in module.__name__)

    @classmethod
    def within(cls, source: str, *, configures: bool = False) -> _Mentions:
        """Read code, which may be that of a configuration."""
        attributes: set[str] = set()
        looked_up: dict[str, Any] = {}
        compared: dict[str, frozenset[str]] = {}
        for node in _nodes(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if _is_config(node.value) or (configures and _name(node.value) == "self"):
                    attributes.add(node.attr)
            # A model's own keyword arguments are no keys of the configuration.
            elif isinstance(node, ast.Call) and (_asked(node) or (configures and _taken(node))):
                looked_up.update(_looked_up(node))
            # A configuration's code checks values, and a model's does what they say.
            elif not configures and isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute):
                # Models keep a key as an attribute of their own, by the same name.
                name = node.left.attr
                compared[name] = compared.get(name, frozenset()) | _texts(node)
        return cls(frozenset(attributes | {*looked_up}), looked_up, compared)


def _texts(node: ast.Compare) -> frozenset[str]:
    constants = [
        part.value for right in node.comparators for part in ast.walk(right) if isinstance(part, ast.Constant)
    ]
    return frozenset(value for value in constants if isinstance(value, str))


def _nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield all of a module's code but that of transformers' own exporter, whose `self` is another."""
    for statement in tree.body:
        if not (isinstance(statement, ast.ClassDef) and "Onnx" in statement.name):
            yield from ast.walk(statement)


def _looked_up(node: ast.Call) -> Iterator[tuple[str, Any]]:
    """Yield the key that a call looks up, and the fallback where it is a plain value."""
    values = [item.value if isinstance(item, ast.Constant) else None for item in node.args]
    values = values[1:] if isinstance(node.func, ast.Name) else values
    if values and isinstance(values[0], str):
        yield values[0], values[1] if len(values) > 1 else None


def _asked(node: ast.Call) -> bool:
    """Tell whether a call is `getattr(config, ...)`."""
    asks = isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")
    return asks and bool(node.args) and _is_config(node.args[0])


def _taken(node: ast.Call) -> bool:
    """Tell whether a call is `kwargs.pop(...)`."""
    if not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr in ("pop", "get") and _name(node.func.value) in _KWARGS


def _is_config(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr in _CONFIG_NAMES
    return _name(node) in _CONFIG_NAMES


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""
