"""`fm-med completion`: a script with which the shell completes commands, settings and choices."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from fm_med.cli.command import Command
from fm_med.settings import argument

# Of bash; after a command's words it offers its settings, after a setting its choices, else files.
_BASH = """\
_fm_med() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    local two="${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" one="${{COMP_WORDS[1]}}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{first} --help"
    else
        case "$one" in
{groups}
        esac
        [ "$COMP_CWORD" -eq 2 ] || words=""
        if [ -z "$words" ]; then
            local name="$one"
            case "$one" in {grouped}) name="$two" ;; esac
            case "$name $before" in
{choices}
                *) if [ "${{word#-}}" != "$word" ]; then
                    case "$name" in
{flags}
                    esac
                fi ;;
            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -o default -F _fm_med fm-med
"""


@dataclass
class Completion:
    """Settings of `fm-med completion`."""

    shell: Literal["bash", "zsh", "fish"] = argument("bash, zsh or fish")


def script(shell: str, commands: Mapping[str, Command]) -> str:
    """Return the script of a shell.

    Args:
        shell: "bash", "zsh" or "fish".
        commands: By their one or two words.
    """
    if shell == "fish":
        return _fish(commands)
    prefix = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
    return (prefix if shell == "zsh" else "") + _bash(commands)


def groups(commands: Mapping[str, Command]) -> dict[str, list[str]]:
    """Return the second words of the commands by their first; none for commands of one word."""
    found: dict[str, list[str]] = {}
    for name in commands:
        first, _, second = name.partition(" ")
        found.setdefault(first, []).extend([second] if second else [])
    return found


def flags(command: Command) -> dict[str, tuple[str, list[str]]]:
    """Return the help and the choices of every setting that has a flag."""
    hints = get_type_hints(command.settings)
    found: dict[str, tuple[str, list[str]]] = {"config": ("YAML file with any of the settings", [])}
    for field in dataclasses.fields(command.settings):
        if not field.metadata.get("positional"):
            found[field.name] = (field.metadata["help"], _choices(hints[field.name]))
    return {**found, "help": ("show the settings", [])}


def _choices(hint: object) -> list[str]:
    options = [hint, *get_args(hint)]
    return [str(c) for option in options if get_origin(option) is Literal for c in get_args(option)]


def _bash(commands: Mapping[str, Command]) -> str:
    names = groups(commands)
    cases = [
        f'            {first}) words="{" ".join(seconds)}" ;;'
        for first, seconds in names.items()
        if seconds
    ]
    choices = [
        f'                "{name} --{flag}") words="{" ".join(options)}" ;;'
        for name, command in commands.items()
        for flag, (_help, options) in flags(command).items()
        if options
    ]
    lines = [
        f'                        "{name}") words="{" ".join(f"--{f}" for f in flags(command))}" ;;'
        for name, command in commands.items()
    ]
    return _BASH.format(
        first=" ".join(names),
        groups="\n".join(cases),
        grouped="|".join(first for first, seconds in names.items() if seconds),
        choices="\n".join(choices),
        flags="\n".join(lines),
    )


def _fish(commands: Mapping[str, Command]) -> str:
    start = "complete -c fm-med -n"
    lines = [f"{start} __fish_use_subcommand -f -l help -d 'list the commands'"]
    for first, seconds in groups(commands).items():
        about = commands[first].summary if first in commands else ", ".join(seconds)
        lines.append(f"{start} __fish_use_subcommand -f -a {first} -d {_quoted(about)}")
        seen = "__fish_seen_subcommand_from"
        where = f"{seen} {first}; and not {seen} {' '.join(seconds)}"
        for second in seconds:
            about = commands[f"{first} {second}"].summary
            lines.append(f"{start} '{where}' -f -a {second} -d {_quoted(about)}")
    for name, command in commands.items():
        where = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        for flag, (about, options) in flags(command).items():
            wanted = f" -x -a {_quoted(' '.join(options))}" if options else ""
            lines.append(f"{start} '{where}' -l {flag} -d {_quoted(about)}{wanted}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def completion(settings: Completion) -> None:
    """Print the script."""
    from fm_med.cli import COMMANDS

    print(script(settings.shell, COMMANDS), end="")


COMPLETION_COMMANDS = {
    "completion": Command(Completion, completion, "print a shell script that completes commands")
}
