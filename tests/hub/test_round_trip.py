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
        with Client(hub.url, folder / "owner") as owner:
            for source, name in zip((encoder, risk / "adapter", risk), NAMES):
                base = [] if source == encoder else ["--base", NAMES[0]]
                done = owner.fm_med("push", source, name, *base)
                assert done[0] == 0, done
        with Client(hub.url, folder / "colleague") as colleague:
            pulled = colleague.run(PREDICT)
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
