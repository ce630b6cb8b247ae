"""What must not leave the house, planted one by one; and what may."""

import json
import shutil

import pytest
from hub_models import pretrained
from safetensors.torch import load_file, save_file

from fm_med.errors import InputError
from fm_med.hub.guard import model_files, refuse_traces
from fm_med.hub.traces import Traces, find_traces

REPORT = "Sinus rhythm. Old inferior infarct, seen by Dr Example. Otherwise unremarkable."
KNOWN = Traces(
    ids=frozenset({"a0000017", "4711081", "ward 7/Smith", "records100/00001_lr", "00001_lr"}),
    short_ids=frozenset({"512", "17"}),
    reports=(
        tuple(
            "sinus rhythm old inferior infarct seen by dr example otherwise unremarkable".split()
        ),
        ("normal", "ecg"),
        tuple("atrial flutter with block".split()),
    ),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("guard") / "run")


@pytest.fixture
def folder(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    return tmp_path / "model"


def check(folder, known=KNOWN):
    refuse_traces(folder, {name: folder / name for name in model_files(folder)}, known)


def test_a_model_as_it_was_saved_may_go(folder):
    check(folder)


# --------------------------------------------------------------------------- Files by their name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "is a pickle"),
        ("head/clf.pkl", "is a pickle"),
        ("signals.npy", "may hold signals"),
        ("predictions.csv", "may hold signals, rows or predictions"),
        ("figure.png", "may hold signals"),
        ("notes.docx", "is no file of a model"),
        ("modeling_mine.py", "is no file of a model"),
        (".DS_Store", "is no file of a model"),
        ("elsewhere/config.json", "is no file of a model"),
    ],
)
def test_a_foreign_file_is_refused_by_name(folder, name, message):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message) as caught:
        check(folder)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["README.md", "head"])
def test_a_link_is_refused(folder, tmp_path, name):
    target = tmp_path / "secret"
    target.mkdir()
    (folder / name).symlink_to(target)
    with pytest.raises(InputError, match=f"{name} is a link"):
        check(folder)


def test_many_problems_are_one_line(folder):
    for number in range(5):
        (folder / f"{number}.npy").touch()
    with pytest.raises(InputError, match="0.npy .*2.npy .*; and 2 more$"):
        check(folder)


def test_what_is_no_model_is_not_shared(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        model_files(tmp_path / "absent")
    with pytest.raises(InputError, match="neither config.json nor adapter_config.json"):
        model_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"\x80\x04\x95 a pickle", "something else than safetensors"),
        ("model.safetensors", b"", "something else than safetensors"),
        ("config.json", b"{", "no valid JSON"),
        ("config.json", b"\xff\xfe", "no valid JSON"),
        ("README.md", b"\xff\xfe", "something else than text"),
    ],
)
def test_a_file_is_what_its_name_says(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} holds {message}"):
        check(folder)


def test_the_notes_in_a_weight_file_are_read(folder):
    file = folder / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "trained_on": "a0000017"})
    with pytest.raises(InputError, match="model.safetensors holds the id 'a0000017'"):
        check(folder)


# ---------------------------------------------------------------------------- What a text tells


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient a0000017 did well", "the id 'a0000017'"),
        ("as in a0000017.", "the id 'a0000017'"),
        ("4711081", "the id '4711081'"),
        ("files/00001_lr", "the id '00001_lr'"),
        ("see ward 7/Smith", "the id 'ward 7/Smith'"),
        ("Patient 512 died", "the id '512'"),
        ("subject_id: 17", "the id '17'"),
        ("recorded 2019-03-12", "the date '2019-03-12'"),
        ("am 12.03.2019", "the date '12.03.2019'"),
        ("on 3/12/2019", "the date"),
        ("20190312", "the date"),
        ("12 March 2019", "the date"),
        ("12. März 2019", "the date"),
        ("Mar 12th, 2019", "the date"),
        ("1987-12-31T08:00", "the date"),
        ("OLD  inferior\ninfarct, seen by Dr. Example!", "text of a report, 'old inferior infarct"),
        ("an atrial flutter with block", "text of a report, 'atrial flutter with block'"),
        ("trained on /home/anna/cohort", "the path '/home/anna'"),
        (r"from C:\data", "the path"),
        ("file:///srv/models/x", "the path"),
        ("token hf_abcdefghijklmnopqrstuvwxyz", "an access token"),
    ],
)
def test_a_trace_in_a_text_is_found(folder, text, message):
    (folder / "README.md").write_text(f"# Model\n\n{text}\n")
    with pytest.raises(InputError, match="README.md holds ") as caught:
        check(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "512 samples, 17 leads, a width of 512",
        "250 persons; 512 persons; Persons: 17",
        "torch 2.13.0, tzdata 2025.1.2, version 1.2.2019a",
        "a normal ECG",  # two words are no report
        "5.3.2019.1",
        "a0000018, a00000171, 47110812",
        "sinus rhythm and an old infarct",
        "https://huggingface.co/data/sets and and/or org/name",
        "Copyright 2026",
        "January 2004, http://www.apache.org/licenses/",
    ],
)
def test_everyday_text_is_let_through(text):
    assert not list(find_traces(text, None, KNOWN))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"best": ["a0000017"]}, "the id"),
        ({"subject_ids": [1, 2]}, "ids under the key 'subject_ids'"),
        ({"a": [{"patient_id": 3}]}, "ids under the key 'patient_id'"),
        ({"MRN": "x"}, "ids under the key 'MRN'"),
        ({"note": "sch\u00f6n am 12. M\u00e4rz 2019"}, "the date"),
        ({"begin": 20190312}, "the date"),
        ({"encoder": "/anywhere/at/all"}, "the path '/anywhere/at/all'"),
        ({"encoder": "../runs/x/model"}, "the path"),
        ({"encoder": "~/model"}, "the path"),
        ({"levels": [REPORT]}, "text of a report"),
        ({"old inferior infarct seen by dr": 1}, "text of a report"),
    ],
)
def test_a_trace_in_json_is_found(folder, values, message):
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    with pytest.raises(InputError, match="config.json holds ") as caught:
        check(folder)
    assert message in str(caught.value)


def test_numbers_of_a_config_are_nobody(folder):
    config = folder / "config.json"
    values = {"hidden_size": 512, "layers": [17, 512], "persons": 512, "subject_id": None}
    config.write_text(json.dumps(values))
    check(folder)


def test_the_ids_and_reports_of_a_cohort_are_known(tmp_path):
    from fm_med.cohort import open_cohort
    from fm_med.sources.simulated import make_simulated

    cohort = open_cohort(make_simulated(tmp_path / "cohort", subjects=20, seed=4, workers=1))
    known = Traces.of(cohort, secrets=["s3cret"])
    for split in cohort.splits:
        assert set(cohort.column(split, "subject_id")) <= known.ids
        assert set(cohort.column(split, "record_id")) <= known.ids
        for report in cohort.column(split, "report"):
            told = list(find_traces(f"He had: {report}", None, known))
            assert told or len(report.split()) < 4 or len(report) < 25
    assert list(find_traces("s3cret", None, known)) == ["an access token"]
    assert not list(find_traces("a small model of simulated persons", None, known))
