"""Energy is told where the machine counts it, and nothing is made up where it does not."""

import sys
import time
from types import SimpleNamespace

import pytest
import torch

from fm_med import usage
from fm_med.usage import Usage, energy_text


def zone(folder, name, joules, whole=262143.0):
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (place / "max_energy_range_uj").write_text(f"{int(whole * 1e6)}\n")


def test_processors_are_summed_without_their_parts(tmp_path):
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(tmp_path, name, 100)
    found = Usage(tmp_path)
    zone(tmp_path, "intel-rapl:0", 3700)
    zone(tmp_path, "intel-rapl:1", 3700)
    zone(tmp_path, "intel-rapl:0:0", 3000)
    spent = found.spent()
    assert spent["energy_kwh"] == {"cpu": 0.002} and spent["minutes"] < 1


def test_a_counter_that_begins_anew_is_followed(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900, whole=1000)
    found = Usage(tmp_path)
    for joules in (950, 50, 100):  # 50, 100, 50
        zone(tmp_path, "intel-rapl:0", joules, whole=1000)
        found.update(now=True)
    assert found.spent()["energy_kwh"]["cpu"] == pytest.approx(200 / 3.6e6, rel=1e-2)


def test_it_is_read_rarely(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", 0)
    found, reads = Usage(tmp_path), []
    monkeypatch.setattr(found, "_counters", lambda: reads.append(1) or dict(found._last))
    clock = time.monotonic()
    for seconds in (1, 5, 25, 30, 50):
        monkeypatch.setattr(usage.time, "monotonic", lambda s=seconds: clock + s)
        found.update()
    assert len(reads) == 2


def test_without_counters_nothing_is_told(tmp_path, monkeypatch):
    assert set(Usage(tmp_path / "absent").spent()) == {"minutes"}
    zone(tmp_path, "intel-rapl:0", 5)
    monkeypatch.setattr(usage, "_number", lambda path: None)  # for root alone
    assert set(Usage(tmp_path).spent()) == {"minutes"}
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "2")  # the other process is on another machine
    assert set(Usage(tmp_path).spent()) == {"minutes"}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert set(Usage(tmp_path).spent()) == {"minutes", "energy_kwh"}
    assert energy_text(None) == "not measured"


def fake_nvml(counts):
    class NVMLError(Exception):
        pass

    def consumption(handle):
        if counts is None:
            raise NVMLError
        return counts.pop(0)

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=consumption,
    )


@pytest.mark.parametrize("counts", [[0, 1000, 3_601_000], None])
def test_gpus_are_asked_where_nvml_is_there(tmp_path, monkeypatch, counts):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(counts))
    monkeypatch.setattr(usage, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    uuid = SimpleNamespace(uuid="a-b")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: uuid)
    spent = Usage(tmp_path).spent()
    if counts is None:
        assert "energy_kwh" not in spent
    else:
        assert spent["energy_kwh"] == {"gpu": 0.001}
        told = energy_text(spent["energy_kwh"])
        assert told.startswith("GPUs 0.001 kWh, as counted by this machine")
