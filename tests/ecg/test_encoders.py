"""What ECG encoders owe their callers beyond the contract of every encoder."""

import pytest
import torch
from encoder_examples import build, ecg_signal, pooled_signal

from fm_med.ecg.encoders import ENCODERS
from fm_med.errors import InputError

SAMPLES = 320
every_encoder = pytest.mark.parametrize("name", ENCODERS)


@every_encoder
@pytest.mark.parametrize("samples", [500, 1000, 1234, 5000])
def test_any_length_gives_the_documented_shapes(name, samples):
    encoder = build(name)
    output = encoder(ecg_signal(2, samples), output_hidden_states=True, output_attentions=True)
    assert output.pooler_output.shape == (2, encoder.config.pooled_size)
    assert output.last_hidden_state.shape[0] == 2
    assert output.last_hidden_state.shape[2] == encoder.config.hidden_size
    features = output.hidden_states[-1]
    assert features.shape[0] == 2 and features.shape[2] == encoder.config.time_width
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    without = encoder(ecg_signal(2, samples))
    assert without.hidden_states is None and without.attentions is None
    torch.testing.assert_close(without.pooler_output, output.pooler_output, rtol=1e-4, atol=1e-4)


@every_encoder
def test_what_an_absent_lead_holds_has_no_influence(name):
    encoder, signal = build(name), ecg_signal()
    lead_mask = torch.ones(3, 12, dtype=torch.bool)
    lead_mask[0, 3] = lead_mask[1, :6] = False
    other = signal.masked_fill(~lead_mask[..., None], float("nan"))
    expected = encoder(signal, lead_mask, output_attentions=True, output_hidden_states=True)
    found = encoder(other, lead_mask, output_attentions=True, output_hidden_states=True)
    assert torch.equal(expected.pooler_output, found.pooler_output)
    assert torch.equal(expected.last_hidden_state, found.last_hidden_state)
    for before, after in zip(expected.hidden_states, found.hidden_states):
        assert torch.equal(before, after)
    # ... and the mask is used: the same record with all leads gives something else.
    assert not torch.allclose(pooled_signal(encoder, signal)[:2], expected.pooler_output[:2])
    assert torch.allclose(pooled_signal(encoder, signal)[2], expected.pooler_output[2], atol=1e-5)


@every_encoder
def test_a_record_without_any_lead_stays_finite(name):
    signal = torch.full((2, 12, SAMPLES), float("nan"))
    assert (
        pooled_signal(build(name), signal, lead_mask=torch.zeros(2, 12, dtype=torch.bool))
        .isfinite()
        .all()
    )


@every_encoder
def test_wrong_shapes_are_refused_in_one_sentence(name):
    encoder = build(name)
    with pytest.raises(InputError, match=r"12 leads.*\(2, 11, 320\)"):
        encoder(ecg_signal(2)[:, :11])
    with pytest.raises(InputError, match=r"lead_mask must be \(2, 12\)"):
        encoder(ecg_signal(2), torch.ones(2, 11, dtype=torch.bool))
    with pytest.raises(InputError, match="0 samples, the encoder needs at least"):
        encoder(ecg_signal(2)[:, :, :0])


@every_encoder
def test_the_shortest_signal_works(name):
    encoder = build(name)
    shortest = getattr(encoder, "min_samples", 20)
    assert pooled_signal(encoder, ecg_signal(2, shortest)).isfinite().all()
