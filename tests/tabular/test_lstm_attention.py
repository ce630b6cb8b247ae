"""What LSTM and attention over visits know of a person's history, and what older models do not."""

import json

import pytest
import torch
from encoder_examples import EXAMPLES, build, ecg_and_table, inputs_of, pooled
from torch.testing import assert_close
from transformers import AutoModel

from fm_med.fusion.late_fusion import LateFusionConfig, LateFusionModel
from fm_med.tabular.lstm_attention import LstmAttentionConfig, LstmAttentionModel

NAME = "lstm_attention"


def settings(**changes):
    return json.loads(EXAMPLES[NAME].config.to_json_string()) | changes


def encoder(**changes):
    torch.manual_seed(0)
    return LstmAttentionModel(LstmAttentionConfig(**settings(**changes))).eval()


def forget(file):
    """Take `history` out of a saved config, as an older version wrote it."""
    stated = json.loads(file.read_text())
    for part in (stated, stated.get("second", {})):
        part.pop("history", None)
    file.write_text(json.dumps(stated))


@pytest.mark.parametrize("more", [0, 3])
def test_each_visit_is_told_its_number_and_the_time_since_the_first(more):
    """By their definition, whatever the padding."""
    inputs = inputs_of(NAME, 4)
    inputs = {k: torch.cat([v, torch.zeros_like(v[:, :more])], 1) for k, v in inputs.items()}
    model, told = build(NAME), []
    model.number.register_forward_hook(lambda layer, given, out: told.append(given[0]))
    pooled(model, inputs)
    for row, (mask, time) in enumerate(zip(inputs["visit_mask"], inputs["visit_time"])):
        for visit in range(int(mask.sum())):
            expected = torch.tensor([1.0 + visit, 1.0 + time[visit] - time[0]]).log()
            assert_close(told[0][row, visit], expected, rtol=1e-5, atol=1e-5)


def test_how_many_visits_there_were_is_linear_in_the_pooled_output():
    """Persons of equal visits at one time: only their number can tell them apart."""
    inputs = {k: v[3:].expand(4, *v.shape[1:]) for k, v in inputs_of(NAME, 4).items()}
    inputs = {k: v[:, :1].expand_as(v).clone() for k, v in inputs.items()}
    inputs["visit_mask"] = torch.arange(4) < torch.arange(1, 5)[:, None]
    counted, blind = pooled(build(NAME), inputs), pooled(encoder(history=False), inputs)
    latest = counted[:, 16:] - counted[0, 16:]
    number = torch.arange(1.0, 5.0).log()
    assert_close(latest, number[:, None] * latest[1] / number[1], rtol=1e-4, atol=1e-5)
    assert latest[3].norm() > 0.5
    assert (blind[:, 16:] == blind[0, 16:]).all()


def test_one_visit_has_no_history():
    inputs = {k: v[:, :1] for k, v in inputs_of(NAME, 4).items()}
    inputs["visit_mask"][2] = False
    model = build(NAME)
    before = pooled(model, inputs)
    torch.nn.init.ones_(model.number.weight)
    assert torch.equal(pooled(model, inputs), before)


def test_when_a_history_began_does_not_matter():
    inputs = inputs_of(NAME, 4)
    later = inputs | {"visit_time": inputs["visit_time"] + 8.0}
    assert_close(pooled(build(NAME), later), pooled(build(NAME), inputs), rtol=1e-4, atol=1e-5)


def test_a_table_without_visits_has_no_history():
    assert encoder(visits=False).number is None and encoder(history=False).number is None
    assert encoder().number is not None


def test_a_model_saved_before_there_was_a_history_still_says_what_it_said(tmp_path):
    old, inputs = encoder(history=False), inputs_of(NAME)
    old.save_pretrained(tmp_path)
    forget(tmp_path / "config.json")
    for kind in (LstmAttentionModel, AutoModel):
        loaded = kind.from_pretrained(tmp_path).eval()
        assert not loaded.config.history
        assert torch.equal(pooled(loaded, inputs), pooled(old, inputs))
    new = encoder()
    new.save_pretrained(tmp_path / "new")
    assert LstmAttentionModel.from_pretrained(tmp_path / "new").config.history


def test_so_does_a_fusion_of_two(tmp_path):
    first = json.loads(EXAMPLES["dual_attention"].config.to_json_string())
    torch.manual_seed(0)
    second = settings(history=False)
    old = LateFusionModel(LateFusionConfig(first=first, second=second)).eval()
    old.save_pretrained(tmp_path)
    forget(tmp_path / "config.json")
    loaded = LateFusionModel.from_pretrained(tmp_path).eval()
    assert not loaded.second.config.history
    inputs = ecg_and_table(4)
    assert torch.equal(pooled(loaded, inputs), pooled(old, inputs))
