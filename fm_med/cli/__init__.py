"""The `fm-med` command: cohorts, text models and what one does with a trained model.

Each command is a settings dataclass and a function, listed in `COMMANDS`; nothing heavy is imported
before the arguments have been read and found right.
"""

import sys
from collections.abc import Sequence

from fm_med.cli.cohort import COHORT_COMMANDS
from fm_med.cli.command import Command
from fm_med.cli.compare import COMPARE_COMMANDS
from fm_med.cli.completion import COMPLETION_COMMANDS
from fm_med.cli.doctor import DOCTOR_COMMANDS
from fm_med.cli.embed import EMBED_COMMANDS
from fm_med.cli.export import EXPORT_COMMANDS
from fm_med.cli.hub import HUB_COMMANDS
from fm_med.cli.images import IMAGE_COMMANDS
from fm_med.cli.join import JOIN_COMMANDS
from fm_med.cli.matrix import MATRIX_COMMANDS
from fm_med.cli.predict import PREDICT_COMMANDS
from fm_med.cli.public_cohorts import PUBLIC_COMMANDS
from fm_med.cli.text_model import TEXT_COMMANDS
from fm_med.errors import InputError
from fm_med.settings import exit_code, parse_settings

EXIT_STATUS = "exit status: 0 done, 1 a fault of fm_med (with traceback), 2 wrong input (one line)"

COMMANDS: dict[str, Command] = {
    **COHORT_COMMANDS,
    **PUBLIC_COMMANDS,
    **IMAGE_COMMANDS,
    **MATRIX_COMMANDS,
    **JOIN_COMMANDS,
    **TEXT_COMMANDS,
    **HUB_COMMANDS,
    **DOCTOR_COMMANDS,
    **PREDICT_COMMANDS,
    **COMPARE_COMMANDS,
    **EXPORT_COMMANDS,
    **COMPLETION_COMMANDS,
    **EMBED_COMMANDS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 the user's input.

    A fault of ours passes through with its traceback, which gives the status 1.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: run(words))


def run(words: list[str]) -> None:
    """Find the command that the first words name and run it with the rest.

    Raises:
        InputError: No such command, or wrong arguments.
    """
    if not words or words[0] in ("-h", "--help"):
        print(overview(COMMANDS))
        return
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            command = COMMANDS[name]
            settings = parse_settings(
                command.settings,
                words[length:],
                description=command.summary,
                program=f"fm-med {name}",
            )
            command.run(settings)
            return
    group = {name: c for name, c in COMMANDS.items() if name.startswith(words[0] + " ")}
    if group and words[1:2] in ([], ["-h"], ["--help"]):
        print(overview(group))
        return
    raise InputError(
        f"unknown command {' '.join(words[: 2 if group else 1])!r}; "
        f"the commands are {', '.join(group or COMMANDS)}"
    )


def overview(commands: dict[str, Command]) -> str:
    """Return the list of commands with what each does."""
    width = max(map(len, commands))
    lines = [f"  fm-med {name:<{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(["usage: fm-med COMMAND [--help]", "", *lines, "", EXIT_STATUS])
