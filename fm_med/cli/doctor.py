"""`fm-med doctor`: look at what fm_med runs on."""

import json
from dataclasses import dataclass

from fm_med.cli.command import Command
from fm_med.errors import InputError
from fm_med.settings import setting


@dataclass
class Doctor:
    """Settings of `fm-med doctor`."""

    json: bool = setting(False, "print the findings as JSON")


def doctor(settings: Doctor) -> None:
    """Print every finding with what to do about it; status 2 if something will not work.

    Raises:
        InputError: There is a problem.
    """
    from fm_med.doctor import examine

    findings = examine()
    if settings.json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=1))
    else:
        width = max(len(finding.topic) for finding in findings)
        for finding in findings:
            mark = {"ok": "ok", "warning": "!!", "problem": "XX"}[finding.state]
            print(f"{mark}  {finding.topic:<{width}}  {finding.found}")
            if finding.advice:
                print(f"    {'':<{width}}  -> {finding.advice}")
    problems = [finding for finding in findings if finding.state == "problem"]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0].topic}: {problems[0].found}; {problems[0].advice}{more}")


DOCTOR_COMMANDS = {"doctor": Command(Doctor, doctor, "say what is wrong with this installation")}
