"""PEFT adapters: found in a folder, tied to their base model, and merged into it by peft itself.

An adapter's files hold the changes to a base model: `adapter_config.json` says which kind they are of and
what they were made for, `adapter_model.safetensors` holds the numbers, those of a new head among them.
Merged, the model is an ordinary one. Names are those of peft 0.21.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, MissingDependencyError, UnsupportedError
from bertonnx.exporters.checkpoint.folder import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    model_folder,
    read_json,
)
from bertonnx.exporters.checkpoint.keys import Account
from bertonnx.exporters.checkpoint.task import task_of
from bertonnx.exporters.quiet import quiet
from bertonnx.models.tasks import ENCODER, TASKS, Task
from bertonnx.wording import Install, Message, Option, Options, said_by

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

__all__ = [
    "Adapter",
    "adapted_config",
    "adapter_folder",
    "handed_on",
    "own_task",
    "require_adapter",
    "settings_class",
    "tokenizer_folder",
    "weight_shapes",
    "weights_of",
]

_PROMPTS = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"),
    "ADAPTION_PROMPT",
)
"""Kinds that add virtual tokens or prompts to each layer, so that no weights could hold them."""

_KEPT_BACK = {"QUESTION_ANS": "token_type_ids"}
"""`task_type` -> the input that peft's class for it takes and does not hand on (peft_model.py of 0.21)."""

_PREFIX = "base_model.model."
"""What peft puts before a weight's name in the base model."""

_NOT_TOLD_APART = 7919
"""A number of labels that no model has as another of its sizes."""

_APPROXIMATE = "pissa_niter_"
_AS_PLAIN_LORA = Message(
    "save it as a plain LoRA where it was trained, with save_pretrained's "
    "path_initial_model_for_weight_conversion"
)

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "bpe.codes")
_OF_SAVING = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
_OF_LABELS = frozenset({"id2label", "label2id", "num_labels", "problem_type", "finetuning_task"})


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter and its base model, both on this disk.

    Attributes:
        folder: holds adapter_config.json and the adapter's weights.
        settings: what adapter_config.json says.
        base: holds the base model's config.json and weights; `folder` where they lie beside the adapter.
        base_id: what adapter_config.json calls the base model; "" where it does not say.
        base_revision: the commit of a base model from the Hub; None for a folder.
        named: where weights lie beside the adapter: another folder of the base model that it names, with
            which they are compared; None where there is none.
    """

    folder: Path
    settings: Mapping[str, Any]
    base: Path
    base_id: str
    base_revision: str | None = None
    named: Path | None = None

    @property
    def kind(self) -> str:
        """Its peft type, such as LORA."""
        return str(self.settings["peft_type"])

    @property
    def beside(self) -> bool:
        """Whether its base model lies in the same folder."""
        return self.base == self.folder


def handed_on(adapter: Adapter | None, made: Sequence[str]) -> tuple[tuple[str, ...], tuple[Message, ...]]:
    """Return which inputs of a tokenizer reach a model with this adapter, and a note where one does not.

    As in training, which goes through the same class of peft.
    """
    kind = None if adapter is None else str(adapter.settings.get("task_type"))
    without = _KEPT_BACK.get(kind) if kind is not None else None
    if without not in made:
        return tuple(made), ()
    note = Message("{name} is not read: peft hands none on to a model for {kind}", name=without, kind=kind)
    return tuple(name for name in made if name != without), (note,)


def adapter_folder(folder: Path) -> Path | None:
    """Return where an adapter lies in a checkpoint's folder, or None where there is none."""
    place = model_folder(folder)
    return place if (place / ADAPTER_CONFIG).is_file() else None


def require_adapter(what: str, folder: Path) -> dict[str, Any]:
    """Return what an adapter's configuration says, having refused what cannot be merged.

    Args:
        what: what the user typed.
        folder: holds adapter_config.json.

    Raises:
        CheckpointError: the file is broken.
        UnsupportedError: it is of another library, or of a kind that no weights can hold.
        MissingDependencyError: peft is not installed.
    """
    path = folder / ADAPTER_CONFIG
    settings = read_json(path)
    kind = settings.get("peft_type")
    if kind is None:
        # The library adapters has a file of the same name, with quite other keys.
        raise UnsupportedError(
            "{what} holds an adapter that is not PEFT's: {path} names no peft_type, as one of AdapterHub's "
            "library adapters does not; merge it there (model.merge_adapter(name), for those of the kind "
            "LoRA), save the whole model with model.save_pretrained('merged'), and export that folder",
            what=what,
            path=path,
        )
    if kind in _PROMPTS:
        raise UnsupportedError(
            "{what} is a {kind} adapter: it adds virtual tokens in front of every text, which cannot be "
            "merged into a model's weights; export a model that was trained with LoRA or as a whole",
            what=what,
            kind=kind,
        )
    kinds = _peft(what, str(kind)).PEFT_TYPE_TO_CONFIG_MAPPING
    if kind not in kinds:
        raise UnsupportedError(
            "{what} is a {kind} adapter, which peft {version} does not know; install a newer one: {install}",
            what=what,
            kind=kind,
            version=importlib.metadata.version("peft"),
            install=Install("export,adapters", upgrade=True),
        )
    return settings


