"""CoLA: both sources of real sentences, a pretrained model from a folder, and the grammar."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import datasets
import pytest
import torch
from torch.nn.functional import one_hot
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from clipbench.errors import UserError
from clipbench.task.metrics import MatthewsCorrelation
from clipbench.tasks.cola import FILES, REVISIONS, Cola, MiniCola
from clipbench.tasks.cola_grammar import Writer, sentences

WORDS = ["the", "boy", "girl", "sees", "laughs", *(f"w{i}" for i in range(60))]


def line(sentence: str, label: int = 1) -> str:
    return f"gj04\t{label}\t{'' if label else '*'}\t{sentence}\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """40 training sentences, 30 of them acceptable; 4 and 3 held out, of which 1 and 2 are acceptable."""
    folder = tmp_path / "cola"
    folder.mkdir()
    text = {
        "train": "".join(line(f"the boy sees w{i}", label=int(i < 30)) for i in range(40)),
        "test": line("the girl laughs") + "".join(line(f"laughs the w{i}", label=0) for i in range(3)),
        "test_ood": line("the boy laughs")
        + line("the girl sees the boy")
        + line("sees", label=0).rstrip("\n"),
    }
    for split, name in FILES.items():
        (folder / name).write_text(text[split])
    return folder


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    BertForMaskedLM(tiny()).save_pretrained(folder)
    return str(folder)


def tiny() -> BertConfig:
    return BertConfig(
        vocab_size=70,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )


def test_the_held_out_files_are_the_test_splits(raw: Path):
    rows = Cola(8, str(raw)).rows
    assert [sentence for sentence, _ in rows["test"]] == [
        "the girl laughs",
        "laughs the w0",
        "laughs the w1",
        "laughs the w2",
    ]
    assert rows["test_ood"] == [("the boy laughs", 1), ("the girl sees the boy", 1), ("sees", 0)]


def test_validation_is_a_tenth_of_the_training_file(raw: Path):
    rows = Cola(8, str(raw)).rows
    train, val = (dict(rows[split]) for split in ("train", "val"))
    assert (len(train), len(val)) == (36, 4)
    assert {*train, *val} == {f"the boy sees w{i}" for i in range(40)}


def test_the_majority_class_is_right_once_in_four(raw: Path):
    assert Cola(8, str(raw)).baseline() == ("majority class", {"accuracy": 0.25, "mcc": 0.0})


def test_a_batch_is_padded_to_its_own_longest_sentence(raw: Path, pretrained: str):
    inputs, labels = next(iter(Cola(8, str(raw), pretrained).eval_batches("test_ood")))
    assert inputs["attention_mask"].tolist() == [
        [1, 1, 1, 1, 1, 0, 0],
        [1] * 7,
        [1, 1, 1, 0, 0, 0, 0],
    ]  # with [CLS] and [SEP]
    assert labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
def test_sentences_longer_than_the_models_positions_are_cut_and_counted(
    raw: Path, pretrained: str, family: str
):
    small = {"vocab_size": 70, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 16, "max_position_embeddings": 16, "pad_token_id": 0}
    if family == "roberta":
        small["pad_token_id"] = 1
    config = AutoConfig.for_model(family, **small)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(pretrained)
    path = raw / FILES["test"]
    path.write_text(path.read_text() + line("the boy sees " * 30) + line("the girl " * 40))
    task = Cola(8, str(raw), pretrained)
    fit = 14 if family == "roberta" else 16
    assert task.data.endswith(f"; 2 longer than the model's {fit} positions and cut")
    model = task.model(torch.Generator())
    for batch in task.eval_batches("test"):
        assert batch[0]["input_ids"].shape[1] == fit
        batch[0].pop("token_type_ids", None)
        assert task.forward(model, batch)[0].shape == (6, 2)


def test_weights_in_a_pickle_are_not_read(raw: Path, pretrained: str):
    torch.save(BertForMaskedLM(tiny()).state_dict(), Path(pretrained) / "pytorch_model.bin")
    (Path(pretrained) / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"Cannot load task\.model"):
        Cola(8, str(raw), pretrained).model(torch.Generator())


def test_a_name_on_the_hub_stands_for_one_commit(pretrained: str):
    assert Cola(8).where["revision"] == REVISIONS["bert-base-uncased"]
    assert Cola(8, model="some/model@v2").where == {
        "pretrained_model_name_or_path": "some/model",
        "revision": "v2",
    }
    assert "revision" not in Cola(8, model=pretrained).where


def test_pretrained_weights_are_kept_and_the_head_is_drawn(raw: Path, pretrained: str):
    task, models = Cola(8, str(raw), pretrained), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(task.model(torch.Generator()))
    body = BertForMaskedLM.from_pretrained(pretrained).bert
    assert all(
        torch.equal(body.get_parameter(name), p)
        for name, p in models[2].bert.named_parameters()
        if "pooler" not in name
    )
    assert torch.equal(models[0].classifier.weight, models[1].classifier.weight)
    assert not torch.equal(models[0].classifier.weight, models[2].classifier.weight)


def test_loading_a_model_prints_nothing(raw: Path, pretrained: str, capfd: pytest.CaptureFixture[str]):
    Cola(8, str(raw), pretrained).prepare()
    assert capfd.readouterr() == ("", "")


def test_a_step_learns_from_real_files(raw: Path, pretrained: str):
    task = Cola(8, str(raw), pretrained)
    model, losses = task.model(torch.Generator()), []
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for batch in islice(task.train_batches(torch.Generator().manual_seed(0)), 30):
        optimizer.zero_grad()
        losses.append(task.loss(*task.forward(model, batch)))
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("name", FILES.values())
def test_a_missing_file_is_named(raw: Path, name: str):
    (raw / name).unlink()
    with pytest.raises(UserError, match=f"there is no {name}"):
        Cola(8, str(raw)).prepare()


@pytest.mark.parametrize(
    "broken", ["gj04\t1\tno mark", line("the boy").replace("1", "yes"), "gj04\t1\t\tb\xffy"]
)
def test_a_broken_line_is_named(raw: Path, broken: str):
    path = raw / FILES["train"]
    path.write_bytes(path.read_bytes() + broken.encode("latin-1"))
    with pytest.raises(UserError, match=f"{path.name}, line 41"):
        Cola(8, str(raw)).prepare()


def test_an_empty_file_is_named(raw: Path):
    (raw / FILES["test"]).write_text("")
    with pytest.raises(UserError, match=r"in_domain_dev\.tsv has 0 sentences"):
        Cola(8, str(raw)).prepare()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_folder_with_a_file_missing_is_refused(raw: Path, pretrained: str, name: str):
    (Path(pretrained) / name).unlink()
    (Path(pretrained) / "vocab.txt").unlink()
    with pytest.raises(UserError, match=f"Cannot load task.model={pretrained}.*give task.model=DIR"):
        Cola(8, str(raw), pretrained).prepare()


def test_a_damaged_model_file_is_refused(raw: Path, pretrained: str):
    weights = Path(pretrained) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"Cannot load task.model={pretrained}"):
        Cola(8, str(raw), pretrained).prepare()


def test_a_model_whose_weights_have_other_names_is_refused(raw: Path, pretrained: str):
    model = BertForSequenceClassification(tiny())
    renamed = {name.replace("layer.0", "block.0"): value for name, value in model.state_dict().items()}
    model.save_pretrained(pretrained, state_dict=renamed)
    with pytest.raises(UserError, match=r"has no weights for bert\.encoder\.layer\.0"):
        Cola(8, str(raw), pretrained).prepare()


def glue(validation: int) -> datasets.DatasetDict:
    sizes = {"train": 20, "validation": validation}
    return datasets.DatasetDict(
        {
            part: datasets.Dataset.from_dict(
                {"sentence": [f"{part} {i}" for i in range(size)], "label": [i % 2 for i in range(size)]}
            )
            for part, size in sizes.items()
        }
    )


def test_glues_validation_set_is_divided_by_domain(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: glue(1043))
    rows = Cola(8).rows
    assert {split: len(rows[split]) for split in rows} == {
        "train": 18,
        "val": 2,
        "test": 527,
        "test_ood": 516,
    }
    assert (rows["test"][-1], rows["test_ood"][0]) == (("validation 526", 0), ("validation 527", 1))


def test_glue_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: glue(1040))
    with pytest.raises(UserError, match="1040 validation sentences"):
        _ = Cola(8).rows


def test_offline_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError, match=r"clipbench prepare task=cola scale=full.*task\.data=DIR"):
        _ = Cola(8).rows


@pytest.mark.parametrize("answer", [0, 1])
def test_one_and_the_same_answer_correlates_with_nothing(answer: int):
    metric = MatthewsCorrelation(2)
    metric.update(one_hot(torch.full((10,), answer), 2), torch.tensor([0, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
    assert metric.compute() == 0


def test_matthews_correlation_by_hand():
    metric = MatthewsCorrelation(2)  # TP 3, TN 2, FP 1, FN 2: (3·2 − 1·2) / √(4·5·3·4) = 4 / √240
    metric.update(one_hot(torch.tensor([1, 1, 1, 0, 0, 1, 0, 0])), torch.tensor([1, 1, 1, 0, 0, 0, 1, 1]))
    assert metric.compute() == pytest.approx(4 / 240**0.5)


def test_the_mini_splits_share_no_sentence():
    rows = MiniCola(32).rows
    texts = [sentence for split in rows.values() for sentence, _ in split]
    assert len(texts) == len(set(texts))
    assert {split: len(rows[split]) for split in rows} == {"train": 10000, "val": 500, "test": 1000}


def test_about_seven_in_ten_sentences_are_acceptable():
    rows = sentences(5000)
    assert 0.68 < sum(label for _, label in rows) / len(rows) < 0.72


def test_no_sentence_is_both_acceptable_and_broken():
    writers = [Writer(seed) for seed in range(4000)]
    broken = {
        Writer(seed, place).text
        for seed, writer in enumerate(writers)
        for place in range(1, writer.spots + 1)
    }
    assert not broken & {writer.text for writer in writers}


def test_a_sentence_breaks_at_every_place_in_its_own_way():
    writer = Writer(seed=7)
    variants = {Writer(seed=7, broken=place).text for place in range(1, writer.spots + 1)}
    assert writer.text not in variants
    assert len(variants) == writer.spots
