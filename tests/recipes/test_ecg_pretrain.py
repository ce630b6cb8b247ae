"""The pretraining recipe as its user meets it: what a run leaves behind, and what one can do next.

The data are tiny: these tests say that everything works together, not how well it learns.
"""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from in_process import REPOSITORY, launch
from safetensors.torch import load_file

import fm_med
from fm_med import hub
from fm_med.ecg.leads import LEADS
from fm_med.ecg.recording import Recording
from fm_med.ecg.records import read_recording
from fm_med.ecg.simulate import simulate

NAMES = [
    "zero_shot.macro_auroc",
    "linear_probe.macro_auroc",
    "linear_probe_random.macro_auroc",
    "difference.linear_probe_random.macro_auroc",
    "retrieval.recall_at_1",
    "retrieval.recall_at_10",
    "retrieval.signal_from_report_recall_at_1",
    "embedding.mean_pairwise_cosine",
    "embedding.effective_rank",
]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def leaves(node, name=""):
    """Yield (dotted name, leaf) of a nested metrics.json."""
    if "value" in node:
        yield name, node
        return
    for key, value in node.items():
        yield from leaves(value, f"{name}.{key}".lstrip("."))


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ------------------------------------------------------------------------------ What a run leaves


def test_the_run_folder_is_laid_out_as_documented(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"config.yaml", "env.json", "metrics.jsonl", "checkpoints", "model", "report"}
    assert {path.name for path in (finished.folder / "report").iterdir()} == {
        "metrics.json",
        "report.html",
    }
    model = {path.name for path in (finished.folder / "model").iterdir()}
    assert model >= {"config.json", "model.safetensors", "preprocessor_config.json", "alignment"}
    checkpoints = {path.name for path in (finished.folder / "checkpoints").iterdir()}
    assert f"step-{2 * finished.steps:06d}" in checkpoints
    assert any(re.fullmatch(r"best-\d{6}\.safetensors", name) for name in checkpoints)


def test_settings_and_environment_are_written_down(finished, simulated, bert):
    settings = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert settings["cohort"] == str(simulated)
    assert settings["text_encoder"] == str(bert)
    assert settings["num_epochs"] == 2
    assert settings["learning_rate"] == 1e-3  # the defaults, too
    environment = json.loads((finished.folder / "env.json").read_text())
    assert environment["num_processes"] == 1
    assert environment["device"]
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["versions"]["fm-med"] == fm_med.__version__


def test_every_step_and_every_epoch_are_logged(finished):
    rows = rows_of(finished.folder)
    steps = [row for row in rows if "loss" in row]
    epochs = [row for row in rows if "validation_loss" in row]
    each = finished.steps
    assert [row["step"] for row in steps] == list(range(1, 2 * each + 1))
    assert [row["epoch"] for row in steps] == [0] * each + [1] * each
    assert [row["step"] for row in epochs] == [each, 2 * each]
    assert all({"grad_norm", "samples_per_second", "data_wait"} <= row.keys() for row in steps)
    wanted = {"recall_at_1", "recall_at_10", "mean_pairwise_cosine", "effective_rank"}
    assert all(wanted <= row.keys() for row in epochs)
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_every_metric_has_an_interval_and_a_count(finished):
    metrics = json.loads((finished.folder / "report" / "metrics.json").read_text())
    found = dict(leaves(metrics))
    assert set(NAMES) <= found.keys()
    for name, leaf in found.items():
        assert set(leaf) - {"reason"} == {"value", "low", "high", "n"}, name
        assert leaf["n"] > 0
        if leaf["value"] is None:  # a label that no test recording has
            assert leaf["reason"] and name.count("per_label")
        else:
            assert leaf["low"] <= leaf["value"] <= leaf["high"] or leaf["reason"], name
    assert found["linear_probe.macro_auroc"]["n"] == 24  # persons, not recordings


