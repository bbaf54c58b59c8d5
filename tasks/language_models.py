"""The models of `lm`: tokens (N, length) → logits (N, length, vocabulary)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from clipbench.errors import UserError, nearest
from clipbench.task.loading import whole_number
from clipbench.tasks import hub
from clipbench.tasks.recurrent import GATES, recurrent

KINDS = ("gpt", "llama", *GATES)


class Scores(NamedTuple):
    """Called as transformers calls them."""

    logits: Tensor
    """(N, length, vocabulary)"""


@dataclass(frozen=True)
class Shape:
    """What a model is made of; each is a key of `task`."""

    layers: int
    width: int
    heads: int
    """Of attention; recurrent nets have none."""

    tied: bool
    """Whether the matrix that reads tokens also scores them."""

    dropout: float
    init_std: float
    """Of the weights of a GPT or Llama, which are drawn from N(0, init_std²)."""

    recurrent_init: str | None
    forget_bias: float | None

    def __post_init__(self) -> None:
        """UserError for what cannot be."""
        for name in ("layers", "width", "heads"):
            whole_number(f"task.{name}", getattr(self, name))
        if not isinstance(self.tied, bool):
            raise UserError(f"task.tied must be true or false, got {self.tied!r}.")
        for name, most in (("dropout", 1.0), ("init_std", float("inf"))):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < most:
                below = "" if most > 1 else " and below 1"
                raise UserError(f"task.{name} must be a number of at least 0{below}, got {value!r}.")

    def build(self, kind: str, vocabulary: int, context: int) -> nn.Module:
        """`kind`: one of KINDS. Weights are drawn from torch's global generator."""
        if kind not in KINDS:
            raise UserError(
                f"Unknown task.model '{kind}'.{nearest(str(kind), KINDS)} Known: {', '.join(KINDS)}; at "
                "scale=full also a folder, or a name on the Hugging Face hub."
            )
        if kind in GATES:
            return Recurrent(self, kind, vocabulary)
        part = self.width // self.heads
        if self.width % self.heads or (kind == "llama" and part % 2):
            even = "an even multiple" if kind == "llama" else "a multiple"
            raise UserError(
                f"task.width={self.width} is not {even} of task.heads={self.heads}, as {kind} needs it."
            )
        return self._gpt(vocabulary, context) if kind == "gpt" else self._llama(vocabulary, context)

    def _gpt(self, vocabulary: int, context: int) -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        shape: dict[str, Any] = {"n_layer": self.layers, "n_embd": self.width, "n_head": self.heads}
        shape |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), self.dropout)
        return GPT2LMHeadModel(GPT2Config(n_positions=context, **shape, **self._common(vocabulary)))

    def _llama(self, vocabulary: int, context: int) -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            intermediate_size=-(-8 * self.width // 24) * 8,  # 8/3 of the width, in whole eights
            num_attention_heads=self.heads,
            max_position_embeddings=context,
            attention_dropout=self.dropout,
            **self._common(vocabulary),
        )
        return LlamaForCausalLM(config)

    def _common(self, vocabulary: int) -> dict[str, Any]:
        return {
            "vocab_size": vocabulary,
            "initializer_range": self.init_std,
            "tie_word_embeddings": self.tied,
            "use_cache": False,
            "bos_token_id": None,
            "eos_token_id": None,
        }


class Recurrent(nn.Module):
    """Embedding, recurrent layers of the same width, and a linear head; dropout before and behind each."""

    def __init__(self, shape: Shape, kind: str, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, shape.width)
        self.body = recurrent(
            kind,
            shape.width,
            shape.width,
            shape.layers,
            dropout=shape.dropout,
            recurrent_init=shape.recurrent_init,
            forget_bias=shape.forget_bias,
        )
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(shape.width, vocabulary)
        if shape.tied:
            nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)  # logits of about the states' size
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Scores:
        states, _ = self.body(self.dropout(self.embedding(tokens)))
        return Scores(self.head(self.dropout(states)))


class Pretrained:
    """A causal model of transformers, to fine-tune: a folder, or a name on the hub."""

    def __init__(self, name: str) -> None:
        from transformers import AutoConfig

        self.name = name
        with self.loading():
            self.config = AutoConfig.from_pretrained(**hub.pretrained(name))

    def loading(self) -> AbstractContextManager[None]:
        files = "a folder with config.json, model.safetensors and tokenizer.json"
        known = f"{files}, or one of {', '.join(KINDS)}"
        return hub.loading("lm", f"task.model={self.name}", f"task.model=DIR, {known}")

    @property
    def boundary(self) -> int:
        """What the model knows as the beginning of a text, or as the end of one. UserError where neither."""
        for name in ("bos_token_id", "eos_token_id"):
            found = getattr(self.config, name, None)
            if isinstance(found, int):
                return found
        raise UserError(f"task.model={self.name} has no token that begins or ends a text. Give another.")

    def build(self, vocabulary: int, context: int) -> nn.Module:
        """UserError where the tokens or the context do not fit it, or weights are missing."""
        from transformers import AutoModelForCausalLM

        self._check("vocab_size", vocabulary, "tokens, and the tokenizer")
        self._check("max_position_embeddings", context, "positions, and task.context")
        with self.loading():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **hub.weights(self.name), output_loading_info=True
            )
        model, info = loaded
        if info["missing_keys"]:
            missing = min(info["missing_keys"])
            raise UserError(
                f"task.model={self.name} has no weights for {missing}: they would be random. Give another."
            )
        model.config.use_cache = False
        return model.float().train()

    def _check(self, key: str, wanted: int, words: str) -> None:
        known = getattr(self.config, key, None)
        if isinstance(known, int) and wanted > known:
            raise UserError(f"task.model={self.name} has {known} {words} asks for {wanted}. Give another.")
