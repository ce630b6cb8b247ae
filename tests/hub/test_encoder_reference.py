"""A pretrained encoder keeps aggregates of its training persons, to compare a cohort with."""

import json

import numpy as np
import pytest
import torch

import fm_med
from fm_med import cli, hub
from fm_med.alignment import build_towers
from fm_med.cohort import open_cohort
from fm_med.ecg.processor import EcgProcessor
from fm_med.ecg.resnet1d import ResNet1dConfig, ResNet1dModel
from fm_med.pairs import read_pairs
from fm_med.pretraining import Pretraining
from fm_med.sources.simulated import make_simulated


class Lengths:
    """Stands for a store of embedded texts."""

    def embed(self, texts):
        return np.array([[len(text), 1.0] for text in texts], np.float32)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "cohort"
    return open_cohort(make_simulated(folder, subjects=110, seed=4, workers=1))


def saved(folder, pairs):
    """Save an encoder after its pretraining, as the recipe does."""
    torch.manual_seed(0)
    encoder = ResNet1dModel(ResNet1dConfig(widths=(8, 16), depths=(1, 1), norm_groups=4))
    towers = build_towers(
        encoder,
        torch.zeros(2),
        text={"dim": 2},
        embedding_dim=6,
        temperature=0.1,
        sigmoid=False,
        decoder=None,
    )
    task = Pretraining(towers, EcgProcessor(), "infonce", None, 0.0, 0)
    sample = task.sample(pairs, torch.device("cpu"))
    hub.save(folder, sample=sample, **task.saved(pairs))
    return folder


@pytest.fixture(scope="module")
def encoder(cohort, tmp_path_factory):
    pairs = read_pairs(cohort, "train", Lengths(), "report")
    return saved(tmp_path_factory.mktemp("encoder") / "model", pairs), pairs


def test_the_aggregates_are_those_of_the_training_persons(encoder, cohort):
    folder, pairs = encoder
    kept = json.loads((folder / "reference.json").read_text())
    assert kept["persons"] == len(set(pairs.subject_id.tolist())) >= 50
    assert fm_med.load(folder).details == {"reference": kept}
    assert kept["embedding"]["persons"] == kept["persons"]
    for share, persons in kept["shares"].values():  # fewer than ten count as none or as all
        assert share in (0, 1) or 9.9 <= share * persons <= persons - 9.9
    people = {text for split in cohort.splits for text in cohort.column(split, "subject_id")}
    assert not any(person in json.dumps(kept) for person in people)


def test_a_cohort_is_compared_without_the_training_cohort(encoder, cohort, capsys):
    assert cli.main(["compare-cohort", str(encoder[0]), str(cohort.path), "--json"]) == 0
    found = {line["topic"]: line for line in json.loads(capsys.readouterr().out)}
    assert found["persons"]["model"] == f"{len(set(encoder[1].subject_id.tolist()))} persons"
    assert found["age (years)"]["state"] == "ok" and "(" in found["age (years)"]["model"]
    assert found["embedding"]["state"] == "ok"


def test_it_travels_with_the_model(encoder, cohort, tmp_path):
    done = hub.push(encoder[0], str(tmp_path / "shared"), cohort=cohort)
    assert done.changed
    assert fm_med.load(tmp_path / "shared").details == fm_med.load(encoder[0]).details


def test_of_few_persons_nothing_is_kept(cohort, tmp_path):
    pairs = read_pairs(cohort, "test", Lengths(), "report")
    folder = saved(tmp_path / "model", pairs)
    assert len(set(pairs.subject_id.tolist())) < 50 and not (folder / "reference.json").exists()
    assert fm_med.load(folder).details == {}
