"""Export to ONNX: the file predicts what the model predicts, and tells what to do around it."""

import json
import shutil
import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from encoder_examples import EXAMPLES, ecg_and_table
from fitted_models import fitted, saved, small_cohort

import fm_med
from fm_med import onnx_export
from fm_med.cli import main
from fm_med.ecg.processor import EcgProcessor
from fm_med.errors import InputError
from fm_med.fusion.late_fusion import LateFusionModel
from fm_med.fusion.processor import FusionProcessor
from fm_med.hub import LoadedModel
from fm_med.onnx_export import exporting
from fm_med.rna.hub_transformer import HubTransformerConfig, HubTransformerModel
from fm_med.rna.rank_values import RankValueProcessor
from fm_med.tabular.lstm_attention import LstmAttentionConfig, LstmAttentionModel
from fm_med.tabular.processor import TableProcessor

NEEDED = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED),
    reason="onnx, onnxscript and onnxruntime are not installed (pip install 'fm-med[onnx]')",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def cohort(place):
    return small_cohort(place / "cohort", subjects=120)


@pytest.fixture(scope="module")
def folder(place, cohort):
    return saved(place / "model", fitted(cohort), cohort)


def visits_processor():
    """Of three numeric and two categorical columns, as the encoder of the example expects."""
    fields = [
        pa.field(f"n{k}", pa.list_(pa.float64()), metadata={"input": "numeric"}) for k in "012"
    ]
    fields += [
        pa.field(f"c{k}", pa.list_(pa.string()), metadata={"input": "categorical"}) for k in "01"
    ]
    fields.append(pa.field("visit_time", pa.list_(pa.float64())))
    numbers = [[1.0, None], [2.0, 3.0]]
    texts = ([["a", "b"], ["a", "a"]], [["a", "b"], ["c", "a"]])
    arrays = [*[numbers] * 3, *texts, [[0.0, 1.0], [0.0, 2.0]]]
    table = pa.table(
        [pa.array(values, field.type) for values, field in zip(arrays, fields)],
        schema=pa.schema(fields),
    )
    tenfold = pa.concat_tables([table] * 10)  # levels are those of ten persons
    return TableProcessor.for_cohort(SimpleNamespace(modality="tabular", name="t"), tenfold)


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


# ------------------------------------------------------------------------------- With onnx


@pytest.fixture(scope="module")
def exported(folder, place):
    """What the command wrote and printed."""
    path, out = place / "risk.onnx", StringIO()
    with redirect_stdout(out):
        assert main(["export", str(folder), str(path), "--json"]) == 0
    return path, json.loads(out.getvalue())


@needs_onnx
def test_a_risk_model_predicts_the_same_from_its_file_alone(folder, cohort, exported):
    """The embedded JSON and the graph are enough: no fm_med after the processor."""
    path, done = exported
    assert 0 <= done["largest_difference"] <= 1e-4
    run = session(path)
    described = json.loads(run.get_modelmeta().custom_metadata_map["fm_med"])
    assert described == json.loads(path.with_suffix(".json").read_text())
    assert described["agreement"]["largest_difference"] == done["largest_difference"]

    model = fm_med.load(folder)
    rows = cohort.rows("test", np.arange(9))  # another number than was exported or checked
    inputs = {name: value.numpy() for name, value in model.inputs(rows).items()}
    age = rows.column("age").to_numpy()
    sex = np.array([text == "male" for text in rows.column("sex").to_pylist()], float)
    inputs["clinical"] = np.stack([age, sex], 1).astype(np.float32)
    assert sorted(inputs) == sorted(entry["name"] for entry in described["inputs"])
    pooled, log_hazard = run.run(described["outputs"], inputs)
    np.testing.assert_allclose(pooled, model.embed(rows), atol=1e-4)
    expected = model.predict(rows)
    np.testing.assert_allclose(log_hazard, expected["log_hazard"], atol=1e-4)
    baseline = described["model"]["baseline"]
    step = np.searchsorted(baseline["time"], 36.0, side="right") - 1
    hazard = baseline["relative_hazard"][step]
    risk = 1 - np.exp(-hazard * np.exp(log_hazard - baseline["centre"]))
    np.testing.assert_allclose(risk, expected["risk_36_months"], atol=1e-4)


@needs_onnx
def test_visits_and_their_masks_are_free_in_number(place):
    processor = visits_processor()
    settings = processor.encoder_settings() | {"hidden_size": 8, "num_heads": 2}
    torch.manual_seed(0)
    encoder = LstmAttentionModel(LstmAttentionConfig(**settings)).eval()
    path = place / "visits.onnx"
    model = LoadedModel(encoder, processor, None, place)
    assert onnx_export.export(model, path).largest_difference <= 1e-4
    inputs = onnx_export.example_inputs(model, 3, seed=8)
    inputs = {name: np.concatenate([v, v[:, :2]], 1) for name, v in inputs.items()}
    inputs["visit_mask"][:] = np.arange(6) < [[6], [3], [1]]
    with torch.inference_mode():
        given = {name: torch.from_numpy(value) for name, value in inputs.items()}
        expected = encoder(**given).pooler_output.numpy()
    run = session(path)
    known = {value.name for value in run.get_inputs()}
    assert "visit_mask" in known
    (found,) = run.run(None, {name: value for name, value in inputs.items() if name in known})
    np.testing.assert_allclose(found, expected, atol=1e-4)


