"""Two encoders to start from: by their names, saved, or one of each; and what is refused."""

import copy
import json

import numpy as np
import pytest
import torch
from encoder_examples import EXAMPLES
from joined_cohorts import joined

from fm_med import hub
from fm_med.cohort import open_cohort
from fm_med.ecg.dual_attention import DualAttentionConfig, DualAttentionModel
from fm_med.ecg.processor import EcgProcessor
from fm_med.errors import InputError
from fm_med.examples import read_examples
from fm_med.fusion.late_fusion import LateFusionModel
from fm_med.modalities import modality_of_encoder
from fm_med.sources.join_sides import JoinRules
from fm_med.sources.simulated import make_simulated

TINY = {"strides": (10, 5), "widths": (8, 8), "hidden_size": 16, "lead_heads": 2, "pooled_size": 24}
TABLE = {"hidden_size": 4, "num_members": 2}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("starting")
    ecgs = make_simulated(folder / "ecgs", subjects=40, seed=5, workers=1)
    more = [("x1", "train"), ("x2", "train")]
    return joined(folder / "both", ecgs, JoinRules(how="outer"), more=more)


@pytest.fixture(scope="module")
def train(cohort):
    return read_examples(cohort, None, splits=["train"])


@pytest.fixture(scope="module")
def ecg(tmp_path_factory):
    """A saved encoder."""
    folder = tmp_path_factory.mktemp("encoder") / "model"
    torch.manual_seed(3)
    DualAttentionModel(DualAttentionConfig(**TINY)).save_pretrained(folder)
    EcgProcessor().save_pretrained(folder)
    return folder


def start(name, card, **settings):
    return hub.start_from(name, card, **settings)


def test_two_names_start_two_new_encoders(cohort, train):
    settings = {"first": TINY, "second": TABLE, "modality_dropout": 0.25}
    names = [
        start("dual_attention+tabm", cohort.card, encoder_settings=settings),
        start("dual_attention", cohort.card, second="tabm", encoder_settings=settings),
        start(None, cohort.card, second="tabm", encoder_settings=settings),
    ]
    assert {found.name for found in names} == {"dual_attention+tabm"}
    found = names[0]
    assert found.is_fresh and found.has_new and found.has_weights and found.remark("full") == ""
    encoder, processor = found.build(train)
    assert isinstance(encoder, LateFusionModel) and encoder.new_parts == ()
    assert encoder.config.modality_dropout == 0.25
    assert modality_of_encoder(encoder).name == processor.modality == "ecg+tabular"
    rows = np.arange(len(train))[-4:]
    output = encoder.eval()(**train.inputs(rows, processor, "cpu")).pooler_output
    assert output.shape == (4, 24 + 8 + 2) and output.isfinite().all()
    assert start(None, cohort.card).name == "dual_attention+lstm_attention"


def test_a_table_is_learnt_from_the_rows_that_have_one(cohort, train):
    """Rows without a table are no missing cells: the flags say what misses where there is one."""
    _, processor = start("dual_attention+tabm", cohort.card).build(train)
    second = open_cohort(cohort.path.with_name("both-table"))
    present = train.table(["has_tabular"]).column("has_tabular").to_numpy()
    _, alone = start("tabm", second.card).build(read_examples(second, None, splits=["train"]))
    assert not present.all()
    assert dict(zip(processor.second.numeric, processor.second.flagged)) == {
        "years": False,
        "woman": True,
    }
    assert processor.second.levels == alone.levels
    years = [scale["median"] for scale in (processor.second.scales[0], alone.scales[0])]
    assert years[0] == pytest.approx(years[1], rel=0.1)


def test_a_saved_encoder_beside_a_new_one(cohort, train, ecg):
    found = start(str(ecg), cohort.card, second="tabm", encoder_settings={"second": TABLE})
    assert (found.is_fresh, found.has_new) == (False, True)
    assert found.remark("lora") == found.remark("none") == "; tabm is new, so all of it is trained"
    assert found.remark("full") == ""
    assert found.key == f"{hub.weights_hash(ecg)}+tabm"
    encoder, _ = found.build(train)
    assert encoder.new_parts == ("second",)
    saved = DualAttentionModel.from_pretrained(ecg).state_dict()
    assert all(torch.equal(encoder.first.state_dict()[name], w) for name, w in saved.items())
    assert (encoder.first_scale.mean != 0).any() and (encoder.second_scale.mean == 0).all()
    encoder.first.requires_grad_(False).get_parameter(next(iter(saved))).add_(1)
    again, _ = found.build(train)  # another fold: its own copy
    assert all(torch.equal(again.first.state_dict()[name], w) for name, w in saved.items())


