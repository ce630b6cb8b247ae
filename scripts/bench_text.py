"""Time report embedding: the naive way (pad to 256, float32) against FrozenTextEncoder.

Run: python scripts/bench_text.py REPORTS.csv [--texts 256] [--naive 16]

The network has the shape of BERT-base with random weights, the tokenizer is trained on the reports:
times depend on neither. Both sides run in turn on the same threads; prints CPU ms per report.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from transformers import BertConfig, BertModel

from fm_med.text.encoder import FrozenTextEncoder
from fm_med.text.normalise import normalise
from fm_med.text.train import train_tokenizer


def seconds(function) -> float:
    """Return the CPU seconds of one call, which other programs disturb less than the wall clock."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Build the network, time both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("reports", type=Path, help="CSV with a column 'report'")
    parser.add_argument("--texts", type=int, default=256, help="distinct reports encoded our way")
    parser.add_argument("--naive", type=int, default=16, help="reports encoded the naive way")
    options = parser.parse_args()
    written = pd.read_csv(options.reports)["report"].dropna().map(normalise)
    distinct = written.drop_duplicates().sample(options.texts, random_state=0).tolist()
    tokenizer = train_tokenizer(written.drop_duplicates().tolist(), 4096)
    with tempfile.TemporaryDirectory() as folder:
        BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        network = BertModel.from_pretrained(folder).eval()
        ours = {
            dtype: FrozenTextEncoder(folder, dtype=dtype, device="cpu")
            for dtype in ("float32", "bfloat16")
        }
        for encoder in ours.values():
            encoder.encode(distinct[:2])

    def naive() -> None:
        batch = tokenizer(
            distinct[: options.naive], padding="max_length", max_length=256, return_tensors="pt"
        )
        with torch.no_grad():
            network(batch["input_ids"], attention_mask=batch["attention_mask"])

    slow = seconds(naive) / options.naive
    repeated = len(written) / written.nunique()
    print(f"{torch.get_num_threads()} threads, {len(distinct)} distinct reports, CPU ms per report")
    print(f"  pad 256, float32                     {1e3 * slow:8.1f}")
    for encoder in ours.values():
        fast = seconds(lambda encoder=encoder: encoder.encode(distinct)) / len(distinct)
        name = f"sorted, dynamic padding, {str(encoder.dtype).removeprefix('torch.')}"
        print(f"  {name:36s} {1e3 * fast:8.1f}   {slow / fast:5.1f} times faster")
    print(f"  x {repeated:.2f} rows per distinct report, x every epoch after the first")


if __name__ == "__main__":
    main()
