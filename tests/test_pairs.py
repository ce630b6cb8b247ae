"""Pairs: which recordings have a text, what it is, and the control that mixes them up."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from fm_med.cohort import Cohort, CohortCard, CohortWriter, open_cohort
from fm_med.ecg.leads import LEADS
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.simulate import simulate
from fm_med.ecg.storage import SIGNAL_SCHEMA, encode
from fm_med.errors import InputError
from fm_med.pairs import read_pairs, shuffled_reports, texts_of
from fm_med.sources.ptbxl import STATEMENTS_TYPE
from fm_med.text.statements import scp_sentences

# One row per recording: person, report, codes, two labels.
ROWS = [
    ("ann", "Sinus rhythm.", [("NORM", 100.0)], True, False),
    ("ann", "Sinus  rhythm.\n", [("NORM", 60.0), ("LVH", 20.0)], True, None),
    ("bob", None, [("LVH", 50.0)], False, True),
    ("cem", "   ", [], None, False),
    ("dee", "Atrial fibrillation.", None, False, True),
    ("eve", "Low voltage.", [("AFIB", 0.0), ("LVOLT", 0.0)], False, False),
]


class Letters:
    """Stands for a store: a text's embedding is how often it has the letters a to e."""

    def embed(self, texts):
        return np.array([[text.count(letter) for letter in "abcde"] for text in texts], np.float32)

    def embed_distinct(self, texts):
        distinct = sorted(set(texts))
        return self.embed(distinct), np.array([distinct.index(text) for text in texts])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    fields = [pa.field(n, pa.string()) for n in ("subject_id", "record_id", "split", "report")]
    fields += [*SIGNAL_SCHEMA, pa.field("scp_codes", STATEMENTS_TYPE)]
    fields += [pa.field("NORM", pa.bool_()), pa.field("LVH", pa.bool_())]
    card = CohortCard(name="tiny", modality="ecg", units="mV", leads=list(LEADS))
    batch = simulate(len(ROWS), seed=1)
    folder = tmp_path_factory.mktemp("pairs") / "cohort"
    with CohortWriter(folder, card, pa.schema(fields)) as writer:
        for number, (person, report, codes, norm, lvh) in enumerate(ROWS):
            row = {"subject_id": person, "record_id": f"r{number}", "report": report}
            row |= encode(batch.recording(number)) | {"NORM": norm, "LVH": lvh}
            row["scp_codes"] = codes and [{"code": c, "likelihood": v} for c, v in codes]
            writer.write("train", [row])
    return open_cohort(folder)


@pytest.fixture(scope="module")
def pairs(cohort):
    return read_pairs(cohort, "train", Letters(), "report")


def test_rows_without_a_report_are_left_out(pairs):
    assert pairs.rows.tolist() == [0, 1, 4, 5]
    assert len(pairs) == 4
    assert pairs.subject_id.tolist() == ["ann", "ann", "dee", "eve"]
    assert pairs.report_embedding.shape == (4, 5)
    np.testing.assert_array_equal(pairs.report_embedding, Letters().embed(pairs.report))


def test_equal_texts_and_equal_persons_have_equal_ids(pairs):
    same_report = pairs.report_id[:, None] == pairs.report_id
    same_person = pairs.person[:, None] == pairs.person
    expected = np.eye(4, dtype=bool)
    expected[:2, :2] = True  # white space does not make another report
    np.testing.assert_array_equal(same_report, expected)
    np.testing.assert_array_equal(same_person, expected)
    assert pairs.report_id.dtype == pairs.person.dtype == np.int64


def test_statements_are_the_weighted_mean_of_the_codes_sentences(cohort):
    pairs = read_pairs(cohort, "train", Letters(), "statements")
    assert pairs.rows.tolist() == [0, 1, 2, 5]  # an empty list of codes counts as none
    sentences = scp_sentences()

    def mean(**weights):
        parts = [w * Letters().embed([sentences[code]])[0] for code, w in weights.items()]
        return sum(parts) / sum(weights.values())

    expected = [mean(NORM=1), mean(NORM=3, LVH=1), mean(LVH=1), mean(AFIB=1, LVOLT=1)]
    np.testing.assert_allclose(pairs.report_embedding, expected, rtol=1e-6)
    assert pairs.report[1] == f"{sentences['NORM']}; {sentences['LVH']}"
    assert len(set(pairs.report_id.tolist())) == 4


def test_texts_for_a_text_model_are_those_of_the_pairs(cohort):
    assert texts_of(cohort, "train", "report") == [ROWS[row][1] for row in (0, 1, 4, 5)]
    assert set(texts_of(cohort, "train", "statements")) == {
        scp_sentences()[code] for code in ("NORM", "LVH", "AFIB", "LVOLT")
    }


