import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm_med.counter_random import RowRandom, _mixed, splitmix64
from fm_med.ecg import augment as augment_module
from fm_med.ecg.augment import WANDER_BAND, EcgAugmentation, augment
from fm_med.ecg.distortion import distort_batch
from fm_med.errors import InputError

OFF = {"lead_dropout": 0.0, "noise_mv": 0.0, "wander_mv": 0.0, "scale": 0.0, "crop": 0.0}


def batch(rows=40, samples=500):
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(rows, 12, samples, generator=generator)
    lead_mask = torch.rand(rows, 12, generator=generator) > 0.2
    lead_mask[:, 0] = True
    return {"signal": signal * lead_mask[..., None], "lead_mask": lead_mask}


def only(**strength):
    return EcgAugmentation(**(OFF | strength))


def run(inputs, settings_=None, seed=0, epoch=0, rows=None):
    rows = torch.arange(len(inputs["signal"])) if rows is None else rows
    return augment(
        inputs, settings=settings_ or EcgAugmentation(), seed=seed, epoch=epoch, rows=rows
    )


def test_splitmix64_reference_values():
    """First outputs for the state 1234567, as published with the algorithm."""
    gamma, state, found = 0x9E3779B97F4A7C15, 1234567, []
    for step in range(3):
        value = (state + step * gamma) % 2**64
        signed = value - 2**64 if value >= 2**63 else value
        found.append(splitmix64(torch.tensor([signed])).item() % 2**64)
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(states=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_the_hash_is_the_same_on_every_device(states):
    states = torch.tensor(states, dtype=torch.int64)
    assert torch.equal(splitmix64(states), _mixed(states))


def test_numbers_are_uniform_and_independent():
    random = RowRandom(seed=3, epoch=2, rows=torch.arange(20_000))
    numbers = random.uniform(1, 4).double()
    assert numbers.min() >= 0 and numbers.max() < 1
    assert (numbers.mean(0) - 0.5).abs().max() < 0.01
    other = RowRandom(seed=3, epoch=3, rows=torch.arange(20_000)).uniform(1, 1).double()
    stream = random.uniform(2, 1).double()
    together = torch.cat([numbers, other, stream], dim=1)
    assert (torch.corrcoef(together.T) - torch.eye(6)).abs().max() < 0.03
    assert (torch.corrcoef(torch.stack([numbers[1:, 0], numbers[:-1, 0]]))[0, 1]).abs() < 0.03
    counts = torch.bincount(random.integers(5, 3, 7).flatten(), minlength=7)
    assert (counts / counts.sum() - 1 / 7).abs().max() < 0.01


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(24)),
    cut=st.integers(1, 23),
    seed=st.integers(-(2**63), 2**64),
    epoch=st.integers(0, 10_000),
    shift=st.integers(0, 2**40),
)
def test_a_row_is_augmented_alike_in_any_batch_bit_for_bit(order, cut, seed, epoch, shift):
    inputs = batch(24, 200)
    rows = torch.arange(24) + shift
    whole = run(inputs, seed=seed, epoch=epoch, rows=rows)
    order = torch.tensor(order)
    for part in (order[:cut], order[cut:]):
        piece = {key: value[part] for key, value in inputs.items()}
        again = run(piece, seed=seed, epoch=epoch, rows=rows[part])
        assert torch.equal(again["signal"], whole["signal"][part])
        assert torch.equal(again["lead_mask"], whole["lead_mask"][part])


@pytest.mark.parametrize("crop", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("samples", [1, 7, 1000, 2500])
def test_row_by_row_is_what_the_whole_batch_at_once_is(monkeypatch, crop, samples):
    """The plain form is the one of accelerators; sums are rounded once less row by row."""
    inputs = batch(23, samples)
    strengths = EcgAugmentation(crop=crop)
    rows = run(inputs, strengths)
    assert inputs["signal"].isfinite().all()
    monkeypatch.setattr(augment_module, "distort", distort_batch)
    whole = run(inputs, strengths)
    torch.testing.assert_close(rows["signal"], whole["signal"], rtol=0, atol=1e-6)
    assert torch.equal(rows["lead_mask"], whole["lead_mask"])
    assert ((rows["signal"] == 0) == (whole["signal"] == 0)).all()


def test_what_absent_leads_hold_reaches_no_other_lead():
    """Leads lie one after the other in memory and are moved together."""
    inputs = batch(200)
    hidden = inputs["signal"].masked_fill(~inputs["lead_mask"][..., None], float("nan"))
    out = run(inputs | {"signal": hidden})
    assert torch.equal(out["signal"], run(inputs)["signal"])


def test_other_precisions_keep_theirs():
    inputs = batch(5)
    half = run(inputs | {"signal": inputs["signal"].bfloat16()})["signal"]
    assert half.dtype == torch.bfloat16
    assert (half.float() - run(inputs)["signal"]).abs().max() < 0.05


def test_the_leads_of_a_recording_get_different_noise():
    silent = {"signal": torch.zeros(30, 12, 1000), "lead_mask": torch.ones(30, 12).bool()}
    noise = run(silent, only(noise_mv=0.1))["signal"].double()
    for recording in noise:
        together = torch.corrcoef(recording) - torch.eye(12)
        assert together.abs().max() < 0.15
    across = torch.corrcoef(noise[:, 0]) - torch.eye(30)
    assert across.abs().max() < 0.15


def test_seed_epoch_and_row_each_change_it():
    inputs = batch(2)
    inputs = {
        key: value[:1].expand(2, *value.shape[1:]).contiguous() for key, value in inputs.items()
    }
    first = run(inputs)["signal"]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, run(inputs, seed=1)["signal"])
    assert not torch.equal(first, run(inputs, epoch=1)["signal"])


