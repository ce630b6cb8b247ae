"""Bad input: one line that begins with `error:`, status 2, and nothing half-written.

Each case runs through the same functions as the command itself, in this process; two go through a
real shell command to see that nothing else is printed.
"""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from in_process import RECIPES, launch

from fm_med.cli import main
from fm_med.cohort import open_cohort
from fm_med.sources.simulated import make_simulated
from fm_med.text.train import train_text_model

NAMES = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
FRANK = ["VX", "VY", "VZ"]
SAMPLES = 1000
FM_MED = Path(sys.executable).with_name("fm-med")  # the installed command


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad-input")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FM_MED_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def cohort(place):
    return make_simulated(place / "cohort", subjects=20, workers=1)


@pytest.fixture(scope="module")
def bert(place, cohort):
    reports = open_cohort(cohort).column("train", "report")
    options = {"num_epochs": 0, "hidden_size": 32, "layers": 1, "progress": False}
    return train_text_model(reports, place / "bert", **options)


def the_error(capsys, status):
    """Check status and form of a refusal; return the line."""
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.startswith("error: ")
    assert error.endswith("\n") and error.count("\n") == 1
    return error


# --------------------------------------------------------------------------------- The recipe


def two_splits(cohort, bert, folder):
    """A cohort whose first person of the training split is also in the test split."""
    changed = rewritten(cohort, folder / "leaking", "test", move_person(cohort))
    return ["--cohort", changed, "--text_encoder", bert]


def move_person(cohort):
    person = open_cohort(cohort).column("train", "subject_id")[0]

    def change(table):
        names = [person, *table.column("subject_id").to_pylist()[1:]]
        place = table.schema.get_field_index("subject_id")
        return table.set_column(place, table.schema.field("subject_id"), pa.array(names))

    return change


def without_reports(cohort, bert, folder):
    changed = folder / "silent"
    for split in ("train", "validation", "test"):
        rewritten(cohort, changed, split, lambda table: table.drop_columns(["report"]))
    return ["--cohort", changed, "--text_encoder", bert]


def only_blank_reports(cohort, bert, folder):
    def blank(table):
        place = table.schema.get_field_index("report")
        nothing = pa.array([" \n "] * table.num_rows)
        return table.set_column(place, table.schema.field("report"), nothing)

    changed = rewritten(cohort, folder / "blank", "train", blank)
    return ["--cohort", changed, "--text_encoder", bert]


def rewritten(cohort, folder, split, change):
    """Copy a cohort and write one split anew, as somebody with pyarrow would."""
    if not folder.exists():
        (folder / "data").mkdir(parents=True)
        for path in [*cohort.glob("*.*"), *cohort.glob("data/*")]:
            (folder / path.relative_to(cohort)).write_bytes(path.read_bytes())
    path = next((folder / "data").glob(f"{split}-*.arrow"))
    table = change(pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all())
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    return folder


def plain(*flags):
    """Return a case that needs nothing prepared; words in braces are the fixtures' folders."""

    def arguments(cohort, bert, folder):
        places = {"cohort": cohort, "bert": bert, "folder": folder}
        return [str(flag).format(**places) for flag in flags]

    return arguments


GOOD = ("--cohort", "{cohort}", "--text_encoder", "{bert}")
RECIPE_CASES = {
    "missing cohort": (plain("--cohort", "{folder}/absent"), "no cohort at"),
    "no cohort in the folder": (plain("--cohort", "{bert}"), "bert"),
    "unknown flag": (plain(*GOOD, "--epochs", 3), "unknown setting 'epochs'"),
    "prefix of a flag": (plain(*GOOD, "--num_epoch", 3), "did you mean 'num_epochs'"),
    "wrong type": (plain(*GOOD, "--learning_rate", "fast"), "learning_rate"),
    "wrong choice": (plain(*GOOD, "--objective", "mse"), "infonce"),
    "missing preset": (plain("--config", "{folder}/absent.yaml"), "absent.yaml"),
    "unknown text model, offline": (
        plain("--cohort", "{cohort}", "--text_encoder", "nobody/absent"),
        "the text model nobody/absent is not in the local Hugging Face cache",
    ),
    "text model that is no id": (
        plain("--cohort", "{cohort}", "--text_encoder", "no such/thing at/all"),
        "neither a folder here nor a valid Hugging Face Hub id",
    ),
    "text model that is no folder": (
        plain("--cohort", "{cohort}", "--text_encoder", "{folder}/absent"),
        "is not a folder",
    ),
    "folder that is no text model": (
        plain("--cohort", "{cohort}", "--text_encoder", "{cohort}"),
        "holds no Hugging Face model",
    ),
    "unknown encoder, offline": (plain(*GOOD, "--encoder", "resnet2d"), "resnet2d is no encoder"),
    "folder that is no encoder": (plain(*GOOD, "--encoder", "{bert}"), "is not a model of fm_med"),
    "unknown label set": (plain(*GOOD, "--labels", "rhythm"), "has no label set 'rhythm'"),
    "missing prompts": (plain(*GOOD, "--prompts", "{folder}/absent.json"), "absent.json"),
    "no codes for statements": (plain(*GOOD, "--text_source", "statements"), "'scp_codes'"),
    "tracker that is not installed": (plain(*GOOD, "--tracker", "trackio"), "trackio"),
    "batch of no rows": (plain(*GOOD, "--per_device_batch_size", 0), "batch"),
    "micro-batch of no rows": (plain(*GOOD, "--micro_batch_size", 0), "micro_batch_size"),
    "rate that the filter does not fit": (plain(*GOOD, "--sampling_rate", 20), "rate"),
    "subject in two splits": (two_splits, "subject(s) are in more than one split"),
    "cohort without reports": (without_reports, "no column 'report'"),
    "cohort with blank reports": (only_blank_reports, "no recording of the split 'train' has a"),
}