def _peft(what: str, kind: str) -> Any:
    with quiet():
        try:
            import peft
        except ImportError as error:
            raise MissingDependencyError(
                "{what} is a PEFT adapter ({kind}), and peft, which merges it into its base model, is not "
                "installed; type: {install}",
                what=what,
                kind=kind,
                install=Install("export,adapters"),
            ) from error
    return peft


def settings_class(kind: str) -> Any:
    """Return peft's class for the configuration of a kind of adapter, such as LORA."""
    import peft

    return peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]


def _require_known_keys(adapter: Adapter, account: Account) -> None:
    """Refuse keys that the installed peft would leave out with no more than a warning."""
    # runtime_config is none of a file's: peft drops it where one was written.
    known = {*settings_class(adapter.kind).__dataclass_fields__, "runtime_config"}
    why = Message(
        "which peft {version} does not know of a {kind} adapter",
        version=importlib.metadata.version("peft"),
        kind=adapter.kind,
    )
    newer = Message("install a newer peft ({line})", line=Install("export,adapters", upgrade=True))
    for key, value in adapter.settings.items():
        # An empty value of a newer peft's key says that what it is about is not used.
        if key not in known and value not in (None, [], {}):
            account.refuse(ADAPTER_CONFIG, key, value, why, remedy=newer)
    _require_one_base(adapter, account)


def _require_one_base(adapter: Adapter, account: Account) -> None:
    """Refuse an adapter of whose base model peft takes another part at each load."""
    made_by = adapter.settings.get("init_lora_weights")
    if isinstance(made_by, str) and made_by.startswith(_APPROXIMATE):
        account.refuse(
            ADAPTER_CONFIG,
            "init_lora_weights",
            made_by,
            "by which peft takes approximate singular values off the base model's weights, at random and "
            "others at each load",
            remedy=_AS_PLAIN_LORA,
        )


def weight_shapes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's weights by their names in the base model."""
    return {_plain(name): tuple(tensor.shape) for name, tensor in weights_of(adapter).items()}


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX)


