"""Merges PEFT adapters into their base model by peft itself, and refuses what merging would change.

The report of what peft could not use is asked for and judged: peft itself only warns.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bertonnx.errors import CheckpointError, UnsupportedError
from bertonnx.exporters.checkpoint.adapters import Adapter, settings_class, weight_shapes, weights_of
from bertonnx.exporters.checkpoint.folder import ADAPTER_CONFIG
from bertonnx.exporters.quiet import quiet
from bertonnx.models.tasks import ENCODER, Task
from bertonnx.wording import Option, said_by

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["merge", "peft_settings", "require_same_base", "supplied_names", "unsaved", "without_adapter"]

_TOLERANCE = 1e-4
_HEADS = {"classifier", "score", "qa_outputs"}
"""What peft calls the modules that it keeps beside an adapter because of its task."""

_NAME = "default"
"""peft's name of the only adapter of a model."""


def supplied_names(adapter: Adapter) -> set[str]:
    """Return which weights of the base model the adapter brings whole, such as those of a new head."""
    return set(weight_shapes(adapter))


def require_same_base(
    adapter: Adapter, beside: PreTrainedModel, named: PreTrainedModel, untold: Collection[str]
) -> None:
    """Refuse weights beside an adapter that are not those of the base model that it names.

    They may be those of the merged model, to which the adapter would be added twice.

    Args:
        adapter: what lies beside `beside`.
        beside: the model of the adapter's folder.
        named: the model that adapter_config.json names.
        untold: names of weights that one of the two does not hold.
    """
    others = named.state_dict()
    for name, tensor in beside.state_dict().items():
        if name not in untold and not _is_same(tensor, others.get(name)):
            raise CheckpointError(
                "{folder} holds an adapter, and weights that are not those of the base model {base} that it "
                "names ({weight} differs): if the adapter is merged into them already, remove {file}; if "
                "they are the right base model, write the folder itself into base_model_name_or_path of "
                "{file}",
                folder=adapter.folder,
                base=adapter.base_id,
                weight=name,
                file=ADAPTER_CONFIG,
            )


