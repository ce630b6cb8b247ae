"""The real client pushes to a Hub on this machine: in one commit, privately, again and again."""

import json
import shutil

import pytest
from hub_client import ALICE, BOB, USERS, Client
from hub_models import adapted, pretrained
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file

from fm_med.cohort import open_cohort
from fm_med.sources.simulated import make_simulated

COMMIT = "POST /api/models/.*/commit/"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def cohort(home):
    return open_cohort(make_simulated(home / "cohort", subjects=40, seed=4, workers=1))


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub(USERS) as server:
        yield server


@pytest.fixture(scope="module")
def client(hub, home):
    with Client(hub.url, home / "client") as process:
        # The client waits 23 s before it gives a cut upload up: count the naps instead.
        process.run("import time; time.naps = []; time.sleep = time.naps.append")
        yield process


@pytest.fixture(scope="module")
def made(home, cohort):
    encoder = pretrained(home / "pretrain")
    return {"encoder": encoder, "risk": adapted(home / "risk", encoder, cohort)}


@pytest.fixture(autouse=True)
def healthy(hub):
    hub.faults.clear()
    yield
    hub.faults.clear()


@pytest.fixture
def encoder(made, tmp_path):
    """A copy to spoil, in a run of its own."""
    shutil.copytree(made["encoder"].parent, tmp_path / "run")
    return tmp_path / "run" / "model"


@pytest.fixture
def name(request):
    """A repository for this test alone."""
    return f"clinic/{request.node.name.replace('[', '-').replace(']', '').lower()[:60]}"


def read(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def change(folder):
    """Give an encoder other weights."""
    file = folder / "model.safetensors"
    tensors = {name: tensor + 1 for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def refused(done):
    status, _, error = done
    line = [text for text in error.splitlines() if not text.startswith("warning: ")]
    assert status == 2 and len(line) == 1 and line[0].startswith("error: "), done
    return line[0]


# --------------------------------------------------------------------------------- One commit


def test_a_model_is_pushed_in_one_commit_and_privately(hub, client, encoder, name):
    status, out, _ = client.fm_med("push", encoder, name)
    repository = hub.repository(name)
    assert status == 0 and repository.branches["main"] in out
    assert repository.private and len(repository.commits) == 2
    assert hub.files(name) == read(encoder)  # the card was written into the folder, too
    assert b"fm_med.load" in hub.files(name)["README.md"]


def test_pushing_again_sends_and_commits_nothing(hub, client, encoder, name):
    client.fm_med("push", encoder, name)
    head, sent = hub.repository(name).branches["main"], hub.count("PUT")
    status, out, _ = client.fm_med("push", encoder, name)
    assert status == 0 and "nothing new" in out
    assert hub.repository(name).branches["main"] == head and hub.count("PUT") == sent
    assert len(hub.repository(name).commits) == 2


def test_a_new_model_replaces_the_old_one_whole(hub, client, encoder, name):
    client.fm_med("push", encoder, name)
    shutil.rmtree(encoder / "alignment")
    change(encoder)
    assert client.fm_med("push", encoder, name)[0] == 0
    assert len(hub.repository(name).commits) == 3
    assert hub.files(name) == read(encoder) and "alignment/config.json" not in hub.files(name)


def test_the_result_as_json(client, encoder, name):
    status, out, _ = client.fm_med("push", encoder, name, "--json")
    done = json.loads(out)
    assert status == 0 and done["changed"] and done["files"] == len(read(encoder))
    status, out, _ = client.fm_med("pull", name, encoder.parent / "back", "--json")
    assert status == 0 and json.loads(out)["commit"] == done["commit"]


# ------------------------------------------------------------------------------ Interrupted


def test_a_cut_upload_is_tried_again(hub, client, encoder, name):
    change(encoder)
    hub.objects.clear()
    hub.fail("PUT /lfs/", times=1)
    assert client.fm_med("push", encoder, name)[0] == 0
    assert hub.files(name) == read(encoder)


def test_a_failed_upload_publishes_nothing_and_goes_on_next_time(hub, client, encoder, name):
    hub.objects.clear()
    hub.fail("PUT /lfs/", times=99, after=1)  # one of the two large files arrives
    error = refused(client.fm_med("push", encoder, name))
    hub.faults.clear()
    assert "cannot be reached" in error and hub.url in error
    assert hub.files(name) == {} and len(hub.repository(name).commits) == 1
    assert len(hub.objects) == 1
    sent = hub.count("PUT")
    assert client.fm_med("push", encoder, name)[0] == 0
    assert hub.files(name) == read(encoder) and len(hub.repository(name).commits) == 2
    assert hub.count("PUT") == sent + 1  # only what had not arrived


def test_a_failed_commit_publishes_nothing(hub, client, encoder, name):
    hub.fail(COMMIT, 500)
    assert "the Hub answered 500" in refused(client.fm_med("push", encoder, name))
    assert hub.files(name) == {}
    sent = hub.count("PUT")
    assert client.fm_med("push", encoder, name)[0] == 0
    assert hub.files(name) == read(encoder) and hub.count("PUT") == sent


def test_large_files_go_in_parts(hub, client, encoder, name):
    hub.objects.clear()
    hub.multipart = 4000
    assert client.fm_med("push", encoder, name)[0] == 0
    hub.multipart = None
    assert hub.count("PUT /lfs/part/") > 2 and hub.files(name) == read(encoder)


def test_two_pushes_at_once_do_not_mix(hub, client, encoder, name):
    client.fm_med("push", encoder, name)
    change(encoder)
    hub.before_commit = lambda: hub.add(name, {"config.json": b"{}"})
    assert "somebody else has pushed" in refused(client.fm_med("push", encoder, name))
    assert hub.files(name) == {"config.json": b"{}"}
    assert client.fm_med("push", encoder, name)[0] == 0
    assert hub.files(name) == read(encoder)


def test_a_hub_that_asks_to_slow_down_is_given_time(hub, client, encoder, name):
    client.run("import time; time.naps.clear()")
    hub.fail(COMMIT, 429, times=2, Retry_After="7")
    assert client.fm_med("push", encoder, name)[0] == 0
    assert client.run("import time; value = time.naps") == [7, 7]
    assert hub.files(name) == read(encoder)
    hub.fail("POST /api/repos/create", 429, times=99)
    assert "slow down" in refused(client.fm_med("push", encoder, name))
    hub.faults.clear()


# -------------------------------------------------------------------------------- Branches


def test_a_branch_is_made_with_the_model_or_not_at_all(hub, client, encoder, name):
    client.fm_med("push", encoder, name)
    first = hub.files(name)
    change(encoder)
    hub.objects.clear()
    hub.fail("PUT /lfs/", times=99)
    refused(client.fm_med("push", encoder, name, "--revision", "v2"))
    hub.faults.clear()
    assert list(hub.repository(name).branches) == ["main"]
    assert client.fm_med("push", encoder, name, "--revision", "v2")[0] == 0
    assert hub.files(name, "v2") == read(encoder) and hub.files(name) == first
    status, out, _ = client.fm_med("pull", name, encoder.parent / "v2", "--revision", "v2")
    assert status == 0 and hub.repository(name).branches["v2"] in out
    assert read(encoder.parent / "v2") == read(encoder)
    error = refused(client.fm_med("pull", name, encoder.parent / "v3", "--revision", "v3"))
    assert "no such revision" in error


# ---------------------------------------------------------------------------------- Rights


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (BOB, "no right to write"),
        (None, "the Hub wants a token"),
        ("hf_nobodyNobodyNobodyNobodyNobody1", "does not accept the token"),
    ],
)
def test_who_may_not_write_is_told_so(hub, client, made, token, message):
    name = "clinic/forbidden"
    assert message in refused(client.fm_med("push", made["encoder"], name, token=token))
    assert ("models", name) not in hub.repositories


