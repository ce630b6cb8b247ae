"""Settings of a recipe: a dataclass read from flags and YAML, refused in one line when wrong.

Light on purpose: `--help` and a mistyped flag must answer before torch is imported, and the list of
commands before the parser is.
"""

import dataclasses
import difflib
import errno
import json
import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from fm_med.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Settings = TypeVar("Settings")


def setting(default: Any, help: str) -> Any:
    """Declare one field of a recipe's `Config`: its default and its line in `--help`."""
    return dataclasses.field(default=default, metadata={"help": help})


def required(help: str) -> Any:
    """Declare a field that must be given with its flag."""
    return dataclasses.field(kw_only=True, metadata={"help": help})


def argument(help: str) -> Any:
    """Declare a field of a command that is given by its place, without a flag."""
    return dataclasses.field(metadata={"help": help, "positional": True})


def parse_settings(
    kind: type[Settings], argv: Sequence[str], *, description: str = "", program: str | None = None
) -> Settings:
    """Read `kind` from a command line: `--config preset.yaml`, then `--field value` overrides.

    Args:
        kind: A dataclass whose fields were declared with `setting`.
        argv: The arguments without the program's name. Boolean flags may stand bare.
        description: First lines of `--help`.
        program: Name shown in the usage line.

    Raises:
        InputError: An unknown key, a value of the wrong type, or a missing file; one line.
    """
    parser = settings_parser(kind, description=description, program=program)
    return read_settings(kind, parser, argv)


def settings_parser(
    kind: type, *, description: str = "", program: str | None = None
) -> "ArgumentParser":
    """Build the parser of a settings dataclass; its errors are raised, not printed."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description=description, prog=program
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the fields below")
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        options = {
            "type": hints[field.name],
            "help": field.metadata["help"].replace("%", "%%"),
        }
        if field.metadata.get("positional"):
            parser.add_argument(field.name, **options)
        elif field.default is dataclasses.MISSING:
            parser.add_argument(f"--{field.name}", required=True, **options)
        else:
            parser.add_argument(f"--{field.name}", default=field.default, **options)
    return parser


def read_settings(kind: type[Settings], parser: "ArgumentParser", argv: Sequence[str]) -> Settings:
    """Parse `argv` with a parser of `settings_parser` and return the filled dataclass.

    Raises:
        InputError: As in `parse_settings`.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    booleans = {name for name, hint in hints.items() if hint is bool}
    lists = {name: _item(hint) for name, hint in hints.items() if _item(hint) is not None}
    try:
        namespace = parser.parse_args(_join_lists(_bare_flags(argv, booleans), lists))
    except ArgumentError as error:
        raise InputError(_one_line(str(error), names)) from None
    return kind(**{name: _plain(namespace[name]) for name in names})


