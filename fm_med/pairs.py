"""ECG-report pairs of one split: which recordings have a text, and the text's embedding."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from fm_med.cache import cache_folder
from fm_med.cohort import Cohort
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.storage import SIGNAL_SCHEMA, StoredFacts, decode_facts
from fm_med.errors import InputError
from fm_med.feeding import to_device
from fm_med.sampling import EpochSampler, refuse_batch, share
from fm_med.text.embedded import embedded_text_model
from fm_med.text.encoder import FrozenTextEncoder, Pooling, Precision
from fm_med.text.normalise import normalise, text_hash
from fm_med.text.statements import embed_statements, statements
from fm_med.text.store import ReportStore

# "report": the text as written; "statements": sentences of the SCP codes, weighted by likelihood.
TextSource = Literal["report", "statements"]
SOURCE_COLUMN = {"report": "report", "statements": "scp_codes"}
SIGNAL_COLUMNS = [field.name for field in SIGNAL_SCHEMA if field.name != "signal_hash"]
_FACTS = [name for name in SIGNAL_COLUMNS if name != "signal"]


@dataclass(frozen=True)
class Pairs:
    """The recordings of one split that have a text, with the text's embedding.

    Attributes:
        cohort: The cohort.
        split: Name of the split.
        rows: (pairs,) rows of the split.
        report: (pairs,) the texts, for people to read.
        report_embedding: (pairs, text_dim) float32.
        report_id: (pairs,) int64, equal for equal texts.
        subject_id: (pairs,) persons.
        person: (pairs,) int64, equal for recordings of one person.
    """

    cohort: Cohort
    split: str
    rows: np.ndarray
    report: list[str]
    report_embedding: np.ndarray
    report_id: np.ndarray
    subject_id: np.ndarray
    person: np.ndarray

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.rows)

    @property
    def report_mean(self) -> np.ndarray:
        """Return the mean report embedding, (text_dim,) float32."""
        return self.report_embedding.mean(0)

    @property
    def at_hand(self) -> "Pairs":
        """Return the pairs that can be read in any order: here all of them."""
        return self

    def batches(
        self, per_process: int, accelerator: Accelerator, *, seed: int
    ) -> "ShuffledBatches":
        """Return the global batches of all epochs, and this process's shares of them.

        Raises:
            InputError: A global batch has fewer pairs than there are processes.
        """
        return ShuffledBatches(self, per_process, accelerator, seed)

    def inputs(
        self, pairs: np.ndarray, processor: EcgProcessor, device: torch.device
    ) -> dict[str, Tensor]:
        """Read recordings and process them on the device.

        Args:
            pairs: (batch,) indices of pairs.
            processor: Prepares the stored signals.
            device: Where the encoder is.

        Returns:
            The encoder's inputs: `signal` (batch, leads, samples) in mV and `lead_mask`.

        Raises:
            InputError: The processor refuses a recording; the message names it.
        """
        rows = self.rows[pairs]
        # Where they lie in the file, so that they are converted straight from there.
        signal = self.cohort.views(self.split, rows, "signal")
        try:
            return processor.from_stored(self._facts.with_signals(rows, signal), device)
        except InputError as error:
            names = self.record_ids(pairs)
            told = re.sub(r"(\d+) of the batch", lambda place: names[int(place[1])], str(error))
            raise InputError(f"{self.cohort.path}, split {self.split!r}: {told}") from None

    @cached_property
    def _facts(self) -> StoredFacts:
        """Of all rows of the split, 72 bytes each."""
        every = np.arange(self.cohort.splits[self.split].num_rows)
        return decode_facts(self.cohort.rows(self.split, every, _FACTS))

    def texts(self, pairs: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Return `report_embedding`, `report_id` and `subject_id` of some pairs on the device."""
        values = (self.report_embedding[pairs], self.report_id[pairs], self.person[pairs])
        names = ("report_embedding", "report_id", "subject_id")
        return {name: to_device(v, device) for name, v in zip(names, values)}

    def record_ids(self, pairs: np.ndarray) -> list[str]:
        """Return the recordings' ids of some pairs."""
        return self.cohort.rows(self.split, self.rows[pairs], ["record_id"])[
            "record_id"
        ].to_pylist()

    def labels(self, names: Sequence[str]) -> np.ndarray:
        """Return (pairs, labels) float32 of 0, 1 and NaN where a label is not known."""
        columns = [np.asarray(self.cohort.column(self.split, name), np.float32) for name in names]
        return np.stack(columns, axis=1)[self.rows]


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch.

    Attributes:
        epoch: Number of the epoch, from 0.
        size: Pairs of the global batch, over all processes.
        pairs: Where the share's pairs are.
        rows: (share,) indices of `pairs`.
        row_id: (share,) int64, what a pair's augmentation is drawn from, beside seed and epoch. It
            does not depend on the number of processes.
    """

    epoch: int
    size: int
    pairs: Pairs
    rows: np.ndarray
    row_id: np.ndarray

    def record_ids(self) -> list[str]:
        """Return the recordings' ids of the share."""
        return self.pairs.record_ids(self.rows)