def test_a_private_model_is_for_members(hub, client, encoder, name):
    client.fm_med("push", encoder, name)
    wrong = "hf_nobodyNobodyNobodyNobodyNobody1"
    for token, message in (
        (BOB, "knows no such model for you (the token in use)"),
        (None, "knows no such model for you (no token"),
        (wrong, "does not accept the token"),
    ):
        target = encoder.parent / "pulled"
        assert message in refused(client.fm_med("pull", name, target, token=token))
        assert not target.exists()
    assert client.fm_med("pull", name, encoder.parent / "pulled", token=ALICE)[0] == 0


def test_a_name_without_owner_makes_no_repository(hub, client, made):
    before = set(hub.repositories)
    error = refused(client.fm_med("push", made["encoder"], "lonely"))
    assert "it lacks the owner: owner/lonely" in error and set(hub.repositories) == before


def test_public_is_said_aloud(hub, client, encoder, name):
    assert client.fm_med("push", encoder, name, "--public")[0] == 0
    assert not hub.repository(name).private
    head = hub.repository(name).branches["main"]
    change(encoder)
    assert "exists and is public" in refused(client.fm_med("push", encoder, name))
    assert hub.repository(name).branches["main"] == head
    error = refused(client.fm_med("push", encoder, name, "--public", "--private"))
    assert "exclude each other" in error


def test_the_words_of_reports_are_not_published_by_accident(hub, client, encoder, name):
    (encoder / "text_model").mkdir()
    (encoder / "text_model" / "config.json").write_text("{}")
    assert "words of the training reports" in refused(
        client.fm_med("push", encoder, name, "--public")
    )
    assert ("models", name) not in hub.repositories
    assert client.fm_med("push", encoder, name, "--public", "--text_model")[0] == 0
    assert "text_model/config.json" in hub.files(name)


# -------------------------------------------------------------------------------- Adapters


