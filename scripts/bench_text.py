"""Time of report embeddings beside the naive way: padded to 256 tokens, float32, at every epoch.

    python scripts/bench_text.py [--texts 64] [--naive 8]

The network has the shape of BERT-base and random weights, its tokenizer is trained on the reports:
times depend on neither. Reports come from the simulator; five are joined to one, which gives them
the length of real ECG reports (27 to 36 tokens on average; one alone has 10). CPU time on one
thread. Embeddings are asserted to be equal first. Of the aim of 20 times per distinct report a
factor of about 3 is bfloat16's, on processors that multiply it faster than float32; the limits that
`scripts/bench` prints tell whether this one does, and dtype="auto" chooses accordingly.
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from side_by_side import Row, parser, present, turns
from transformers import BertConfig, BertModel

from fm_med.distributed import native_bf16
from fm_med.ecg.simulate import simulate
from fm_med.text.encoder import FrozenTextEncoder
from fm_med.text.normalise import normalise
from fm_med.text.store import ReportStore
from fm_med.text.train import train_tokenizer

NAIVE = "pad to 256, float32, every epoch, written plainly"
RECORDINGS, JOINED = 1500, 5
PRECISIONS = ("float32", "bfloat16")


def reports() -> list[str]:
    """Return simulated reports of realistic length, among them equal ones."""
    written = [normalise(text) for text in simulate(RECORDINGS, seed=0).report]
    return [" ".join(written[row : row + JOINED]) for row in range(0, len(written), JOINED)]


def save_model(folder: Path, texts: list[str]) -> None:
    """Write a network of BERT-base's shape with a tokenizer for these texts."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(texts, 4096)
    BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def naive(encoder: FrozenTextEncoder, texts: list[str]) -> np.ndarray:
    """Return mean embeddings as they are usually computed, by the same network."""
    batch = encoder.tokenizer(texts, padding="max_length", max_length=256, return_tensors="pt")
    mask = batch["attention_mask"]
    with torch.no_grad():
        hidden = encoder.model(batch["input_ids"], attention_mask=mask).last_hidden_state
    return ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()


def encoding(folder: Path, distinct: list[str], few: int, rounds: int) -> tuple[list[Row], float]:
    """Measure the ways to encode; return rows and the naive milliseconds per report."""
    encoders = {name: FrozenTextEncoder(folder, dtype=name, device="cpu") for name in PRECISIONS}
    plain = encoders["float32"]
    expected = naive(plain, distinct[:few])
    np.testing.assert_allclose(plain.encode(distinct[:few]), expected, rtol=1e-3, atol=1e-4)
    ways = {name: partial(encoder.encode, distinct) for name, encoder in encoders.items()}
    seconds = turns(ways | {NAIVE: partial(naive, plain, distinct[:few])}, rounds)
    slow = 1000 * seconds[NAIVE] / few
    chosen = "bfloat16" if native_bf16("cpu") else "float32"
    tokens = np.mean([len(ids) for ids in plain.tokenizer(distinct)["input_ids"]])
    rows = [
        Row(
            f"a distinct report of {tokens:.0f} tokens, sorted by length, {name}"
            + (", chosen here" if name == chosen else ""),
            1000 * seconds[name] / len(distinct),
            "ms",
            slow,
            NAIVE,
            ratio_aim=20.0 if name == chosen else None,
        )
        for name in PRECISIONS
    ]
    return rows, slow


def storing(folder: Path, texts: list[str], slow: float, rounds: int) -> list[Row]:
    """Measure a second run, which finds all embeddings in the store of the first."""

    def run() -> ReportStore:
        encoder = FrozenTextEncoder(folder, dtype="float32", device="cpu")
        store = ReportStore(folder / "store", encoder)
        store.embed(texts)
        return store

    first, second = run().forward_passes, run()
    seconds = turns({"look-up": lambda: second.embed(texts)}, rounds)["look-up"]
    return [
        Row(
            f"reports that a second run of {len(texts):,} rows encodes",
            second.forward_passes,
            "reports",
            way=f"{first} in the first run",
            ours_aim=0,
        ),
        Row("a row from the store", 1000 * seconds / len(texts), "ms", slow, NAIVE),
    ]


def main() -> None:
    """Print a row per precision, and two of the store."""
    arguments = parser(__doc__)
    arguments.set_defaults(rounds=3)
    arguments.add_argument("--texts", type=int, default=64, help="distinct reports, our ways")
    arguments.add_argument("--naive", type=int, default=8, help="reports, the naive way")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    texts = reports()
    distinct = list(dict.fromkeys(texts))[: options.texts]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, texts)
        rows, slow = encoding(folder, distinct, options.naive, options.rounds)
        cohort = [distinct[row % len(distinct)] for row in range(20_000)]
        rows += storing(folder, cohort, slow, options.rounds)
    present(rows, options.json)


if __name__ == "__main__":
    main()
