"""Fine-tune an encoder on a cohort: risk of an event, labels, classes or a number.

    accelerate launch recipes/finetune.py
    accelerate launch recipes/finetune.py --config recipes/presets/hf_risk.yaml \
        --cohort cohorts/hf --encoder runs/ptbxl/model --output runs/hf

Without --cohort it runs on a simulated cohort with known truth, made on first use and kept.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
)

from fm_med.settings import launch, setting

if TYPE_CHECKING:
    from fm_med.examples import Examples
    from fm_med.finetuning import Finetuned, Finetuning
    from fm_med.finetuning.finishing import FeatureCache
    from fm_med.run import Run


@dataclass
class Config:
    """Settings; any of them can be a flag or a key of --config."""

    # Data
    cohort: str = setting("simulated", "folder of a cohort; 'simulated' makes one")
    subjects: PositiveInt = setting(2500, "persons in the simulated cohort")
    task: Literal[
        "survival",
        "discrete_time",
        "competing_risks",
        "multilabel",
        "classification",
        "regression",
    ] = setting("survival", "what is predicted")
    target: list[str] | None = setting(None, "target columns or a label set; default: the card's")
    time_unit: str | None = setting(None, "refuse a cohort whose follow-up has another unit")
    clinical: list[str] | None = setting(None, "covariates, unpenalised: age sex ...")
    # Model
    encoder: str | None = setting(None, "name to start from scratch, or a folder or Hub id")
    second_encoder: str | None = setting(None, "likewise, for a cohort of two modalities")
    encoder_settings: dict[str, Any] | None = setting(None, "fields of a new encoder's config")
    processor_settings: dict[str, Any] | None = setting(None, "of a new encoder's processor")
    peft: Literal["auto", "lora", "dora", "none", "full"] = setting("auto", "none: frozen encoder")
    lora_rank: PositiveInt = setting(8, "of the adapters")
    lora_alpha: PositiveFloat = setting(16.0, "adapters are scaled by alpha / rank")
    lora_dropout: ClosedUnitInterval = setting(0.0, "of the adapters' input")
    lora_targets: list[str] | None = setting(None, "layers; default: the encoder's own")
    head: Literal["linear", "svm", "logistic"] = setting("linear", "fitted after the loop")
    head_hidden: list[int] | None = setting(None, "widths of hidden layers; default: linear")
    dropout: ClosedUnitInterval = setting(0.1, "of the pooled features")
    batchwise_dropout: bool = setting(False, "one mask for all rows, as Chen et al. 2025")
    reconstruction_weight: NonNegativeFloat = setting(0.0, "of rebuilding the input; 0: none")
    # Loop
    loss: str | None = setting(None, "efron breslow | bce focal asymmetric | huber mse")
    imbalance: Literal["none", "weight", "sampler"] = setting("none", "of labels and classes")
    num_epochs: PositiveInt = setting(20, "passes over the training rows")
    per_device_batch_size: PositiveInt = setting(64, "rows per process and optimiser step")
    micro_batch_size: PositiveInt | None = setting(None, "rows in memory; same result")
    learning_rate: NonNegativeFloat = setting(1e-3, "peak of encoder and adapters")
    head_learning_rate: NonNegativeFloat | None = setting(None, "of the head; None: the same")
    weight_decay: NonNegativeFloat = setting(0.05, "of weight matrices, never of covariates")
    warmup_share: ClosedUnitInterval = setting(0.1, "share of the steps")
    max_grad_norm: PositiveFloat = setting(1.0, "gradients are clipped to this norm")
    ema_decay: ClosedUnitInterval = setting(0.0, "average the weights, say .999; 0: no")
    patience: PositiveInt | None = setting(5, "stop after so many epochs without a better score")
    select_on: str = setting("validation_loss", "score by which weights are kept")
    refit: bool = setting(True, "ridge head on cached features before and after, if better")
    augment: str = setting("default", "augmentation of the modality; none for none")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = setting("auto", "bf16 where native")
    compile: bool = setting(False, "torch.compile of the encoder: slow start, then faster on GPUs")
    seed: NonNegativeInt = setting(0, "of weights, order, augmentation, folds")
    checkpoint_every: PositiveInt = setting(100, "steps")
    keep_checkpoints: PositiveInt = setting(2, "number")
    # Cross-validation, before the final fit
    folds: NonNegativeInt = setting(0, "folds between patients; 0 for none")
    repeats: PositiveInt = setting(1, "of the folds, cut anew")
    fold_seed: NonNegativeInt | None = setting(None, "of the cut into folds; default: --seed")
    fold_splits: list[str] | None = setting(None, "cut into folds; default: train validation")
    validation_share: OpenUnitInterval = setting(0.15, "of rows, where there is no split for it")
    # Output
    reject_error: OpenUnitInterval | None = setting(None, "of called rows; others: no class")
    horizons: list[float] | None = setting(None, "of risks, in the follow-up's unit; 1, 3, 5 years")
    save_adapter: bool = setting(False, "also keep the adapter alone, in model/adapter")
    output: str = setting("runs/finetune", "folder of the run")
    push_to_hub: str | None = setting(None, "organisation/name or folder to push the model to")
    hub_private: bool = setting(True, "only for the organisation's members")
    resume: bool = setting(False, "continue the run in --output")
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = setting("none", "beside JSONL")


def main(config: Config) -> None:
    """Data, model, loop, report."""
    from accelerate.utils import set_seed

    from fm_med import distributed, finetuning, hub
    from fm_med.examples import clinical_coding, read_examples
    from fm_med.run import Run
    from fm_med.sources.embedded import open_or_simulate
    from fm_med.tasks import make_task

    # ------------------------------------------------------------------------------- Data
    accelerator = distributed.accelerator(mixed_precision=config.mixed_precision)
    run = Run(config.output, config, accelerator, resume=config.resume, tracker=config.tracker)
    hub.refuse_unpushable(config.push_to_hub)
    cohort = open_or_simulate(config.cohort, subjects=config.subjects)
    task = make_task(
        config.task, cohort, columns=config.target, loss=config.loss, time_unit=config.time_unit
    )
    coding = clinical_coding(cohort, config.clinical or [])
    examples = read_examples(cohort, task, coding, splits=list(cohort.splits))
    split = finetuning.Split.of(examples, task, share=config.validation_share, seed=config.seed)

    # ------------------------------------------------------------------------------ Model
    config.encoder = hub.pinned(config.encoder)
    config.second_encoder = hub.pinned(config.second_encoder)
    start = hub.start_from(
        config.encoder,
        cohort.card,
        second=config.second_encoder,
        encoder_settings=config.encoder_settings,
        processor_settings=config.processor_settings,
    )
    run.reads(cohort=cohort.fingerprint, encoder=start.key)
    method, why = finetuning.choose_method(
        config.peft, task, split.train, is_fresh=start.is_fresh, has_weights=start.has_weights
    )
    cache: FeatureCache | None = {} if method == "none" and not start.has_new else None
    job = finetuning.Job(task, coding, method, start.has_new and start.has_weights, cache)
    base = start.adapter_base(method) if config.save_adapter else None
    build = partial(finetuning.prepare, config, job, accelerator=accelerator)
    build(start.build(split.train), (split.train, split.validation), seed=0)  # refuses early

    # ------------------------------------------------------------------------------- Loop
    def fit(run: "Run", train: "Examples", validation: "Examples", seed: int) -> "Finetuned":
        set_seed(seed)  # the same weights on all processes
        tuning = build(start.build(train), (train, validation), seed=seed)
        finetuning.warm_start(tuning, job, accelerator, ridge=config.refit)
        if tuning.trains:
            set_seed(seed, device_specific=True)  # dropout differs between processes
            tuning.take_best(run, loop(config, run, tuning))
        return finetuning.finish(
            tuning, run, cache, refit_head=config.refit, head=config.head, base=base
        )

    run.start()
    run.say(f"{why}{start.remark(method)}\n{split.describe(task)}")
    folds = None
    if config.folds:
        in_folds = examples.of_splits(config.fold_splits or ["train", "validation"])
        folds = finetuning.cross_validate(config, run, task, in_folds, fit)
    finished = fit(run, split.train, split.validation, config.seed)

    # ----------------------------------------------------------------------------- Report
    judged = finetuning.judge(finished, split)
    run.say(finetuning.write_results(run, task, judged, folds))
    if accelerator.is_main_process:
        hub.save_predictor(
            run.model_folder,
            finished.tuning,
            coding=coding,
            sample=finished.sample(),
            risks=finished.risks(config.horizons, run.say),
            notes=finetuning.notes(
                finished, job, start.name, judged, reject_error=config.reject_error, say=run.say
            ),
            adapter=finished.adapter,
        )
        run.say(f"model {run.model_folder}, {run.report_folder}")
    run.finish()
    hub.push_trained(run, config.push_to_hub, private=config.hub_private, cohort=cohort)


def loop(config: Config, run: "Run", tuning: "Finetuning") -> int:
    """Train; return the step with the best validation score, whose weights are kept."""
    from fm_med import distributed, optim
    from fm_med.coupled import coupled_backward, refuse_batch_norm
    from fm_med.feeding import ReadAhead
    from fm_med.meter import Meter
    from fm_med.sampling import refuse_batch

    tuning.refuse_validation()
    accelerator = run.accelerator
    processes = accelerator.num_processes
    size = config.per_device_batch_size * processes
    sampler = tuning.sampler(size)
    refuse_batch(sampler.batch_size, processes, config.micro_batch_size)
    if processes > 1 or config.micro_batch_size is not None:
        refuse_batch_norm(tuning.predictor.train())
    epochs, warmup = config.num_epochs, config.warmup_share
    schedule = optim.Schedule(sampler.steps_per_epoch, epochs, warmup, config.patience)
    rates = config.learning_rate, config.head_learning_rate, config.weight_decay
    predictor, optimizer = tuning.predictor, optim.adamw(tuning.parameter_groups(*rates))
    prepared = distributed.prepare(accelerator, predictor, optimizer, compiled=config.compile)
    model, optimizer, tuning.predictor = prepared
    average = optim.WeightAverage(model, config.ema_decay)
    steps, data = schedule.total_steps, f"{len(tuning.train)} rows, {sampler.batch_size} per step"
    run.say(f"{data} on {processes} process(es), {steps} steps")
    run.trains(model, optimizer, average, keep=config.keep_checkpoints)
    step, best = run.resume({}) if config.resume else (0, {})
    best = best or tuning.begin(run, model)
    model.train()
    read = partial(tuning.read, sampler, accelerator)
    ahead = ReadAhead(read, end=steps, device=accelerator.device)
    with ahead, Meter(accelerator, total=steps, done=step) as meter:
        while not schedule.ended(step, best["step"]):
            optim.set_learning_rate(optimizer, schedule.factor(step))
            epoch, batch, inputs, targets = ahead.at(step)
            meter.data_ready()
            loss = coupled_backward(
                accelerator,
                model,
                inputs,
                targets,
                loss=tuning.loss,
                row_loss=tuning.row_loss,
                micro_batch_size=config.micro_batch_size,
            ).item()
            norm = optim.clip_gradients(accelerator, model, config.max_grad_norm)
            if not run.is_finite(loss, norm):
                run.stop(step, best, loss=loss, norm=norm, records=tuning.record_ids(batch))
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            average.update(step)
            meter.step(samples=len(batch), loss=loss)
            run.log(step, epoch=epoch, loss=loss, grad_norm=norm, **meter.rates())
            if step % sampler.steps_per_epoch == 0:
                with average.in_place(), distributed.whole(accelerator, model, tuning.predictor):
                    best = tuning.evaluate(run, step=step, epoch=epoch, best=best)
            if schedule.ended(step, best["step"]) or step % config.checkpoint_every == 0:
                run.save(step, best)
    return best["step"]


if __name__ == "__main__":
    launch(Config, main)