def test_the_report_opens_without_a_network(finished):
    page = (finished.folder / "report" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert "ECG-report pretraining" in page
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"'#][^"']*)|url\(([^)]*)\)|@import""", page)
    outside = [a or b for a, b in loaded if not (a or b).strip("'\"").startswith(("data:", "#"))]
    assert outside == []
    assert "<script src" not in page


def test_it_tells_the_main_results_and_nothing_on_stderr_is_an_error(finished):
    steps = 2 * finished.steps
    assert f"{finished.pairs} pairs, 16 per step on 1 process(es), {steps} steps" in finished.stdout
    assert "zero-shot macro AUROC" in finished.stdout
    assert "linear probe macro AUROC" in finished.stdout
    assert "rror" not in finished.stderr


def test_the_best_weights_are_what_is_saved(finished):
    best = sorted((finished.folder / "checkpoints").glob("best-*"))[-1]
    towers = load_file(best)
    encoder = load_file(finished.folder / "model" / "model.safetensors")
    heads = load_file(finished.folder / "model" / "alignment" / "model.safetensors")
    assert all(torch.equal(value, towers[f"encoder.{name}"]) for name, value in encoder.items())
    assert all(torch.equal(value, towers[f"heads.{name}"]) for name, value in heads.items())
    assert len(encoder) + len(heads) == len(towers)
    rows = [row for row in rows_of(finished.folder) if "validation_loss" in row]
    lowest = min(rows, key=lambda row: row["validation_loss"])
    assert best.stem == f"best-{lowest['step']:06d}"


# ------------------------------------------------------------------------------------ Once more


def test_a_filled_output_is_refused_and_left_alone(finished, capsys):
    before = content(finished.folder)
    assert launch("ecg_pretrain", *finished.argv, "--output", finished.folder) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: output") and "--resume" in error and error.count("\n") == 1
    assert content(finished.folder) == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--learning_rate", 3e-4), "learning_rate was 0.001 and is now 0.0003"),
        (("--per_device_batch_size", 8), "per_device_batch_size was 16 and is now 8"),
        (("--objective", "siglip"), "objective was 'infonce' and is now 'siglip'"),
    ],
)
def test_resuming_with_another_setting_is_refused_by_name(finished, capsys, flags, named):
    before = content(finished.folder)
    argv = (*finished.argv, *flags, "--output", finished.folder, "--resume")
    assert launch("ecg_pretrain", *argv) == 2
    error = capsys.readouterr().err
    assert named in error and error.startswith("error: ") and error.count("\n") == 1
    assert content(finished.folder) == before


@pytest.mark.parametrize("name", ["cohort", "text_encoder"])
def test_resuming_with_another_content_is_refused(finished, capsys, name):
    """As if cohort or text model had been made anew under the same name."""
    saved = finished.folder / "env.json"
    as_it_was = saved.read_text()
    environment = json.loads(as_it_was)
    now, environment["data"][name] = environment["data"][name], "another"
    saved.write_text(json.dumps(environment))
    try:
        before = content(finished.folder)
        argv = (*finished.argv, "--output", finished.folder, "--resume")
        assert launch("ecg_pretrain", *argv) == 2
        error = capsys.readouterr().err
        assert f"{name.replace('_', ' ')} was another and is now {now}" in error
        assert error.startswith("error: cannot resume") and error.count("\n") == 1
        assert content(finished.folder) == before
    finally:
        saved.write_text(as_it_was)


