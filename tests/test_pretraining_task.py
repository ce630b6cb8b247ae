"""What a pretraining epoch reads, minimises and reports (`fm_med.pretraining`)."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from fm_med.alignment import build_towers
from fm_med.cohort import CohortCard, CohortWriter, open_cohort
from fm_med.ecg.augment import EcgAugmentation
from fm_med.ecg.decoder import ReconstructionDecoder
from fm_med.ecg.leads import LEADS
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.resnet1d import ResNet1dConfig, ResNet1dModel
from fm_med.ecg.simulate import simulate
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode
from fm_med.objectives import contrastive_loss, cosine_loss, siglip_loss
from fm_med.pairs import Batch, read_pairs
from fm_med.pretraining import Pretraining, encode_split, epoch_scores, project

CPU = torch.device("cpu")
ROWS = 11


class Letters:
    """Stands for a store: a text's embedding is how often it has some letters."""

    def embed(self, texts):
        return np.array([[text.count(letter) for letter in "abcde"] for text in texts], np.float32)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Eleven recordings of eight persons with seven distinct reports; row 2 has none."""
    fields = [pa.field(n, pa.string()) for n in ("subject_id", "record_id", "split", "report")]
    card = CohortCard(name="tiny", modality="ecg", units="mV", leads=list(LEADS))
    batch = simulate(12, seed=1)
    folder = tmp_path_factory.mktemp("task") / "cohort"
    with CohortWriter(folder, card, pa.schema([*fields, *SIGNAL_SCHEMA])) as writer:
        for row in range(12):
            report = None if row == 2 else "ab"[row % 2] * (1 + row // 3)
            ids = {"subject_id": f"p{row % 8}", "record_id": f"r{row}", "report": report}
            writer.write("train", [ids | encode(batch.recording(row))])
    return read_pairs(open_cohort(folder), "train", Letters(), "report")


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True, mixed_precision="no")
    AcceleratorState._reset_state(reset_partial_state=True)


def task(objective="infonce", *, augmentation=None, decoder=False, weight=0.5):
    torch.manual_seed(0)
    encoder = ResNet1dModel(ResNet1dConfig(widths=(8, 16), depths=(1, 1), norm_groups=4))
    processor = EcgProcessor(seconds=5.0)
    rebuilt = ReconstructionDecoder(encoder.config.time_width, samples=processor.samples)
    towers = build_towers(
        encoder,
        torch.ones(5),
        text={},
        embedding_dim=6,
        temperature=0.2,
        sigmoid=objective == "siglip",
        decoder=rebuilt if decoder else None,
    )
    return Pretraining(towers, processor, objective, augmentation, weight, seed=3)


# ------------------------------------------------------------------------------------- Batches


def share(pairs, rows, epoch=0):
    return Batch(epoch, 9, pairs, rows, rows)


def test_a_batch_is_the_asked_pairs(pairs):
    made = task()
    rows = np.array([7, 0, 3])
    inputs, targets = made.batch(share(pairs, rows), CPU)
    assert inputs.keys() == {"signal", "lead_mask", "report_embedding"}
    assert inputs["signal"].shape == (3, 12, 500)
    plain = pairs.inputs(rows, made.processor, CPU)
    assert torch.equal(inputs["signal"], plain["signal"])
    np.testing.assert_array_equal(inputs["report_embedding"], pairs.report_embedding[rows])
    assert targets.keys() == {"report_id", "subject_id"}
    assert targets["report_id"].tolist() == pairs.report_id[rows].tolist()
    assert targets["subject_id"].tolist() == pairs.person[rows].tolist()


def test_augmentation_follows_epoch_and_row_and_keeps_the_clean_signal(pairs):
    made = task(augmentation=EcgAugmentation(), decoder=True)
    rows = np.array([7, 0, 3])
    clean = pairs.inputs(rows, made.processor, CPU)
    inputs, targets = made.batch(share(pairs, rows, epoch=1), CPU)
    assert not torch.equal(inputs["signal"], clean["signal"])
    assert torch.equal(targets["clean"], clean["signal"])
    assert torch.equal(targets["clean_mask"], clean["lead_mask"])
    alone, _ = made.batch(share(pairs, rows[1:2], epoch=1), CPU)
    torch.testing.assert_close(alone["signal"][0], inputs["signal"][1])
    # The id decides, not where the pair is: a stream's pairs have new places in every batch.
    moved, _ = made.batch(Batch(1, 9, pairs, rows[1:2], np.array([50])), CPU)
    assert not torch.equal(moved["signal"], alone["signal"])
    later, _ = made.batch(share(pairs, rows, epoch=2), CPU)
    assert not torch.equal(later["signal"], inputs["signal"])


# -------------------------------------------------------------------------------------- Losses


def outputs_of(rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(rows, 6, generator=generator) for _ in range(2)]
    signal, text = (nn.functional.normalize(value, dim=1) for value in draw)
    return {
        "signal_embedding": signal,
        "text_embedding": text,
        "logit_scale": torch.full((rows,), 5.0, requires_grad=True),
        "logit_bias": torch.full((rows,), -3.0, requires_grad=True),
    }


IDS = {"report_id": torch.tensor([1, 1, 2, 3]), "subject_id": torch.tensor([5, 6, 7, 7])}


@pytest.mark.parametrize("objective", ["infonce", "siglip", "cosine"])
def test_the_loss_is_the_one_that_was_asked_for(objective):
    outputs = outputs_of()
    signal, text = outputs["signal_embedding"], outputs["text_embedding"]
    scale, bias = torch.tensor(5.0), torch.tensor(-3.0)
    expected = {
        "infonce": contrastive_loss(signal, text, logit_scale=scale, **IDS),
        "siglip": siglip_loss(signal, text, logit_scale=scale, logit_bias=bias, **IDS),
        "cosine": cosine_loss(signal, text),
    }
    loss = task(objective).loss(outputs, IDS)
    torch.testing.assert_close(loss, expected[objective])
    assert len({round(value.item(), 6) for value in expected.values()}) == 3
    loss.backward()
    assert outputs["logit_scale"].grad is not None  # DDP waits for every parameter


def test_reconstruction_counts_present_leads_only():
    made = task(decoder=True, weight=0.5)
    generator = torch.Generator().manual_seed(0)
    clean, rebuilt = (torch.randn(2, 12, 20, generator=generator) for _ in range(2))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 4:] = False
    rebuilt[1, 4:] = 1e3  # must not matter
    loss = made.row_loss({"reconstruction": rebuilt}, {"clean": clean, "clean_mask": mask})
    by_hand = [
        0.5 * ((rebuilt[row, leads] - clean[row, leads]) ** 2).mean()
        for row, leads in ((0, slice(None)), (1, slice(4)))
    ]
    torch.testing.assert_close(loss, torch.stack(by_hand))


def test_without_decoder_rows_cost_nothing():
    loss = task().row_loss(outputs_of(), IDS)
    assert loss.shape == (4,) and not loss.any()


# ---------------------------------------------------------------------------------- Evaluation


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_a_split_is_encoded_once_in_its_order(pairs, accelerator, batch_size):
    made = task(augmentation=EcgAugmentation())
    encoder = made.towers.encoder.train()
    features = encode_split(pairs, made.processor, encoder, accelerator, batch_size=batch_size)
    assert features.shape == (ROWS, encoder.config.pooled_size)
    assert not encoder.training
    for pair in range(ROWS):
        with torch.inference_mode():
            one = encoder(**pairs.inputs(np.array([pair]), made.processor, CPU)).pooler_output
        np.testing.assert_allclose(features[pair], one[0].numpy(), rtol=2e-4, atol=2e-5)


class Identity(nn.Module):
    """Heads that change nothing but the length: embeddings can be made by hand."""

    def __init__(self):
        super().__init__()
        self.register_buffer("text_mean", torch.zeros(3))

    def project_signal(self, features):
        return nn.functional.normalize(features, dim=1)

    project_text = project_signal

    def temperature(self):
        return {"logit_scale": torch.tensor(4.0)}


def scored(features, reports, report_id, person=None):
    """Score hand-made embeddings; return the numbers and the warning."""
    split = SimpleNamespace(
        report_embedding=np.asarray(reports, np.float32),
        report_id=np.asarray(report_id),
        person=np.arange(len(report_id)) if person is None else np.asarray(person),
    )
    return epoch_scores(Identity(), np.asarray(features, np.float32), split)


def test_perfect_embeddings_find_every_report():
    axes = np.eye(3)[[0, 1, 2, 0]]
    scores, warning = scored(axes, axes, [10, 20, 30, 10])
    for name in ("recall_at_1", "recall_at_10"):
        assert scores[name] == scores[f"signal_from_report_{name}"] == 1.0
    assert warning is None
    assert scores["mean_pairwise_cosine"] == pytest.approx(1 / 6)  # one equal pair of six
    # Shares 1/2, 1/4, 1/4 of the three axes, see fm_med.metrics.embedding for the definition.
    assert 2 < scores["effective_rank"] <= 3


def test_exchanged_embeddings_find_none_first():
    scores, _ = scored(np.eye(3), np.roll(np.eye(3), 1, axis=0), [1, 2, 3])
    assert scores["recall_at_1"] == scores["signal_from_report_recall_at_1"] == 0
    assert scores["recall_at_10"] == 1  # there are only three reports


def test_the_gallery_holds_each_report_once():
    """Twelve of thirteen recordings share a report; the last is nearest to that one."""
    signal = [[1, 0, 0]] * 12 + [[0.9, 0.2, 0]]
    reports = [[1, 0, 0]] * 12 + [[0, 1, 0]]
    scores, _ = scored(signal, reports, [1] * 12 + [2])
    assert scores["recall_at_1"] == pytest.approx(12 / 13)
    assert scores["recall_at_10"] == 1  # twelve copies of the common report are one place
    assert scores["signal_from_report_recall_at_1"] == 1.0  # two reports, each finds its own


def test_the_validation_loss_is_that_of_the_whole_split():
    generator = np.random.default_rng(0)
    features, reports = generator.normal(size=(2, 9, 3))
    ids, persons = generator.integers(0, 5, (2, 9))
    # A report text has one embedding, whoever it was written for.
    reports = reports[[list(ids).index(own) for own in ids]]
    scores, _ = scored(features, reports, ids, persons)
    signal, text = (
        torch.tensor(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in (features, reports)
    )
    logits = 4.0 * signal @ text.T
    positive = torch.tensor((ids[:, None] == ids) | (persons[:, None] == persons)).double()

    def one_way(values):
        target = positive / positive.sum(1, keepdim=True)
        return -(target * values.log_softmax(1)).sum(1).mean()

    expected = (one_way(logits) + one_way(logits.T)) / 2
    assert scores["validation_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_a_collapse_is_told():
    features = np.ones((20, 3)) + 1e-3 * np.random.default_rng(0).normal(size=(20, 3))
    scores, warning = scored(features, np.eye(3)[np.arange(20) % 3], np.arange(20) % 3)
    assert scores["mean_pairwise_cosine"] > 0.99
    assert "collapsed" in warning


def test_projection_is_in_evaluation_mode_and_does_not_touch_the_arrays():
    heads = task().towers.heads.train()
    features = np.random.default_rng(0).normal(size=(4, heads.config.signal_dim)).astype("f4")
    reports = np.ones((4, 5), np.float32)
    before = features.copy()
    signal, text = project(heads, features, reports)
    assert signal.shape == text.shape == (4, 6)
    assert not heads.training
    np.testing.assert_array_equal(features, before)
    np.testing.assert_allclose(np.linalg.norm(signal, axis=1), 1, rtol=1e-5)
