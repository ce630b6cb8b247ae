"""A folder as Hub, for closed networks."""

import json
import shutil

import numpy as np
import pytest
from hub_models import CLINICAL, RECORDINGS, adapted, pretrained

import fm_med
from fm_med import hub
from fm_med.cli.hub import training_cohort
from fm_med.cohort import open_cohort
from fm_med.errors import InputError
from fm_med.hub.fetching import folder_named, without_secrets
from fm_med.hub.staging import is_local
from fm_med.sources.simulated import make_simulated
from fm_med.survival.baseline import breslow_baseline


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("folders")
    cohort = open_cohort(make_simulated(home / "cohort", subjects=40, seed=4, workers=1))
    encoder = pretrained(home / "pretrain")
    return encoder, adapted(home / "risk", encoder, cohort), cohort


def read(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def same_predictions(first, second):
    one, two = (fm_med.load(f).predict(RECORDINGS, clinical=CLINICAL) for f in (first, second))
    assert one.keys() == two.keys() == {"log_hazard", "risk_12_months", "risk_36_months"}
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_push_load_and_pull(made, tmp_path, form):
    _, risk, cohort = made
    target = tmp_path / "share with blanks" / "risk"
    name = form.format(str(target).replace(" ", "%20") if "file" in form else target)
    pushed = hub.push(risk, name, cohort=cohort)
    assert pushed.changed and pushed.where == str(target) and pushed.left_out == ("adapter",)
    same_predictions(risk, name)
    assert hub.pull(name, tmp_path / "mine") == ""
    same_predictions(risk, tmp_path / "mine")
    assert read(tmp_path / "mine") == read(target)
    assert not hub.push(risk, name, cohort=cohort).changed
    assert [path.name for path in target.parent.iterdir()] == ["risk"]  # nothing left over


def test_an_older_model_is_replaced_whole(made, tmp_path):
    encoder, risk, _ = made
    hub.push(risk, str(tmp_path / "model"))
    hub.push(encoder, str(tmp_path / "model"))
    assert not (tmp_path / "model" / "head").exists()
    assert fm_med.load(tmp_path / "model").head is None


def test_something_else_is_not_replaced(made, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"something else than a model \(thesis.tex\)"):
        hub.push(made[0], str(tmp_path))
    with pytest.raises(InputError, match="is a file"):
        hub.push(made[0], str(tmp_path / "thesis.tex"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_disk_that_refuses_keeps_the_older_model(made, tmp_path, monkeypatch):
    hub.push(made[0], str(tmp_path / "model"))
    before = read(tmp_path / "model")
    replace = type(tmp_path).replace

    def full(self, target):
        if target == tmp_path / "model":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", full)
    with pytest.raises(InputError, match="cannot be written: .*No space left"):
        hub.push(made[1], str(tmp_path / "model"))
    assert read(tmp_path / "model") == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_adapter_may_name_an_encoder_on_the_same_share(made, tmp_path):
    encoder, risk, _ = made
    share = f"file://{tmp_path}/encoder"
    with pytest.raises(InputError, match="--base organisation/name"):
        hub.push(risk / "adapter", str(tmp_path / "adapter"))
    hub.push(encoder, share)
    hub.push(risk / "adapter", str(tmp_path / "adapter"), base=share)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == share
    same_predictions(risk, tmp_path / "adapter")


def test_an_adapter_without_processor_and_head_is_an_encoder(made, tmp_path):
    encoder, risk, _ = made
    shutil.copytree(risk.parent / "adapter", tmp_path / "adapter")  # no more than PEFT's files
    loaded = fm_med.load(tmp_path / "adapter")
    np.testing.assert_array_equal(loaded.embed(RECORDINGS), fm_med.load(risk).embed(RECORDINGS))
    assert loaded.processor.to_dict() == fm_med.load(encoder).processor.to_dict()
    (tmp_path / "adapter" / "adapter_base.json").unlink()
    with pytest.raises(InputError, match="there is no adapter_base.json, which says what weights"):
        hub.push(tmp_path / "adapter", str(tmp_path / "share"), base=f"file://{encoder}")


def test_a_folder_has_no_revisions(made, tmp_path):
    with pytest.raises(InputError, match="has no revision 'v2'"):
        hub.push(made[0], str(tmp_path / "model"), revision="v2")
    with pytest.raises(InputError, match="has no revision 'v2'"):
        hub.pull(str(made[0]), tmp_path / "model", revision="v2")
    with pytest.raises(InputError, match="there is no folder"):
        hub.pull(f"file://{tmp_path}/absent", tmp_path / "model")
    with pytest.raises(InputError, match="there is no folder"):
        fm_med.load(f"file://{tmp_path}/absent")


def test_only_a_models_files_come_along(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "share")
    (tmp_path / "share" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "share" / "elsewhere").symlink_to(tmp_path)
    hub.pull(str(tmp_path / "share"), tmp_path / "mine")
    assert read(tmp_path / "mine").keys() == read(made[0]).keys()


def test_the_run_names_its_cohort(made, tmp_path, monkeypatch):
    _, risk, cohort = made
    for folder in (risk, risk / "adapter"):
        assert training_cohort(folder, None).fingerprint == cohort.fingerprint
    assert training_cohort(tmp_path, None) is None
    assert training_cohort(tmp_path, str(cohort.path)).fingerprint == cohort.fingerprint
    with pytest.raises(InputError, match="no cohort at"):
        training_cohort(tmp_path, str(tmp_path / "absent"))


def test_names_of_the_hub_and_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "model").mkdir(parents=True)
    for name in ("runs/model", "./x", "../x", "~/x", "/x", "file:///x"):
        assert folder_named(name) is not None and is_local(name), name
    assert folder_named("org/name") is None and not is_local("org/name")
    assert is_local("runs/of/long/ago") and not is_local("dual_attention")


def test_secrets_are_blotted_out(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "tell-nobody")
    text = without_secrets("https://me:pass@host/x with tell-nobody and hf_abcdefghijk")
    assert text == "https://host/x with *** and ***"


def test_event_times_of_patients_stay_at_home(made, tmp_path):
    _, risk, cohort = made
    baseline = fm_med.load(risk).baseline  # events at 1, 3, ... 79 of 80 months
    assert not set(baseline.time) & set(np.arange(1.0, 80.0, 2))
    shutil.copytree(risk, tmp_path / "older")
    file = tmp_path / "older" / "task.json"
    fitted = breslow_baseline(
        np.zeros(80), time=np.arange(1.0, 81.0) - 0.03125, event=np.arange(80) % 2 == 0
    )
    file.write_text(json.dumps(json.loads(file.read_text()) | {"baseline": fitted.to_dict()}))
    hub.push(tmp_path / "older", str(tmp_path / "pushed"), cohort=cohort)
    same_predictions(tmp_path / "older", tmp_path / "pushed")
    pushed = fm_med.load(tmp_path / "pushed").baseline
    assert not set(pushed.time) & set(fitted.time) and pushed.follow_up == 79.9
