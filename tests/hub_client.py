"""Drive the real Hub client in a process of its own, as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).with_name("hub_worker.py")
ALICE, BOB = "hf_aliceAliceAliceAliceAliceAlice1", "hf_bobBobBobBobBobBobBobBobBobBob12"
USERS = {ALICE: ("alice", ["clinic"]), BOB: ("bob", [])}


class Client:
    """A process that talks to a loopback Hub, with its own home and an empty cache.

    Args:
        url: Of the Hub.
        home: Folder of its caches.
        environment: More variables, set before anything is imported.
    """

    def __init__(self, url, home, **environment):
        self.home = home
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "FM_MED"))}
        settings = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "FM_MED_CACHE": str(home / "fm_med"),
        }
        home.mkdir(parents=True, exist_ok=True)
        self.said = home / f"stderr-{len(list(home.glob('stderr-*')))}.txt"
        with self.said.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=kept | settings | environment,
                cwd=home,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.communicate(timeout=60)  # closes its stdin, which ends it
        self.check(self.said.read_text())

    def check(self, text):
        """No answer, log or traceback may ever show a token."""
        assert ALICE not in text and BOB not in text

    def run(self, code, *, token=ALICE):
        """Run Python; return its `value`."""
        answer = self.ask(code, token)
        assert answer["error"] is None, answer["error"]
        return answer["value"]

    def fm_med(self, *words, token=ALICE):
        """Run the command; return (status, stdout, stderr)."""
        words = [str(word) for word in words]
        answer = self.ask(f"from fm_med import cli\nvalue = cli.main({words!r})", token)
        assert answer["error"] is None, answer["error"]
        return answer["value"], answer["out"], answer["err"]

    def ask(self, code, token):
        request = {"code": code, "environment": {"HF_TOKEN": token} if token else {}}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        self.check(line)
        return json.loads(line)