@pytest.mark.parametrize("case", RECIPE_CASES)
def test_the_recipe_refuses_and_leaves_nothing(case, cohort, bert, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = RECIPE_CASES[case]
    argv = arguments(cohort, bert, tmp_path)
    before = set(tmp_path.rglob("*"))
    status = launch("ecg_pretrain", *argv, "--output", tmp_path / "runs" / "out")
    assert message in the_error(capsys, status)
    assert set(tmp_path.rglob("*")) == before


def test_a_filled_output_stays_as_it_was(cohort, bert, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    argv = ("--cohort", cohort, "--text_encoder", bert, "--output", tmp_path)
    assert f"output {tmp_path} is not empty" in the_error(capsys, launch("ecg_pretrain", *argv))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([RECIPES / "ecg_pretrain.py", "--cohort", "absent"], "error: no cohort at absent"),
        ([FM_MED, "cohort", "check", "absent"], "error: cohort absent: no cohort at absent"),
    ],
    ids=["recipe", "fm-med"],
)
def test_from_a_shell(tmp_path, command, message):
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------- Recordings


def write_record(folder, name, *, leads=NAMES, unit="mV", signal=None):
    """Write a format-16 WFDB record by hand, 1000 units per unit of voltage."""
    if signal is None:
        seed = sum(map(ord, name))
        signal = np.random.default_rng(seed).integers(-800, 800, (len(leads), SAMPLES))
    codes = signal.astype("<i2")
    lines = [f"{name} {len(leads)} 100 {SAMPLES}"]
    for lead, row in zip(leads, codes):
        total = int(row.sum(dtype=np.int64)) % 65536
        lines.append(f"{name}.dat 16 1000(0)/{unit} 16 0 {row[0]} {total} 0 {lead}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    (folder / f"{name}.dat").write_bytes(codes.T.tobytes())
    return codes


def no_signal_file(folder, name):
    write_record(folder, name)
    (folder / f"{name}.dat").unlink()


def truncated(folder, name):
    write_record(folder, name)
    path = folder / f"{name}.dat"
    path.write_bytes(path.read_bytes()[:-24])


def unknown_unit(folder, name):
    write_record(folder, name, unit="mmHg")


def missing_altogether(folder, name):
    folder.mkdir(parents=True, exist_ok=True)


def empty_header(folder, name):
    write_record(folder, name)
    (folder / f"{name}.hea").write_text("")


def changed_signal(folder, name):
    write_record(folder, name)
    path = folder / f"{name}.dat"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))


def every_lead_missing(folder, name):
    write_record(folder, name, signal=np.full((12, SAMPLES), -32768))


def claims_terabytes(folder, name):
    write_record(folder, name)
    path = folder / f"{name}.hea"
    path.write_text(path.read_text().replace(f" 100 {SAMPLES}", " 100 99999999999", 1))


def no_standard_lead(folder, name):
    write_record(folder, name, leads=FRANK)


BAD_RECORDS = {
    no_signal_file: "bad.dat",
    truncated: "bytes",
    unknown_unit: "'mmHg'; expected mV, V or",
    missing_altogether: "no such record",
    empty_header: "bad.hea",
    changed_signal: "checksum",
    every_lead_missing: "every lead is empty",
    claims_terabytes: "at most",
    no_standard_lead: "no standard lead among its signals (VX, VY, VZ)",
}


