"""Shell completion: offered words are real ones, and making the script imports nothing heavy."""

import dataclasses
import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

from fm_med import cli
from fm_med.cli.completion import flags, script

BASH = shutil.which("bash")


def offered(*words):
    """Return what bash offers for the last of the words."""
    given = " ".join(f"'{word}'" for word in words)
    code = (
        f"{script('bash', cli.COMMANDS)}\nCOMP_WORDS=({given}); COMP_CWORD={len(words) - 1}\n"
        'compopt() { :; }; _fm_med; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([BASH, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "wanted", "unwanted"),
    [
        (["fm-med", ""], {"cohort", "predict", "compare-cohort", "--help"}, {"check"}),
        (["fm-med", "co"], {"cohort", "compare-cohort", "completion"}, {"predict"}),
        (["fm-med", "cohort", "c"], {"check"}, {"ecg", "--help"}),
        (["fm-med", "cohort", "simulate", "x", "--s"], {"--seed", "--subjects"}, {"--hospital"}),
        (["fm-med", "cohort", "simulate", "x", "--hospital", ""], {"a", "b"}, {"--seed"}),
        (["fm-med", "doctor", "--"], {"--json", "--config", "--help"}, {"--seed"}),
    ],
)
def test_bash_offers_what_fits(words, wanted, unwanted):
    found = offered(*words)
    assert wanted <= found and not unwanted & found


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_leaves_arguments_to_the_names_of_files():
    assert offered("fm-med", "cohort", "check", "da") == set()
    assert offered("fm-med", "predict", "model", "--output", "x") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_and_setting_is_in_the_script(shell):
    text = script(shell, cli.COMMANDS)
    for name, command in cli.COMMANDS.items():
        assert all(word in text for word in name.split())
        for field in dataclasses.fields(command.settings):
            if not field.metadata.get("positional"):
                assert (f"-l {field.name} " if shell == "fish" else f"--{field.name}") in text
    assert ("bashcompinit" in text) == (shell == "zsh")


def test_fish_strings_are_closed():
    for line in script("fish", cli.COMMANDS).splitlines():
        assert line.replace("\\'", "").count("'") % 2 == 0


def test_choices_come_from_the_settings():
    assert flags(cli.COMMANDS["cohort simulate"])["hospital"][1] == ["a", "b"]
    assert flags(cli.COMMANDS["cohort ptbxl"])["sampling_rate"][1] == ["100", "500"]


def test_the_command_prints_it_without_importing_torch(capsys):
    code = (
        "import sys; from fm_med.cli import main; main(['completion', 'zsh']); "
        "sys.stderr.write(str([m for m in ('torch', 'pandas', 'pyarrow') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[]" and done.stdout.startswith("autoload -U +X compinit")
    assert cli.main(["completion", "tcsh"]) == 2
    assert "shell" in capsys.readouterr().err


# ----------------------------------------------------------------------- In shells of their own


def typed(shell, folder, line, wanted):
    """Type a line with its tabs into an interactive shell; return what the terminal shows then."""
    path = folder / f"completion.{shell}"
    path.write_text(script(shell, cli.COMMANDS))
    terminal, shells = pty.openpty()
    process = subprocess.Popen(
        [shell, *(["--norc"] if shell == "bash" else ["-f"]), "-i"],
        stdin=shells,
        stdout=shells,
        stderr=shells,
        env={**os.environ, "TERM": "dumb", "PS1": "$ ", "COLUMNS": "200", "HOME": str(folder)},
        start_new_session=True,
    )
    os.close(shells)
    try:
        os.write(terminal, f"source {path}; echo all''read\n".encode())
        read_until(terminal, ["allread"])
        os.write(terminal, line.encode())
        return read_until(terminal, wanted)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def read_until(terminal, wanted, seconds=30):
    shown, end = "", time.monotonic() + seconds
    while not all(word in shown for word in wanted) and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("fm-med \t\t", ["cohort", "compare-cohort", "push", "--help"]),
        ("fm-med pus\t", ["fm-med push "]),
        ("fm-med cohort simulate x --\t\t", ["--hospital", "--seed", "--config"]),
        ("fm-med push x org/name --kind re\t", ["--kind report "]),
    ],
)
def test_the_tab_key_completes(shell, line, wanted, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} on this machine")
    shown = typed(shell, tmp_path, line, wanted)
    assert all(word in shown for word in wanted), shown


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("fm-med ", {"cohort", "compare-cohort", "push"}, {"check", "--seed"}),
        ("fm-med cohort c", {"check", "cinc", "code15"}, {"card", "compare-cohort"}),
        ("fm-med cohort simulate x --h", {"--hospital", "--help"}, {"--seed"}),
        ("fm-med push x org/name --kind ", {"model", "cohort", "report"}, {"--kind"}),
    ],
)
def test_fish_completes(line, wanted, unwanted, tmp_path):
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("there is no fish on this machine")
    path = tmp_path / "completion.fish"
    path.write_text(script("fish", cli.COMMANDS))
    done = subprocess.run(
        [fish, "--no-config", "-c", f"source {path}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert wanted <= found and not unwanted & found
