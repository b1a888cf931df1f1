"""Export one tiny random model a task into a folder: `python make_models.py FOLDER`.

They are real BERT checkpoints with a real tokenizer, too small to be right about anything.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import bertonnx

TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
MODELS = {
    "embeddings": ("BertModel", {"kind": "embedding"}),
    "sentiment": ("BertForSequenceClassification", {"labels": ("negative", "neutral", "positive")}),
    "topics": (
        "BertForSequenceClassification",
        {"labels": ("sports", "Küche & Keller", "politics"), "problem_type": "multi_label_classification"},
    ),
    "stars": ("BertForSequenceClassification", {"labels": ("stars",), "problem_type": "regression"}),
    "entities": ("BertForTokenClassification", {"labels": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")}),
    "answers": ("BertForQuestionAnswering", {}),
    "words": ("BertForMaskedLM", {}),
    "roberta": ("RobertaForTokenClassification", {"labels": ("O", "B-PER", "I-PER")}),
    "nli": (
        "BertForSequenceClassification",
        {"labels": ("contradiction", "neutral", "entailment")},
    ),
    "ranker": ("BertForSequenceClassification", {"labels": ("relevant",)}),
    "sparse": ("BertForMaskedLM", {"kind": "sparse"}),
    "late": ("BertModel", {"kind": "late"}),
}
OPTIONS = {"embeddings": {"hidden_states": "all"}, "ranker": {"task": "text-ranking"}}


def main() -> None:
    folder, texts = Path(sys.argv[1]), hard_texts()
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "checkpoint", "BertModel", texts, seed=0)
    for number, (name, (architecture, options)) in enumerate(MODELS.items()):
        target = folder / f"{name}.onnx"
        if target.exists():
            continue
        with tempfile.TemporaryDirectory() as checkpoint:
            save(Path(checkpoint), architecture, texts, seed=number, **options)
            bertonnx.export(checkpoint, target, **OPTIONS.get(name, {}))
        print(target, flush=True)


def hard_texts() -> list[str]:
    lines = Path(__file__).with_name("hard-texts.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line]


def save(folder, architecture, texts, *, seed, labels=(), problem_type=None, kind=None) -> None:
    roberta = architecture.startswith("Roberta")
    tokenizer = byte_pairs(texts) if roberta else word_pieces(texts)
    names = dict(enumerate(labels))
    settings = {"id2label": names, "label2id": {name: i for i, name in names.items()}} if labels else {}
    make_config = transformers.RobertaConfig if roberta else transformers.BertConfig
    config = make_config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=98,
        pad_token_id=tokenizer.pad_token_id,
        # Weights of the usual 0.02 would make every output nearly the same number.
        initializer_range=0.3,
        problem_type=problem_type,
        **settings,
    )
    torch.manual_seed(seed)
    getattr(transformers, architecture)(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind:
        save_modules(folder, kind)


PLACE = "sentence_transformers.base.modules"
TOKENS_ONLY = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
DENSE = {"in_features": 32, "out_features": 16, "bias": False, **TOKENS_ONLY}
MODULES = {
    "embedding": [
        ("sentence_transformers.models.Transformer", {}),
        (
            "sentence_transformers.models.Pooling",
            {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        ),
    ],
    "sparse": [
        (f"{PLACE}.transformer.Transformer", {"transformer_task": "fill-mask"}),
        ("sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling", {}),
    ],
    "late": [
        (f"{PLACE}.transformer.Transformer", {"query_expansion": {"strategy": "fixed", "length": 16}}),
        (f"{PLACE}.dense.Dense", {**DENSE, "activation_function": "torch.nn.modules.linear.Identity"}),
        (
            "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask",
            {"skiplist_words": list(".,;:!?")},
        ),
        (f"{PLACE}.normalize.Normalize", TOKENS_ONLY),
    ],
}
WHOLE = {
    "embedding": {
        "prompts": {"query": "What is asked: ", "title": "title - "},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",
    },
    "sparse": {"model_type": "SparseEncoder"},
    "late": {"model_type": "MultiVectorEncoder"},
}


def save_modules(folder, kind) -> None:
    """Make a Sentence-Transformers folder of a checkpoint."""
    listed = []
    for number, (name, config) in enumerate(MODULES[kind]):
        path = f"{number}_{name.rpartition('.')[2]}" if number else ""
        listed.append({"idx": number, "name": str(number), "path": path, "type": name})
        place = folder / path
        place.mkdir(exist_ok=True)
        file = place / ("config.json" if number else "sentence_bert_config.json")
        file.write_text(json.dumps(config), encoding="utf-8")
        if name.endswith("Dense"):
            weight = torch.randn((16, 32), generator=torch.Generator().manual_seed(number))
            save_file({"linear.weight": weight}, place / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "config_sentence_transformers.json").write_text(json.dumps(WHOLE[kind]), encoding="utf-8")


def word_pieces(texts):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    special = list(TOKENS.values())
    trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return fast(tokenizer, TOKENS)


def byte_pairs(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    return fast(tokenizer, dict(zip(names, special, strict=True)))


def fast(tokenizer, tokens):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=96,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **tokens,
    )


if __name__ == "__main__":
    main()