def test_an_adapter_names_its_encoder_and_its_commit(hub, client, made, name):
    base = f"{name}-base"
    client.fm_med("push", made["encoder"], base)
    adapter = made["risk"] / "adapter"
    assert "--base organisation/name" in refused(client.fm_med("push", adapter, name))
    assert ("models", name) not in hub.repositories
    done = client.fm_med("push", adapter, name, "--base", base)
    assert done[0] == 0, done
    config = json.loads(hub.files(name)["adapter_config.json"])
    assert config["base_model_name_or_path"] == base
    assert config["revision"] == hub.repository(base).branches["main"]
    assert f"base_model: {base}" in hub.files(name)["README.md"].decode()


def test_an_adapter_of_other_weights_is_refused(hub, client, made, encoder, name):
    change(encoder)
    client.fm_med("push", encoder, f"{name}-base")
    done = client.fm_med("push", made["risk"], name, "--base", f"{name}-base")
    assert "trained on other weights" in refused(done)
    assert ("models", name) not in hub.repositories


def test_no_path_leaves_the_house(hub, client, made, home, name):
    status, out, error = client.fm_med("push", made["risk"], name)
    assert status == 0, error
    assert "left out: adapter" in out
    for path, content in hub.files(name).items():
        assert str(home).encode() not in content, path
    task = json.loads(hub.files(name)["task.json"])
    assert task["training"]["encoder"] == "a local folder"
    assert json.loads((made["risk"] / "task.json").read_text())["training"]["encoder"] != (
        "a local folder"  # at home it is known
    )


# ------------------------------------------------------------------------------- The guard


def test_the_guard_speaks_before_the_hub_is_asked(hub, client, encoder, name):
    (encoder / "optimizer.pt").write_bytes(b"\x80\x04")
    asked = len(hub.log)
    assert "optimizer.pt is a pickle" in refused(client.fm_med("push", encoder, name))
    assert len(hub.log) == asked


def test_a_person_of_the_training_cohort_stops_a_push(hub, client, encoder, cohort, name):
    subject = cohort.column("train", "subject_id")[0]
    (encoder / "README.md").write_text(f"# Encoder\n\nSee for example {subject}.\n")
    done = client.fm_med("push", encoder, name, "--cohort", cohort.path)
    assert f"README.md holds the id {subject!r}" in refused(done)
    assert ("models", name) not in hub.repositories


def test_the_token_in_use_is_not_pushed(hub, client, encoder, name):
    (encoder / "README.md").write_text("# Encoder\n\nsecretsecret\n")
    done = client.fm_med("push", encoder, name, token="secretsecret")
    assert "README.md holds an access token" in refused(done)


# --------------------------------------------------------------------------------- Fetching


def test_what_is_no_part_of_a_model_stays_on_the_hub(hub, client, encoder, name, tmp_path):
    files = read(encoder) | {
        "pytorch_model.bin": b"\x80\x04boom",
        "head/../../../../evil.json": b"{}",
        "../evil.json": b"{}",
        "README.md": b"# Model\n",
    }
    hub.add(name, files)
    status, _, _ = client.fm_med("pull", name, tmp_path / "pulled")
    assert status == 0
    assert not hub.count("resolve/.*(pytorch_model.bin|evil)")
    assert read(tmp_path / "pulled").keys() == read(encoder).keys() | {"README.md"}
    assert not list(tmp_path.rglob("evil*")) and not list(client.home.rglob("evil*"))
    value = client.run(f"import fm_med; value = str(fm_med.load({name!r}).folder)")
    assert "snapshots" in value and not hub.count("resolve/.*pytorch_model.bin")


def test_a_cut_download_goes_on(hub, client, name, tmp_path):
    large = bytes(range(256)) * 4096 * 12  # 12 MB; the client resumes beyond 10 MB
    hub.add(name, {"config.json": b"{}", "model.safetensors": large})
    hub.fail("GET .*model.safetensors")
    assert client.fm_med("pull", name, tmp_path / "pulled")[0] == 0
    assert (tmp_path / "pulled" / "model.safetensors").read_bytes() == large


def test_what_cannot_be_pulled_is_told(hub, client, encoder, name, tmp_path):
    hub.add(name, {"notes.md": b"nothing"})
    assert "is not a model of fm_med" in refused(client.fm_med("pull", name, tmp_path / "a"))
    assert "is not empty" in refused(client.fm_med("pull", name, encoder))
    assert "no name of a model" in refused(client.fm_med("pull", "no/such/name", tmp_path / "a"))
    error = refused(client.fm_med("pull", "clinic/absent", tmp_path / "a"))
    assert "knows no such model" in error
    assert not (tmp_path / "a").exists()


def test_a_damaged_file_of_the_cache_is_noticed(hub, client, encoder, name, tmp_path):
    hub.add(name, read(encoder))
    assert client.fm_med("pull", name, tmp_path / "whole")[0] == 0
    cache = client.home / "hf" / "hub" / f"models--{name.replace('/', '--')}"
    file = next((cache / "snapshots").glob("*/model.safetensors")).resolve()
    file.write_bytes(file.read_bytes()[:-4] + b"\0\1\2\3")
    error = refused(client.fm_med("pull", name, tmp_path / "damaged"))
    assert "model.safetensors" in error and "damaged" in error
    assert not (tmp_path / "damaged").exists()
