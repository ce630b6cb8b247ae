"""Small fitted models on a small simulated cohort, for tests of what is done with a model."""

from types import SimpleNamespace

import numpy as np
import torch

from fm_med import hub
from fm_med.cohort import open_cohort
from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.ecg.processor import EcgProcessor
from fm_med.evaluation import FittedModel
from fm_med.evaluation.model import encode, predict
from fm_med.examples import clinical_coding, read_examples
from fm_med.finetuning.linear import fit_head
from fm_med.heads import prediction_head
from fm_med.predictor import Predictor
from fm_med.sources.simulated import make_simulated
from fm_med.tasks import FollowUpTask, make_task

SIZES = {
    "strides": (10, 5),
    "widths": (8, 8),
    "hidden_size": 16,
    "lead_heads": 2,
    "pooled_size": 24,
}


def small_cohort(folder, subjects=320, **settings):
    """A cohort in which two of five persons have the event."""
    path = make_simulated(folder, subjects=subjects, seed=4, event_share=0.4, workers=1, **settings)
    return open_cohort(path)


def fitted(cohort, name="survival", clinical=("age", "sex"), **task_settings):
    """An encoder of random weights with a head fitted on the cohort's training split."""
    torch.manual_seed(0)
    encoder = DualAttentionModel(DualAttentionConfig(**SIZES)).eval()
    task = make_task(name, cohort, **task_settings)
    coding = clinical_coding(cohort, list(clinical))
    train = read_examples(cohort, task, coding, splits=["train"])
    task = task.fitted(train.targets)
    head = prediction_head(
        encoder,
        outputs=task.outputs,
        output_name=task.output_name,
        squeeze=task.squeeze,
        clinical=clinical,
    ).eval()
    model = FittedModel(encoder, head, EcgProcessor(), task, coding)
    fit_head(head, task, train, encode(model, encoder, train))
    if not isinstance(task, FollowUpTask):
        return model
    hazard = task.fit_hazard(predict(model, train), train.targets)
    notes = {"events": int(train.targets["event"].sum()), "fitted_on": ["train"]}
    notes["fingerprint"] = cohort.fingerprint
    return FittedModel(encoder, head, model.processor, task, coding, hazard, notes)


def saved(folder, model, cohort):
    """Save a fitted model as a run of the recipe would."""
    rows = read_examples(cohort, model.task, model.coding, splits=["test"])
    few = np.arange(3)
    inputs = rows.inputs(few, model.processor, "cpu")
    trained = SimpleNamespace(
        predictor=Predictor(model.encoder, model.head),
        processor=model.processor,
        task=model.task,
    )
    hub.save_predictor(
        folder,
        trained,
        coding=model.coding,
        sample=(inputs, torch.from_numpy(rows.clinical[few])),
        risks=(model.baseline, (12.0, 36.0) if model.baseline else ()),
        notes={"training": dict(model.training)},
    )
    return folder