def test_resuming_where_nothing_is_is_refused(tmp_path, finished, capsys):
    argv = (*finished.argv, "--output", tmp_path / "none", "--resume")
    assert launch("ecg_pretrain", *argv) == 2
    assert "there is no run to resume" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_killed_run_ends_with_the_same_weights(finished, from_shell, capsys):
    """SIGKILL in the middle, `--resume`, and again on the finished run: bit for bit the same."""
    folder = finished.folder.with_name("killed")
    argv = (*finished.argv, "--checkpoint_every", 2, "--output", folder)
    process = subprocess.Popen(
        from_shell(*argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if rows.exists() and rows.read_text().count("\n") >= 5:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "model").exists()

    whole = content(finished.folder / "model")
    logged = [
        {name: row.get(name) for name in ("step", "loss", "validation_loss")}
        for row in rows_of(finished.folder)
    ]
    for _ in range(2):
        assert launch("ecg_pretrain", *argv, "--resume") == 0
        assert "resuming" in capsys.readouterr().out
        assert content(folder / "model") == whole
        rows = rows_of(folder)
        assert [{name: row.get(name) for name in logged[0]} for row in rows] == logged
    metrics = [run / "report" / "metrics.json" for run in (folder, finished.folder)]
    assert metrics[0].read_text() == metrics[1].read_text()


# ------------------------------------------------------------------------------------- Variants


@pytest.fixture
def variant(coded, bert, tmp_path, capsys):
    """Return a function that runs one epoch on the coded cohort and returns the run's folder."""

    def run(*flags, text_encoder=bert):
        argv = ("--cohort", coded, "--text_encoder", text_encoder, "--num_epochs", 1)
        argv += ("--per_device_batch_size", 16, "--output", tmp_path / "run")
        assert launch("ecg_pretrain", *argv, *flags) == 0, capsys.readouterr().err
        return tmp_path / "run"

    return run


def test_statements_of_scp_codes_as_text(variant):
    folder = variant("--text_source", "statements")
    config = json.loads((folder / "model" / "alignment" / "config.json").read_text())
    assert config["text"]["source"] == "statements"
    metrics = json.loads((folder / "report" / "metrics.json").read_text())
    assert set(metrics["zero_shot"]["per_label"]) == {"NORM", "MI", "STTC", "CD", "HYP"}
    assert 0 <= metrics["zero_shot"]["macro_auroc"]["value"] <= 1
    assert "normal ECG" in (folder / "report" / "report.html").read_text()


def test_sigmoid_loss_with_reconstruction_in_micro_batches(variant):
    flags = ("--objective", "siglip", "--reconstruction_weight", 0.5, "--micro_batch_size", 8)
    folder = variant(*flags)
    model = fm_med.load(folder / "model")
    assert model.alignment.config.sigmoid
    assert {"logit_scale", "logit_bias"} == model.alignment.temperature().keys()
    best = next((folder / "checkpoints").glob("best-*"))
    trained = {name.split(".")[0] for name in load_file(best)}
    assert trained == {"encoder", "heads", "decoder"}  # the decoder is not part of the model
    assert not [name for name in load_file(folder / "model" / "model.safetensors") if "dec" in name]


def test_a_decoder_language_model_and_what_the_process_had(variant, llama, monkeypatch):
    """Also: the model that is loaded gives, bit for bit, what the trained one in memory gave."""
    recordings = [simulate(3, seed=5).recording(row) for row in range(3)]
    in_memory = {}
    original = hub.save

    def saved(folder, *, encoder, processor, **rest):
        with torch.inference_mode():
            in_memory["features"] = encoder.eval()(**processor(recordings)).pooler_output.numpy()
        original(folder, encoder=encoder, processor=processor, **rest)

    monkeypatch.setattr(hub, "save", saved)
    flags = ("--text_pooling", "last", "--text_prompt", "Represent this report: ")
    folder = variant(*flags, "--shuffle_reports", text_encoder=llama)
    config = json.loads((folder / "model" / "alignment" / "config.json").read_text())
    assert config["text_dim"] == 32
    assert config["text"]["pooling"] == "last"
    assert config["text"]["prompt"] == "Represent this report: "
    found = fm_med.load(folder / "model").embed(recordings)
    np.testing.assert_array_equal(found, in_memory["features"])


def test_an_earlier_encoder_goes_on(variant, finished):
    """With a learning rate of zero the new run must end with the weights it started from."""
    start = finished.folder / "model"
    folder = variant("--encoder", start, "--learning_rate", 0.0)
    before, after = (load_file(path / "model.safetensors") for path in (start, folder / "model"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_real_recordings_of_ptbxl(real_data, tmp_path, bert, capsys):
    """The first 120 recordings of PTB-XL, converted and trained on by the documented commands."""
    from fm_med.cli import main

    source = real_data("ptbxl_500")
    copy = tmp_path / "ptbxl"
    copy.mkdir()
    (copy / "records100").symlink_to(source / "records100")
    (copy / "scp_statements.csv").write_bytes((source / "scp_statements.csv").read_bytes())
    lines = (source / "ptbxl_database.csv").read_text().splitlines(keepends=True)
    (copy / "ptbxl_database.csv").write_text("".join(lines[:121]))
    argv = ["cohort", "ptbxl", copy, tmp_path / "cohort", "--workers", 1, "--allow_duplicates"]
    assert main([str(word) for word in argv]) == 0, capsys.readouterr().err
    argv = ("--cohort", tmp_path / "cohort", "--text_encoder", bert, "--num_epochs", 1)
    argv += ("--per_device_batch_size", 32, "--text_source", "statements")
    assert launch("ecg_pretrain", *argv, "--output", tmp_path / "run") == 0
    metrics = json.loads((tmp_path / "run" / "report" / "metrics.json").read_text())
    assert {"zero_shot", "linear_probe", "linear_probe_random"} <= metrics.keys()


# ------------------------------------------------------------------------------------ Afterwards


BY_HAND = """
import sys
import numpy as np
import fm_med
from fm_med.ecg.simulate import simulate

recordings = [simulate(4, seed=5).recording(row) for row in range(4)]
if sys.argv[1] == "load":
    features = fm_med.load(sys.argv[2]).embed(recordings)
else:
    import torch
    import fm_med.auto
    from transformers import AutoFeatureExtractor, AutoModel

    encoder = AutoModel.from_pretrained(sys.argv[2])
    processor = AutoFeatureExtractor.from_pretrained(sys.argv[2])
    assert not encoder.training
    with torch.inference_mode():
        features = encoder(**processor(recordings)).pooler_output.numpy()
np.save(sys.argv[3], features)
"""


def test_fresh_processes_load_the_same_model(finished, tmp_path):
    recordings = [simulate(4, seed=5).recording(row) for row in range(4)]
    expected = fm_med.load(finished.folder / "model").embed(recordings)
    assert expected.shape == (4, 512) and np.ptp(expected, axis=0).max() > 0
    for way in ("load", "auto"):
        argv = [way, str(finished.folder / "model"), str(tmp_path / f"{way}.npy")]
        subprocess.run(
            [sys.executable, "-W", "error", "-c", BY_HAND, *argv], check=True, cwd=tmp_path
        )
        np.testing.assert_array_equal(np.load(tmp_path / f"{way}.npy"), expected)


def cosine(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def assert_same_recordings(one, other, *, share=0.25):
    """Each row is close to its own copy, and far closer to it than to any other recording.

    The second matters: embeddings of a hardly trained encoder all have a cosine near 1.
    """
    assert cosine(one, other).min() > 0.99
    apart = np.linalg.norm(one[:, None] - other[None], axis=2)
    own = np.diag(apart).copy()
    np.fill_diagonal(apart, np.inf)
    assert (own < share * apart.min(1)).all(), (own, apart.min(1))


def decimated(recording):
    """The same ECG at a fifth of its rate, low-passed first by an independent implementation."""
    from scipy.signal import resample_poly

    signal = resample_poly(recording.signal.astype(float), 1, 5, axis=1).astype(np.float32)
    rate = recording.sampling_rate / 5
    return Recording(signal, rate, recording.lead_mask, 0, recording.resolution)


def test_rate_and_order_of_leads_do_not_matter(finished, tmp_path):
    model = fm_med.load(finished.folder / "model")
    batch = simulate(12, seed=7, sampling_rate=500)
    whole = [row for row in range(len(batch)) if batch.lead_mask[row].all()]
    recordings = [batch.recording(row) for row in whole]
    fast = model.embed(recordings)
    assert_same_recordings(fast, model.embed([decimated(recording) for recording in recordings]))

    shuffled = []
    for number, recording in enumerate(recordings):
        order = np.random.default_rng(number).permutation(12)
        np.save(tmp_path / f"{number}.npy", recording.signal[order])
        header = {"sampling_rate": 500, "leads": [LEADS[lead] for lead in order], "units": "mV"}
        (tmp_path / f"{number}.json").write_text(json.dumps(header))
        shuffled.append(read_recording(tmp_path / f"{number}.npy"))
    assert_same_recordings(fast, model.embed(shuffled))


def test_real_recordings_at_both_rates(finished, real_data):
    """PTB-XL's 100 Hz files were made from the 500 Hz ones by its authors, with their own filter.

    So the two files of a recording are not the same signal resampled, and near the band's upper
    edge they differ; each must still be far closer to its twin than to anybody else.
    """
    folder = real_data("ptbxl_500")
    model = fm_med.load(finished.folder / "model")
    fast = sorted(folder.glob("records500/*/*_hr.hea"))[:30]
    slow = [
        folder / "records100" / path.parent.name / path.name.replace("_hr", "_lr") for path in fast
    ]
    one, other = (model.embed([read_recording(path) for path in paths]) for paths in (fast, slow))
    assert_same_recordings(one, other, share=0.5)


# ------------------------------------------------------------------------------------ In a moment


@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--learning_rat=1e-3", 2)])
def test_help_and_a_typo_answer_without_torch(tmp_path, flag, status):
    """A prefix of a flag is a typo as well: it must not start a run of minutes."""
    script = str(REPOSITORY / "recipes" / "ecg_pretrain.py")
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['ecg_pretrain.py', {flag!r}]\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    heavy = [m for m in ('torch', 'transformers', 'pandas') if m in sys.modules]\n"
        "    print(end.code, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == f"{status} []", done.stderr
    if status:
        assert done.stderr == (
            "error: unknown setting 'learning_rat'; did you mean 'learning_rate'?\n"
        )
    else:
        assert "--per_device_batch_size" in done.stdout and "Pretrain an ECG encoder" in done.stdout