def test_nothing_switched_on_changes_nothing_and_input_is_untouched():
    inputs = batch()
    before = inputs["signal"].clone()
    out = run(inputs, only())
    assert torch.equal(out["signal"], before) and torch.equal(out["lead_mask"], inputs["lead_mask"])
    run(inputs)
    assert torch.equal(inputs["signal"], before)


def test_lead_dropout_keeps_enough_leads_and_zeroes_the_others():
    inputs = batch(4000, 8)
    present = inputs["lead_mask"].sum(1)
    out = run(inputs, only(lead_dropout=0.5, minimum_leads=3))
    kept = out["lead_mask"].sum(1)
    assert not (out["lead_mask"] & ~inputs["lead_mask"]).any()
    assert (kept >= present.clamp(max=3)).all()
    able = present > 3
    assert ((kept < present)[able].double().mean() - 0.5).abs() < 0.03
    assert not out["signal"][~out["lead_mask"]].any()
    assert torch.equal(out["signal"][out["lead_mask"]], inputs["signal"][out["lead_mask"]])
    full = {"signal": torch.ones(4000, 12, 8), "lead_mask": torch.ones(4000, 12, dtype=torch.bool)}
    kept = run(full, only(lead_dropout=1.0, minimum_leads=1))["lead_mask"]
    assert sorted(kept.sum(1).unique().tolist()) == list(range(1, 12))
    assert (kept.double().mean(0) - 0.5).abs().max() < 0.03  # no lead is dropped more than another
    none_left = {"signal": torch.zeros(2, 12, 8), "lead_mask": torch.zeros(2, 12, dtype=torch.bool)}
    assert not run(none_left, only(lead_dropout=1.0))["lead_mask"].any()


def test_scale_is_one_factor_per_recording():
    inputs = batch(500, 20)
    present = inputs["lead_mask"]
    out = run(inputs, only(scale=0.2))["signal"]
    factor = out.flatten(1).norm(dim=1) / inputs["signal"].flatten(1).norm(dim=1)
    torch.testing.assert_close(out, inputs["signal"] * factor[:, None, None])
    assert 0.8 <= factor.min() < 0.82 and 1.18 < factor.max() <= 1.2001
    assert present.any()


def test_noise_and_wander_have_the_stated_strength_and_band():
    mask = torch.ones(300, 12, dtype=torch.bool)
    mask[:, 5] = False
    silent = {"signal": torch.zeros(300, 12, 3000), "lead_mask": mask}
    noise = run(silent, only(noise_mv=0.1))["signal"]
    wander = run(silent, only(wander_mv=0.1))["signal"]
    for added in (noise, wander):
        assert not added[:, 5].any()
        level = added[mask].square().mean().sqrt()  # RMS of uniform [0, .1] levels
        assert abs(level - 0.1 / np.sqrt(3)) < 0.004
        assert (torch.corrcoef(added[0, :5])[~torch.eye(5, dtype=torch.bool)]).abs().max() < 0.9
    assert noise[mask].square().mean(-1).sqrt().max() < 0.11
    hertz = torch.fft.rfftfreq(3000, 0.01)
    power = torch.fft.rfft(wander[mask] * torch.hann_window(3000)).abs().square().mean(0)
    assert power[hertz > WANDER_BAND[1] + 0.1].sum() < 1e-3 * power.sum()
    white = torch.fft.rfft(noise[mask]).abs().square().mean(0)
    assert white[hertz < 10].mean() / white[hertz > 40].mean() == pytest.approx(1, abs=0.1)


def test_crop_moves_the_whole_recording_and_fills_with_zeros():
    samples, furthest = 200, 40
    inputs = batch(300, samples)
    out = run(inputs, only(crop=0.2))["signal"]
    seen = set()
    for before, after in zip(inputs["signal"].numpy(), out.numpy()):
        matches = []
        for shift in range(-furthest, furthest + 1):
            expected = np.zeros_like(before)
            if shift >= 0:
                expected[:, shift:] = before[:, : samples - shift]
            else:
                expected[:, :shift] = before[:, -shift:]
            if np.array_equal(expected, after):
                matches.append(shift)
        assert len(matches) == 1
        seen.add(matches[0])
    assert min(seen) < -35 and max(seen) > 35 and len(seen) > 60


def test_empty_batch_and_other_entries():
    inputs = batch(0) | {"extra": torch.arange(3)}
    out = run(inputs)
    assert out["signal"].shape == (0, 12, 500) and torch.equal(out["extra"], torch.arange(3))


@pytest.mark.parametrize(
    "strength", [{"lead_dropout": 1.5}, {"noise_mv": -1.0}, {"crop": 0.9}, {"minimum_leads": 0}]
)
def test_strengths_without_meaning_are_refused(strength):
    with pytest.raises(InputError, match=next(iter(strength))):
        EcgAugmentation(**strength)
