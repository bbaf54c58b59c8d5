"""CoLA: is this sentence acceptable English? BERT with a fresh head of two classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from clipbench.errors import UserError
from clipbench.task import Metric, Task, holdout, majority, shuffled
from clipbench.task.metrics import Accuracy, MatthewsCorrelation
from clipbench.tasks.cola_grammar import sentences
from clipbench.tasks.hub import loading, pretrained, weights

Rows = list[tuple[str, int]]  # (sentence, label); 1 = acceptable
Batch = tuple[dict[str, Tensor], Tensor]  # the model's keywords, each (N, longest), and labels (N,)

FILES = {"train": "in_domain_train.tsv", "test": "in_domain_dev.tsv", "test_ood": "out_of_domain_dev.tsv"}
IN_DOMAIN, OUT_OF_DOMAIN = 527, 516  # GLUE's validation set is the one followed by the other
EVAL_BATCH = 128
REVISIONS = {
    "nyu-mll/glue": "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
    "bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
}
"""The commits that our defaults on the hub stand for, in an id too. Of another model, NAME@COMMIT says which.
"""
NO_LIMIT = 10**9  # of tokens: what tokenizers say that know none
POSITIONS = ("position_embeddings", "wpe")  # how models call the table of their positions
MINI_SIZES = {"train": 10000, "val": 500, "test": 1000}


class Cola(Task):
    """The real sentences: GLUE's, or the raw files in the folder `data`.

    `model`: a name on the hub, NAME@REVISION for one of its commits or tags, or a folder.
    """

    headline = "mcc"
    drawn = ""
    splits: tuple[str, ...] = ("val", "test", "test_ood")

    def __init__(self, batch_size: int, data: str | None = None, model: str = "bert-base-uncased"):
        self.batch_size, self.folder, self.pretrained = batch_size, data, model

    @classmethod
    def data_files(cls, key: str, path: Path) -> Iterable[Path]:
        """CoLA's raw files in `data`; everything in a model's folder."""
        return raw_files(path) if key == "data" else super().data_files(key, path)

    @cached_property
    def rows(self) -> dict[str, Rows]:
        """Every split's sentences; "val" is a fixed tenth of the training set."""
        parts = load_tsv(Path(str(self.folder)).expanduser()) if self.folder else load_glue()
        rows = parts["train"]
        remaining, held_out = holdout(len(rows))
        parts["train"] = [rows[i] for i in remaining]
        parts["val"] = [rows[i] for i in held_out]
        return parts

    @cached_property
    def data(self) -> str:  # type: ignore[override]
        names = ("train", *self.splits)
        sizes = "/".join(str(len(self.rows[split])) for split in names)
        return f"{self.source}, {sizes} sentences ({'/'.join(names)}){self.cut}"

    @cached_property
    def cut(self) -> str:
        """ "; 3 longer than the model's 512 positions and cut", or "" where all fit."""
        texts = []
        for rows in self.rows.values():
            texts += [sentence for sentence, _ in rows]
        tokens = self.tokenizer(texts, truncation=False)["input_ids"]
        longer = sum(len(each) > self.positions for each in tokens)
        return f"; {longer} longer than the model's {self.positions} positions and cut" if longer else ""

    @property
    def source(self) -> str:
        return f"CoLA ({self.folder or 'GLUE'}) with {self.pretrained}"

    @cached_property
    def steps_per_epoch(self) -> float:  # type: ignore[override]
        return max(1, len(self.rows["train"]) // self.batch_size)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with self.loading():
            tokenizer = AutoTokenizer.from_pretrained(**self.where)
            # Without its files, transformers makes one that knows no word.
            if tokenizer.pad_token is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
                raise ValueError("its tokenizer has no vocabulary or no padding token")
        return tokenizer

    @property
    def where(self) -> dict[str, Any]:
        """What `from_pretrained` is to load."""
        return pretrained(self.pretrained, REVISIONS)

    @cached_property
    def positions(self) -> int:
        """The most tokens that a sentence may have: what the tokenizer says, and what the model has."""
        from transformers import AutoConfig, AutoModel

        with self.loading():
            config = AutoConfig.from_pretrained(**self.where)
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                body = AutoModel.from_config(config)
        limits = [self.tokenizer.model_max_length]
        for name, module in body.named_modules():
            if isinstance(module, nn.Embedding) and name.endswith(POSITIONS):
                # RoBERTa and its kin count from behind the padding's number.
                before = 0 if module.padding_idx is None else module.padding_idx + 1
                limits.append(module.num_embeddings - before)
        least = getattr(config, "max_position_embeddings", None)
        if isinstance(least, int) and least > 0:
            limits.append(least)
        return int(min(limits))

    def loading(self) -> AbstractContextManager[None]:
        files = "a folder with config.json, model.safetensors and the tokenizer's files"
        return loading("cola", f"task.model={self.pretrained}", f"task.model=DIR, {files}")

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """The model's keywords, padded to the longest of `texts`."""
        cut = {"truncation": True, "max_length": self.positions} if self.positions < NO_LIMIT else {}
        return dict(self.tokenizer(texts, padding=True, **cut, return_tensors="pt"))

    def model(self, rng: torch.Generator) -> nn.Module:
        from transformers import AutoModelForSequenceClassification

        with self.loading():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                **weights(self.pretrained, REVISIONS), num_labels=2, output_loading_info=True
            )
        lost = missing_in_body(info["missing_keys"], model.base_model_prefix)
        if lost:
            raise UserError(
                f"task.model={self.pretrained} has no weights for {min(lost)}: they would be random. Give "
                "another."
            )
        return model.float().train()

    def batch(self, rows: Rows) -> Batch:
        texts, labels = zip(*rows, strict=True)
        return self.encode(list(texts)), torch.tensor(labels)

    def train_batches(self, rng: torch.Generator) -> Iterator[Batch]:
        rows = self.rows["train"]
        for indices in shuffled(len(rows), self.batch_size, rng):
            yield self.batch([rows[i] for i in indices])

    def eval_batches(self, split: str) -> Iterator[Batch]:
        rows = self.rows[split]
        for start in range(0, len(rows), EVAL_BATCH):
            yield self.batch(rows[start : start + EVAL_BATCH])

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        return model(**inputs).logits, labels

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self) -> Mapping[str, Metric]:
        accuracy = Accuracy(2)
        return {"accuracy": accuracy, "mcc": MatthewsCorrelation(2, counted_by=accuracy)}

    def baseline(self) -> tuple[str, dict[str, float]]:
        train, test = labels_of(self.rows["train"]), labels_of(self.rows["test"])
        return "majority class", majority(self.metrics(), train, [test], classes=2)

    def prepare(self) -> str:
        self.batch(self.rows["test"])
        self.model(torch.Generator())
        return self.data


