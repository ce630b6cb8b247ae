"""The processor of two modalities: rows with one or both, and its file."""

import json

import numpy as np
import pytest
import torch
from joined_cohorts import joined
from transformers import AutoFeatureExtractor

import fm_med.auto  # noqa: F401
from fm_med.cohort import open_cohort
from fm_med.ecg.processor import EcgProcessor
from fm_med.errors import InputError
from fm_med.fusion.processor import FusionProcessor
from fm_med.modalities import modality_of
from fm_med.sources.join_sides import JoinRules
from fm_med.sources.simulated import make_simulated
from fm_med.tabular.processor import TableProcessor


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion")
    ecgs = make_simulated(folder / "ecgs", subjects=30, seed=5, workers=1)
    more = [("x1", "train"), ("x2", "train")]
    return joined(folder / "both", ecgs, JoinRules(how="outer"), more=more)


@pytest.fixture(scope="module")
def processor(cohort):
    train = cohort.splits["train"]
    card = open_cohort(cohort.path.with_name("both-table")).card
    table = TableProcessor.for_cohort(card, train.filter(train.column("has_tabular")))
    return FusionProcessor(names=["ecg", "tabular"], first=EcgProcessor(), second=table)


def test_each_part_reads_the_rows_that_have_it(cohort, processor):
    rows = cohort.splits["train"]
    inputs = processor.from_rows(rows)
    there = {name: np.array(rows.column(f"has_{name}")) for name in ("ecg", "tabular")}
    for part, name in (("first", "ecg"), ("second", "tabular")):
        shown = there[name]
        assert 0 < shown.sum() < len(shown)
        assert inputs[f"{part}_present"].tolist() == shown.tolist()
        own = getattr(processor, part).from_rows(rows.filter(shown))
        for key, value in own.items():
            found = inputs[f"{part}_{key}"]
            assert torch.equal(found[torch.from_numpy(shown)], value)
            assert not found[torch.from_numpy(~shown)].any()


def test_a_part_that_no_row_has_is_left_out(cohort, processor):
    rows = cohort.splits["train"]
    alone = rows.filter(~np.array(rows.column("has_ecg")))
    inputs = processor.from_rows(alone)
    assert "first_signal" not in inputs and inputs["first_present"].tolist() == [False, False]
    assert inputs["second_numeric"].shape[0] == 2


def test_rows_with_neither_and_tables_without_presence_are_refused(cohort, processor):
    rows = cohort.splits["train"].slice(0, 3)
    position = rows.column_names.index("has_ecg")
    nothing = rows.set_column(position, "has_ecg", [[False, False, True]])
    position = rows.column_names.index("has_tabular")
    nothing = nothing.set_column(position, "has_tabular", [[True, False, None]])
    with pytest.raises(InputError, match=r"1 of 3 row\(s\), first number 2, hold neither ecg nor"):
        processor.from_rows(nothing)
    with pytest.raises(InputError, match="no column 'has_ecg'; see fm-med cohort join"):
        processor.from_rows(rows.drop_columns(["has_ecg"]))


def test_one_file_holds_both(cohort, processor, tmp_path):
    from encoder_examples import EXAMPLES

    processor.save_pretrained(tmp_path)
    EXAMPLES["late_fusion"].config.save_pretrained(tmp_path)
    for kind in (FusionProcessor, AutoFeatureExtractor):
        loaded = kind.from_pretrained(tmp_path)
        assert type(loaded) is FusionProcessor
        assert (type(loaded.first), type(loaded.second)) == (EcgProcessor, TableProcessor)
        assert loaded.to_dict() == processor.to_dict()
        rows = cohort.splits["train"].slice(0, 4)
        for name, value in processor.from_rows(rows).items():
            assert torch.equal(loaded.from_rows(rows)[name], value)
    path = tmp_path / "preprocessor_config.json"
    stated = json.loads(path.read_text())
    for change, message in (
        ({"third": {}}, "has unknown keys third"),
        ({"first": {**stated["first"], "leads_": []}}, "has unknown keys leads_"),
        ({"first": {"feature_extractor_type": "ClapFeatureExtractor"}}, "'ClapFeatureExtractor'"),
        ({"first": {"feature_extractor_type": "Nothing"}}, "names the processor 'Nothing'"),
    ):
        path.write_text(json.dumps(stated | change))
        with pytest.raises(InputError, match=message):
            FusionProcessor.from_pretrained(tmp_path)


def test_a_modality_reads_its_own_processors(processor):
    assert modality_of("ecg+tabular").reads(processor)
    assert not modality_of("ecg+rna").reads(processor)
    assert not modality_of("ecg").reads(processor)
    assert modality_of("ecg").reads(processor.first)
    for name, message in (
        ("ecg+x", "no modality 'x'"),
        ("ecg+ecg", "'ecg.ecg' cannot be fused"),
        ("ecg+rna+tabular", "cannot be fused"),
    ):
        with pytest.raises(InputError, match=message):
            modality_of(name)


def test_augmentations_act_on_their_part(cohort, processor):
    inputs = processor.from_rows(cohort.splits["train"].slice(0, 8))
    modality = modality_of("ecg+tabular")
    augment = modality.augmentation("default", processor)
    asked = {"seed": 1, "epoch": 0, "step": 0, "rows": torch.arange(8)}
    found = augment(inputs, **asked)
    assert found.keys() == inputs.keys()
    changed = {name for name in inputs if not torch.equal(found[name], inputs[name])}
    assert "first_signal" in changed and changed <= {"first_signal", "first_lead_mask"}
    own = {name.removeprefix("first_"): value for name, value in inputs.items() if "first" in name}
    own.pop("present")
    alone = modality_of("ecg").augmentation("default", processor.first)(own, **asked)
    assert torch.equal(found["first_signal"], alone["signal"])
    without = {name: value for name, value in inputs.items() if name.startswith("second_")}
    assert augment(without, **asked).keys() == without.keys()
    assert modality.augmentation("none", processor) is None
    assert modality_of("rna+tabular").augmentation("default", processor) is None
    with pytest.raises(InputError, match="ecg.tabular has no augmentation 'loud'"):
        modality.augmentation("loud", processor)
