"""The model families: a row each, with what fusion must find and which tasks cannot work, and why.

A family is Hugging Face's `model_type`. Adding one is one row here and one line in
`tests/tiny.py` (its tiny configuration); the whole matrix is then tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bertonnx.models.registry import Registry
from bertonnx.models.tasks import TASKS

__all__ = [
    "EXCLUDED_FAMILIES",
    "EXCLUDED_KEYS",
    "FAMILIES",
    "Family",
    "family",
    "family_of_code",
    "register",
]

_WHOLE_TEXTS = ("text-classification", "text-ranking")
"""The tasks that one head of transformers serves."""

_WORDS = ("fill-mask", "sparse-embedding")
"""The tasks that its head of words serves."""

_NO_HEAD = "transformers has no such head for it"


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: `model_type` in `config.json`.
        attention: attention operators to be found for each layer; 0 where `why_unfused` says why.
        why_unfused: why no fused attention operator computes what this family computes.
        position_offset: rows at the start of the position table that no token uses
            (RoBERTa's positions start after the padding index).
        gaps: task -> why that cell of the matrix cannot work.
        other_heads: architecture -> why the weights of its head are not those that the name promises.
        keys_without_head: key of config.json -> whether true or false makes a head without logits, the class
            of transformers that has it, and why.
        keys_unfused: key of config.json -> what it makes of attention, where it is true, so that no fused
            operator computes it.
        prepare: `(config) -> Limit`: sets what can be exported of attention that cannot, and says up to
            how many tokens that is the same (`exporters.checkpoint.length`); empty where there is nothing
            to set.
        translate: `(config, Reads, Account) -> config`: what one version of transformers writes into
            config.json in the words of the installed one (`exporters.checkpoint.config_translate`); empty
            where all versions write the same.
        since: the first major version of transformers with code of the family that can be traced; empty where
            4 has it.
        code_names: what code on the Hub calls the family in `model_type`, where that is another name.
        code_configs: names of the classes of configurations in that code, by which it is known where it
            calls the family as transformers calls another.
        stands_for_code: whether transformers' class computes what the code does that its checkpoints on the
            Hub bring, as far as `translate` does not refuse them: that code is not needed then.
        relative_positions: whether positions are told from each other alone, so that no table of them limits
            the input.
    """

    name: str
    attention: int = 1
    why_unfused: str = ""
    position_offset: int = 0
    gaps: Mapping[str, str] = field(default_factory=dict)
    other_heads: Mapping[str, str] = field(default_factory=dict)
    keys_without_head: Mapping[str, tuple[bool, str, str]] = field(default_factory=dict)
    keys_unfused: Mapping[str, str] = field(default_factory=dict)
    prepare: str = ""
    translate: str = ""
    since: str = ""
    code_names: tuple[str, ...] = ()
    code_configs: tuple[str, ...] = ()
    stands_for_code: bool = False
    relative_positions: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that work."""
        return tuple(task.name for task in TASKS if task.name not in self.gaps)


_DISENTANGLED = (
    "its disentangled attention adds scores of relative positions, in a form that no fused operator of "
    "ONNX Runtime takes"
)

_BEAM_SEARCH = "is the beam-search head, which gives no start and end logits"

_SUMMARY = "AutoModelForSequenceClassification"
_NO_CLASSES = "its head gives a vector of the encoder's width, and no number for each class"
_XLM_HEADS: Mapping[str, tuple[bool, str, str]] = {
    "asm": (
        True,
        "AutoModelForMaskedLM",
        "its words are predicted by an adaptive softmax, which gives no logits",
    ),
    "summary_proj_to_labels": (False, _SUMMARY, _NO_CLASSES),
    "summary_use_proj": (False, _SUMMARY, _NO_CLASSES),
}

FAMILIES: Registry[Family] = Registry(
    "family",
    Family("bert"),
    Family("distilbert"),
    Family("roberta", position_offset=2),
    Family("xlm-roberta", position_offset=2),
    Family("camembert", position_offset=2),
    Family("electra"),
    Family("albert"),
    Family("mpnet", position_offset=2),
    Family(
        "deberta",
        keys_unfused={"talking_head": "heads are mixed before and after the softmax"},
        relative_positions=True,
    ),
    Family("deberta-v2", attention=0, why_unfused=_DISENTANGLED, relative_positions=True),
    Family("mobilebert"),
    Family("squeezebert"),
    Family("roformer"),
    Family("convbert"),
    # Of these two, the head of start and end logits is called ForQuestionAnsweringSimple.
    Family(
        "flaubert",
        other_heads={"FlaubertForQuestionAnswering": _BEAM_SEARCH},
        keys_without_head=_XLM_HEADS,
    ),
    Family("xlm", other_heads={"XLMForQuestionAnswering": _BEAM_SEARCH}, keys_without_head=_XLM_HEADS),
    Family("nystromformer", prepare="bertonnx.exporters.checkpoint.length:require_equal_landmarks"),
    Family("modernbert", translate="bertonnx.exporters.checkpoint.config_translate:modernbert_keys"),
    Family("data2vec-text", position_offset=2),
    Family(
        "ibert",
        position_offset=2,
        keys_unfused={"quant_mode": "softmax, GELU and layer normalization are computed with whole numbers"},
    ),
    Family("rembert"),
    Family("megatron-bert"),
    Family("big_bird", prepare="bertonnx.exporters.checkpoint.length:use_full_attention"),
    Family("splinter", gaps=dict.fromkeys((*_WHOLE_TEXTS, *_WORDS, "token-classification"), _NO_HEAD)),
    Family("esm", gaps={"question-answering": _NO_HEAD}),
    Family("ernie"),
    Family("xlm-roberta-xl", position_offset=2),
    # Version 4 sorts the texts of a batch by language in Python, which a trace takes for constant.
    Family(
        "xmod",
        position_offset=2,
        since="5",
        prepare="bertonnx.exporters.checkpoint.length:require_language",
    ),
    Family("roberta-prelayernorm", position_offset=2),
    Family("eurobert", since="5", gaps={"question-answering": _NO_HEAD}),
    # Most of its checkpoints were saved with code of their own, before transformers had any.
    Family(
        "nomic_bert",
        since="5",
        gaps={"question-answering": _NO_HEAD},
        translate="bertonnx.exporters.checkpoint.nomic:nomic_keys",
        stands_for_code=True,
    ),
    Family(
        "gte",
        since="5",
        gaps={"question-answering": _NO_HEAD},
        translate="bertonnx.exporters.checkpoint.gte:gte_keys",
        code_names=("new",),
        stands_for_code=True,
    ),
    # Its code on the Hub has several adapters in one file, which transformers' class does not read.
    Family("jina_embeddings_v3", since="5", code_configs=("XLMRobertaFlashConfig",)),
    Family("esmc", since="5", gaps={"question-answering": _NO_HEAD}),
    Family("ultrabert", since="5"),
)

EXCLUDED_FAMILIES: Mapping[str, str] = {
    "longformer": "its graph works only for lengths that are a multiple of the attention window, and "
    "it needs a global attention mask that no tokenizer makes",
    "canine": "it reads characters, and transformers has no fast tokenizer for it",
    "perceiver": "it reads bytes, and transformers has no fast tokenizer for it",
    "layoutlm": "it needs the place of every word on a page (bbox), not only its text",
    "layoutlmv3": "it needs the place of every word on a page (bbox) and an image",
    "layoutlmv2": "it needs the place of every word on a page (bbox) and an image",
    "lilt": "it needs the place of every word on a page (bbox), not only its text",
    "bros": "it needs the place of every word on a page (bbox), not only its text",
    "markuplm": "it needs XPath expressions beside the text",
    "tapas": "it needs the rows and columns of a table beside the text",
    "reformer": "its reversible layers run in a function of their own, which PyTorch cannot export",
    "mega": "it computes Fourier transforms over the tokens, which PyTorch cannot write into a graph",
    "mra": "its attention runs in kernels for CUDA alone, in whose place transformers gives zeros on the CPU",
}
"""Encoders that transformers has and bertonnx refuses, with the reason."""

EXCLUDED_KEYS: Mapping[str, Mapping[str, tuple[bool, str]]] = {
    "yoso": {
        "use_expectation": (
            False,
            "it hashes its tokens at random, in kernels for CUDA alone that no version of transformers has "
            "for the CPU; true computes what hashing comes to on average",
        )
    }
}
"""Family without a row -> key of config.json -> the value with which it cannot be exported, and why."""


def register(row: Family) -> None:
    """Add a family, from this package or another.

    Raises:
        ValueError: another family has its name.
    """
    FAMILIES.register(row)


def family(name: str) -> Family | None:
    """Return the family called `name`, or None where the table does not know it."""
    return FAMILIES.get(name)


def family_of_code(name: str, config_class: str) -> Family | None:
    """Return the family whose code on the Hub has these names; None where no row has.

    Args:
        name: `model_type` in config.json.
        config_class: the class of configurations that its `auto_map` names; "" for none.
    """
    by_name = (row for row in FAMILIES if name in row.code_names or config_class in row.code_configs)
    return next(by_name, None)