class MiniCola(Cola):
    """Sentences of `cola_grammar`, one token a word, and a BERT of two layers that starts from nothing."""

    splits = ("val", "test")
    source = "sentences of a small grammar"
    cut = ""

    def __init__(self, batch_size: int):
        super().__init__(batch_size)

    @cached_property
    def rows(self) -> dict[str, Rows]:
        rows = sentences(sum(MINI_SIZES.values()))
        parts, start = {}, 0
        for split, size in MINI_SIZES.items():
            parts[split] = rows[start : start + size]
            start += size
        return parts

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        words: set[str] = set()
        for rows in self.rows.values():
            for sentence, _ in rows:
                words.update(sentence.split())
        tokens = ["[PAD]", "[CLS]", *sorted(words)]
        return {word: i for i, word in enumerate(tokens)}

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        sequences = []
        for text in texts:
            words = ["[CLS]", *text.split()]
            sequences.append(torch.tensor([self.vocabulary[word] for word in words]))
        ids = pad_sequence(sequences, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def model(self, rng: torch.Generator) -> nn.Module:
        from transformers import BertConfig, BertForSequenceClassification

        return BertForSequenceClassification(
            BertConfig(
                vocab_size=len(self.vocabulary),
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
                max_position_embeddings=32,
                initializer_range=0.1,  # with BERT's own .02, SGD stays at the majority class
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )


def missing_in_body(missing: Iterable[str], body: str) -> list[str]:
    """The missing weights that a pretrained model should have had: not those of the head, nor of the pooler
    before it.
    """
    in_body = [key for key in missing if key.startswith(f"{body}.")]
    return [key for key in in_body if "pooler" not in key]


def labels_of(rows: Rows) -> Tensor:
    """(len(rows),)"""
    return torch.tensor([label for _, label in rows])


def load_tsv(folder: Path) -> dict[str, Rows]:
    """{split: rows} of CoLA's three raw files."""
    return {split: read_tsv(path) for split, path in zip(FILES, raw_files(folder), strict=True)}


def raw_files(folder: Path) -> list[Path]:
    """UserError where one is missing."""
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        names = ", ".join(FILES.values())
        raise UserError(
            f"task.data={folder}: there is no {missing[0]}. It must be a folder with {names}, "
            f"the raw files of CoLA 1.1; or leave task.data out for GLUE's copy."
        )
    return [folder / name for name in FILES.values()]


def read_tsv(path: Path) -> Rows:
    """Source, label (1 = acceptable), the author's mark and the sentence, separated by tabs."""
    rows = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Mend its permissions.") from error
    for number, line in enumerate(lines, 1):
        try:
            _, label, _, sentence = line.decode().split("\t")
            rows.append((sentence, ("0", "1").index(label)))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {line[:60]!r} is not a line of CoLA: source, label (0 or 1), mark "
                f"and sentence, separated by tabs, in UTF-8. Mend the line or fetch the file again."
            ) from error
    if len(rows) < 2:
        raise UserError(f"{path} has {len(rows)} sentences; at least 2 are needed. Fetch the file again.")
    return rows


def load_glue() -> dict[str, Rows]:
    """{split: rows} of GLUE's CoLA, from the cache of `datasets` or, the first time, from the Hugging Face
    hub.
    """
    import datasets

    datasets.disable_progress_bars()
    instead = f"task.data=DIR, a folder with CoLA's raw files {', '.join(FILES.values())}"
    with loading("cola", "GLUE's CoLA", instead):
        glue = datasets.load_dataset("nyu-mll/glue", "cola", revision=REVISIONS["nyu-mll/glue"])
    train = list(zip(glue["train"]["sentence"], glue["train"]["label"], strict=True))
    both = list(zip(glue["validation"]["sentence"], glue["validation"]["label"], strict=True))
    if len(both) != IN_DOMAIN + OUT_OF_DOMAIN:
        raise UserError(
            f"GLUE's CoLA has {len(both)} validation sentences, not {IN_DOMAIN} in-domain ones followed by "
            f"{OUT_OF_DOMAIN} out-of-domain ones: it cannot be divided. "
            f"Give task.data=DIR, a folder with {', '.join(FILES.values())}."
        )
    return {"train": train, "test": both[:IN_DOMAIN], "test_ood": both[IN_DOMAIN:]}
