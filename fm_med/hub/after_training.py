"""`--push_to_hub` of the recipes: refused before the training, or done after it."""

import re
from pathlib import Path

from huggingface_hub import constants, get_token

from fm_med.cohort import Cohort
from fm_med.errors import InputError
from fm_med.hub.fetching import NetworkError, first_line, folder_named
from fm_med.hub.pushing import push
from fm_med.run import Run

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def refuse_unpushable(name: str | None) -> None:
    """Refuse before hours of training what cannot be pushed after them; asks no network.

    Args:
        name: Where the model is to go: `organisation/name`, a folder, or file://; None: nowhere.

    Raises:
        InputError: It is no such name, there is no token, or HF_HUB_OFFLINE is set.
    """
    if name is None or (name and folder_named(name) is not None):
        return
    if not _NAME.fullmatch(name):
        raise InputError(
            f"--push_to_hub {name}: this is no name of a model on the Hub, organisation/name"
        )
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"--push_to_hub {name}: HF_HUB_OFFLINE is set, so nothing can be pushed; name a folder "
            "(also file://), or push later with fm-med push"
        )
    if get_token() is None:
        raise InputError(
            f"--push_to_hub {name}: the Hub wants a token; log in with hf auth login, or set "
            "HF_TOKEN"
        )


def push_trained(run: Run, name: str | None, *, private: bool, cohort: Cohort) -> None:
    """Push the model of a finished run, through the guard; on the main process only.

    Args:
        run: Its model is saved already and stays what it is, whatever happens here.
        name: As for `refuse_unpushable`.
        private: Only members of the organisation may read it.
        cohort: The training cohort, whose ids and reports the guard looks for.

    Raises:
        SystemExit: It was not pushed: one line on how to do so later, exit status 1.
    """
    if name is None or not run.accelerator.is_main_process:
        return
    try:
        done = push(run.model_folder, name, public=not private, cohort=cohort)
    except (NetworkError, OSError, RuntimeError, ValueError) as error:
        later = f"fm-med push {_quoted(run.model_folder)} {_quoted(name)}"
        raise SystemExit(
            f"error: not pushed ({first_line(error)}); the model is kept, push it later with: "
            f"{later}{'' if private else ' --public'}"
        ) from None
    commit = f", commit {done.commit}" if done.commit else ""
    run.say(f"pushed to {done.where}{commit}")


def _quoted(word: str | Path) -> str:
    text = str(word)
    return f"'{text}'" if " " in text else text
