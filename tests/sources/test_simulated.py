"""Simulated cohorts on disk: the contract, the splits, and the same bytes with any workers."""

import json
from pathlib import Path

import numpy as np
import pytest

import fm_med
from fm_med.cohort import check_cohort, open_cohort
from fm_med.ecg.simulate import FINDINGS, simulate
from fm_med.ecg.storage import decode
from fm_med.errors import InputError
from fm_med.sources import simulated
from fm_med.sources.simulated import make_simulated


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohorts") / "simulated"
    return open_cohort(make_simulated(folder, subjects=60, seed=5, seconds=4))


def test_the_cohort_keeps_the_contract(cohort):
    assert check_cohort(cohort.path) == []
    assert cohort.card.subjects == {"train": 42, "validation": 6, "test": 12}
    assert cohort.card.label_sets == {"findings": list(FINDINGS)}
    assert (cohort.card.follow_up_unit, cohort.card.units) == ("months", "mV")
    assert cohort.card.sampling_rate == 100
    assert sum(cohort.card.recordings.values()) > 60


def test_rows_are_the_simulated_people(cohort):
    batch = simulate(60, seed=5, seconds=4, recordings_per_subject=1.2)
    rows = np.flatnonzero(batch.subject % 10 == 7)
    table = cohort.splits["validation"]
    stored = decode(table)
    signal = stored.signal * stored.gain[:, :, None]
    np.testing.assert_allclose(signal, batch.signal[rows], atol=1e-6)
    assert table["report"].to_pylist() == [batch.report[row] for row in rows]
    for column, name in enumerate(FINDINGS):
        severity = table[f"severity_{name}"].to_numpy()
        np.testing.assert_array_equal(severity, batch.severity[rows, column])
        np.testing.assert_array_equal(np.array(table[name].to_pylist()), severity > 0)
    for name in ("time", "event", "trait", "log_hazard_all", "log_hazard_age"):
        np.testing.assert_array_equal(np.array(table[name].to_pylist()), getattr(batch, name)[rows])


def test_pieces_and_processes_do_not_change_the_cohort(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(simulated, "PIECE", 17)
    again = make_simulated(tmp_path / "again", subjects=60, seed=5, seconds=4, workers=2)
    assert open_cohort(again).fingerprint == cohort.fingerprint


def test_wrong_settings_leave_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="hospital"):
        make_simulated(tmp_path / "x", subjects=20, hospital="z")
    with pytest.raises(InputError, match="subjects"):
        make_simulated(tmp_path / "x", subjects=9)
    assert list(tmp_path.iterdir()) == []


def test_there_are_prompts_for_every_finding():
    path = Path(fm_med.__file__).parent / "text" / "prompts" / "findings.json"
    prompts = json.loads(path.read_text("utf-8"))
    assert tuple(prompts) == FINDINGS
    for name, sides in prompts.items():
        assert set(sides) == {"present", "absent"}
        assert len(sides["present"]) >= 4 and len(sides["absent"]) >= 4, name
