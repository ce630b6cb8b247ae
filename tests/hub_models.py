"""A small pretrained encoder, and a risk model with an adapter on it, in their runs' folders."""

import json
from types import SimpleNamespace

import numpy as np
import torch
import yaml

import fm_med
from fm_med import hub
from fm_med.alignment import AlignmentConfig, AlignmentHeads
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.simulate import simulate
from fm_med.ecg.vit1d import ViT1dConfig, ViT1dModel
from fm_med.examples import clinical_coding
from fm_med.heads import prediction_head
from fm_med.lora import attach_lora, merge, save_adapter
from fm_med.predictor import Predictor
from fm_med.survival.baseline import breslow_baseline
from fm_med.tasks import make_task

RECORDINGS = [simulate(3, seed=2).recording(row) for row in range(3)]
CLINICAL = {"age": [60.0, 71.0, None], "sex": ["female", "male", None]}
METRICS = {
    "model": {"c_index": {"value": 0.71, "low": 0.65, "high": 0.77, "n": 500}},
    "baselines": {"age_sex": {"c_index": {"value": 0.66, "low": 0.6, "high": 0.72, "n": 500}}},
    "difference": {"age_sex": {"c_index": {"value": 0.05, "low": 0.01, "high": 0.09, "n": 500}}},
    "cross_validation": {
        "model": {"c_index": {"value": 0.69, "low": 0.63, "high": 0.75, "n": 500}},
        "baselines": {"age_sex": {"c_index": {"value": 0.64, "low": 0.6, "high": 0.7, "n": 500}}},
    },
    "small": {"c_index": {"value": 0.9123, "low": 0.5, "high": 1.0, "n": 9}},
}


def write_run(run, settings, metrics):
    """Write what a recipe writes beside the model."""
    (run / "report").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    environment = {"num_processes": 1, "device": "cpu", "mixed_precision": "no", "python": "3.11.7"}
    environment["platform"] = "Linux"
    (run / "env.json").write_text(json.dumps(environment | {"versions": {"torch": "2.13.0"}}))
    (run / "report" / "metrics.json").write_text(json.dumps(metrics))


def pretrained(run):
    """Make the run of a pretrained encoder; return its model folder."""
    write_run(run, {"encoder": "vit1d", "text_encoder": "embedded", "seed": 3}, {})
    torch.manual_seed(0)
    config = ViT1dConfig(hidden_size=16, num_layers=2, num_heads=2, patch_samples=20)
    encoder, processor = ViT1dModel(config), EcgProcessor()
    width = encoder.config.pooled_size
    heads = AlignmentConfig(signal_dim=width, text_dim=8, embedding_dim=6, hidden_dim=16)
    hub.save(
        run / "model",
        encoder=encoder,
        processor=processor,
        alignment=AlignmentHeads(heads),
        sample=processor(RECORDINGS[:1]),
    )
    return run / "model"


def adapted(run, encoder_folder, cohort):
    """Make the run of a risk model with an adapter on the encoder; return its model folder."""
    settings = {"encoder": str(encoder_folder), "cohort": str(cohort.path), "seed": 7}
    write_run(run, settings | {"learning_rate": 0.001}, METRICS)
    model = fm_med.load(encoder_folder)
    torch.manual_seed(1)
    adapter = attach_lora(model.encoder, rank=2)
    for name, parameter in model.encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    base = str(encoder_folder.resolve())
    save_adapter(adapter, run / "adapter", base=base, base_folder=encoder_folder)
    encoder = merge(adapter).eval()
    head = prediction_head(
        encoder, outputs=1, output_name="log_hazard", squeeze=True, clinical=["age", "sex"]
    )
    torch.nn.init.normal_(head.output.weight)
    task, coding = make_task("survival", cohort), clinical_coding(cohort, ["age", "sex"])
    time, event = np.arange(1.0, 81.0), np.arange(80) % 2 == 0
    trained = SimpleNamespace(
        predictor=Predictor(encoder, head.eval()), processor=model.processor, task=task
    )
    training = {"encoder": str(encoder_folder), "peft": "lora", "cohort": cohort.card.name}
    hub.save_predictor(
        run / "model",
        trained,
        coding=coding,
        sample=(model.processor(RECORDINGS), torch.tensor([[60.0, 0], [71, 1], [50, 1]])),
        risks=(breslow_baseline(np.zeros(80), time=time, event=event), (12.0, 36.0)),
        notes={"training": {**training, "rows": 300, "persons": 250, "events": 9}},
        adapter=run / "adapter",
    )
    return run / "model"


def predictions(encoder, adapter, risk):
    """Return what three models say, by each way of loading them, as exact text."""
    from peft import PeftModel
    from transformers import AutoModel

    inputs = EcgProcessor()(RECORDINGS)
    found = {"encoder": fm_med.load(encoder).embed(RECORDINGS)}
    with torch.inference_mode():
        plain = AutoModel.from_pretrained(encoder)
        found["auto"] = plain.eval()(**inputs).pooler_output.numpy()
        adapted = PeftModel.from_pretrained(plain, adapter).eval()
        found["peft"] = adapted(**inputs).pooler_output.numpy()
    for name, place in (("adapter", adapter), ("risk", risk)):
        found[name] = np.stack(
            list(fm_med.load(place).predict(RECORDINGS, clinical=CLINICAL).values())
        )
    return {name: value.tobytes().hex() for name, value in found.items()}