def _is_same(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    import torch

    if b is None or a.shape != b.shape:
        return False
    # One of the two may have been saved in half precision, and then the other rounds to it. A merged adapter
    # changes weights by little, so no closeness would tell.
    halves = (torch.float32, torch.float16, torch.bfloat16)
    return any(torch.equal(a.to(kind), b.to(kind)) for kind in halves)


def unsaved(adapter: Adapter, missing: Sequence[str], row: Task) -> CheckpointError:
    """Return the error for weights that neither an adapter nor its base model holds."""
    return CheckpointError(
        "neither the adapter in {folder} nor its base model {base} holds {weights}, which {task} needs: they "
        "were random in training and are lost; train again with {modules} in modules_to_save, or for the "
        "encoder alone add {encoder}",
        folder=adapter.folder,
        base=adapter.base_id,
        weights=_listed(list(missing)),
        task=row.name,
        modules=", ".join(sorted({name.rpartition(".")[0] for name in missing})),
        encoder=Option("task", ENCODER.name),
    )


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """Give a folder of the same files without the adapter's: transformers would load it in its own way."""
    if not (folder / ADAPTER_CONFIG).is_file():
        yield folder
        return
    with TemporaryDirectory(prefix="bertonnx-") as made:
        place = Path(made)
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("adapter_"):
                _link(path, place / path.name)
        yield place


def _link(path: Path, place: Path) -> None:
    try:
        place.symlink_to(path.resolve())
    except OSError:
        # Windows may forbid links to those who are no administrators.
        copyfile(path, place)


def merge(adapter: Adapter, model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with an adapter merged into its weights, computing what peft computes unmerged.

    Args:
        adapter: its files were judged by `adapters.require_adapter`.
        model: the base model, float32, with the head that the adapter was trained with; it is changed.

    Raises:
        CheckpointError: weights of the adapter have no place in the model, or some are missing.
        UnsupportedError: peft cannot merge this kind, or merging changes what the model computes.
    """
    import torch

    wrapped = _adapted(adapter, model)
    with quiet(), torch.no_grad():
        return _merged(adapter, wrapped.eval())


def _adapted(adapter: Adapter, model: PreTrainedModel) -> Any:
    """Return peft's model of an adapter beside the base model's weights, which it shares and may change.

    Raises:
        CheckpointError: weights of the adapter have no place in the model, or some are missing.
    """
    import peft

    # Where tokens were added before training, the table is longer than the base model's.
    _stretch(model, adapter)
    with quiet():
        try:
            settings = peft_settings(adapter)
            wrapped: Any = peft.PeftModel.from_pretrained(
                model, adapter.folder, config=settings, torch_device="cpu"
            )
            # Once more, for its report: from_pretrained keeps to itself what it could not use.
            report = wrapped.load_adapter(str(adapter.folder), _NAME, torch_device="cpu")
        except Exception as error:  # each kind of adapter fails in its own way
            raise CheckpointError(
                "peft cannot apply the {kind} adapter in {folder} to its base model {base} ({error}: {why}); "
                "the two do not belong together, or a file is damaged",
                kind=adapter.kind,
                folder=adapter.folder,
                base=adapter.base,
                error=type(error).__name__,
                why=said_by(error),
            ) from error
    _require_used(adapter, report)
    return wrapped


def peft_settings(adapter: Adapter) -> Any:
    """Return peft's configuration of an adapter, without the keys that peft does not know."""
    kind = settings_class(adapter.kind)
    known = set(kind.__dataclass_fields__) - {"runtime_config"}
    values = {key: value for key, value in adapter.settings.items() if key in known}
    # For a task with a head peft wants one in the file; transformers' add_adapter leaves it with the base.
    if not any(_HEADS & set(name.split(".")) for name in weight_shapes(adapter)):
        values["task_type"] = None
    return kind.from_peft_type(**kind.check_kwargs(**values))


def _stretch(model: PreTrainedModel, adapter: Adapter) -> None:
    table: Any = model.get_input_embeddings()
    names = [name for name, module in model.named_modules() if module is table]
    for name in names:
        shape = weight_shapes(adapter).get(f"{name}.weight")
        if shape is not None and shape[0] != table.weight.shape[0]:
            with quiet():
                model.resize_token_embeddings(shape[0], mean_resizing=False)


def _require_used(adapter: Adapter, report: Any) -> None:
    tensors = weights_of(adapter)
    # With trained biases, peft writes that of a new head twice, and reads it once.
    unused = [key for key in sorted(report.unexpected_keys) if not _is_twin(key, tensors)]
    # Tensors that layers share are listed for every layer, and stored once.
    shared = r"vblora_vector_bank|\.tinylora_v\.|unilora_theta_d"
    missing = sorted(key for key in report.missing_keys if not re.search(shared, key))
    if unused or missing:
        raise CheckpointError(
            "the adapter in {folder} does not fit its base model {base}: {unused} of its weights have no "
            "place there ({names}), and {missing} are missing ({absent}); check base_model_name_or_path in "
            "{file}",
            folder=adapter.folder,
            base=adapter.base,
            unused=len(unused),
            names=_listed(unused),
            missing=len(missing),
            absent=_listed(missing),
            file=ADAPTER_CONFIG,
        )


def _is_twin(key: str, tensors: Mapping[str, torch.Tensor]) -> bool:
    import torch

    name = key.replace(".modules_to_save.", ".")
    return name != key and {name, key} <= tensors.keys() and torch.equal(tensors[name], tensors[key])


def _merged(adapter: Adapter, wrapped: Any) -> PreTrainedModel:
    before = _answers(wrapped, wrapped.config)
    try:
        model: Any = wrapped.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedError(
            "peft cannot merge the {kind} adapter in {folder} into its base model ({error}: {why}); export a "
            "model that was trained with LoRA or as a whole",
            kind=adapter.kind,
            folder=adapter.folder,
            error=type(error).__name__,
            why=said_by(error),
        ) from error
    model.eval()
    after = _answers(model, model.config)
    # Some kinds depend on the text, and what peft calls merged is then another model.
    worst = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    allowed = _TOLERANCE * max(1.0, *(float(a.abs().max()) for a in before))
    if not worst <= allowed:
        raise UnsupportedError(
            "merging the {kind} adapter in {folder} changes what the model computes (by {worst:.3g}, allowed "
            "{allowed:.3g}), so no single set of weights holds it; export a model that was trained with LoRA "
            "or as a whole",
            kind=adapter.kind,
            folder=adapter.folder,
            worst=worst,
            allowed=allowed,
        )
    merged: PreTrainedModel = model
    return merged


def _answers(model: Any, config: PretrainedConfig) -> list[torch.Tensor]:
    """Return all float tensors that a model gives for some random ids."""
    import torch

    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(config.vocab_size), (3, 12), generator=chance)
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return [value for value in found.values() if isinstance(value, torch.Tensor)]


def _listed(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "none"
