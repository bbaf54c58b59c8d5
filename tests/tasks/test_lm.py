"""Language modelling: windows, bits per byte, the n-gram, the models, and a language model from a folder."""

import json
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from clipbench.errors import UserError
from clipbench.task import MetricSet
from clipbench.task.laws import CONTRACT
from clipbench.task.spikes import Spike
from clipbench.tasks import lm
from clipbench.tasks.encoders import Bytes
from clipbench.tasks.language_models import KINDS, Scores, Shape
from clipbench.tasks.lm import LM, MiniLM, NextToken
from clipbench.tasks.ngram import NGram
from clipbench.tasks.streams import IGNORED, Stream, stream_of

SHAPE = {"layers": 1, "width": 8, "heads": 2, "tied": True, "dropout": 0.0, "init_std": 0.1}
SHAPE |= {"recurrent_init": None, "forget_bias": None}
WORDS = "the quick brown fox jumps over a lazy dog and runs from some small grey cat".split()  # noqa: SIM905


def mini(**more):
    return MiniLM(**{"batch_size": 4, "context": 16, "model": "gpt", **SHAPE, **more})


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(lm, "MINI_SIZES", {"train": 20_000, "val": 1000, "test": 3000})


@pytest.fixture
def texts(tmp_path):
    """200 documents of one line."""
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 12)) + f" {i}" for i in range(200)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(lines))
    return path


def full(path, **more):
    known = {"batch_size": 4, "context": 16, "model": "gpt", "documents": "line", "held_out": 0.2}
    return LM(**{**known, **SHAPE, "data": str(path), **more})


class Counted(NextToken):
    """A stream of tokens 0, 1, …, n - 1 behind a boundary, so that each place knows its number."""

    def __init__(self, n, context, batch_size=3):
        super().__init__(batch_size, context, "gpt", **SHAPE)
        tokens = np.concatenate([[256], np.arange(n)])
        sizes = np.concatenate([[0], np.full(n, 2)])
        self.streams = dict.fromkeys(("train", "val", "test"), Stream(tokens, sizes, 256, 1, 2 * n))


@pytest.mark.parametrize("context", [1, 2, 7, 8, 200, 500])
@pytest.mark.parametrize("n", [1, 9, 200])
def test_every_token_of_a_split_is_predicted_once_with_half_a_window_before_it(n, context):
    seen = Counter()
    for inputs, targets, amounts in Counted(n, context).eval_batches("test"):
        assert inputs.shape == targets.shape == (len(amounts), context)
        for i in range(len(inputs)):
            at = [j for j in range(context) if targets[i, j] != IGNORED]
            assert amounts[i].tolist() == [len(at), 2 * len(at)]
            for j in at:
                token = int(targets[i, j])
                assert inputs[i, j] == (token - 1 if token else 256)
                assert j >= min(token, context - max(1, context // 2))
                seen[token] += 1
    assert seen == Counter(range(n))


def test_an_epoch_of_training_predicts_each_token_of_its_windows_once():
    task = Counted(200, 7, batch_size=4)
    batches = task.train_batches(torch.Generator().manual_seed(0))
    targets = torch.cat([next(batches).targets.flatten() for _ in range(int(task.steps_per_epoch))])
    assert task.steps_per_epoch == 200 // 7 // 4
    assert len(targets.unique()) == len(targets) == 7 * 4 * task.steps_per_epoch


def test_a_boundary_is_seen_and_not_predicted():
    stream = stream_of([b"ab", b"cde"], Bytes())
    assert stream.tokens.tolist() == [256, *b"ab", 256, *b"cde"]
    assert (stream.documents, stream.predicted, stream.bytes) == (2, 5, 5)
    inputs, targets, amounts = stream.windows(np.array([0]), 6)
    assert inputs[0].tolist() == [256, *b"ab", 256, *b"cd"]
    assert targets[0].tolist() == [*b"ab", IGNORED, *b"cde"]
    assert amounts.tolist() == [[5, 5]]


def test_a_spoiled_batch_counts_what_its_targets_are():
    task = mini()
    stream = stream_of([bytes(range(65, 80)), b"second", b"third"], Bytes())
    batch = stream.windows(np.array([0, 4, 16, 20]), 6)
    assert len(batch.amounts.unique()) > 1
    for kind in ("labels", "repeat"):
        inputs, targets, amounts = task.spoiled(batch, Spike(kind, 1.0), torch.Generator().manual_seed(0))
        assert torch.equal(amounts[:, 0], (targets != IGNORED).sum(1))
        assert not torch.equal(targets, batch.targets)
        assert torch.equal(inputs, batch.inputs) == (kind == "labels")
    with pytest.raises(UserError, match=r"spike\.kind=labels or repeat"):
        task.spoiled(batch, Spike("inputs", 10.0), torch.Generator())


class Table(nn.Module):
    """A bigram: logits by the last token alone."""

    def __init__(self, vocabulary):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary))

    def forward(self, tokens):
        return Scores(self.table[tokens])


