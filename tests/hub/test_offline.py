"""With HF_HUB_OFFLINE=1 nothing touches a network: pretrain, finetune, evaluate, predict, share.

The models go from one to the next through a folder as Hub. Python's own look-ups and connections
are counted by an audit hook; what is local (AF_UNIX, 127.0.0.1, as a rendezvous of several
processes would be) is counted by itself.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_models import pretrained

from fm_med.cohort import open_cohort
from fm_med.sources.simulated import make_simulated
from fm_med.text.train import train_text_model

HERE = Path(__file__).parent.parent
WATCH = """
import sys
met = {"look-ups": [], "sockets": [], "local": []}
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = str(arguments[0])
        met["local" if host in ("localhost", "127.0.0.1", "::1") else "look-ups"].append(host)
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        address = arguments[1]
        is_local = isinstance(address, (str, bytes)) or str(address[0]) in ("127.0.0.1", "::1")
        met["local" if is_local else "sockets"].append(str(address))
sys.addaudithook(watch)
"""
SELF_TEST = """
import socket
for call in (lambda: socket.getaddrinfo("huggingface.co", 443),
             lambda: socket.socket().connect(("192.0.2.1", 9))):
    socket.setdefaulttimeout(0.01)
    try:
        call()
    except OSError:
        pass
socket.setdefaulttimeout(None)
socket.getaddrinfo("127.0.0.1", 80)
counted = {name: len(seen) for name, seen in met.items()}
for seen in met.values():
    seen.clear()
"""
RUN = """
import json
from in_process import launch
from fm_med import cli
cohort, bert, share = "cohort", "bert", "file://" + sys.argv[1] + "/share"
short = ("--num_epochs", 1, "--per_device_batch_size", 32, "--cohort", cohort)
status = {
    "pretrain": launch("ecg_pretrain", *short, "--text_encoder", bert, "--encoder", "first/model",
                       "--output", "pretrain", "--push_to_hub", share + "/encoder"),
    "finetune": launch("finetune", *short, "--encoder", share + "/encoder", "--peft", "lora",
                       "--save_adapter", "--output", "risk", "--push_to_hub", share + "/risk"),
    "evaluate": launch("evaluate", "--model", share + "/risk", "--cohort", cohort,
                       "--output", "evaluated"),
    "predict": cli.main(["predict", share + "/risk", "--cohort", cohort, "--output", "told.csv"]),
    "pull": cli.main(["pull", share + "/risk", "pulled"]),
    "refused": launch("finetune", *short, "--output", "other", "--push_to_hub", "clinic/risk"),
}
print(json.dumps({"counted": counted, "status": status, "met": met}), file=sys.__stdout__)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    home = tmp_path_factory.mktemp("offline")
    make_simulated(home / "cohort", subjects=90, seed=5, event_share=0.5, workers=1)
    pretrained(home / "first")
    reports = open_cohort(home / "cohort").column("train", "report")
    train_text_model(reports, home / "bert", num_epochs=0, hidden_size=32, layers=1, progress=False)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FM_MED"))}
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf"), "PYTHONPATH": str(HERE)}
    settings |= {"FM_MED_CACHE": str(home / "cache"), "HF_TOKEN": "hf_" + "a" * 34}
    process = subprocess.run(
        [sys.executable, "-c", WATCH + SELF_TEST + RUN, str(home)],
        capture_output=True,
        text=True,
        cwd=home,
        env=kept | settings,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr
    return home, json.loads(process.stdout.splitlines()[-1]), process.stderr


def test_nothing_is_looked_up_and_nobody_is_called(done):
    _, told, _ = done
    assert told["counted"] == {"look-ups": 1, "sockets": 1, "local": 1}  # it does count
    assert told["met"]["look-ups"] == [] and told["met"]["sockets"] == []
    assert told["met"]["local"] == []  # one process needs no rendezvous either


def test_all_of_it_was_done(done):
    home, told, errors = done
    refused = told["status"].pop("refused")
    assert set(told["status"].values()) == {0}, errors
    assert refused == 2 and not (home / "other").exists()
    assert "error: --push_to_hub clinic/risk: HF_HUB_OFFLINE is set" in errors
    assert (home / "evaluated" / "report.html").is_file() and (home / "told.csv").is_file()


def test_a_folder_as_hub_holds_what_was_pushed(done):
    home, _, _ = done
    for run, name in (("pretrain", "encoder"), ("risk", "risk")):
        pushed = home / "share" / name
        here = home / run / "model" / "model.safetensors"
        assert (pushed / "model.safetensors").read_bytes() == here.read_bytes()
        assert str(home) not in (pushed / "README.md").read_text()
        settings = yaml.safe_load((home / run / "config.yaml").read_text())
        assert settings["push_to_hub"] == f"file://{home}/share/{name}"
    task = json.loads((home / "share" / "risk" / "task.json").read_text())
    assert task["training"]["encoder"] == "a local folder"
