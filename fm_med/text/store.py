"""Report embeddings, computed once per distinct text and kept on disk for every run."""

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fm_med.atomic import atomic_file
from fm_med.errors import InputError
from fm_med.text.encoder import FrozenTextEncoder
from fm_med.text.normalise import normalise, text_digest

logger = logging.getLogger(__name__)

# One per embedding, in the order of the rows: the text's hash, and CRC-32 of hash and row together.
_ENTRY = np.dtype([("digest", "V16"), ("checksum", "<u4")])


class ReportStore:
    """A folder of report embeddings that runs and processes share.

    Each encoder key has a subfolder with two files that only grow: `rows.f32`, one float32 row per
    distinct text, and `index.bin`, its hash and checksum, written after the row. Whatever a killed
    process or a damaged disk leaves behind therefore fails its checksum or is a tail without index:
    it is ignored, cut off and computed again. While one process computes, others wait on a file
    lock, which the operating system frees when the holder dies, and then read what it wrote.

    Args:
        folder: Parent of all stores; made if absent.
        encoder: Computes what is missing.

    Attributes:
        forward_passes: Distinct texts that this process has really encoded.

    Example:
        >>> store = ReportStore(cache_folder() / "reports", FrozenTextEncoder("text-models/ptbxl"))
        >>> embeddings = store.embed(reports)  # (reports, dim) float32
    """

    def __init__(self, folder: str | Path, encoder: FrozenTextEncoder) -> None:
        self.encoder = encoder
        self.folder = Path(folder) / encoder.key
        self.forward_passes = 0
        self._position: dict[bytes, int] = {}
        self._checksum = np.empty(0, dtype=np.uint32)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "card.json").exists():
            with atomic_file(self.folder / "card.json") as temporary:
                temporary.write_text(json.dumps(encoder.card, indent=2, ensure_ascii=False))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return one embedding per text, in the order given: (texts, dim) float32.

        Raises:
            InputError: A text is blank.
        """
        embeddings, row_of_text = self.embed_distinct(texts)
        return embeddings[row_of_text]

    def embed_distinct(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embed without repeating equal texts, which saves memory on large cohorts.

        Returns:
            The distinct embeddings (distinct, dim) float32 in order of first appearance, and
            (texts,) int64, the row of each text.

        Raises:
            InputError: A text is blank.
        """
        distinct: dict[bytes, str] = {}
        digests = []
        for number, text in enumerate(texts):
            text = normalise(text)
            if not text:
                raise InputError(f"text {number} is blank: drop rows without a report first")
            digests.append(text_digest(text))
            distinct.setdefault(digests[-1], text)
        row = {digest: number for number, digest in enumerate(distinct)}
        embeddings = np.empty((len(distinct), self.encoder.dim), dtype=np.float32)
        if len(self._read(list(distinct), embeddings)):
            with self._locked():
                missing = self._read(list(distinct), embeddings)  # others may have added some
                self._compute(list(distinct.items()), missing, embeddings)
        return embeddings, np.array([row[digest] for digest in digests], dtype=np.int64)

    def _read(self, digests: list[bytes], embeddings: np.ndarray) -> np.ndarray:
        """Fill in what the files hold and return the numbers of the rows that they do not hold."""
        rows = self._refresh()
        position = np.array([self._position.get(digest, -1) for digest in digests], dtype=np.int64)
        held = position >= 0
        embeddings[held] = rows[position[held]]
        for number in np.flatnonzero(held):
            if _checksum(digests[number], embeddings[number]) != self._checksum[position[number]]:
                held[number] = False
        return np.flatnonzero(~held)

    def _refresh(self) -> np.ndarray:
        """Read the index again; return the rows it covers, memory-mapped, (rows, dim) float32."""
        index, rows = self.folder / "index.bin", self.folder / "rows.f32"
        count = self._complete_rows()
        if count == 0:
            return np.empty((0, self.encoder.dim), dtype=np.float32)
        if count != len(self._checksum):
            entries = np.fromfile(index, dtype=_ENTRY, count=count)
            digests = entries["digest"].tobytes()
            # A text that was computed again after damage stands twice; the later row counts.
            self._position = {digests[16 * row : 16 * row + 16]: row for row in range(count)}
            self._checksum = entries["checksum"]
        return np.memmap(rows, dtype=np.float32, mode="r", shape=(count, self.encoder.dim))

    def _complete_rows(self) -> int:
        """Return how many rows are there whole, with their entry in the index."""
        index, rows = self.folder / "index.bin", self.folder / "rows.f32"
        if not (index.exists() and rows.exists()):
            return 0
        entries = index.stat().st_size // _ENTRY.itemsize
        return min(entries, rows.stat().st_size // (4 * self.encoder.dim))

    def _compute(
        self, distinct: list[tuple[bytes, str]], missing: np.ndarray, embeddings: np.ndarray
    ) -> None:
        """Encode what is missing and append it batch by batch; called with the lock held."""
        count = self._complete_rows()
        texts = [distinct[number][1] for number in missing]
        progress = tqdm(total=len(texts), desc="report embeddings", unit="text", disable=None)
        index, rows = self.folder / "index.bin", self.folder / "rows.f32"
        with rows.open("ab") as rows_file, index.open("ab") as index_file, progress:
            rows_file.truncate(count * 4 * self.encoder.dim)
            index_file.truncate(count * _ENTRY.itemsize)
            for batch, encoded in self.encoder.encode_batches(texts):
                digests = [distinct[number][0] for number in missing[batch]]
                checksums = [_checksum(*pair) for pair in zip(digests, encoded, strict=True)]
                rows_file.write(encoded.tobytes())
                rows_file.flush()  # from here on it survives the end of this process
                index_file.write(
                    np.array(list(zip(digests, checksums, strict=True)), _ENTRY).tobytes()
                )
                index_file.flush()
                embeddings[missing[batch]] = encoded
                self.forward_passes += len(batch)
                progress.update(len(batch))
            for file in (rows_file, index_file):
                os.fsync(file.fileno())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store for writing; wait while another process does."""
        with (self.folder / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("another process computes report embeddings: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def centre(embeddings: np.ndarray, mean: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mean report embedding of the TRAINING split.

    Embeddings of reports all point one way, since every report is a report: the cosine between two
    random ones was .88 raw and .01 centred. Uncentred, a contrastive loss starts nearly blind.

    Args:
        embeddings: (texts, dim).
        mean: (dim,), what this function returned for the training split; None computes it.

    Returns:
        The centred embeddings (texts, dim) and the mean (dim,), to be stored with the model.
    """
    if mean is None:
        mean = embeddings.mean(0, dtype=np.float64).astype(np.float32)
    return embeddings - mean, mean


def _checksum(digest: bytes, row: np.ndarray) -> int:
    """Return CRC-32 of a text's hash and its embedding."""
    return zlib.crc32(row.tobytes(), zlib.crc32(digest))
