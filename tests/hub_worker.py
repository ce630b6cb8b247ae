"""A process with the real client, whose environment was set before it began; runs what it is told.

One request per line on stdin, one answer per line on the real stdout: the imports are paid once.
"""

import contextlib
import io
import json
import os
import sys
import traceback

import huggingface_hub.hf_api  # noqa: F401  (its log goes to the real stderr)


def answer(request):
    os.environ.pop("HF_TOKEN", None)
    os.environ |= request["environment"]
    names = {}
    out, err = io.StringIO(), io.StringIO()
    value = error = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(request["code"], names)
            value = names.get("value")
        except BaseException:  # noqa: BLE001  (whatever it was, it is the answer)
            error = traceback.format_exc()
    return {"value": value, "error": error, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=sys.__stdout__, flush=True)
