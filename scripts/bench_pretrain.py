"""Pretraining end to end, milliseconds per ECG and epoch, beside the naive way.

    python scripts/bench_pretrain.py [--subjects 190] [--rounds 2]

The naive way is MERL's, written again plainly: a DataLoader whose items are read by `wfdb.rdsamp`
and scaled to their minimum and maximum, a text model of BERT-base's shape that reads every report
at every step padded to 256 tokens, float32, and CLIP's loss with two products. Ours are the
recipe's own loader, batch and step, on the stored cohort with report embeddings from the store,
which are made before the clock starts (what that costs is in bench_text).

"same input and encoder": the same 12 x 5,000 samples, ResNet-18, batch size and shared space.
Simulated ECGs, random weights, one thread. CPU time; the loader's wait is a share of the wall
clock in the recipe's loop, as the recipe logs it.
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wfdb
from side_by_side import Row, parser, present, turns
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertModel

from fm_med import distributed, optim
from fm_med.cohort import Cohort, open_cohort
from fm_med.coupled import coupled_backward
from fm_med.ecg.encoders import ENCODERS
from fm_med.ecg.leads import LEADS
from fm_med.ecg.storage import decode
from fm_med.feeding import ReadAhead
from fm_med.meter import Meter
from fm_med.objectives import contrastive_loss
from fm_med.pairs import SIGNAL_COLUMNS, Pairs, read_pairs, report_store
from fm_med.quiet import quietly
from fm_med.sources.simulated import make_simulated
from fm_med.text.train import train_tokenizer

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "ecg_pretrain.py"
RATE = 500
NAIVE = "wfdb per item, BERT-base per step at 256 tokens, fp32; MERL's way, written again plainly"
TEMPERATURE, EMBEDDING_DIM, MAX_TOKENS = 0.07, 128, 256
WAIT_STEPS = 4


class WfdbReports(Dataset):
    """ECGs read from WFDB files one by one, with their reports."""

    def __init__(self, paths: list[str], reports: list[str]) -> None:
        self.paths, self.reports = paths, reports

    def __len__(self) -> int:
        """Return the number of ECGs."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """Read one ECG, (12, samples), scaled to [0, 1]."""
        signal = wfdb.rdsamp(self.paths[index])[0].T
        low, high = signal.min(), signal.max()
        scaled = (signal - low) / (high - low + 1e-8)
        return torch.from_numpy(scaled.astype(np.float32)), self.reports[index]


def two_product_loss(signal: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's loss: a product and a cross entropy for either direction."""
    target = torch.arange(len(signal))
    per_signal, per_text = scale * signal @ text.T, scale * text @ signal.T
    return (
        functional.cross_entropy(per_signal, target) + functional.cross_entropy(per_text, target)
    ) / 2


