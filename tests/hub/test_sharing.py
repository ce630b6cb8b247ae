"""Cohorts go only with a permission and a licence; of a report only what is said of many."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from hub_client import USERS, Client
from loopback_hub import LoopbackHub

from fm_med import cli
from fm_med.cohort import open_cohort
from fm_med.cohort.card import read_card
from fm_med.cohort.pieces import open_pieces
from fm_med.errors import InputError
from fm_med.hub import pull_cohort, push_cohort, push_report
from fm_med.hub.card_facts import leaves_of
from fm_med.hub.card_results import calibration
from fm_med.hub.report_sharing import aggregates
from fm_med.hub.traces import Traces
from fm_med.sources.simulated import make_simulated
from fm_med.streamed_pairs import StreamedCohort


def leaf(value, n=500, low=None, high=None):
    return {"value": value, "low": low, "high": high, "n": n}


METRICS = {
    "model": {
        "c_index": leaf(0.71, low=0.65, high=0.77),
        "observed_expected_at_1_year": leaf(1.08, low=0.9, high=1.3),
        "calibration_slope_at_1_year": leaf(0.93),
        "ici_at_1_year": leaf(0.021),
        "calibration_slope": leaf(0.95),
        "small": leaf(0.9123, n=9),
    },
    "baselines": {"age_sex": {"c_index": leaf(0.66), "calibration_slope": leaf(0.5)}},
    "subgroups": {"sex": {"female": leaf(0.8123, n=40), "male": leaf(0.7345, n=4)}},
    "subgroups_age": {"under 60": leaf(0.6123, n=40), "over": leaf(0.6345, n=40)},
    "examples": {"record": "a0000017"},
    "records": ["a0000017"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("sharing")


@pytest.fixture(scope="module")
def whole(home):
    return make_simulated(home / "cohort", subjects=40, seed=4, workers=1)


@pytest.fixture
def cohort(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "cohort")
    return tmp_path / "cohort"


@pytest.fixture(scope="module")
def world(home):
    with LoopbackHub(USERS) as hub, Client(hub.url, home / "client") as client:
        yield SimpleNamespace(hub=hub, client=client)


def read(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def relicense(cohort, license):
    card = cohort / "README.md"
    header = yaml.safe_load(card.read_text().split("---\n", 2)[1])
    header["fm_med"]["license"] = license
    header.pop("license", None)
    card.write_text(f"---\n{yaml.safe_dump(header)}---\n")
    assert read_card(cohort).license == license


# -------------------------------------------------------------------------------------- Cohorts


def test_a_cohort_needs_a_permission(cohort, tmp_path, capsys):
    target = tmp_path / "share"
    assert cli.main(["push", str(cohort), str(target), "--kind", "cohort"]) == 2
    error = capsys.readouterr().err
    assert "shared only with --i_have_permission" in error and error.count("\n") == 1
    assert not target.exists()
    words = ["push", str(cohort), str(target), "--i_have_permission"]
    assert cli.main(words) == 2 and "is for --kind cohort" in capsys.readouterr().err
    assert cli.main([*words, "--kind", "cohort"]) == 0
    assert "left out, as told of single patients or this machine: skipped.csv" in (
        capsys.readouterr().out
    )
    assert read(target).keys() == read(cohort).keys() - {"skipped.csv"}
    assert open_cohort(target).fingerprint == open_cohort(cohort).fingerprint
    assert not push_cohort(cohort, f"file://{target}", permitted=True).changed
    assert cli.main(["pull", f"file://{target}", str(tmp_path / "mine"), "--kind", "cohort"]) == 0
    assert read(tmp_path / "mine") == read(target)


def test_a_cohort_is_a_private_data_set_in_one_commit(world, cohort, tmp_path):
    name = "clinic/cohort"
    words = ("push", cohort, name, "--kind", "cohort", "--i_have_permission")
    status, out, error = world.client.fm_med(*words)
    assert status == 0, error
    repository = world.hub.repository(name, "datasets")
    assert repository.private and len(repository.commits) == 2 and "/datasets/clinic/" in out
    files = world.hub.files(name, kind="datasets")
    assert files == {k: v for k, v in read(cohort).items() if k != "skipped.csv"}
    sent = world.hub.count("PUT")
    assert "nothing new" in world.client.fm_med(*words)[1] and world.hub.count("PUT") == sent
    # What else somebody puts there never arrives.
    planted = {"data/../../evil.arrow": b"x", "data/evil.pkl": b"\x80", "data/a/b.arrow": b"x"}
    world.hub.add(name, files | planted, kind="datasets")
    pulled = tmp_path / "pulled"
    status, out, error = world.client.fm_med("pull", name, pulled, "--kind", "cohort")
    assert status == 0 and repository.branches["main"] in out, error
    assert read(pulled) == files and not world.hub.count("resolve/.*(evil|a/b)")


def test_a_cut_upload_of_a_cohort_publishes_nothing_and_goes_on(world, cohort):
    name = "clinic/cut"
    words = ("push", cohort, name, "--kind", "cohort", "--i_have_permission")
    world.client.run("import time; time.naps = []; time.sleep = time.naps.append")
    world.hub.objects.clear()
    world.hub.fail("PUT /lfs/", times=99, after=1)
    assert world.client.fm_med(*words)[0] == 2
    world.hub.faults.clear()
    assert world.hub.files(name, kind="datasets") == {} and len(world.hub.objects) == 1
    sent = world.hub.count("PUT")
    assert world.client.fm_med(*words)[0] == 0
    shards = len(list((cohort / "data").iterdir()))
    assert world.hub.count("PUT") == sent + shards - 1
    assert len(world.hub.repository(name, "datasets").commits) == 2


@pytest.mark.parametrize("license", [None, "unknown", " None "])
def test_a_public_cohort_needs_a_licence(cohort, tmp_path, license):
    relicense(cohort, license)
    target = str(tmp_path / "share")
    with pytest.raises(InputError, match="states no licence"):
        push_cohort(cohort, target, permitted=True, public=True)
    relicense(cohort, "cc-by-4.0")
    assert push_cohort(cohort, target, permitted=True, public=True).changed


def test_what_must_not_go_with_a_cohort(cohort, tmp_path):
    target = str(tmp_path / "share")
    with pytest.raises(InputError, match="has no revision 'v2'"):
        push_cohort(cohort, target, permitted=True, revision="v2")
    with (cohort / "README.md").open("a") as card:
        card.write("\nMade from /home/anna/ecg\n")
    with pytest.raises(InputError, match="README.md holds the path '/home/anna'"):
        push_cohort(cohort, target, permitted=True)
    with pytest.raises(InputError, match="no cohort at"):
        push_cohort(tmp_path / "absent", target, permitted=True)
    assert not (tmp_path / "share").exists()


def test_a_link_among_the_shards_is_refused(cohort, tmp_path):
    shard = next((cohort / "data").glob("train-*"))
    shard.rename(tmp_path / "elsewhere.arrow")
    shard.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(InputError, match=r"data/train.* is a link"):
        push_cohort(cohort, str(tmp_path / "share"), permitted=True)


def test_a_cohort_that_is_not_whole_is_not_pulled(cohort, tmp_path):
    next((cohort / "data").glob("train-*")).write_bytes(b"torn")
    with pytest.raises(InputError, match="not a complete Arrow file"):
        pull_cohort(str(cohort), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_persons_of_a_streamed_split_are_known_too(cohort):
    whole = open_cohort(cohort)
    rest = {split: table for split, table in whole.splits.items() if split != "train"}
    streamed = StreamedCohort(cohort, whole.card, rest, open_pieces(cohort, "train"))
    known, found = Traces.of(whole), Traces.of(streamed)
    assert found.ids == known.ids and found.reports == known.reports


# -------------------------------------------------------------------------------------- Reports


@pytest.fixture
def report(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "predictions.csv").write_text("subject_id,risk\na0000017,0.5\n")
    (folder / "report.html").write_text("<svg>an ECG</svg>")
    return folder


def test_of_a_report_only_aggregates_go(world, report):
    status, out, error = world.client.fm_med("push", report, "clinic/report", "--kind", "report")
    assert status == 0 and "left out" in out and "predictions.csv, report.html" in out, error
    assert world.hub.repository("clinic/report", "datasets").private
    files = world.hub.files("clinic/report", kind="datasets")
    assert files.keys() == {"README.md", "metrics.json"}
    page = files["README.md"].decode()
    assert "| C-index | 0.710 (0.650 to 0.770) | 0.660 | 500 |" in page
    assert "| 1 year | 1.080 (0.900 to 1.300) | 0.930 | 0.021 |" in page
    for secret in ("a0000017", "0.9123", "0.912", "0.8123", "0.7345", "record"):
        assert secret not in page.replace("recordings", "") + files["metrics.json"].decode(), secret
    assert json.loads(files["metrics.json"]) == aggregates(METRICS)


def test_small_groups_take_the_others_with_them():
    found = aggregates(METRICS)
    assert "subgroups" not in found and found["subgroups_age"] == METRICS["subgroups_age"]
    assert found.keys() == {"model", "baselines", "subgroups_age"}
    assert "small" not in found["model"] and aggregates([1]) == {}


def test_the_guard_reads_a_report(report, whole, tmp_path):
    cohort = open_cohort(whole)
    subject = cohort.column("train", "subject_id")[0]
    (report / "metrics.json").write_text(json.dumps(METRICS | {subject: {"c_index": leaf(0.5)}}))
    with pytest.raises(InputError, match=f"metrics.json holds the id '{subject}'"):
        push_report(report, str(tmp_path / "share"), cohort=cohort)
    assert not (tmp_path / "share").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no metrics.json"), ("{", "no valid JSON"), ('{"a": 1}', "of 10 persons or more")],
)
def test_what_is_no_report(report, tmp_path, content, message):
    (report / "metrics.json").unlink()
    if content is not None:
        (report / "metrics.json").write_text(content)
    with pytest.raises(InputError, match=message):
        push_report(report, str(tmp_path / "share"))


# ---------------------------------------------------------------------------------- Calibration


def test_calibration_is_a_table_by_horizon():
    lines = calibration(list(leaves_of(METRICS)))
    assert lines[2] == (
        "|  | observed / expected events (1) | slope (1) | "
        "mean distance of predicted and observed risk (0) |"
    )
    assert lines[4:] == [
        "| 1 year | 1.080 (0.900 to 1.300) | 0.930 | 0.021 |",
        "| all | – | 0.950 | – |",
    ]
    assert calibration(list(leaves_of({"model": {"c_index": leaf(0.7)}}))) == []
