"""A step of survival fine-tuning, milliseconds per patient: full, LoRA, frozen, cached features.

    python scripts/bench_finetune.py [--encoders dual_attention vit1d] [--rounds 3]

All ways are the recipe's own functions: rows are read from a stored simulated cohort, processed,
augmented, encoded, and Cox's loss of the batch goes back into what is trained. With cached features
the encoder has seen each row once, and a step of the head is one over the whole cohort; the fit
that the recipe makes of them is a row of its own. Random weights, one thread, CPU time.
"""

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from side_by_side import Row, parser, present, turns
from torch import Tensor

from fm_med import distributed, finetuning, hub, optim
from fm_med.cohort import open_cohort
from fm_med.coupled import coupled_backward
from fm_med.examples import Examples, read_examples
from fm_med.finetuning.linear import fit_head
from fm_med.sources.simulated import make_simulated
from fm_med.tasks import Task, make_task

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "finetune.py"
FULL = "full fine-tuning, fp32, by the same functions"
CACHED_AIM, LORA_AIM = 200.0, 2.5
BF16 = distributed.native_bf16("cpu")  # what training chooses here is held to the aim


def load_config() -> Any:
    """Return the recipe's default settings."""
    spec = importlib.util.spec_from_file_location("finetune", RECIPE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Config()


class Way:
    """One way to train: what the recipe builds for it, and its step."""

    def __init__(
        self,
        encoder: str,
        method: finetuning.PeftMethod,
        data: tuple[Task, Examples, Examples],
        accelerator: Accelerator,
        *,
        bf16: bool = False,
    ) -> None:
        task, train, validation = data
        self.config = load_config()
        self.accelerator = accelerator
        start = hub.start_from(encoder, train.cohort.card)
        job = finetuning.Job(task, [], method, is_fresh=True, cache=None)
        torch.manual_seed(0)
        parts = start.build(train)
        self.tuning = finetuning.prepare(
            self.config, job, parts, (train, validation), accelerator, seed=0
        )
        rates = self.config.learning_rate, None, self.config.weight_decay
        optimizer = torch.optim.AdamW(self.tuning.parameter_groups(*rates))
        prepared = distributed.prepare(accelerator, self.tuning.predictor, optimizer)
        self.model, self.optimizer, _ = prepared
        self.model.train()
        if bf16:  # as Accelerate does; one process has one precision for all its runs
            self.model.forward = torch.autocast("cpu", torch.bfloat16)(self.model.forward)
        self.sampler = self.tuning.sampler(self.config.per_device_batch_size)
        self.done = 0

    def step(self) -> None:
        """Take one step of the recipe's loop."""
        _, _, inputs, targets = self.tuning.read(self.sampler, self.accelerator, self.done)
        coupled_backward(
            self.accelerator, self.model, inputs, targets, loss=self.tuning.loss
        ).item()
        optim.clip_gradients(self.accelerator, self.model, self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def features(self) -> Tensor:
        """Return the pooled features of all training rows, (rows, pooled_size)."""
        tuning = self.tuning
        found = finetuning.pooled_features(tuning, tuning.train, self.accelerator, None)
        self.model.train()
        return torch.from_numpy(found)

    def cached_step(self, features: Tensor, targets: dict[str, Tensor]) -> Callable[[], None]:
        """Return a step of the head over the whole cohort, from cached features."""
        head = self.tuning.predictor.head
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)

        def step() -> None:
            optimizer.zero_grad()
            loss = self.tuning.task.loss(head(features, None), targets)
            loss.backward()
            optimizer.step()
            loss.item()

        return step

    def check(self, features: Tensor) -> None:
        """The head must say the same of cached features as the whole predictor of the rows."""
        tuning, rows = self.tuning, self.sampler.batch(0)[1]
        inputs = tuning.train.inputs(rows, tuning.processor, "cpu")
        predictor, name = tuning.predictor.eval(), tuning.predictor.head.config.output_name
        with torch.no_grad():
            whole = predictor(**inputs)[name]
            cached = predictor.head(features[rows], None)[name]
        torch.testing.assert_close(whole, cached, rtol=1e-4, atol=1e-5)
        predictor.train()


def rows_of(
    encoder: str, data: tuple[Task, Examples, Examples], accelerator: Accelerator, rounds: int
) -> list[Row]:
    """Measure all ways of one encoder."""
    full = Way(encoder, "full", data, accelerator)
    lora = Way(encoder, "lora", data, accelerator)
    half = Way(encoder, "lora", data, accelerator, bf16=True)
    frozen = Way(encoder, "none", data, accelerator)
    torch.nn.init.normal_(frozen.tuning.predictor.head.output.weight)  # a head of zeros says 0
    features, train = frozen.features(), frozen.tuning.train  # and the validation rows
    frozen.check(features)
    everyone = {name: torch.from_numpy(values) for name, values in train.targets.items()}
    head, task, values = frozen.tuning.predictor.head, frozen.tuning.task, features.numpy()
    ways: dict[str, tuple[Callable[[], object], int, float | None]] = {
        "full": (full.step, full.sampler.batch_size, None),
        "LoRA, fp32": (lora.step, lora.sampler.batch_size, None if BF16 else LORA_AIM),
        "LoRA, bf16": (half.step, half.sampler.batch_size, LORA_AIM if BF16 else None),
        "frozen, a forward pass each step": (frozen.step, frozen.sampler.batch_size, None),
        "frozen, cached features, whole cohort": (
            frozen.cached_step(features, everyone),
            len(train),
            CACHED_AIM,
        ),
        "frozen, cached features, the whole ridge fit beside one epoch": (
            lambda: fit_head(head, task, train, values),
            len(train),
            None,
        ),
    }
    seconds = turns({name: way for name, (way, _, _) in ways.items()}, rounds)
    took = {name: 1000 * seconds[name] / patients for name, (_, patients, _) in ways.items()}
    return [
        Row(f"{encoder}, {name}", took[name], "ms", took["full"], FULL, ratio_aim=aim)
        for name, (_, _, aim) in ways.items()
        if name != "full"
    ]


def main() -> None:
    """Print a row per encoder and way."""
    arguments = parser(__doc__)
    arguments.set_defaults(rounds=3)
    arguments.add_argument("--encoders", nargs="+", default=["dual_attention", "vit1d"])
    arguments.add_argument("--subjects", type=int, default=400)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FM_MED_CACHE"] = str(Path(folder, "cache"))
        made = make_simulated(
            Path(folder, "cohort"), subjects=options.subjects, event_share=0.3, workers=1
        )
        cohort = open_cohort(made)
        task = make_task("survival", cohort, columns=None, loss=None, time_unit=None)
        splits = (read_examples(cohort, task, splits=[name]) for name in ("train", "validation"))
        data = (task, *splits)
        accelerator = distributed.accelerator(mixed_precision="no")
        rows = [
            row
            for encoder in options.encoders
            for row in rows_of(encoder, data, accelerator, options.rounds)
        ]
    present(rows, options.json)


if __name__ == "__main__":
    main()
