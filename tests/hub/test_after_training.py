"""`--push_to_hub`: refused before the training, done after it, and the very revisions written down.

The real client in a process of its own trains with an encoder of the Hub and pushes the result.
"""

import json
import shutil

import pytest
import yaml
from hub_client import USERS, Client
from hub_models import pretrained
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file

from fm_med.errors import InputError
from fm_med.hub import after_training, pinned
from fm_med.hub.after_training import refuse_unpushable
from fm_med.sources.simulated import make_simulated

FINETUNE = """
import sys
sys.path[:0] = [{tests!r}]
from in_process import launch
try:
    value = launch("finetune", *{words!r})
except SystemExit as end:
    value = end.code
"""


class World:
    """A Hub with an encoder, a cohort, and somebody who trains."""

    def __init__(self, hub, client, home):
        self.hub, self.client, self.home = hub, client, home

    def finetune(self, output, *words, **options):
        given = ("--cohort", self.home / "cohort", "--encoder", "clinic/encoder", "--peft", "lora")
        given += ("--num_epochs", "1", "--per_device_batch_size", "32", "--refit", "false")
        given += ("--save_adapter", "--output", self.home / output)
        argv = [str(word) for word in (*given, *words)]
        code = FINETUNE.format(tests=str(self.tests), words=argv)
        answer = self.client.ask(code, **{"token": next(iter(USERS))} | options)
        assert answer["error"] is None, answer["error"]
        return answer["value"], answer["out"], answer["err"]


@pytest.fixture(scope="module")
def world(tmp_path_factory, request):
    home = tmp_path_factory.mktemp("after")
    make_simulated(home / "cohort", subjects=60, seed=4, event_share=0.5, workers=1)
    encoder = pretrained(home / "pretrain")
    with LoopbackHub(USERS) as hub, Client(hub.url, home / "client") as client:
        client.run("import time; time.sleep = lambda seconds: None")
        world = World(hub, client, home)
        world.tests = request.path.parent.parent
        assert client.fm_med("push", encoder, "clinic/encoder")[0] == 0
        world.commit = hub.repository("clinic/encoder").branches["main"]
        world.done = world.finetune("risk", "--push_to_hub", "clinic/risk")
        yield world


def read(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_model_is_pushed_privately(world):
    status, out, _ = world.done
    repository = world.hub.repository("clinic/risk")
    assert status == 0 and repository.private and repository.branches["main"] in out
    pushed, here = world.hub.files("clinic/risk"), read(world.home / "risk" / "model")
    assert pushed.keys() | {"adapter/README.md"} == here.keys()  # an empty form of PEFT's
    assert pushed["model.safetensors"] == here["model.safetensors"]
    assert pushed["README.md"] == here["README.md"]
    assert f"Began with: `clinic/encoder`, revision {world.commit}" in pushed["README.md"].decode()


def test_the_revision_of_the_encoder_is_written_down(world):
    settings = yaml.safe_load((world.home / "risk" / "config.yaml").read_text())
    assert settings["encoder"] == f"clinic/encoder@{world.commit}"
    pushed = world.hub.files("clinic/risk")
    training = json.loads(pushed["task.json"])["training"]
    assert training["encoder"] == f"clinic/encoder@{world.commit}"
    adapter = json.loads(pushed["adapter/adapter_config.json"])
    stated = adapter["base_model_name_or_path"], adapter["revision"]
    assert stated == ("clinic/encoder", world.commit)


def test_a_resumed_run_reads_the_revision_that_it_began_with(world):
    encoder = world.home / "other"
    shutil.copytree(world.home / "pretrain" / "model", encoder)
    file = encoder / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert world.client.fm_med("push", encoder, "clinic/encoder")[0] == 0
    weights = (world.home / "risk" / "model" / "model.safetensors").read_bytes()
    status, _, error = world.finetune("risk", "--resume")
    assert status == 0, error
    settings = yaml.safe_load((world.home / "risk" / "config.yaml").read_text())
    assert settings["encoder"] == f"clinic/encoder@{world.commit}"
    assert (world.home / "risk" / "model" / "model.safetensors").read_bytes() == weights
    status, _, error = world.finetune("risk", "--resume", "--encoder", "clinic/another")
    assert status == 2 and "with changed settings: encoder was" in error


def test_a_failed_upload_keeps_the_model_and_says_how_to_go_on(world):
    world.hub.fail("POST /api/models/.*/commit/", 500, times=99)
    words = ("--resume", "--push_to_hub", "clinic/failed")
    status, out, _ = world.finetune("risk", *words)
    world.hub.faults.clear()
    folder = world.home / "risk" / "model"
    assert "\n" not in status and status.startswith("error: not pushed (")  # SystemExit: status 1
    assert status.endswith(f"push it later with: fm-med push {folder} clinic/failed")
    assert (folder / "model.safetensors").is_file() and f"model {folder}" in out
    assert world.hub.files("clinic/failed") == {}
    assert world.client.fm_med("push", folder, "clinic/failed")[0] == 0
    assert world.hub.files("clinic/failed").keys() == world.hub.files("clinic/risk").keys()


def test_no_token_is_told_before_the_training(world):
    asked = len(world.hub.log)
    status, _, error = world.finetune("new", "--push_to_hub", "clinic/new", token=None)
    assert status == 2 and "error: --push_to_hub clinic/new: the Hub wants a token" in error
    assert not (world.home / "new").exists() and len(world.hub.log) == asked


# ------------------------------------------------------------------------- Without any Hub


@pytest.mark.parametrize("name", ["risk", "a/b/c", "clinic/", "clinic/ri sk", ""])
def test_a_name_that_is_none_is_refused(name, monkeypatch):
    monkeypatch.setattr(after_training.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(after_training, "get_token", lambda: "token")
    with pytest.raises(InputError, match="no name of a model on the Hub, organisation/name"):
        refuse_unpushable(name)


def test_offline_and_without_a_token_only_folders_are_pushed_to(monkeypatch, tmp_path):
    monkeypatch.setattr(after_training, "get_token", lambda: None)
    for offline, message in ((True, "HF_HUB_OFFLINE is set"), (False, "wants a token")):
        monkeypatch.setattr(after_training.constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(InputError, match=message):
            refuse_unpushable("clinic/risk")
        for name in (None, str(tmp_path / "x"), "file:///srv/models/clinic/risk", "./x"):
            refuse_unpushable(name)


def test_what_has_no_revision_is_not_pinned(tmp_path):
    for name in (None, "vit1d", "vit1d+tabm", str(tmp_path), f"file://{tmp_path}", "./x/y"):
        assert pinned(name) == name