def evaluated(task, model, split="test"):
    metrics, total, count = MetricSet(task.metrics()), 0.0, 0
    with torch.no_grad():
        for batch in task.eval_batches(split):
            outputs, targets = task.forward(model, batch)
            assert outputs.shape == (len(batch.inputs),)  # no logits are kept
            metrics.update(outputs, targets)
            total += float(task.loss(outputs, targets)) * int(task.count(targets))
            count += int(task.count(targets))
    return metrics.values() | {"loss": total / count}


def by_hand(table, documents, boundary=256):
    """Σ -ln p, token by token, and the number of tokens."""
    logs = table.detach().double().log_softmax(1)
    nats, count = 0.0, 0
    for document in documents:
        for last, token in zip([boundary, *document], document, strict=False):
            nats -= float(logs[last, token])
            count += 1
    return nats, count


def test_bits_per_byte_perplexity_and_loss_by_hand():
    task, model = mini(), Table(257)
    text = task.texts["test"].encode()
    nats, count = by_hand(model.table, [text])
    found = evaluated(task, model)
    assert count == len(text)
    assert found["bpb"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
    assert found["loss"] == pytest.approx(nats / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    nn.init.zeros_(model.table)
    assert evaluated(task, model)["bpb"] == pytest.approx(math.log2(257), rel=1e-5)


def test_less_is_better_and_what_is_worth_telling_is_a_hundredth_of_the_nats():
    metrics = mini().metrics()
    assert [metrics[name].higher_is_better for name in ("bpb", "perplexity")] == [False, False]
    MetricSet(metrics).update(torch.tensor([20.0, 30.0]), torch.tensor([[10, 40], [10, 40]]))
    assert metrics["bpb"].resolution().worth == pytest.approx(0.01 * 50 / (80 * math.log(2)))
    better = math.exp(1.01 * 50 / 20) - math.exp(50 / 20)
    assert metrics["perplexity"].resolution().worth == pytest.approx(better, rel=1e-4)


def test_the_floor_and_the_uniform_rate_are_told_with_the_data():
    task = mini()
    test = task.texts["test"]
    floor = task.language.information(test) / len(test)
    assert f"floor {floor:.4g} (its own likelihood), uniform 8" in task.data
    assert task.data.startswith("a generated language, ")
    assert floor < task.baseline()[1]["bpb"] < 8
    assert len({task.texts[split] for split in ("train", "val", "test")}) == 3


def counted_by_hand(train, test, order, vocabulary):
    """Witten-Bell, from counts in dicts; nats of each test token with order - 1 before it."""
    after = defaultdict(Counter)
    for k in range(order):
        for i in range(k, len(train)):
            after[tuple(train[i - k : i])][train[i]] += 1

    def p(context, token):
        lower = p(context[1:], token) if context else 1 / vocabulary
        seen = after[context]
        if not seen:
            return lower
        kinds = len(seen)
        return (seen[token] + kinds * lower) / (seen.total() + kinds)

    return [-math.log(p(tuple(test[i - order + 1 : i]), test[i])) for i in range(order - 1, len(test))]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_n_gram_is_the_one_counted_by_hand(order):
    rng = np.random.default_rng(0)
    train, test = rng.choice(4, 300, p=[0.6, 0.2, 0.15, 0.05]), rng.integers(0, 5, 60)
    found = NGram(train, order, 5).nats(test)
    np.testing.assert_allclose(found, counted_by_hand(train.tolist(), test.tolist(), order, 5), rtol=1e-12)


def test_an_n_gram_sums_to_one_and_refuses_too_many_strings():
    train = np.random.default_rng(0).integers(0, 3, 100)
    ngram = NGram(train, 3, 4)
    for context in ([0, 1], [3, 3], [3, 2]):
        p = [math.exp(-ngram.nats(np.array([*context, token]))[0]) for token in range(4)]
        assert sum(p) == pytest.approx(1)
    with pytest.raises(ValueError, match="too many"):
        NGram(train, 8, 257)


def test_the_baseline_is_a_5_gram_of_train_on_each_byte_of_test():
    task = mini()
    train, test = ([256, *task.texts[split].encode()] for split in ("train", "test"))
    nats = counted_by_hand(train, [256] * 4 + test, 5, 257)[1:]
    name, values = task.baseline()
    assert name == "5-gram"
    assert values["bpb"] == pytest.approx(sum(nats) / math.log(2) / (len(test) - 1), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_scores_each_place_by_what_is_before_it(kind, tied):
    shape = Shape(**SHAPE | {"layers": 2, "tied": tied})
    model = shape.build(kind, vocabulary=257, context=16).eval()
    tokens = torch.randint(0, 257, (3, 16))
    logits = model(tokens).logits
    assert logits.shape == (3, 16, 257)
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 257
    other = model(changed).logits
    torch.testing.assert_close(other[:, :10], logits[:, :10])
    assert not torch.allclose(other[:, 10:], logits[:, 10:])
    tables = [p for p in model.parameters() if p.shape == (257, 8)]
    assert len(tables) == (1 if tied else 2)


def test_a_start_is_as_the_keys_say():
    shape = Shape(**SHAPE | {"width": 32, "recurrent_init": "normal", "forget_bias": 1.0, "init_std": 0.3})
    net = shape.build("lstm", 257, 16)
    assert net.body.weight_hh_l0.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert net.body.bias_ih_l0.chunk(4)[1].eq(1).all()
    assert shape.build("gpt", 257, 16).transformer.wte.weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert shape.build("llama", 257, 16).model.embed_tokens.weight.std().item() == pytest.approx(
        0.3, rel=0.05
    )


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_alone(kind):
    model = Shape(**SHAPE | {"dropout": 0.5}).build(kind, 257, 16)
    tokens = torch.randint(0, 257, (2, 16))
    assert not torch.equal(model.train()(tokens).logits, model(tokens).logits)
    assert torch.equal(model.eval()(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "lstn"}, "Unknown task.model 'lstn'. Did you mean 'lstm'"),
        ({"heads": 3}, "task.width=8 is not a multiple of task.heads=3, as gpt needs it"),
        ({"model": "llama", "heads": 8}, "not an even multiple of task.heads=8"),
        ({"layers": 0}, "task.layers must be a whole number of at least 1, got 0"),
        ({"context": 1.5}, "task.context must be a whole number"),
        ({"tied": 1}, "task.tied must be true or false, got 1"),
        ({"dropout": 1.0}, "task.dropout must be a number of at least 0 and below 1, got 1.0"),
        ({"init_std": "x"}, "task.init_std must be a number"),
        ({"model": "rnn_tanh", "recurrent_init": "norml"}, "Did you mean 'normal'"),
        ({"context": 50_000}, "the training text has only"),
    ],
)
def test_what_cannot_be_is_one_message(changed, message):
    with pytest.raises(UserError, match=message):
        built(changed)


def built(changed):
    task = mini(**changed)
    return task.model(torch.Generator()), task.steps_per_epoch


@pytest.fixture
def tokenizer(tmp_path, texts):
    """Byte-level BPE of 300 tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"])
    made.train([str(texts)], trainer)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_with_a_tokenizer_bits_are_still_of_bytes(texts, tokenizer):
    task = full(texts, tokenizer=str(tokenizer))
    assert task.encoder.vocabulary == 301
    model = Table(301)
    theirs = Tokenizer.from_file(str(tokenizer))
    documents = documents_of(task, "test", theirs)
    nats, tokens = by_hand(model.table, [theirs.encode(text).ids for text in documents], boundary=300)
    size = sum(len(text.encode()) for text in documents)
    found = evaluated(task, model)
    assert size > 1.5 * tokens
    assert found["bpb"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert task.uniform == pytest.approx(math.log2(300) * tokens / size)
    assert task.baseline()[0] == "3-gram"


def documents_of(task, split, theirs=None):
    """The texts of a split, out of its tokens."""
    found = []
    for token in task.streams[split].tokens.tolist():
        if token == task.encoder.boundary:
            found.append([])
        else:
            found[-1].append(token)
    return [theirs.decode(each) if theirs else bytes(each).decode() for each in found]


def test_a_file_is_divided_by_document_and_nothing_is_lost(texts):
    task = full(texts)
    parts = {split: documents_of(task, split) for split in ("train", "val", "test")}
    every = [*parts["train"], *parts["val"], *parts["test"]]
    assert sorted(every) == sorted(texts.read_text().split("\n"))
    for split in ("val", "test"):
        assert len(parts[split]) == pytest.approx(0.2 * 200, abs=4 * math.sqrt(200 * 0.2 * 0.8))
    sizes = "/".join(str(sum(map(len, part))) for part in parts.values())
    assert f"{sizes} bytes in {'/'.join(str(len(part)) for part in parts.values())} documents" in task.data


@pytest.mark.parametrize("law", CONTRACT)
def test_text_of_a_file_keeps_the_contract(texts, law):
    CONTRACT[law](lambda: full(texts))


@pytest.fixture
def pretrained(tmp_path, tokenizer):
    folder = tmp_path / "gpt"
    config = GPT2Config(
        vocab_size=301, n_positions=32, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return folder


def test_a_model_of_a_folder_brings_its_tokenizer_and_what_begins_a_text(texts, pretrained, capfd):
    task = full(texts, model=str(pretrained))
    assert (task.encoder.vocabulary, task.encoder.boundary) == (300, 0)
    loaded = GPT2LMHeadModel.from_pretrained(pretrained)
    model = task.model(torch.Generator())
    assert model.training
    for name, weight in loaded.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    outputs, targets = task.forward(model, next(task.train_batches(torch.Generator())))
    assert 0 < task.loss(outputs, targets).item() < 12
    assert capfd.readouterr() == ("", "")


def test_a_model_that_does_not_fit_is_refused(texts, pretrained, tmp_path):
    with pytest.raises(UserError, match=r"has 32 positions, and task\.context asks for 64"):
        full(texts, model=str(pretrained), context=64).model(torch.Generator())
    config = json.loads((pretrained / "config.json").read_text())
    (pretrained / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    with pytest.raises(UserError, match="has 200 tokens, and the tokenizer asks for 300"):
        full(texts, model=str(pretrained)).model(torch.Generator())
    (pretrained / "config.json").write_text(json.dumps(config | {"n_layer": 2}))
    with pytest.raises(UserError, match=r"has no weights for transformer\.h\.1"):
        full(texts, model=str(pretrained)).model(torch.Generator())
    (pretrained / "config.json").write_text(json.dumps(config | {"bos_token_id": None, "eos_token_id": None}))
    with pytest.raises(UserError, match="no token that begins or ends a text"):
        assert full(texts, model=str(pretrained)).encoder
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UserError, match=r"Cannot load task\.tokenizer=.*broken\.json"):
        assert full(texts, tokenizer=str(tmp_path / "broken.json")).encoder