@needs_onnx
def test_sentences_of_genes_are_free_in_length(place):
    processor = RankValueProcessor(
        genes=[f"G{k}" for k in range(9)],
        tokens=list(range(2, 11)),
        medians=[1.0] * 9,
        max_tokens=16,
        first_token=1,
        pad_token=0,
    )
    small = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    encoder = HubTransformerModel(
        HubTransformerConfig(
            backbone={**small, "num_hidden_layers": 1, "max_position_embeddings": 16},
            **processor.encoder_settings(),
        )
    ).eval()
    path = place / "genes.onnx"
    assert onnx_export.export(LoadedModel(encoder, processor, None, place), path)
    described = json.loads(path.with_suffix(".json").read_text())
    assert {tuple(one["shape"]) for one in described["inputs"]} == {("rows", "tokens")}
    run = session(path)
    for tokens in (2, 10):  # padding and special tokens count for nothing, in any length
        ids = torch.randint(0, 11, (3, tokens))
        ids[:, 1] = 5
        mask = torch.arange(tokens) < torch.tensor([[2], [tokens], [tokens - 1]]).clamp(min=2)
        (found,) = run.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.inference_mode():
            expected = encoder(ids, mask).pooler_output.numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_onnx
def test_what_does_not_agree_is_not_written(folder, exported, place, monkeypatch):
    """A graph that was exported before the head changed by 0.001."""
    model = fm_med.load(folder)
    graph = import_module("onnxruntime").InferenceSession(str(exported[0])).get_inputs()
    inner = SimpleNamespace(graph=SimpleNamespace(inputs=graph), metadata_props={})
    stale = SimpleNamespace(save=lambda to: shutil.copy(exported[0], to), model=inner)
    monkeypatch.setattr(exporting, "_program", lambda *arguments: stale)
    onnx_export.export(model, place / "right.onnx")
    with torch.no_grad():
        model.head.output.bias += 0.001
    with pytest.raises(RuntimeError, match=r"differs from the model by 0\.00"):
        onnx_export.export(model, place / "wrong.onnx")
    assert (place / "right.json").is_file() and not list(place.glob("*wrong*"))


# ---------------------------------------------------------------------------- Without it too


def test_without_onnx_it_says_what_to_install(folder, place, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    assert main(["export", str(folder), str(place / "x.onnx")]) == 2
    error = capsys.readouterr().err
    assert error == "error: export needs onnx and onnxscript: pip install 'fm-med[onnx]'\n"
    assert "onnx" not in sys.modules or find_spec("onnx")


def test_a_taken_or_misnamed_file_is_refused(folder, place):
    (place / "taken.json").write_text("{}")
    model = fm_med.load(folder)
    with pytest.raises(InputError, match=r"taken\.json exists already"):
        onnx_export.export(model, place / "taken.onnx")
    with pytest.raises(InputError, match=r"does not end in \.onnx"):
        onnx_export.export(model, place / "x.bin")


def test_the_description_tells_the_whole_way(folder):
    model = fm_med.load(folder)
    model.details["reference"] = {"persons": 60}
    example = onnx_export.example_inputs(model, 4, seed=0)
    described = onnx_export.describe(model, example, list(example))
    text = " ".join(described["before"])
    for word in ("I, II, III, aVR", "100 Hz", "lead_mask", "clinical", "age (number"):
        assert word in text
    shapes = {entry["name"]: entry["shape"] for entry in described["inputs"]}
    assert shapes == {
        "signal": ["rows", 12, 1000],
        "lead_mask": ["rows", 12],
        "clinical": ["rows", 2],
    }
    assert described["processor"]["sampling_rate"] == 100.0
    assert {"reference", "training"}.isdisjoint(described["model"])
    assert "1 - exp(" in described["after"][1]
    json.dumps(described)


def test_a_fusion_is_told_part_by_part(place):
    encoder = LateFusionModel(EXAMPLES["late_fusion"].config).eval()
    processor = FusionProcessor(
        names=["ecg", "tabular"], first=EcgProcessor(seconds=3.2), second=visits_processor()
    )
    model = LoadedModel(encoder, processor, None, place)
    example = onnx_export.example_inputs(model, 4, seed=0)
    given = {name: torch.from_numpy(value) for name, value in example.items()}
    assert encoder(**given).pooler_output.shape[0] == 4
    described = onnx_export.describe(model, example, list(example))
    assert {"first_present", "first_lead_mask", "second_visit_mask"} <= set(example)
    assert any(step.startswith("second (tabular): numeric") for step in described["before"])
    assert set(example) >= set(ecg_and_table(4))