def _plain(value: Any) -> Any:
    """Return the int or float inside a restricted number, which YAML could not write."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def _bare_flags(argv: Sequence[str], booleans: set[str]) -> list[str]:
    """Turn a bare boolean flag (`--resume`) into `--resume=true`."""
    following = [*argv[1:], "--"]
    return [
        f"{word}=true" if word[2:] in booleans and after.startswith("--") else word
        for word, after in zip(argv, following)
    ]


def _item(hint: Any) -> type | None:
    """Return what a list or optional list holds; None for every other type."""
    for option in (hint, *get_args(hint)):
        if get_origin(option) is list:
            return get_args(option)[0]
    return None


def _join_lists(argv: Sequence[str], lists: Mapping[str, type | None]) -> list[str]:
    """Turn `--label a b --label c` into `--label=["a", "b", "c"]`, and numbers into `[1, 3]`.

    `--label+ d` goes after it, because it adds to what is there before.
    """
    lists = {**lists, **{f"{name}+": item for name, item in lists.items()}}
    joined: dict[str, list[str]] = {}
    others: list[str] = []
    current: list[str] | None = None
    for word in argv:
        name, equals, value = word[2:].partition("=")
        if word.startswith("--"):
            is_list = name in lists and not value.startswith("[")
            current = joined.setdefault(name, []) if is_list else None
            word = value if is_list and equals else word
            if is_list and not equals:
                continue
        (others if current is None else current).append(word)
    in_order = sorted(joined, key=lambda name: name.endswith("+"))
    return others + [f"--{name}={_listed(joined[name], lists[name])}" for name in in_order]


def _listed(words: list[str], item: type | None) -> str:
    """Write a list for the parser; numbers bare, so that it can check them."""
    if len(words) == 1 and words[0].startswith("["):  # it was written as a list already
        return words[0]
    return json.dumps(words) if item is str else f"[{', '.join(words)}]"


def _one_line(message: str, names: list[str]) -> str:
    """Fold a parser's message into one line and suggest the name that was probably meant."""
    message = re.sub(r"\s+", " ", message).strip()
    message = message.replace("typing.Literal", "one of ")
    restricted = re.search(
        r'Parser key "(\w+)": .*?Not of type \w+: (?:(.+?) )?'
        r"does not conform to restriction (.+?)(?: - Expected|$)",
        message,
    )
    if restricted:
        name, value, rule = restricted.groups()
        value = value or message.rsplit("Given value: ", 1)[-1]
        return f"{name} is {value}, expected {rule.replace('v', name)}"
    message = re.sub(r'Parser key "(\w+)":', r"\1:", message)
    message = re.sub(r"<class '(\w+)'>", r"\1", message)
    unknown = re.search(r"unrecognized arguments: --(\w+)|Option '(\w+)' is not accepted", message)
    if not unknown:
        return message
    wrong = unknown.group(1) or unknown.group(2)
    close = difflib.get_close_matches(wrong, names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else "; --help lists them"
    return f"unknown setting {wrong!r}{meant}"


def save_settings(settings: Any, path: Path) -> None:
    """Write a settings dataclass as YAML, every field in its order."""
    import yaml

    path.write_text(yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False))


def changed_settings(settings: Any, path: Path) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ from a saved file as {name: (saved, now)}."""
    import yaml

    saved = yaml.safe_load(path.read_text())
    now = dataclasses.asdict(settings)
    return {
        name: (saved.get(name), value) for name, value in now.items() if saved.get(name) != value
    }


def exit_code(command: Callable[[], object]) -> int:
    """Run a command and return its exit status: 0 done, 2 the user's input (one line on stderr).

    What all processes of a run refuse is printed by the first of them, what one refuses by that.
    Any other exception is a fault of ours and passes through with its traceback (status 1).
    """
    try:
        command()
    except InputError as error:
        return _refuse(str(error))
    except OSError as error:  # a place that may not be written, or is full: no fault of ours
        if error.errno not in _OF_THE_PLACE or error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ImportError as error:  # its last line seldom names the cause, such as torchvision
        error.add_note("fm-med doctor says what is wrong with this installation")
        raise
    return 0


_OF_THE_PLACE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EROFS,
}


def _refuse(message: str) -> int:
    """Tell what is wrong with the user's input in one line; return the exit status for it."""
    if _first_to_tell(message):
        # One write: `print` may write the line's end apart, after another process's line.
        sys.stderr.write(f"error: {message}\n")
        sys.stderr.flush()
    return 2


def _first_to_tell(message: str) -> bool:
    """Tell whether no other process of the same launcher and machine has claimed this message.

    Not by rank: an error may be that of one process only, and a launcher ends all as soon as one
    has ended, perhaps before the first rank had its say. torchrun and `accelerate launch` give
    their processes one folder, in which only one of them can make a file. Without such a launcher
    every process speaks for itself.
    """
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not own:
        return True
    name = sha256(message.encode()).hexdigest()[:16]
    try:
        Path(own).parent.with_name(f"told-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # rather twice than never
        return True
    return True


def launch(kind: type[Settings], main: Callable[[Settings], object]) -> None:
    """Run a recipe: parse its settings from the command line, call `main`, set the exit status."""
    module = sys.modules[main.__module__]
    program = Path(sys.argv[0]).name
    argv = sys.argv[1:]

    def command() -> None:
        main(parse_settings(kind, argv, description=module.__doc__ or "", program=program))

    sys.exit(exit_code(command))


__all__ = [
    "argument",
    "changed_settings",
    "exit_code",
    "launch",
    "parse_settings",
    "read_settings",
    "required",
    "save_settings",
    "setting",
    "settings_parser",
]
