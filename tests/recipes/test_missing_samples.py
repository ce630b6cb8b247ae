"""Recordings with missing samples go through a whole run, and none of its numbers is NaN."""

import json

import numpy as np
import pytest
from in_process import launch

from fm_med.cohort import CohortWriter, open_cohort
from fm_med.ecg.storage import MISSING

SPLITS = {"train": 32, "validation": 10, "test": 20}


def gap_in_one_lead(signal):
    signal[1, 300:650] = MISSING


def edges_of_all_leads(signal):
    signal[:, :200] = MISSING
    signal[:, -200:] = MISSING


def leads_that_miss_too_much(signal):
    signal[3:, 100:700] = MISSING


def all_but_one_lead(signal):
    signal[np.arange(12) != 7] = MISSING


def scattered(signal):
    signal[np.random.default_rng(0).random(signal.shape) < 0.3] = MISSING


SPOIL = (gap_in_one_lead, edges_of_all_leads, leads_that_miss_too_much, all_but_one_lead, scattered)


@pytest.fixture(scope="module")
def gappy(place, simulated):
    """Every second recording misses samples, in five ways; the stored masks do not tell."""
    source = open_cohort(simulated)
    schema = source.splits["train"].schema
    with CohortWriter(place / "gappy", source.card, schema) as writer:
        for split, rows in SPLITS.items():
            table = source.rows(split, np.arange(rows)).to_pylist()
            writer.write(split, [spoilt(row, number) for number, row in enumerate(table)])
    return place / "gappy"


def spoilt(row, number):
    signal = np.frombuffer(row["signal"], "<i2").reshape(12, -1).copy()
    if number % 2:
        SPOIL[number // 2 % len(SPOIL)](signal)
    missing = int((signal == MISSING).sum())
    return row | {"signal": signal.tobytes(), "missing_samples": missing}


def test_no_number_of_the_run_is_nan(gappy, bert, tmp_path, capsys):
    argv = ("--cohort", gappy, "--text_encoder", bert, "--num_epochs", 1, "--probe_labels", 20)
    argv += ("--per_device_batch_size", 8, "--reconstruction_weight", 0.5)
    argv += ("--output", tmp_path / "run")
    assert launch("ecg_pretrain", *argv) == 0, capsys.readouterr().err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert sum("loss" in row for row in rows) >= 3
    assert sum("validation_loss" in row for row in rows) == 1
    assert all(isinstance(value, int | float) for row in rows for value in row.values())
    metrics = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    assert metrics["linear_probe"]["macro_auroc"]["value"] > 0
