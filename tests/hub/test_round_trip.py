"""Pushed, pulled into an empty cache by a fresh process: the same numbers, bit for bit."""

import warnings

import pytest
from hub_client import USERS, Client
from hub_models import adapted, predictions, pretrained
from loopback_hub import LoopbackHub

from fm_med.cohort import open_cohort
from fm_med.sources.simulated import make_simulated

NAMES = ("clinic/encoder", "clinic/adapter", "clinic/risk")
PREDICT = f"from hub_models import predictions\nvalue = predictions(*{NAMES!r})"
WATCH = """
import sys
met = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        met.append(f"{event} {arguments[1:]}")
sys.addaudithook(watch)
sys.met = met
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A Hub with three pushed models, their folders, and the home of one who pulled them."""
    folder = tmp_path_factory.mktemp("trip")
    cohort = open_cohort(make_simulated(folder / "cohort", subjects=40, seed=4, workers=1))
    encoder = pretrained(folder / "pretrain")
    risk = adapted(folder / "risk", encoder, cohort)
    with LoopbackHub(USERS) as hub:
        owner = Client(hub.url, folder / "owner")
        for source, name in zip((encoder, risk / "adapter", risk), NAMES):
            base = [] if source == encoder else ["--base", NAMES[0]]
            done = owner.fm_med("push", source, name, *base)
            assert done[0] == 0, done
        hub.objects.clear()
        hub.before_storage = owner.process.kill  # when the first large file has arrived
        with pytest.raises(ValueError):  # no answer
            owner.fm_med("push", encoder, "clinic/killed")
        hub.before_storage = None
        owner.__exit__()
        with Client(hub.url, folder / "colleague", HF_DEBUG="1") as colleague:
            pulled = colleague.run(PREDICT)
            killed = hub.files("clinic/killed")
            status, _, _ = colleague.fm_med("push", encoder, "clinic/killed")
        assert status == 0 and killed == {}
        yield hub, (encoder, risk / "adapter", risk), folder / "colleague", pulled


def test_every_way_of_loading_gives_the_same_numbers(world):
    _, folders, _, pulled = world
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pulled == predictions(*folders)
    assert pulled["encoder"] == pulled["auto"] != pulled["peft"]
    assert pulled["adapter"] == pulled["risk"]


def test_offline_nothing_touches_the_network(world):
    hub, _, home, pulled = world
    asked = len(hub.log)
    with Client(hub.url, home, HF_HUB_OFFLINE="1") as offline:
        offline.run(WATCH)
        offline.run("import socket; socket.getaddrinfo('127.0.0.1', 80)")
        assert offline.run("import sys; value = len(sys.met)") == 1  # it does count
        assert offline.run(PREDICT) == pulled
        status, _, _ = offline.fm_med("pull", NAMES[2], home / "copy")
        assert status == 0
        status, _, error = offline.fm_med("push", home / "copy", "clinic/other")
        assert status == 2 and "HF_HUB_OFFLINE is set" in error
        status, _, error = offline.fm_med("pull", "clinic/unknown", home / "other")
        assert status == 2 and "HF_HUB_OFFLINE is set" in error
        status, out, _ = offline.fm_med("doctor")
        assert status == 0 and "HF_HUB_OFFLINE is set" in out
        assert offline.run("import sys; value = sys.met[1:]") == []
    assert len(hub.log) == asked


def test_a_push_killed_half_way_and_repeated_is_whole_and_single(world):
    hub, (encoder, _, _), _, _ = world
    files = {p.relative_to(encoder).as_posix(): p for p in encoder.rglob("*") if p.is_file()}
    found = hub.files("clinic/killed")
    assert found == {name: path.read_bytes() for name, path in files.items()}
    assert len(hub.repository("clinic/killed").commits) == 2


def test_the_clients_debug_log_shows_its_requests_but_no_token(world):
    home = world[2]
    log = (home / "stderr-0.txt").read_text()  # Client looked for tokens in it
    assert "(authenticated: True)" in log