class Naive:
    """The naive way: every step reads files and runs the text model."""

    def __init__(self, data: WfdbReports, text_model: Path, tokenizer: Any, batch: int) -> None:
        self.loader = DataLoader(data, batch, shuffle=True, drop_last=True)
        self.tokenizer = tokenizer
        self.text_model = BertModel.from_pretrained(text_model).eval().requires_grad_(False)
        kind = ENCODERS["resnet1d"]
        self.encoder = kind(kind.config_class()).train()
        self.of_signal = nn.Linear(self.encoder.config.pooled_size, EMBEDDING_DIM)
        self.of_text = nn.Linear(self.text_model.config.hidden_size, EMBEDDING_DIM)
        self.log_scale = nn.Parameter(torch.tensor(1 / TEMPERATURE).log())
        parts = nn.ModuleList([self.encoder, self.of_signal, self.of_text])
        self.optimizer = torch.optim.AdamW([*parts.parameters(), self.log_scale], lr=1e-4)
        self.batches = self.endless()

    def endless(self) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield batches, epoch after epoch."""
        while True:
            yield from self.loader

    def step(self) -> None:
        """Take one training step."""
        signal, reports = next(self.batches)
        tokens = self.tokenizer(
            list(reports),
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.no_grad():
            mask = tokens["attention_mask"]
            states = self.text_model(tokens["input_ids"], attention_mask=mask).last_hidden_state
        text = functional.normalize(self.of_text(states[:, 0]), dim=-1)
        pooled = self.encoder(signal).pooler_output
        loss = two_product_loss(
            functional.normalize(self.of_signal(pooled), dim=-1), text, self.log_scale.exp()
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()


class Ours:
    """The recipe's loader and step, with the recipe's own settings but for some."""

    def __init__(self, pairs: Pairs, card: dict[str, Any], **settings: Any) -> None:
        recipe = load_recipe()
        self.config = recipe.Config(**settings)
        self.accelerator = distributed.accelerator(mixed_precision=self.config.mixed_precision)
        self.task = recipe.build(self.config, pairs, card)
        self.batches = pairs.batches(
            self.config.per_device_batch_size, self.accelerator, seed=self.config.seed
        )
        rates = self.config.learning_rate, None, self.config.weight_decay
        optimizer = torch.optim.AdamW(self.task.parameter_groups(*rates))
        self.model, self.optimizer, self.task.towers = distributed.prepare(
            self.accelerator, self.task.towers, optimizer, compiled=self.config.compile
        )
        self.model.train()
        self.done = 0

    def steps(self, count: int) -> dict[str, float]:
        """Take one step and then some more of the recipe's loop; return the meter's rates."""
        end, device = self.done + 1 + count, self.accelerator.device
        read = partial(self.task.read, self.batches, device)
        with ReadAhead(read, end=end, device=device) as ahead:
            self.step(ahead)  # only the first batch of a run is not made during a step
            with Meter(self.accelerator, total=count, done=0) as meter:
                for _ in range(count):
                    self.step(ahead, meter)
                return meter.rates()

    def step(self, ahead: ReadAhead, meter: Meter | None = None) -> None:
        """Take one step."""
        batch, inputs, targets = ahead.at(self.done)
        if meter is not None:
            meter.data_ready()
        loss = coupled_backward(
            self.accelerator,
            self.model,
            inputs,
            targets,
            loss=self.task.loss,
            row_loss=self.task.row_loss,
        ).item()
        optim.clip_gradients(self.accelerator, self.model, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        if meter is not None:
            meter.step(samples=batch.size, loss=loss)


def load_recipe() -> Any:
    """Import the pretraining recipe."""
    spec = importlib.util.spec_from_file_location("ecg_pretrain", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_wfdb(cohort: Cohort, pairs: Pairs, folder: Path) -> list[str]:
    """Write the training ECGs as WFDB files; return their paths."""
    folder.mkdir()
    table = cohort.rows("train", pairs.rows, SIGNAL_COLUMNS)
    stored, paths = decode(table), []
    for row, (codes, gain) in enumerate(zip(stored.signal, stored.gain)):
        name = f"r{row:05d}"
        wfdb.wrsamp(
            name,
            RATE,
            ["mV"] * len(LEADS),
            list(LEADS),
            d_signal=codes.T.astype(np.int64),
            fmt=["16"] * len(LEADS),
            adc_gain=(1 / gain.astype(np.float64)).tolist(),
            baseline=[0] * len(LEADS),
            write_dir=str(folder),
        )
        paths.append(str(folder / name))
    millivolt = stored.signal[0] * stored.gain[0][:, None]
    np.testing.assert_allclose(wfdb.rdsamp(paths[0])[0].T, millivolt, atol=1e-5)
    return paths


def check_losses() -> None:
    """Both losses must be one function where no two reports or patients are alike."""
    signal, text = (functional.normalize(torch.randn(32, EMBEDDING_DIM), dim=-1) for _ in range(2))
    scale = torch.tensor(1 / TEMPERATURE)
    ours = contrastive_loss(signal, text, logit_scale=scale)
    torch.testing.assert_close(ours, two_product_loss(signal, text, scale))


@dataclass(frozen=True)
class Contest:
    """The naive way and ours on the same recordings."""

    naive: Naive
    same: Ours
    default: Ours


def prepare(folder: Path, subjects: int, batch: int) -> Contest:
    """Simulate a cohort, embed its reports, and build all ways."""
    cohort = open_cohort(
        make_simulated(folder / "cohort", subjects=subjects, sampling_rate=RATE, workers=1)
    )
    reports = cohort.column("train", "report")
    tokenizer = train_tokenizer(sorted(set(reports)), 4096)
    with quietly():
        BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    store = report_store(cohort, str(folder / "text"), "report")
    pairs = read_pairs(cohort, "train", store, "report")
    card = {**store.encoder.card, "source": "report"}
    data = WfdbReports(write_wfdb(cohort, pairs, folder / "wfdb"), pairs.report)
    same = {
        "encoder": "resnet1d",
        "sampling_rate": float(RATE),
        "augment": False,
        "per_device_batch_size": batch,
        "embedding_dim": EMBEDDING_DIM,
    }
    return Contest(
        Naive(data, folder / "text", tokenizer, batch),
        Ours(pairs, card, **same),
        Ours(pairs, card),
    )


def measure(contest: Contest, batch: int, rounds: int) -> list[Row]:
    """Time the ways in turns, then the loader's wait in a longer stretch of each loop."""
    ways: dict[str, Callable[[], object]] = {
        "naive": contest.naive.step,
        "same": lambda: contest.same.steps(1),
        "default": lambda: contest.default.steps(1),
    }
    seconds = turns(ways, rounds)
    naive = 1000 * seconds["naive"] / batch
    same = 1000 * seconds["same"] / (2 * batch)
    default = 1000 * seconds["default"] / (2 * contest.default.batches.batch_size)
    name = contest.default.config.encoder
    rows = [
        Row("same input and encoder: resnet1d, 500 Hz", same, "ms", naive, NAIVE, ratio_aim=13),
        Row(f"defaults: {name}, 100 Hz", default, "ms", naive, NAIVE, ratio_aim=55),
    ]
    for what, ours in (("resnet1d, 500 Hz", contest.same), (f"{name}, 100 Hz", contest.default)):
        wait = 100 * ours.steps(WAIT_STEPS)["data_wait"]
        rows.append(Row(f"loader's wait, {what}", wait, "% of the step", ours_aim=2.0))
    return rows


def main() -> None:
    """Print a row per contest."""
    arguments = parser(__doc__)
    arguments.set_defaults(rounds=2)
    arguments.add_argument("--subjects", type=int, default=190)
    arguments.add_argument("--batch", type=int, default=16, help="of the first contest")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check_losses()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FM_MED_CACHE"] = str(Path(folder, "cache"))
        contest = prepare(Path(folder), options.subjects, options.batch)
        rows = measure(contest, options.batch, options.rounds)
    present(rows, options.json)


if __name__ == "__main__":
    main()
