"""Models of every released schema still load; others are refused naming both versions."""

import json
import shutil

import numpy as np
import pytest
from frozen_models import CLINICAL, FROZEN, MODELS, machine, outputs, recordings

import fm_med
from fm_med.errors import InputError
from fm_med.hub import loading, migrations
from fm_med.hub.guard import model_files
from fm_med.hub.migrations import MIGRATIONS, SCHEMA_VERSION, up_to_date

RELEASED = sorted(FROZEN.iterdir())


@pytest.mark.parametrize("place", RELEASED, ids=lambda place: place.name)
def test_a_frozen_checkpoint_says_what_it_said(place):
    stated = json.loads((place / "outputs.json").read_text())
    found = outputs(place)
    assert found.keys() == stated["outputs"].keys() == set(MODELS)
    for name, columns in stated["outputs"].items():
        assert found[name].keys() == columns.keys()
        for column, values in columns.items():
            # Another torch or processor rounds otherwise; here every bit is what it was.
            if stated["machine"] == machine():
                np.testing.assert_array_equal(found[name][column], values)
            np.testing.assert_allclose(found[name][column], values, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        found["risk"]["risk_12_months"], found["adapter"]["risk_12_months"]
    )


def test_every_schema_has_its_frozen_checkpoints():
    assert [place.name for place in RELEASED] == [f"v{k}" for k in range(1, SCHEMA_VERSION + 1)]
    assert list(MIGRATIONS) == list(range(1, SCHEMA_VERSION))
    for place in RELEASED:
        for name in MODELS:
            sizes = [(place / name / file).stat().st_size for file in model_files(place / name)]
            assert sum(sizes) < 100_000


@pytest.fixture(params=["encoder", "risk"])
def copied(request, tmp_path):
    """A model of the present schema, to be given another version."""
    shutil.copytree(RELEASED[-1] / request.param, tmp_path / "model")
    stated = "schema.json" if request.param == "encoder" else "task.json"
    return tmp_path / "model", tmp_path / "model" / stated


def state(file, version):
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": version}))


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, -3])
def test_an_unknown_version_is_refused_naming_both(copied, version):
    folder, file = copied
    state(file, version)
    both = f"schema_version {version}, fm_med .* reads {SCHEMA_VERSION}: "
    with pytest.raises(InputError, match=both) as caught:
        fm_med.load(folder)
    assert "\n" not in str(caught.value)
    assert ("update fm_med" in str(caught.value)) == (version > SCHEMA_VERSION)


@pytest.mark.parametrize("version", [None, "1", True, 1.0])
def test_what_is_no_version_is_refused(copied, version):
    folder, file = copied
    state(file, version)
    with pytest.raises(InputError, match=f"schema_version {version!r}, fm_med .* reads 1"):
        fm_med.load(folder)


def test_an_older_model_is_migrated_step_by_step(tmp_path, monkeypatch):
    """Made up: version -1 called the horizons "times", version 0 had the head in another folder."""
    newest = fm_med.load(RELEASED[-1] / "risk")
    folder = tmp_path / "older"
    shutil.copytree(RELEASED[-1] / "risk", folder)
    values = json.loads((folder / "task.json").read_text())
    values["times"] = values.pop("horizons")
    (folder / "task.json").write_text(json.dumps(values | {"schema_version": -1}))
    (folder / "head").rename(folder / "alignment")  # a folder that may be there
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def rename_times(copy):
        values = json.loads((copy / "task.json").read_text())
        values["horizons"] = values.pop("times")
        (copy / "task.json").write_text(json.dumps(values))

    def move_head(copy):
        assert "horizons" in json.loads((copy / "task.json").read_text())  # the first step is done
        (copy / "alignment").rename(copy / "head")

    known = {-1: rename_times, 0: move_head}
    monkeypatch.setattr(loading, "up_to_date", lambda folder: migrations.up_to_date(folder, known))
    migrated = fm_med.load(folder)
    assert migrated.folder == folder and migrated.horizons == newest.horizons
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    one, two = (m.predict(recordings(), clinical=CLINICAL) for m in (migrated, newest))
    for name, values in two.items():
        np.testing.assert_array_equal(one[name], values)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"schema_version -1, fm_med .* reads 1: save it anew"):
        fm_med.load(folder)
    with pytest.raises(InputError, match="schema_version -1"), up_to_date(folder, {0: move_head}):
        pass


def test_a_model_without_a_schema_is_given_as_it_is(tmp_path):
    with up_to_date(tmp_path) as folder:  # a foreign checkpoint
        assert folder == tmp_path