def weights_of(adapter: Adapter) -> dict[str, torch.Tensor]:
    """Return the adapter's weights by their names in its file.

    Raises:
        CheckpointError: the file is damaged.
    """
    import torch
    from safetensors.torch import load_file

    safe, pickled = adapter.folder / ADAPTER_WEIGHTS, adapter.folder / ADAPTER_PICKLE
    try:
        if safe.is_file():
            tensors: dict[str, torch.Tensor] = load_file(safe)
        else:
            # Whether it may be read was asked before (`folder.require_files`); tensors alone are read.
            tensors = torch.load(pickled, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise many kinds for a damaged file
        raise CheckpointError(
            "the adapter's weights in {folder} cannot be read ({kind}: {why}); download them again",
            folder=adapter.folder,
            kind=type(error).__name__,
            why=said_by(error),
        ) from error
    return tensors


def own_task(adapter: Adapter, config: PretrainedConfig) -> Task | None:
    """Return the task that the adapter was made for; None where that is none of ours."""
    kind = adapter.settings.get("task_type")
    row = next((row for row in TASKS if kind is not None and kind in row.adapter_types), None)
    if kind is not None and row is None:
        return None
    if row is not None and row != ENCODER:
        return row
    named = (adapter.settings.get("auto_mapping") or {}).get("base_model_class")
    if row is None and named is not None:
        return task_of([str(named)])[0]
    # Its weights' names say whether it was trained on the encoder, or on a model with a head.
    prefix = _base_prefix(config)
    headed = prefix and any(name.startswith(f"{prefix}.") for name in weight_shapes(adapter))
    return task_of(config.architectures or ())[0] if headed else ENCODER


def _base_prefix(config: PretrainedConfig) -> str:
    import transformers

    return str(getattr(transformers.MODEL_MAPPING.get(type(config), None), "base_model_prefix", ""))


def adapted_config(
    adapter: Adapter | None,
    config: PretrainedConfig,
    raw: Mapping[str, Any],
    *,
    asked: Task | None,
    account: Account,
) -> tuple[Mapping[str, Any], tuple[Message, ...]]:
    """Make the base model's configuration that of the adapted model, in place.

    Args:
        adapter: what adapts it; None leaves all as it is.
        config: of the base model; its architecture and labels become the adapted model's.
        raw: the base model's config.json.
        asked: the task that the user named, if any.
        account: of the keys of the checkpoint's files.

    Returns:
        What config.json would say of the adapted model, and what was done, for the user.

    Raises:
        UnsupportedError: the adapter is for another task, or names none that can be exported.
        CheckpointError: a file is broken, or peft does not know a key.
    """
    if adapter is None:
        return raw, ()
    _require_known_keys(adapter, account)
    row = _required_task(adapter, config, asked)
    with quiet():
        import transformers

        mapping = getattr(transformers, row.auto_class)._model_mapping
        if type(config) in mapping:
            maker = mapping[type(config)]
            config.architectures = [(maker[0] if isinstance(maker, tuple) else maker).__name__]
    changes: dict[str, Any] = {"architectures": config.architectures}
    if row.labelled:
        changes |= _labels(adapter, config, row)
    note = Message(
        "the {kind} adapter in {folder} is merged into {base}",
        kind=adapter.kind,
        folder=adapter.folder.name,
        base="the weights beside it" if adapter.beside else adapter.base_id,
    )
    kept = {key: value for key, value in raw.items() if key not in changes or changes[key] is not None}
    return {**kept, **{key: value for key, value in changes.items() if value is not None}}, (note,)


def _required_task(adapter: Adapter, config: PretrainedConfig, asked: Task | None) -> Task:
    own = own_task(adapter, config)
    if own is None and asked is None:
        raise UnsupportedError(
            "{path} says task_type {kind}, which is none that bertonnx exports; if the adapter was trained "
            "on one of these all the same, name it: {options}",
            path=adapter.folder / ADAPTER_CONFIG,
            kind=adapter.settings.get("task_type"),
            options=Options([Option("task", row.name) for row in TASKS]),
        )
    if own is not None and asked not in (None, own, ENCODER):
        raise UnsupportedError(
            "the adapter in {folder} was trained for {own}, so it cannot serve {asked}; it can serve: "
            "{served}",
            folder=adapter.folder,
            own=own.name,
            asked=asked.name if asked is not None else "",
            served=Options([Option("task", row.name) for row in _served(own)]),
        )
    return own or asked or ENCODER


def _served(own: Task) -> list[Task]:
    return [own] if own == ENCODER else [own, ENCODER]


def _labels(adapter: Adapter, config: PretrainedConfig, row: Task) -> dict[str, Any]:
    """Set the labels of the adapter's own head; return the entries of config.json that change."""
    count = _label_count(adapter, config, row)
    path = adapter.folder / "config.json"
    own = read_json(path) if path.is_file() and not adapter.beside else {}
    _require_same_model(adapter, own)
    if own.get("id2label"):
        config.id2label = {int(index): str(name) for index, name in own["id2label"].items()}
        config.label2id = {name: index for index, name in config.id2label.items()}
        config.problem_type = own.get("problem_type")
        changes = {key: own.get(key) for key in _OF_LABELS}
    elif count is not None and count != config.num_labels:
        # peft writes no names, so there are none but those that transformers makes up.
        config.num_labels = count
        changes = dict.fromkeys(_OF_LABELS)
        config.problem_type = None
    else:
        changes = {}
    found = len(config.id2label or {})
    if count is not None and count != found:
        raise CheckpointError(
            "the adapter in {folder} has a head of {count} labels, and {path} names {found}; correct "
            "id2label",
            folder=adapter.folder,
            count=count,
            path=path,
            found=found,
        )
    return changes


def _label_count(adapter: Adapter, config: PretrainedConfig, row: Task) -> int | None:
    """Return how many labels the adapter's own head has; None where it brings no head."""
    import torch

    # Found by size, not by name: what a head's last layer is called differs from family to family.
    probe = copy.deepcopy(config)
    probe.num_labels = _NOT_TOLD_APART
    with quiet(), torch.device("meta"):
        import transformers

        made = getattr(transformers, row.auto_class).from_config(probe)
    shapes = weight_shapes(adapter)
    for name, parameter in made.named_parameters():
        if _NOT_TOLD_APART in parameter.shape and name in shapes:
            return shapes[name][list(parameter.shape).index(_NOT_TOLD_APART)]
    return None


def _require_same_model(adapter: Adapter, own: Mapping[str, Any]) -> None:
    """Refuse a config.json beside an adapter that describes another model than its base's."""
    base = read_json(adapter.base / "config.json")
    for key in sorted((own.keys() & base.keys()) - _OF_SAVING - _OF_LABELS):
        if own[key] != base[key]:
            raise CheckpointError(
                "{path} says {key} {own!r}, and that of its base model {base} says {other!r}; correct one",
                path=adapter.folder / "config.json",
                key=key,
                own=own[key],
                base=adapter.base_id,
                other=base[key],
            )


def tokenizer_folder(adapter: Adapter | None, base: Path) -> Path:
    """Return where the tokenizer lies: beside the adapter where it brings its own, else with its base."""
    if adapter is None or not any(any(adapter.folder.glob(name)) for name in _VOCABULARIES):
        return base
    return adapter.folder
