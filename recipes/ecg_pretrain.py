"""Pretrain an ECG encoder on ECG-report pairs against a frozen Hugging Face text model.

    accelerate launch recipes/ecg_pretrain.py
    accelerate launch recipes/ecg_pretrain.py --cohort cohorts/ptbxl \
        --text_encoder emilyalsentzer/Bio_ClinicalBERT --output runs/ptbxl

Without --cohort it runs on a simulated cohort with known truth, made on first use and kept.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from fm_med.settings import launch, setting

if TYPE_CHECKING:
    from fm_med.pairs import Pairs
    from fm_med.pretraining import Pretraining
    from fm_med.run import Run
    from fm_med.streamed_pairs import TrainingPairs


@dataclass
class Config:
    """Settings; any of them can be a flag or a key of --config."""

    # Data
    cohort: str = setting("simulated", "folder of a cohort; 'simulated' makes one")
    streaming: bool = setting(False, "read the training split as a stream; --cohort: also a Hub id")
    subjects: PositiveInt = setting(2500, "persons in the simulated cohort")
    text_encoder: str = setting("embedded", "Hub id or folder; 'embedded' trains a small BERT")
    text_source: Literal["report", "statements"] = setting("report", "reports or SCP statements")
    text_pooling: Literal["mean", "last", "cls"] = setting("mean", "from tokens to one vector")
    text_prompt: str = setting("", "written before each report (for instruction-tuned models)")
    text_dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting("auto", "precision")
    text_device_map: str | None = setting(None, "spread a large text model: auto, balanced, ...")
    text_revision: str | None = setting(None, "commit, tag or branch of the text model")
    sampling_rate: PositiveFloat = setting(100.0, "Hz that the encoder sees")
    seconds: PositiveFloat = setting(10.0, "length that the encoder sees")
    shuffle_reports: bool = setting(False, "control: give each recording another one's report")
    # Model
    encoder: str = setting("dual_attention", "name to start from scratch, or a folder or Hub id")
    embedding_dim: PositiveInt = setting(128, "width of the shared space")
    objective: Literal["infonce", "siglip", "cosine"] = setting("infonce", "alignment loss")
    temperature: PositiveFloat = setting(0.07, "initial temperature of the similarities")
    reconstruction_weight: NonNegativeFloat = setting(0.0, "of rebuilding dropped leads; 0: none")
    # Loop
    num_epochs: PositiveInt = setting(12, "passes over the training split")
    per_device_batch_size: PositiveInt = setting(128, "pairs per process and optimiser step")
    micro_batch_size: PositiveInt | None = setting(None, "pairs in memory; same result")
    learning_rate: NonNegativeFloat = setting(1e-3, "peak; then half a cosine to zero")
    heads_learning_rate: NonNegativeFloat | None = setting(None, "of the heads; None: the same")
    weight_decay: NonNegativeFloat = setting(0.05, "of weight matrices")
    warmup_share: ClosedUnitInterval = setting(0.1, "share of the steps")
    max_grad_norm: PositiveFloat = setting(1.0, "gradients are clipped to this norm")
    ema_decay: ClosedUnitInterval = setting(0.0, "average the weights, say .999; 0: no")
    patience: PositiveInt | None = setting(None, "stop after so many epochs without a better loss")
    augment: bool = setting(True, "drop leads, shift, scale, add noise and wander")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = setting("auto", "bf16 where native")
    compile: bool = setting(False, "torch.compile of the encoder: slow start, then faster on GPUs")
    seed: NonNegativeInt = setting(0, "of weights, order, augmentation")
    checkpoint_every: PositiveInt = setting(100, "steps")
    keep_checkpoints: PositiveInt = setting(2, "number")
    # Output
    labels: str | None = setting(None, "label set of the final evaluation; default: the first")
    prompts: str | None = setting(None, "zero-shot prompts: JSON file; default: by label set")
    probe_labels: PositiveInt = setting(150, "labelled persons of the linear probe")
    output: str = setting("runs/ecg_pretrain", "folder of the run")
    push_to_hub: str | None = setting(None, "organisation/name or folder to push the model to")
    hub_private: bool = setting(True, "only for the organisation's members")
    resume: bool = setting(False, "continue the run in --output")
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = setting("none", "beside JSONL")


def main(config: Config) -> None:
    """Data, model, loop, report."""
    from pathlib import Path

    from accelerate.utils import set_seed

    from fm_med import best_weights, coupled, distributed, hub, pairs, streamed_pairs
    from fm_med import pretraining_report as report
    from fm_med.errors import InputError
    from fm_med.run import Run

    # ------------------------------------------------------------------------------- Data
    accelerator = distributed.accelerator(mixed_precision=config.mixed_precision)
    run = Run(config.output, config, accelerator, resume=config.resume, tracker=config.tracker)
    hub.refuse_unpushable(config.push_to_hub)
    if config.streaming and config.shuffle_reports:
        raise InputError("--shuffle_reports needs all pairs at hand: leave out --streaming")
    cohort = streamed_pairs.open_source(config.cohort, config.subjects, config.streaming)
    labels = report.choose_labels(
        cohort.card.label_sets,
        label_set=config.labels,
        prompts=config.prompts,
        source=config.text_source,
        budget=config.probe_labels,
    )
    store = pairs.report_store(
        cohort,
        config.text_encoder,
        config.text_source,
        pooling=config.text_pooling,
        prompt=config.text_prompt,
        dtype=config.text_dtype,
        device_map=config.text_device_map,
        revision=config.text_revision,
    )
    config.encoder = hub.pinned(config.encoder)
    config.text_revision = store.encoder.files.revision or config.text_revision
    run.reads(cohort=cohort.fingerprint, text_encoder=store.encoder.key)
    train, validation, test = (
        streamed_pairs.read_split(cohort, split, store, config.text_source)
        for split in ("train", "validation", "test")
    )
    if config.shuffle_reports:
        train, validation = (pairs.shuffled_reports(s, config.seed) for s in (train, validation))

    # ------------------------------------------------------------------------------ Model
    set_seed(config.seed)  # the same weights on all processes
    task = build(config, train, {**store.encoder.card, "source": config.text_source})
    if accelerator.num_processes > 1 or config.micro_batch_size is not None:
        coupled.refuse_batch_norm(task.towers)
    untrained = type(task.towers.encoder)(task.towers.encoder.config)  # baseline: random weights

    # ------------------------------------------------------------------------------- Loop
    set_seed(config.seed, device_specific=True)  # dropout differs between processes
    best_step = fit(config, run, task, train, validation)
    best_weights.load_best(run.checkpoints, step=best_step, module=task.towers)
    task.towers.to(accelerator.device)  # a sharded run keeps them aside

    # ----------------------------------------------------------------------------- Report
    encoded = [report.encode_both(split, task, untrained, accelerator) for split in (train, test)]
    if accelerator.is_main_process:
        with run.writing(f"report and model in {run.folder}"):
            metrics = report.final_metrics(task.towers.heads, store, *encoded, labels)
            parts = {"test": encoded[1], "task": task, "labels": labels}
            report.write(run.report_folder, run.history(), metrics, **parts)
            hub.save(
                run.model_folder,
                **task.saved(encoded[0].pairs),
                sample=task.sample(test, accelerator.device),
                text_model=Path(store.encoder.name) if config.text_encoder == "embedded" else None,
            )
            run.say(f"{report.summary(metrics)}\nmodel {run.model_folder}, {run.report_folder}")
    run.finish()
    hub.push_trained(run, config.push_to_hub, private=config.hub_private, cohort=cohort)


def build(config: Config, train: "TrainingPairs", text_card: dict[str, Any]) -> "Pretraining":
    """Make encoder, projections and decoder."""
    import torch

    from fm_med.alignment import build_towers
    from fm_med.ecg.augment import EcgAugmentation
    from fm_med.ecg.decoder import ReconstructionDecoder
    from fm_med.hub import start_encoder
    from fm_med.pretraining import Pretraining

    seen = {"sampling_rate": config.sampling_rate, "seconds": config.seconds}
    encoder, processor = start_encoder(config.encoder, **seen)
    decoder = None
    if config.reconstruction_weight > 0:
        decoder = ReconstructionDecoder(encoder.config.time_width, samples=processor.samples)
    towers = build_towers(
        encoder,
        torch.from_numpy(train.report_mean),
        text=text_card,
        embedding_dim=config.embedding_dim,
        temperature=config.temperature,
        sigmoid=config.objective == "siglip",
        decoder=decoder,
    )
    augmentation = EcgAugmentation(sampling_rate=processor.sampling_rate)
    return Pretraining(
        towers=towers,
        processor=processor,
        objective=config.objective,
        augmentation=augmentation if config.augment else None,
        reconstruction_weight=config.reconstruction_weight,
        seed=config.seed,
    )


def fit(
    config: Config, run: "Run", task: "Pretraining", train: "TrainingPairs", validation: "Pairs"
) -> int:
    """Train; return the step with the lowest validation loss, whose weights are kept."""
    from fm_med import distributed, optim
    from fm_med.coupled import coupled_backward
    from fm_med.feeding import ReadAhead
    from fm_med.meter import Meter

    accelerator = run.accelerator
    batches = train.batches(config.per_device_batch_size, accelerator, seed=config.seed)
    epochs, warmup = config.num_epochs, config.warmup_share
    schedule = optim.Schedule(batches.steps_per_epoch, epochs, warmup, config.patience)
    rates = config.learning_rate, config.heads_learning_rate, config.weight_decay
    towers, optimizer = task.towers, optim.adamw(task.parameter_groups(*rates))
    prepared = distributed.prepare(accelerator, towers, optimizer, compiled=config.compile)
    model, optimizer, task.towers = prepared
    average = optim.WeightAverage(model, config.ema_decay)
    steps, where = schedule.total_steps, f"on {accelerator.num_processes} process(es)"
    run.say(f"{len(train)} pairs, {batches.batch_size} per step {where}, {steps} steps")
    run.start()
    run.trains(model, optimizer, average, keep=config.keep_checkpoints)
    backward = partial(coupled_backward, loss=task.loss, row_loss=task.row_loss)
    micro, read = config.micro_batch_size, partial(task.read, batches, accelerator.device)
    best = {"step": 0, "validation_loss": float("inf")}
    step, best = run.resume(best) if config.resume else (0, best)
    model.train()
    ahead = ReadAhead(read, end=steps, device=accelerator.device)
    with ahead, Meter(accelerator, total=steps, done=step) as meter:
        while not schedule.ended(step, best["step"]):
            optim.set_learning_rate(optimizer, schedule.factor(step))
            batch, inputs, targets = ahead.at(step)
            meter.data_ready()
            loss = backward(accelerator, model, inputs, targets, micro_batch_size=micro).item()
            norm = optim.clip_gradients(accelerator, model, config.max_grad_norm)
            if not run.is_finite(loss, norm):
                run.stop(step, best, loss=loss, norm=norm, records=batch.record_ids())
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            average.update(step)
            meter.step(samples=batch.size, loss=loss)
            run.log(step, epoch=batch.epoch, loss=loss, grad_norm=norm, **meter.rates())
            if step % batches.steps_per_epoch == 0:
                with average.in_place(), distributed.whole(accelerator, model, task.towers):
                    best = task.evaluate(run, validation, step=step, epoch=batch.epoch, best=best)
            if schedule.ended(step, best["step"]) or step % config.checkpoint_every == 0:
                run.save(step, best)
    return best["step"]


if __name__ == "__main__":
    launch(Config, main)