def convert(folder, records):
    """Run `fm-med cohort ecg` on these records, one person each; return its status."""
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["patient", "file", "text", "part"])
        for number, (name, split) in enumerate(records.items()):
            rows.writerow([f"p{number}", name, f"sinus rhythm {number}", split])
    argv = ["cohort", "ecg", folder / "cohort", "--table", folder / "table.csv"]
    argv += ["--records", folder / "records", "--subject", "patient", "--path", "file"]
    argv += ["--report", "text", "--split", "part", "--workers", 1]
    return main([str(word) for word in argv])


@pytest.mark.parametrize("spoil", BAD_RECORDS, ids=lambda spoil: spoil.__name__)
def test_one_bad_record_is_left_out_and_listed(spoil, tmp_path, capsys):
    spoil(tmp_path / "records", "bad")
    for name in ("a", "b", "c"):
        write_record(tmp_path / "records", name)
    splits = {"a": "train", "bad": "train", "b": "validation", "c": "test"}
    assert convert(tmp_path, splits) == 0
    printed = capsys.readouterr()
    assert "skipped 1 (see skipped.csv), first: bad" in printed.out and printed.err == ""
    with (tmp_path / "cohort" / "skipped.csv").open(newline="") as file:
        (skipped,) = csv.DictReader(file)
    assert skipped["record_id"] == "bad"
    assert BAD_RECORDS[spoil] in skipped["reason"]
    assert open_cohort(tmp_path / "cohort").column("train", "record_id") == ["a"]


@pytest.mark.parametrize("spoil", BAD_RECORDS, ids=lambda spoil: spoil.__name__)
def test_a_table_of_bad_records_is_refused(spoil, tmp_path, capsys):
    spoil(tmp_path / "records", "bad")
    status = convert(tmp_path, {"bad": "train"})
    error = the_error(capsys, status)
    assert "none of 1 recordings could be used, first bad: " in error
    assert BAD_RECORDS[spoil] in error
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "records"}


@pytest.fixture
def stored(tmp_path, capsys):
    """Return a function that converts one odd record and gives its stored row, and its codes."""

    def row(**options):
        codes = write_record(tmp_path / "records", "odd", **options)
        for name in ("b", "c"):
            write_record(tmp_path / "records", name)
        splits = {"odd": "train", "b": "validation", "c": "test"}
        assert convert(tmp_path, splits) == 0, capsys.readouterr().err
        found = open_cohort(tmp_path / "cohort").rows("train", np.array([0])).to_pylist()[0]
        signal = np.frombuffer(found["signal"], "<i2").reshape(12, -1).astype(float)
        millivolt = signal * np.array(found["gain"])[:, None]
        return found["lead_mask"], millivolt, codes

    return row


def test_a_lead_without_any_sample_is_absent(stored):
    signal = np.random.default_rng(1).integers(-800, 800, (12, SAMPLES))
    signal[7] = -32768  # format 16's code of a missing sample
    mask, millivolt, codes = stored(signal=signal)
    assert mask == [lead != 7 for lead in range(12)]
    present = np.array(mask)
    np.testing.assert_allclose(millivolt[present], codes[present] / 1000, atol=1e-6)


def test_fifteen_leads_give_the_twelve(stored):
    order = FRANK[:1] + NAMES[::-1] + FRANK[1:]
    mask, millivolt, codes = stored(leads=order)
    assert all(mask)
    expected = codes[[order.index(name) for name in NAMES]] / 1000
    np.testing.assert_allclose(millivolt, expected, atol=1e-6)


def test_one_lead_is_enough(stored):
    mask, millivolt, codes = stored(leads=["II"])
    assert mask == [name == "II" for name in NAMES]
    np.testing.assert_allclose(millivolt[1], codes[0] / 1000, atol=1e-6)


def test_a_recording_of_one_lead_can_be_embedded(tmp_path):
    """From a file with lead II alone to finite features, through reader, processor and encoder."""
    import torch

    from fm_med.ecg.records import read_recording
    from fm_med.hub import start_encoder

    write_record(tmp_path, "one", leads=["II"])
    encoder, processor = start_encoder("dual_attention", sampling_rate=100.0, seconds=10.0)
    inputs = processor(read_recording(tmp_path / "one"))
    assert inputs["lead_mask"].sum() == 1
    with torch.inference_mode():
        assert encoder.eval()(**inputs).pooler_output.isfinite().all()
