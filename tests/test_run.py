"""A run's folder: what is written, what is refused, and how a cut run goes on."""

import json
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from torch import nn

from fm_med.errors import InputError
from fm_med.optim import WeightAverage
from fm_med.run import Run, describe_environment
from fm_med.settings import setting


@dataclass
class Config:
    learning_rate: float = setting(1e-3, "rate")
    num_epochs: int = setting(3, "epochs")
    cohort: str = setting("simulated", "data")
    resume: bool = setting(False, "go on")


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True, mixed_precision="no")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def begin(tmp_path, accelerator):
    """Return a function that makes a run in one folder and starts it."""

    def make(config=None, **options):
        run = Run(tmp_path / "out", config or Config(), accelerator, **options)
        run.start()
        return run

    return make


def trained(run, seed=0, decay=0.0):
    """Tell the run what it trains: a small model with a step behind it."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).square().mean().backward()
    optimizer.step()
    run.trains(model, optimizer, WeightAverage(model, decay), keep=2)
    return model


# ----------------------------------------------------------------------------- What is written


def test_nothing_is_written_before_the_start(tmp_path, accelerator):
    Run(tmp_path / "deep" / "out", Config(), accelerator)
    assert not list(tmp_path.iterdir())


def test_the_start_writes_settings_and_environment(tmp_path, accelerator):
    run = Run(tmp_path / "out", Config(), accelerator)
    run.reads(cohort="abc", text_encoder="def")
    run.start()
    assert (tmp_path / "out" / "config.yaml").read_text() == (
        "learning_rate: 0.001\nnum_epochs: 3\ncohort: simulated\nresume: false\n"
    )
    environment = json.loads((tmp_path / "out" / "env.json").read_text())
    assert environment.pop("data") == {"cohort": "abc", "text_encoder": "def"}
    assert environment == describe_environment(accelerator)
    assert (environment["num_processes"], environment["device"]) == (1, "cpu")
    assert environment["mixed_precision"] == "no"
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["versions"]["numpy"] == np.__version__


def test_rows_are_logged_and_nan_becomes_null(tmp_path, begin):
    run = begin()
    assert run.history() == []
    run.log(1, loss=0.5, epoch=0)
    run.log(2, loss=float("nan"), norm=float("inf"), low=-float("inf"), note="a")
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert lines[1] == '{"step": 2, "loss": null, "norm": null, "low": null, "note": "a"}'
    expected = {"step": 2, "loss": None, "norm": None, "low": None, "note": "a"}
    assert run.history() == [{"step": 1, "loss": 0.5, "epoch": 0}, expected]


def test_messages_go_to_standard_output(begin, capsys):
    run = begin()
    capsys.readouterr()
    run.say("98 pairs")
    assert capsys.readouterr().out == "98 pairs\n"


# -------------------------------------------------------------------------------- Refusals


def test_a_filled_folder_is_refused(tmp_path, begin):
    begin()
    with pytest.raises(InputError, match="out is not empty; choose another --output"):
        begin()


def test_a_file_as_output_is_refused(tmp_path, begin):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        begin()
    assert (tmp_path / "out").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path, begin):
    (tmp_path / "out").mkdir()
    begin()


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused(tmp_path, begin, tracker, monkeypatch):
    from importlib import metadata

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(InputError, match=rf"--tracker {tracker} needs .* pip install 'fm-med\["):
        begin(tracker=tracker)
    assert not (tmp_path / "out").exists()


def test_a_tracker_gets_settings_and_numbers(begin, accelerator, monkeypatch):
    seen = []
    monkeypatch.setattr("fm_med.run.refuse_missing_tracker", lambda tracker: None)
    monkeypatch.setattr(accelerator, "init_trackers", lambda name, config: seen.append(config))
    monkeypatch.setattr(accelerator, "log", lambda values, step: seen.append((step, values)))
    tracker = SimpleNamespace(finish=lambda: seen.append("end"))
    monkeypatch.setattr(accelerator, "trackers", [tracker])
    run = begin(tracker="tensorboard")
    run.log(4, loss=0.5, note="text")
    run.finish()
    settings = {"learning_rate": 1e-3, "num_epochs": 3, "cohort": "simulated", "resume": False}
    assert seen == [settings, (4, {"loss": 0.5}), "end"]


# ---------------------------------------------------------------------------------- Going on


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(learning_rate=2e-3), "learning_rate was 0.001 and is now 0.002"),
        (Config(cohort="b", learning_rate=2.0), "is now 2.0; cohort was 'simulated' and is now"),
    ],
)
def test_changed_settings_are_refused_by_name(begin, config, message):
    begin()
    with pytest.raises(InputError, match=message):
        begin(config, resume=True)


def test_settings_that_change_only_the_length_may_differ(begin):
    begin()
    begin(Config(num_epochs=9, resume=True), resume=True)


def test_another_content_under_the_same_name_is_refused(tmp_path, accelerator):
    def run(resume, **content):
        run = Run(tmp_path / "out", Config(), accelerator, resume=resume)
        run.reads(**content)
        return run

    run(False, cohort="abc", text_encoder="def").start()
    before = (tmp_path / "out" / "env.json").read_text()
    run(True, cohort="abc", text_encoder="def").start()
    for content, message in (
        ({"cohort": "xyz", "text_encoder": "def"}, "its cohort was abc and is now xyz"),
        ({"cohort": "abc", "text_encoder": "xyz"}, "its text encoder was def and is now xyz"),
    ):
        with pytest.raises(InputError, match=f"cannot resume .*out: the content of {message}"):
            run(True, **content)
    assert (tmp_path / "out" / "env.json").read_text() == before


def test_a_checkpoint_of_another_run_is_refused_by_name(begin, tmp_path):
    run = begin()
    trained(run)
    run.save(2, {"step": 2})
    own = tmp_path / "out" / "checkpoints" / "step-000002"
    manifest = json.loads((own / "checkpoint.json").read_text())
    assert manifest["state"]["run"]["learning_rate"] == 1e-3
    foreign = own.with_name("step-000009")
    shutil.copytree(own, foreign)
    manifest["state"]["run"]["learning_rate"] = 0.5
    (foreign / "checkpoint.json").write_text(json.dumps(manifest))
    again = begin(resume=True)
    trained(again)
    message = "step-000009 is a checkpoint of another run: learning_rate 0.5 instead of 0.001"
    with pytest.raises(InputError, match=message):
        again.resume({})
    (foreign / "checkpoint.json").write_text("torn")
    assert again.resume({}) == (2, {"step": 2})


def test_a_run_folder_may_be_moved(tmp_path, accelerator):
    @dataclass
    class Placed:
        output: str = setting("out", "folder")
        seed: int = setting(0, "seed")

    Run(tmp_path / "out", Placed(), accelerator).start()
    (tmp_path / "out").rename(tmp_path / "moved")
    Run(tmp_path / "moved", Placed(output="moved"), accelerator, resume=True).start()


@pytest.mark.parametrize(
    "fault",
    [OSError(28, "No space left on device"), OSError(30, "Read-only"), SafetensorError("I/O")],
)
def test_a_disk_that_refuses_a_result_is_told_in_one_line(begin, fault):
    run = begin()
    with (
        pytest.raises(InputError, match=r"the report could .* run again with --resume") as caught,
        run.writing("the report"),
    ):
        raise fault
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError), run.writing("the report"):  # a fault of ours
        raise FileNotFoundError(2, "No such file")


def test_an_output_that_cannot_be_made_is_told_in_one_line(tmp_path, accelerator):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output .*file/out cannot be written: .*Not a directory"):
        Run(tmp_path / "file" / "out", Config(), accelerator).start()


def test_resuming_what_never_began_is_refused(tmp_path, begin):
    with pytest.raises(InputError, match="there is no run to resume in .*no config.yaml"):
        begin(resume=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_resumed_run_has_weights_state_and_log_of_its_checkpoint(begin, tmp_path, decay):
    run = begin()
    model = trained(run, decay=decay)
    for step in (1, 2, 3):
        run.log(step, loss=step / 2)
        if step == 2:
            run.save(2, {"step": 2, "validation_loss": 0.25})
    with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # cut while it was written
    saved = {name: value.clone() for name, value in model.state_dict().items()}

    again = begin(resume=True)
    other = trained(again, seed=1, decay=decay)
    assert not torch.equal(other.weight, saved["weight"])
    step, state = again.resume({"step": 0, "validation_loss": float("inf")})
    assert (step, state) == (2, {"step": 2, "validation_loss": 0.25})
    assert all(torch.equal(value, saved[name]) for name, value in other.state_dict().items())
    assert again.history() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}]


def test_a_run_cut_before_its_first_checkpoint_begins_anew(begin):
    begin().log(1, loss=1.0)
    run = begin(resume=True)
    trained(run)
    assert run.resume({"step": 0}) == (0, {"step": 0})
    assert run.history() == []


# ------------------------------------------------------------------------------ Not a number


@pytest.mark.parametrize(
    ("loss", "norm", "fine"),
    [
        (1.0, 2.0, True),
        (float("nan"), 2.0, False),
        (1.0, float("inf"), False),
        (float("-inf"), 1.0, False),
    ],
)
def test_a_step_that_is_not_finite_is_not_taken(begin, loss, norm, fine):
    assert begin().is_finite(loss, norm) is fine


def test_a_run_that_stops_names_the_recordings_and_can_go_on(begin, tmp_path):
    run = begin()
    trained(run)
    run.log(6, loss=1.0)
    records = [f"r{number}" for number in range(20)]
    with pytest.raises(InputError, match="step 7 has loss nan") as caught:
        run.stop(6, {"step": 0}, loss=float("nan"), norm=1.0, records=records)
    message = str(caught.value)
    assert "r0, r1" in message and "r15 and 4 more" in message and "\n" not in message
    assert (tmp_path / "out" / "checkpoints" / "step-000006").is_dir()
    assert run.history()[-1]["records"] == records
    again = begin(resume=True)
    trained(again, seed=1)
    assert again.resume({})[0] == 6
    assert again.history() == [{"step": 6, "loss": 1.0}]
