"""The doctor finds what is wrong, says what to do, and keeps the token to itself."""

import json
import socket
import sys

import pytest

from fm_med import cli, doctor

TOKEN = "hf_neverToBeSeenNeverToBeSeenNever"


@pytest.fixture(autouse=True)
def token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("FM_MED_CACHE", str(tmp_path / "cache"))


def of(topic, findings=None):
    return [f for f in (findings or doctor.examine()) if f.topic == topic]


def test_a_healthy_place(capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err
    for text in ("Python 3", "torch 2", "not needed", "HF_HUB_OFFLINE is set", "GB free"):
        assert text in printed.out, text
    assert "there is one, in the environment" in printed.out


def test_json_for_programs(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {"topic", "state", "found", "advice"} == findings[0].keys()
    assert {"python", "packages", "torchvision", "devices", "hub", "token", "disk"} <= {
        finding["topic"] for finding in findings
    }


def test_a_torchvision_of_another_build_is_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert cli.main(["doctor"]) == 2
    printed = capsys.readouterr()
    assert "pip uninstall torchvision" in printed.out
    assert printed.err.startswith("error: torchvision: ") and printed.err.count("\n") == 1
    assert "operator torchvision::nms does not exist" in printed.err
    assert TOKEN not in printed.out + printed.err and "torchvision" not in sys.modules


def test_a_torchvision_that_fits_is_let_be(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    [finding] = list(doctor._torchvision())
    assert finding.state == "ok" and "can be imported" in finding.found


def test_missing_and_old_packages_are_named(monkeypatch):
    needed = ["numpy>=99", "no-such-package>=1", "pyarrow", "mypy; extra == 'dev'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: needed)
    findings = list(doctor._packages())
    assert [finding.state for finding in findings] == ["problem", "problem", "ok"]
    assert "needed numpy>=99" in findings[0].found
    assert findings[1].advice == "pip install 'no-such-package>=1'"


@pytest.fixture
def online(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor, "_SECONDS", 0.3)

    def at(address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        [finding] = list(doctor._hub())
        return finding

    return at


def test_whether_the_hub_answers(online):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        finding = online(f"http://anna:secret@127.0.0.1:{port}/hub")
        assert finding.state == "ok" and "secret" not in finding.found
    finding = online(f"http://127.0.0.1:{port}")
    assert finding.state == "warning" and "cannot be reached" in finding.found
    assert "HF_HUB_OFFLINE=1" in finding.advice
    assert online("somewhere").state == "problem"


def test_a_name_that_is_looked_up_for_ever_is_given_up(online, monkeypatch):
    import threading

    hangs = threading.Event()

    def wait(*_, **__):
        hangs.wait(5)
        raise OSError("too late")

    monkeypatch.setattr(doctor.socket, "create_connection", wait)
    finding = online("http://hub.example")
    hangs.set()
    assert finding.state == "warning" and "no answer in time" in finding.found


def test_cache_and_disk(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FM_MED_CACHE", str(tmp_path / "file" / "cache"))
    finding = list(doctor._cache())[1]
    assert finding.state == "problem" and "FM_MED_CACHE" in finding.advice
    monkeypatch.setenv("FM_MED_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "_NEEDED_GB", 1e9)
    assert next(doctor._disk()).state == "warning"