def test_recordings_are_those_of_the_pairs(cohort, pairs):
    processor = EcgProcessor()
    batch = simulate(len(ROWS), seed=1)
    order = np.array([3, 0, 2])
    inputs = pairs.inputs(order, processor, torch.device("cpu"))
    expected = processor([batch.recording(row) for row in (5, 0, 4)])
    assert torch.equal(inputs["lead_mask"], expected["lead_mask"])
    torch.testing.assert_close(inputs["signal"], expected["signal"], atol=2e-3, rtol=0)
    texts = pairs.texts(order, torch.device("cpu"))
    assert texts["report_id"].tolist() == pairs.report_id[order].tolist()
    assert texts["subject_id"].tolist() == pairs.person[order].tolist()
    np.testing.assert_array_equal(texts["report_embedding"], pairs.report_embedding[order])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_batches_are_shared_and_made_of_all_pairs(pairs, world_size):
    ranks = [
        pairs.batches(1, SimpleNamespace(process_index=rank, num_processes=world_size), seed=5)
        for rank in range(world_size)
    ]
    assert {each.batch_size for each in ranks} == {world_size}
    assert {each.steps_per_epoch for each in ranks} == {4 // world_size}
    for epoch in range(3):
        seen = []
        for step in range(4 // world_size):
            shares = [each.at(epoch * (4 // world_size) + step) for each in ranks]
            assert [(s.epoch, s.size, len(s.rows)) for s in shares] == [
                (epoch, world_size, 1)
            ] * len(ranks)
            assert all(np.array_equal(share.rows, share.row_id) for share in shares)
            records = [share.record_ids() for share in shares]
            assert records == [pairs.record_ids(share.rows) for share in shares]
            seen += [row for share in shares for row in share.rows.tolist()]
        assert len(set(seen)) == len(seen)
    assert pairs.at_hand is pairs
    np.testing.assert_array_equal(pairs.report_mean, pairs.report_embedding.mean(0))


def test_more_processes_than_pairs_are_refused(pairs):
    with pytest.raises(InputError, match="a batch of 4 rows cannot be shared by 5 processes"):
        pairs.batches(1, SimpleNamespace(process_index=0, num_processes=5), seed=0)


def test_a_person_has_the_same_number_in_every_part_of_a_cohort(cohort, pairs):
    half = Cohort(cohort.path, cohort.card, {"train": cohort.splits["train"].slice(4)})
    rest = read_pairs(half, "train", Letters(), "report")
    assert rest.person.tolist() == pairs.person[2:].tolist()


def test_a_recording_that_the_processor_refuses_is_named(cohort, pairs):
    table = cohort.splits["train"]
    mask = pa.array([[row != 4] * 12 for row in range(6)], table.schema.field("lead_mask").type)
    place = table.schema.get_field_index("lead_mask")
    silent = Cohort(cohort.path, cohort.card, {"train": table.set_column(place, "lead_mask", mask)})
    pairs = dataclasses.replace(pairs, cohort=silent)
    cpu = torch.device("cpu")
    pairs.inputs(np.array([0, 1, 3]), EcgProcessor(), cpu)
    message = "cohort, split 'train': recording r4 has signal in none of the leads"
    with pytest.raises(InputError, match=message):
        pairs.inputs(np.array([0, 2, 1]), EcgProcessor(), cpu)


def test_labels_are_of_the_pairs_and_nan_where_unknown(pairs):
    labels = pairs.labels(["NORM", "LVH"])
    np.testing.assert_array_equal(labels, [[1, 0], [1, np.nan], [0, 1], [0, 0]])
    np.testing.assert_array_equal(pairs.labels(["LVH"])[:, 0], labels[:, 1])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_control_moves_reports_and_nothing_else(pairs, seed):
    mixed = shuffled_reports(pairs, seed)
    order = [pairs.report_embedding.tolist().index(row) for row in mixed.report_embedding.tolist()]
    assert sorted(mixed.report) == sorted(pairs.report)
    assert mixed.report == [pairs.report[place] for place in order]
    assert mixed.report_id.tolist() == [pairs.report_id[place] for place in order]
    for field in dataclasses.fields(pairs):
        if not field.name.startswith("report"):
            assert getattr(mixed, field.name) is getattr(pairs, field.name)
    again = shuffled_reports(pairs, seed)
    assert again.report == mixed.report


def test_the_control_really_mixes(pairs):
    mixed = [shuffled_reports(pairs, seed).report for seed in range(20)]
    assert any(report != pairs.report for report in mixed)
    assert len({tuple(report) for report in mixed}) > 3


@pytest.mark.parametrize(
    ("split", "source", "message"),
    [("test", "report", "no split 'test'; it has train")],
)
def test_what_is_not_there_is_named(cohort, split, source, message):
    with pytest.raises(InputError, match=message):
        read_pairs(cohort, split, Letters(), source)


def test_a_split_without_any_text_is_refused(tmp_path):
    fields = [pa.field(n, pa.string()) for n in ("subject_id", "record_id", "split", "report")]
    card = CohortCard(name="silent", modality="ecg", units="mV", leads=list(LEADS))
    with CohortWriter(tmp_path / "silent", card, pa.schema(fields)) as writer:
        writer.write("train", [{"subject_id": "a", "record_id": "r", "report": " \n"}])
    silent = open_cohort(tmp_path / "silent")
    with pytest.raises(InputError, match="no recording of the split 'train' has a report"):
        read_pairs(silent, "train", Letters(), "report")
    with pytest.raises(InputError, match="no column 'scp_codes'; it has subject_id"):
        read_pairs(silent, "train", Letters(), "statements")
