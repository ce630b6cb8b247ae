"""The one exception that means: the user's input is at fault, and here is which and why."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the file, record, column or key.

    Commands and recipes print it as one line that starts with ``error:`` and exit with status 2.
    """