class ShuffledBatches:
    """Global batches of pairs that can be read in any order, shuffled anew in each epoch.

    Attributes:
        batch_size: Pairs of a global batch.
        steps_per_epoch: Global batches of an epoch; pairs that do not fill one are left out.
    """

    def __init__(self, pairs: Pairs, per_process: int, accelerator: Accelerator, seed: int) -> None:
        """Read nothing yet; see `Pairs.batches`."""
        world_size = accelerator.num_processes
        self._pairs = pairs
        self._sampler = EpochSampler(len(pairs), per_process * world_size, seed)
        self._process = {"rank": accelerator.process_index, "world_size": world_size}
        self.batch_size = self._sampler.batch_size
        self.steps_per_epoch = self._sampler.steps_per_epoch
        refuse_batch(self.batch_size, world_size, None)

    def at(self, step: int) -> Batch:
        """Return this process's share of the batch of a step, counted from 0 over all epochs."""
        epoch, batch = self._sampler.batch(step)
        rows = share(batch, **self._process)
        return Batch(epoch, len(batch), self._pairs, rows, rows)


def read_pairs(cohort: Cohort, split: str, store: ReportStore, source: TextSource) -> Pairs:
    """Find the recordings of a split that have a text and embed each distinct text once.

    Args:
        cohort: The cohort.
        split: Name of the split.
        store: Keeps the embeddings.
        source: Which text of a recording is meant.

    Raises:
        InputError: The cohort has no such column, or no recording of the split has a text.
    """
    rows, values = _with_text(cohort, split, source)
    if source == "report":
        report = [normalise(text) for text in values]
        embedding = store.embed(report)
    else:
        codes = [[(code["code"], code["likelihood"]) for code in row] for row in values]
        report = ["; ".join(text for text, _ in statements(row)) for row in codes]
        embedding = embed_statements(store, codes)
    subject_id = np.asarray(cohort.column(split, "subject_id"))[rows]
    return Pairs(
        cohort=cohort,
        split=split,
        rows=rows,
        report=report,
        report_embedding=embedding,
        report_id=np.array([text_hash(text) for text in report], np.int64),
        subject_id=subject_id,
        person=_numbers_of(subject_id),
    )


def texts_of(cohort: Cohort, split: str, source: TextSource) -> list[str]:
    """Return every text of a split, one per recording or, for statements, one per code.

    Raises:
        InputError: As `read_pairs`.
    """
    _, values = _with_text(cohort, split, source)
    if source == "report":
        return list(values)
    codes = [[(code["code"], code["likelihood"]) for code in row] for row in values]
    return [text for row in codes for text, _ in statements(row)]


def report_store(
    cohort: Cohort,
    text_encoder: str,
    source: TextSource,
    *,
    pooling: Pooling = "mean",
    prompt: str = "",
    dtype: Precision = "auto",
    device_map: str | None = None,
    revision: str | None = None,
) -> ReportStore:
    """Return the store that embeds a cohort's texts with a frozen text model.

    Args:
        cohort: The cohort.
        text_encoder: Hub id or folder; "embedded" makes one from the cohort's training texts.
        source: Which text of a recording is meant.
        pooling: See `FrozenTextEncoder`, as are the following.
        prompt: Written before each text.
        dtype: Precision of the text model.
        device_map: For a text model larger than one device.
        revision: On the Hub.

    Raises:
        InputError: The cohort has no texts, or the text model cannot be had.
    """
    if text_encoder == "embedded":
        text_encoder = str(embedded_text_model(texts_of(cohort, "train", source)))
    encoder = FrozenTextEncoder(
        text_encoder,
        pooling=pooling,
        prompt=prompt,
        dtype=dtype,
        device_map=device_map,
        revision=revision,
    )
    return ReportStore(cache_folder() / "reports", encoder)


def shuffled_reports(pairs: Pairs, seed: int) -> Pairs:
    """Give every recording the report of another one: the control that must learn nothing."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    return replace(
        pairs,
        report=[pairs.report[pair] for pair in order],
        report_embedding=pairs.report_embedding[order],
        report_id=pairs.report_id[order],
    )


def _numbers_of(subject_id: np.ndarray) -> np.ndarray:
    """Return a number per person, (rows,) int64, that is the same in whatever batch it appears."""
    names, place = np.unique(subject_id, return_inverse=True)
    digests = [blake2b(str(name).encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)[place]


def has_text(value: Any, source: TextSource) -> bool:
    """Tell whether a recording has a text, from what is in its column."""
    return bool(value and (source != "report" or normalise(value)))


def _with_text(cohort: Cohort, split: str, source: TextSource) -> tuple[np.ndarray, list[Any]]:
    """Return the rows that have a text, and what is in their column."""
    column = SOURCE_COLUMN[source]
    values = cohort.column(split, column)
    rows = [row for row, value in enumerate(values) if has_text(value, source)]
    if not rows:
        raise InputError(f"{cohort.path}: no recording of the split {split!r} has a {column}")
    return np.array(rows), [values[row] for row in rows]
