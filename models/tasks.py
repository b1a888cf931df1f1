"""The tasks: a row each, with all that is special about it.

Adding one is a row here (or `register` from outside), a decoder, and a line in `tests/tiny.py`.
Fields that name code hold an import path, "module:name", which the room that owns the code resolves
on use (`models.registry.resolve`); so nothing heavy is imported here. No other module compares the
names of tasks: what differs between them is a field of the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from bertonnx.models.hidden import hidden_name
from bertonnx.models.registry import Registry

__all__ = [
    "CLASSIFIER",
    "ENCODER",
    "PROBLEM_TYPES",
    "RANKER",
    "TAGGER",
    "TASKS",
    "Task",
    "Use",
    "outputs_of",
    "register",
    "served",
    "task",
    "task_meant",
]

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")

Dimension = Literal["batch", "tokens", "width", "hidden", "labels", "one", "vocabulary", "vector"]


@dataclass(frozen=True)
class Use:
    """What else a model of a task answers, where an option asks for it: one text is then more than one row,
    or rows are answered together with what the option holds.

    Attributes:
        method: the method of `bertonnx.Model` that serves it.
        option: the field of `runtime.options.DecodeOptions` that asks for it.
        answers: `(Running, rows) -> Generator[Item | RowError]`: one result a row
            (`runtime.decoders.uses.Running`).
        example: what may be given for the option, in messages.
    """

    method: str
    option: str
    answers: str
    example: str | tuple[str, ...] = "TEXT"


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: Hugging Face's name of the task, the value of `--task`.
        method: the method of `bertonnx.Model` that serves it; "predict" for a task without one of its own.
        auto_class: the class of transformers that loads such a checkpoint.
        architectures: endings of the class names in `config.json`'s `architectures` that mean this task,
            transformers' own first.
        adapter_types: what PEFT calls this task in an adapter's `task_type`.
        raw_outputs: outputs of the traced graph, before our heads.
        outputs: outputs of the finished file, each float32, with their dimensions.
        beside: of a task that a file of another task may serve too (`Card.also`): the outputs that such a
            file has for it, where they are not those of `outputs`.
        decoder: `(DecoderContext) -> Decoder`: what makes results of outputs
            (`runtime.decoders.DecoderContext`).
        columns: `(Card, DecodeOptions) -> tuple[Column, ...]`: the columns of a result
            (`runtime.io.columns`).
        numbers: `(Card, DecodeOptions) -> Numbers`: what a row of a `.npy` file holds (`runtime.io.npy`);
            empty where results are more than numbers.
        r_tables: name of a table as R asks for it -> `(Card, DecodeOptions) -> Table`
            (`runtime.r_tables`); the first is what R's `predict()` gives. Without any, R has a table of
            the columns.
        kinds: what Sentence-Transformers, or PyLate, calls a model of this task (`model_type` in
            config_sentence_transformers.json).
        layers: `(Task, SentenceModules | None, ExportOptions, PretrainedConfig, Source, Account) ->
            Embedding`: what follows the traced model (`exporters.checkpoint.embedding`).
        evaluation: `(Model, path, Columns) -> Measured`: what a model of this task says of labelled texts
            (`runtime.evaluation.evaluate`); empty where labels say nothing of it.
        head: `(config, raw) -> Head`: labels, problem type and activation of a checkpoint
            (`exporters.checkpoint.task`).
        graph_head: `(Graph, Checkpoint) -> None`: puts post-processing into the graph
            (`exporters.steps.heads`); empty where there is none.
        reference_head: `(Checkpoint, tensors, feeds) -> None`: the same in PyTorch
            (`exporters.verify.parity`); empty where there is none.
        library: `(Checkpoint, Card, rows) -> answers`: what Sentence-Transformers itself gives for each row
            (`exporters.verify.independent`), where neither `pooled` nor `activated` says how it is asked.
        comparison: `(DecoderContext) -> Comparison`: how close INT8 or fp16 is to fp32
            (`exporters.verify.agreement`).
        pairs: whether the model reads text pairs: "always", "never", or "maybe", where the checkpoint says.
        pair_names: what the two texts of a pair are called, in errors and as columns.
        pair_is_cut: whether only the second text of a pair is cut or read in windows.
        long_text: what happens to a text longer than the model where the user does not say.
        longest: longest input in tokens, whatever the model can take; None for no such limit.
        pooled: whether token vectors are pooled into one for each text, so that pooling, normalization and
            the modules of a Sentence-Transformers folder apply.
        headed: whether a checkpoint of transformers may serve it by itself; else its weights hold more, or
            other files do.
        labelled: whether the outputs are classes with names.
        masked: whether a text must hold a mask token.
        activated: whether `scores` follow the activation that a cross-encoder or the user names. What a
            result's score is then depends on it: with no activation it is the logit, with tanh it lies
            between -1 and 1, and neither is a probability.
        calibrates: whether scores are probabilities of labels, which a temperature can correct.
        ranks: whether a result is one score, by which texts are put in order.
        prompts: names of prompts that can be asked for whatever the checkpoint says; where it has no text for
            one, nothing is put before a text.
        options: fields of `runtime.options.DecodeOptions` that some tasks have and this one too.
        aliases: other names that a user may call it by: transformers', Optimum's and the Hub's.
        candidates: how many candidates a result lists where the user does not say.
        uses: what else such a model is used for.
        hub: `async (Call) -> Response`: how a server answers as Hugging Face's inference does
            (`runtime.serving.hugging_face`); default, the items of `predict`.
        tensors: `(Card) -> Outputs`: what KServe's v2 interface gives (`runtime.serving.kserve`); default,
            the lines of `run`.
    """

    name: str
    method: str
    auto_class: str
    architectures: tuple[str, ...]
    raw_outputs: tuple[str, ...]
    outputs: Mapping[str, tuple[Dimension, ...]]
    decoder: str
    columns: str
    comparison: str
    numbers: str = ""
    r_tables: Mapping[str, str] = field(default_factory=dict)
    adapter_types: tuple[str, ...] = ()
    beside: Mapping[str, tuple[Dimension, ...]] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    library: str = ""
    layers: str = "bertonnx.exporters.checkpoint.embedding:no_embedding"
    evaluation: str = ""
    head: str = "bertonnx.exporters.checkpoint.task:no_head"
    graph_head: str = ""
    reference_head: str = ""
    pairs: Literal["always", "maybe", "never"] = "never"
    pair_names: tuple[str, str] = ("text", "pair")
    pair_is_cut: bool = False
    long_text: Literal["truncate", "stride"] = "truncate"
    longest: int | None = None
    pooled: bool = False
    headed: bool = True
    labelled: bool = False
    masked: bool = False
    activated: bool = False
    calibrates: bool = False
    ranks: bool = False
    prompts: tuple[str, ...] = ()
    candidates: int = 1
    hub: str = "bertonnx.runtime.serving.hugging_face:items"
    tensors: str = "bertonnx.runtime.serving.kserve:line_outputs"
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    uses: tuple[Use, ...] = ()

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods of `bertonnx.Model` that serve it, its own first."""
        return tuple(dict.fromkeys((self.method, *(use.method for use in self.uses))))


TASKS: Registry[Task] = Registry(
    "task",
    Task(
        "feature-extraction",
        method="embed",
        auto_class="AutoModel",
        architectures=("Model",),
        adapter_types=("FEATURE_EXTRACTION",),
        raw_outputs=("last_hidden_state",),
        outputs={
            "sentence_embedding": ("batch", "width"),
            "last_hidden_state": ("batch", "tokens", "hidden"),
        },
        decoder="bertonnx.runtime.decoders.embeddings:embedding_decoder",
        columns="bertonnx.runtime.io.columns:embedding_columns",
        comparison="bertonnx.exporters.verify.agreement:compare_embeddings",
        numbers="bertonnx.runtime.io.npy:embedding_numbers",
        r_tables={"embeddings": "bertonnx.runtime.r_tables:embedding_table"},
        graph_head="bertonnx.exporters.steps.heads:add_embedding",
        reference_head="bertonnx.exporters.verify.parity:embedding_reference",
        pooled=True,
        kinds=("SentenceTransformer",),
        layers="bertonnx.exporters.checkpoint.embedding:planned_embedding",
        hub="bertonnx.runtime.serving.hugging_face:embeddings",
        tensors="bertonnx.runtime.serving.kserve:embedding_outputs",
        prompts=("query", "document"),  # `encode_query` and `encode_document` of sentence-transformers
        options=("dimensions", "normalize", "encoding", "chunks"),
        aliases=("sentence-similarity", "embeddings", "default"),
    ),
    Task(
        "text-classification",
        method="classify",
        auto_class="AutoModelForSequenceClassification",
        architectures=("ForSequenceClassification",),
        adapter_types=("SEQ_CLS",),
        raw_outputs=("logits",),
        outputs={"logits": ("batch", "labels"), "scores": ("batch", "labels")},
        decoder="bertonnx.runtime.decoders.classification:classification_decoder",
        columns="bertonnx.runtime.io.columns:classification_columns",
        comparison="bertonnx.exporters.verify.agreement:compare_classes",
        numbers="bertonnx.runtime.io.npy:classification_numbers",
        r_tables={
            "labels": "bertonnx.runtime.r_tables:label_table",
            "scores": "bertonnx.runtime.r_tables:score_table",
        },
        evaluation="bertonnx.runtime.evaluation.evaluate:measured_labels",
        head="bertonnx.exporters.checkpoint.task:classification_head",
        graph_head="bertonnx.exporters.steps.heads:add_scores",
        reference_head="bertonnx.exporters.verify.parity:scores_reference",
        pairs="maybe",
        labelled=True,
        options=("raw_scores", "top_k", "labels", "template", "multi_label", "entailment", "threshold"),
        hub="bertonnx.runtime.serving.hugging_face:labels",
        tensors="bertonnx.runtime.serving.kserve:label_outputs",
        uses=(
            # Two labels, since one alone has nothing that it is better than.
            Use(
                "zero_shot",
                "labels",
                "bertonnx.runtime.decoders.zero_shot:zero_shot",
                example=("LABEL", "LABEL"),
            ),
        ),
        kinds=("CrossEncoder",),
        # Zero-shot classification is what an NLI classifier is used for.
        aliases=("sentiment-analysis", "sequence-classification", "zero-shot-classification"),
        calibrates=True,
        activated=True,
    ),
    Task(
        "text-ranking",
        method="rank",
        auto_class="AutoModelForSequenceClassification",
        # The task before it is chosen by these: that a model ranks Sentence-Transformers says, or the user.
        architectures=("ForSequenceClassification",),
        raw_outputs=("logits",),
        outputs={"logits": ("batch", "one"), "scores": ("batch", "one")},
        decoder="bertonnx.runtime.decoders.ranking:ranking_decoder",
        columns="bertonnx.runtime.io.columns:ranking_columns",
        comparison="bertonnx.exporters.verify.agreement:compare_ranks",
        numbers="bertonnx.runtime.io.npy:ranking_numbers",
        r_tables={"scores": "bertonnx.runtime.r_tables:score_table"},
        head="bertonnx.exporters.checkpoint.task:ranking_head",
        graph_head="bertonnx.exporters.steps.heads:add_scores",
        reference_head="bertonnx.exporters.verify.parity:scores_reference",
        pairs="always",
        pair_names=("query", "document"),
        kinds=("CrossEncoder",),
        activated=True,
        ranks=True,
        options=("raw_scores", "query"),
        aliases=("reranking", "cross-encoder"),
        uses=(Use("rank", "query", "bertonnx.runtime.decoders.ranking:for_query"),),
    ),
    Task(
        "token-classification",
        method="entities",
        auto_class="AutoModelForTokenClassification",
        architectures=("ForTokenClassification",),
        adapter_types=("TOKEN_CLS",),
        raw_outputs=("logits",),
        outputs={"logits": ("batch", "tokens", "labels"), "scores": ("batch", "tokens", "labels")},
        decoder="bertonnx.runtime.decoders.entities:entity_decoder",
        columns="bertonnx.runtime.io.columns:entity_columns",
        comparison="bertonnx.exporters.verify.agreement:compare_entities",
        r_tables={"entities": "bertonnx.runtime.r_tables:entity_table"},
        evaluation="bertonnx.runtime.evaluation.evaluate:measured_entities",
        head="bertonnx.exporters.checkpoint.task:token_head",
        graph_head="bertonnx.exporters.steps.heads:add_scores",
        reference_head="bertonnx.exporters.verify.parity:scores_reference",
        long_text="stride",
        options=("aggregation",),
        hub="bertonnx.runtime.serving.hugging_face:entities",
        labelled=True,
        aliases=("ner", "named-entity-recognition"),
    ),
    Task(
        "question-answering",
        method="answer",
        auto_class="AutoModelForQuestionAnswering",
        architectures=("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
        adapter_types=("QUESTION_ANS",),
        raw_outputs=("start_logits", "end_logits"),
        outputs={"start_logits": ("batch", "tokens"), "end_logits": ("batch", "tokens")},
        decoder="bertonnx.runtime.decoders.answers:answer_decoder",
        columns="bertonnx.runtime.io.columns:answer_columns",
        comparison="bertonnx.exporters.verify.agreement:compare_answers",
        r_tables={"answers": "bertonnx.runtime.r_tables:answer_table"},
        pairs="always",
        pair_names=("question", "context"),
        pair_is_cut=True,
        long_text="stride",
        options=("no_answer", "raw_scores", "top_k"),
        hub="bertonnx.runtime.serving.hugging_face:answers",
        longest=384,  # `max_seq_len` of transformers' question answering pipeline
    ),
    Task(
        "fill-mask",
        method="fill_mask",
        auto_class="AutoModelForMaskedLM",
        # XLM and FlauBERT say WithLMHeadModel; ForPreTraining has this head and another beside it.
        architectures=("ForMaskedLM", "WithLMHeadModel", "ForPreTraining"),
        raw_outputs=("logits",),
        outputs={"logits": ("batch", "tokens", "vocabulary")},
        decoder="bertonnx.runtime.decoders.masks:mask_decoder",
        columns="bertonnx.runtime.io.columns:mask_columns",
        comparison="bertonnx.exporters.verify.agreement:compare_masks",
        r_tables={"masks": "bertonnx.runtime.r_tables:mask_table"},
        masked=True,
        hub="bertonnx.runtime.serving.hugging_face:masks",
        candidates=5,
        options=("top_k",),
        aliases=("masked-lm",),
    ),
    Task(
        "sparse-embedding",
        method="embed_sparse",
        auto_class="AutoModelForMaskedLM",
        # The task before it is chosen by its architectures: that a masked model embeds, its folder says.
        architectures=(),
        raw_outputs=("logits",),
        outputs={"sparse_embedding": ("batch", "vocabulary")},
        beside={"token_weights": ("batch", "tokens")},
        decoder="bertonnx.runtime.decoders.sparse:sparse_decoder",
        columns="bertonnx.runtime.io.retrieval_columns:sparse_columns",
        comparison="bertonnx.exporters.verify.late_agreement:compare_sparse",
        r_tables={"sparse": "bertonnx.runtime.r_tables:sparse_table"},
        kinds=("SparseEncoder",),
        library="bertonnx.exporters.verify.late_independent:sparse_answers",
        layers="bertonnx.exporters.checkpoint.sparse:planned_sparse",
        graph_head="bertonnx.exporters.steps.heads:add_sparse",
        reference_head="bertonnx.exporters.verify.late_reference:sparse_reference",
        prompts=("query", "document"),
        options=("top_k",),
        aliases=("splade", "sparse"),
    ),
    Task(
        "multi-vector",
        method="embed_tokens",
        auto_class="AutoModel",
        architectures=("HF_ColBERT",),
        raw_outputs=("last_hidden_state",),
        outputs={"token_embeddings": ("batch", "tokens", "vector")},
        decoder="bertonnx.runtime.decoders.multi_vector:vectors_decoder",
        columns="bertonnx.runtime.io.retrieval_columns:vectors_columns",
        comparison="bertonnx.exporters.verify.late_agreement:compare_vectors",
        r_tables={"vectors": "bertonnx.runtime.r_tables:vector_table"},
        kinds=("MultiVectorEncoder", "ColBERT"),
        library="bertonnx.exporters.verify.late_independent:vectors_answers",
        layers="bertonnx.exporters.checkpoint.late:planned_late",
        graph_head="bertonnx.exporters.steps.heads:add_vectors",
        reference_head="bertonnx.exporters.verify.late_reference:vectors_reference",
        prompts=("query", "document"),
        headed=False,
        options=("query",),
        aliases=("colbert", "late-interaction"),
        uses=(Use("rank", "query", "bertonnx.runtime.decoders.multi_vector:for_query"),),
    ),
)


ENCODER = TASKS["feature-extraction"]
"""The task of an encoder without a head: that of a checkpoint whose architecture names no head that we
know, and of a Sentence-Transformers folder."""

CLASSIFIER = TASKS["text-classification"]
"""The task of a checkpoint that gives several numbers to a text or pair."""

RANKER = TASKS["text-ranking"]
"""The task of a cross-encoder that gives one number to a pair."""


TAGGER = TASKS["token-classification"]
"""The task of a model that labels tokens."""


def register(row: Task) -> None:
    """Add a task, from this package or another.

    Raises:
        ValueError: another task has its name.
    """
    TASKS.register(row)


def served(name: str, also: Sequence[str] = ()) -> tuple[Task, ...]:
    """Return the rows of all tasks that a file serves, its own first.

    Args:
        name: its own task.
        also: the others (`Card.also`).

    Raises:
        KeyError: no such task.
    """
    return (TASKS[name], *(TASKS[other] for other in also))


def outputs_of(
    name: str, also: Sequence[str] = (), hidden_states: Sequence[int] = ()
) -> dict[str, tuple[Dimension, ...]]:
    """Return the outputs of a file with their dimensions.

    Args:
        name: as `served`.
        also: as `served`.
        hidden_states: layers whose vectors are outputs too (`Card.hidden_states`).

    Raises:
        KeyError: no such task.
    """
    own, *others = served(name, also)
    found = dict(own.outputs)
    for row in others:
        found.update(row.beside or row.outputs)
    found.update({hidden_name(layer): ("batch", "tokens", "hidden") for layer in hidden_states})
    return found


def task_meant(text: str) -> str:
    """Return the name of the task that a user means, in any case; the text as it is where there is none."""
    wanted = str(text).strip().lower().replace("_", "-")
    return next((row.name for row in TASKS if wanted in (row.name, *row.aliases)), text)


def task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        KeyError: no such task.
    """
    return TASKS[name]