def test_every_fold_is_standardised_alike(cohort, train, ecg, tmp_path):
    """Frozen features are shared by the folds, so that they must not depend on a fold's rows."""
    found = start(str(ecg), cohort.card, second="tabm", encoder_settings={"second": TABLE})
    a, _ = found.build(train)
    b, _ = found.build(train.take(np.arange(len(train) // 2, len(train))))
    assert torch.equal(a.first_scale.mean, b.first_scale.mean)
    assert torch.equal(a.first_scale.scale, b.first_scale.scale)


def test_a_saved_fusion_starts_as_one(cohort, train, ecg, tmp_path):
    settings = {"second": TABLE}
    encoder, processor = start(
        str(ecg), cohort.card, second="tabm", encoder_settings=settings
    ).build(train)
    folder = tmp_path / "a+b"  # a folder, not two names
    encoder.save_pretrained(folder)
    processor.save_pretrained(folder)
    found = start(str(folder), cohort.card)
    assert not found.has_new and found.key == hub.weights_hash(folder)
    loaded, same = found.build(train)
    assert same.to_dict() == processor.to_dict() and loaded.new_parts == ()
    rows = np.arange(len(train))[-5:]
    inputs = train.inputs(rows, processor, "cpu")
    with torch.inference_mode():
        one, two = (m.eval()(**inputs).pooler_output for m in (encoder, loaded))
    assert torch.equal(one, two)
    assert copy.deepcopy(found).adapter_base("lora")[1] == folder
    with pytest.raises(InputError, match="FusionProcessor reads, but the cohort holds ecg$"):
        start(str(folder), open_cohort(cohort.path.with_name("ecgs")).card)


def test_an_encoder_of_fixed_functions_may_be_a_part(cohort, train, ecg):
    found = start(str(ecg), cohort.card, second="spline_basis")
    assert found.has_new and found.has_weights and found.remark("none") == ""
    encoder, processor = found.build(train)
    inputs = train.inputs(np.arange(4), processor, "cpu")
    assert encoder.eval()(**inputs).pooler_output.isfinite().all()


def test_what_does_not_fit_is_refused_in_one_line(cohort, ecg, tmp_path):
    both, alone = cohort.card, open_cohort(cohort.path.with_name("ecgs")).card
    other = {"config.json": json.dumps({"model_type": "bloom"})}
    for name, text in other.items():
        (tmp_path / name).write_text(text)
    for name, card, settings, message in (
        ("dual_attention", alone, {"second": "tabm"}, "holds ecg alone; fm-med cohort join"),
        ("dual_attention", both, {}, "one encoder and the cohort holds ecg.tabular; name the oth"),
        (
            "tabm+dual_attention",
            both,
            {},
            "tabm is an encoder of tabular, but the cohort holds ecg",
        ),
        ("vit1d+tabm+tabm", both, {}, "names 3 encoders"),
        (str(ecg), both, {}, "EcgProcessor reads, but the cohort holds ecg.tabular"),
        ("vit1d", both, {"second": str(ecg)}, "EcgProcessor reads, but the cohort holds tabular"),
        ("vit1d+tabm", both, {"encoder_settings": {"hidden_size": 3}}, "has 'hidden_size'; of two"),
        ("vit1d+tabm", both, {"encoder_settings": {"first": 3}}, "'first' is 3, expected the sett"),
        ("vit1d+tabm", both, {"processor_settings": {"seconds": 3}}, "has 'seconds'; of two"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            start(name, card, **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="belongs to one saved encoder, and .*tabm are two"):
        start(str(ecg), both, second="tabm").adapter_base("lora")


def test_a_part_that_no_training_row_has_is_refused(cohort, train):
    without = train.take(~train.table(["has_tabular"]).column("has_tabular").to_numpy())
    with pytest.raises(InputError, match="no training row holds tabular"):
        start("dual_attention+tabm", cohort.card).build(without)


def test_misspelt_settings_of_a_part_are_refused(cohort, train):
    assert EXAMPLES  # the examples register every encoder
    found = start("vit1d+tabm", cohort.card, encoder_settings={"second": {"hidden_sise": 3}})
    with pytest.raises(InputError, match="tabm has no setting 'hidden_sise'; did you mean"):
        found.build(train)
