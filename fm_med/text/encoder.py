"""A frozen Hugging Face text model, encoder or decoder: reports in, one vector per report out."""

import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from fm_med.distributed import native_bf16
from fm_med.errors import InputError
from fm_med.text.model_files import locate

logger = logging.getLogger(__name__)

Pooling = Literal["mean", "last", "cls"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class FrozenTextEncoder:
    """Any Hugging Face text model as a fixed function from text to vector; never trained.

    Encoders (BERT, RoBERTa, ModernBERT, T5's encoder) and decoders (Llama, Qwen, Gemma) go the same
    way: right padding, masked pooling of the last hidden states, dropout off. The weights are read
    when the first text is encoded, so a store that holds every report never loads them. Code that
    comes with a model is never run.

    Args:
        name_or_path: Hub id or local folder.
        pooling: `mean` over the tokens, the `last` token (decoders) or `cls`, the first (encoders).
        prompt: Put in front of every text, as instruction-tuned embedding models ask for.
        max_tokens: Longer texts are cut; a smaller limit of the model wins.
        dtype: `auto` is bfloat16 where the processor gains by it, else float32.
        device: Where to compute; a GPU if there is one.
        device_map: For models larger than one GPU, as transformers takes it; replaces `device`.
        revision: Branch, tag or commit on the Hub.

    Attributes:
        dim: Width of the embeddings.
        key: Hash of everything that the embeddings depend on: model version, pooling, prompt,
            max_tokens, dtype.
        tokens_per_batch: Upper bound of batch * longest text.

    Raises:
        InputError: No such model, not available offline, not a text model, or a wrong option.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        pooling: Pooling = "mean",
        prompt: str = "",
        max_tokens: int = 256,
        dtype: Precision = "auto",
        device: str | torch.device | None = None,
        device_map: str | dict[str, Any] | None = None,
        revision: str | None = None,
    ) -> None:
        _check_option("pooling", pooling, get_args(Pooling))
        _check_option("dtype", dtype, get_args(Precision))
        self.name = str(name_or_path)
        self.files = locate(name_or_path, revision=revision)
        self.config = self.files.load(AutoConfig)
        self.tokenizer = self.files.load_tokenizer()
        self.pooling = pooling
        self.prompt = prompt
        self.max_tokens = min(max_tokens, self._token_limit())
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.device_map = device_map
        self.dtype = _native_dtype(self.device) if dtype == "auto" else getattr(torch, dtype)
        self.dim: int = self.config.get_text_config().hidden_size
        # On a CPU 512 tokens keep the matrix units busy; more only add padding.
        self.tokens_per_batch = 65_536 if self.device.type == "cuda" else 512
        if pooling == "cls" and self._is_causal():
            raise InputError(
                f"pooling='cls' reads the first token, which in the decoder {self.name} sees no "
                "other: every text would get the same vector; use 'mean' or 'last'"
            )

    def _token_limit(self) -> int:
        """Return the most tokens that model and tokenizer take."""
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return min(self.tokenizer.model_max_length, positions or self.tokenizer.model_max_length)

    def _is_causal(self) -> bool:
        kind = self.config.model_type
        return (
            kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        )

    @property
    def card(self) -> dict[str, Any]:
        """What the embeddings depend on, in words."""
        return {
            "model": self.name if self.files.revision else Path(self.name).name,
            "version": self.files.version,
            "pooling": self.pooling,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "dtype": str(self.dtype).removeprefix("torch."),
            "dim": self.dim,
        }

    @cached_property
    def key(self) -> str:
        """Hash of the card; a folder counts by its content, whatever it is called."""
        parts = {name: value for name, value in self.card.items() if name != "model"}
        return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()

    @cached_property
    def model(self) -> PreTrainedModel:
        """The frozen network, loaded on first use."""
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.device_map is not None:
            options["device_map"] = self.device_map
        model = self.files.load_network(**options)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        model.config.use_cache = False  # a decoder would keep keys and values for generation
        if self.device_map is None:
            model = model.to(self.device)
        return model.eval().requires_grad_(False)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one embedding per text, in the order given: (texts, dim) float32.

        Raises:
            InputError: A text is blank.
        """
        embeddings = np.empty((len(texts), self.dim), dtype=np.float32)
        for rows, batch in self.encode_batches(texts):
            embeddings[rows] = batch
        return embeddings

    def encode_batches(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (rows, embeddings) batch by batch, the longest texts first.

        Sorting by length keeps padding near zero, and a batch too large for the memory fails at
        once rather than at the end.

        Raises:
            InputError: A text is blank.
        """
        token_ids = self._tokenise(texts)
        lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        for rows in batches_by_length(lengths, self.tokens_per_batch):
            yield rows, self._embed([token_ids[row] for row in rows])

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        for row, text in enumerate(texts):
            if not text.strip():
                raise InputError(f"text {row} is blank: a row without a report has no embedding")
        if not texts:
            return []
        token_ids: list[list[int]] = self.tokenizer(
            [self.prompt + text for text in texts], truncation=True, max_length=self.max_tokens
        )["input_ids"]
        self._check_tokens(texts, token_ids)
        return token_ids

    def _check_tokens(self, texts: Sequence[str], token_ids: list[list[int]]) -> None:
        """Refuse what the network cannot read and say what it reads only in part."""
        vocabulary = self.config.get_text_config().vocab_size
        for row, ids in enumerate(token_ids):
            if not ids:
                raise InputError(f"text {row} has no token that {self.name} knows: {texts[row]!r}")
            if max(ids) >= vocabulary:
                raise InputError(
                    f"the tokenizer of {self.name} gives token {max(ids)}, its network knows "
                    f"{vocabulary}: they do not belong together"
                )
        full = sum(len(ids) == self.max_tokens for ids in token_ids)
        if full:
            logger.warning("%d texts fill all %d tokens: the rest is cut", full, self.max_tokens)
        unknown = sum(ids.count(self.tokenizer.unk_token_id) for ids in token_ids)
        share = unknown / sum(len(ids) for ids in token_ids)
        if share > 0.1:
            logger.warning(
                "%s does not know %.0f %% of the words: another language?", self.name, 100 * share
            )

    @torch.inference_mode()
    def _embed(self, token_ids: list[list[int]]) -> np.ndarray:
        """Run the network on one batch: (batch, dim) float32."""
        input_ids, attention_mask = self._pad(token_ids)
        device = self.model.get_input_embeddings().weight.device
        attention_mask = attention_mask.to(device)
        output = self.model(input_ids=input_ids.to(device), attention_mask=attention_mask)
        hidden = output.last_hidden_state
        embeddings = pool(hidden, attention_mask.to(hidden.device), self.pooling).cpu().numpy()
        if not np.isfinite(embeddings).all():
            raise InputError(
                f"{self.name} overflows in {self.dtype}: use dtype='bfloat16' or 'float32'"
            )
        return embeddings

    def _pad(self, token_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Pad on the right, decoders too: absolute positions break under left padding."""
        pad_ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        pad_id = next(token for token in pad_ids if token is not None)
        shape = (len(token_ids), max(len(ids) for ids in token_ids))
        input_ids = torch.full(shape, pad_id, dtype=torch.long)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for row, ids in enumerate(token_ids):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        return input_ids, attention_mask


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce token states to one vector per text, on whichever side the padding is.

    Args:
        hidden: (batch, tokens, dim).
        attention_mask: (batch, tokens), 1 at real tokens; every row has at least one.
        pooling: `mean` over the real tokens, the `last` real one, or `cls`, the first real one.

    Returns:
        (batch, dim) float32.
    """
    hidden = hidden.float()
    if pooling == "mean":
        real = attention_mask.bool().unsqueeze(-1)
        return hidden.masked_fill(~real, 0.0).sum(1) / real.sum(1)
    position = attention_mask.long().argmax(1)
    if pooling == "last":
        position = attention_mask.shape[1] - 1 - attention_mask.flip(1).long().argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), position]


def batches_by_length(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Group rows of similar length, longest first, so that rows * longest <= budget.

    Args:
        lengths: (texts,) tokens of each text.
        budget: Tokens per batch; a longer text is a batch of its own.

    Returns:
        Row numbers of each batch; together every row once.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, budget // int(lengths[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def _native_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if native_bf16(device.type) else torch.float32


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
