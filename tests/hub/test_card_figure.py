"""The drawing of a model's calibration travels with its card, and holds no small group."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hub_models import adapted, pretrained

from fm_med import cli, hub
from fm_med.cohort import open_cohort
from fm_med.errors import InputError
from fm_med.hub.card import model_card, write_card
from fm_med.hub.guard import refuse_traces
from fm_med.hub.traces import Traces
from fm_med.report.calibration_drawing import (
    CALIBRATION_FILE,
    CalibrationPoints,
    calibration_drawing,
)
from fm_med.sources.simulated import make_simulated

EVENLY = np.linspace(0.05, 0.4, 4)


def drawing(rows=(30, 30, 30, 30), persons=120, name="3 years"):
    points = CalibrationPoints(name, EVENLY, EVENLY**1.2, np.array(rows))
    return calibration_drawing([points], np.arange(sum(rows)) % persons)


def marks(svg):
    """The number of points drawn: uses of markers, beyond those of the axes' ticks and legend."""
    return len(re.findall(r"<use ", svg))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("figure")
    cohort = open_cohort(make_simulated(home / "cohort", subjects=150, seed=4, workers=1))
    return adapted(home / "risk", pretrained(home / "pretrain"), cohort), cohort


@pytest.fixture
def model(made, tmp_path):
    """A copy of the run with a drawing in its report."""
    shutil.copytree(made[0].parent, tmp_path / "risk")
    (tmp_path / "risk" / "report" / CALIBRATION_FILE).write_text(drawing())
    return tmp_path / "risk" / "model"


def test_groups_of_fewer_than_ten_persons_are_left_out():
    whole, less = drawing(), drawing(rows=(30, 30, 9, 51))
    assert marks(whole) - marks(less) == 1
    # Two rows of each person: groups of 19 may be fewer than ten.
    assert marks(drawing(persons=60)) - marks(drawing(rows=(30, 19, 30, 41), persons=60)) == 1
    assert drawing(rows=(9, 9, 9, 30)) == "" and drawing(persons=1) == ""


def test_it_is_lines_and_words_that_the_guard_lets_through():
    svg = drawing(name="death, 3 years")
    refuse_traces(SimpleNamespace(), {CALIBRATION_FILE: svg.encode()}, Traces())
    assert svg == drawing(name="death, 3 years")  # else every push would be another commit
    assert "death, 3 years" in svg and svg.count("var(") == 0 and "xmlns" in svg[:200]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda svg: svg.replace("</svg>", '<image href="x.png"/></svg>'), "more than lines"),
        (lambda svg: svg.replace("<g>", '<g onclick="x()">', 1), "more than lines"),
        (lambda svg: svg.replace("</svg>", "<script>1</script></svg>"), "more than lines"),
        (lambda svg: svg.replace("Predicted risk", "patient_0004711"), "the id"),
        (lambda svg: "\x89PNG" + svg, "something else than a small drawing"),
        (lambda svg: svg + " " * 400_000, "something else than a small drawing"),
        (lambda svg: svg.replace("Predicted risk", "/home/anna/x"), "the path"),
    ],
)
def test_what_else_is_in_it_is_refused(change, found):
    known = Traces(ids=frozenset(["patient_0004711"]))
    with pytest.raises(InputError, match=f"{CALIBRATION_FILE} holds {found}"):
        refuse_traces(SimpleNamespace(), {CALIBRATION_FILE: change(drawing()).encode()}, known)


def test_a_card_shows_the_drawing_of_its_run_and_has_it_beside_it(model, made):
    path = write_card(model, cohort=made[1])
    assert f"]({CALIBRATION_FILE})" in path.read_text()
    assert (model / CALIBRATION_FILE).read_text() == drawing()
    other = model.parent.parent / "evaluated"
    shutil.copytree(model.parent / "report", other)
    (other / CALIBRATION_FILE).unlink()
    write_card(model, evaluation=other, replace=True)  # results without a drawing
    assert CALIBRATION_FILE not in path.read_text() and not (model / CALIBRATION_FILE).exists()
    assert CALIBRATION_FILE in model_card(model / "adapter", name="risk")


def test_it_is_pushed_with_a_new_card_and_a_later_push_keeps_it(model, made, tmp_path):
    target = tmp_path / "shared"
    assert hub.push(model, str(target), cohort=made[1]).changed
    assert (target / CALIBRATION_FILE).read_text() == drawing()
    assert CALIBRATION_FILE in (target / "README.md").read_text()
    assert not hub.push(model, str(target), cohort=made[1]).changed


def test_no_other_drawing_or_picture_is_let_through(model, capsys):
    for name in ("other.svg", "calibration.png", "head/calibration.svg"):
        shutil.copy(model.parent / "report" / CALIBRATION_FILE, model / name)
        assert cli.main(["push", str(model), str(model.parent / "shared")]) == 2
        assert f"{name} " in capsys.readouterr().err
        (model / name).unlink()


def test_energy_is_on_the_card_where_it_was_counted(model):
    from json import dumps, loads

    assert "- Energy: not measured" in model_card(model, name="risk")
    path = model.parent / "env.json"
    energy = {"energy_kwh": {"cpu": 0.012, "gpu": 0.4}}
    path.write_text(dumps(loads(path.read_text()) | energy))
    line = "- Energy: processors 0.012 kWh, GPUs 0.4 kWh, as counted by this machine"
    assert line in model_card(model, name="risk")
