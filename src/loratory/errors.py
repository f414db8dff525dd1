"""Errors meant for the person at the keyboard.

Anything that can go wrong because of input, disk or hardware is raised as `LoratoryError`; the command line
prints its sentence and hint and exits with its code. Every other exception is a defect of the program.
"""

WRONG_USE = 2
FAILED = 1


class LoratoryError(Exception):
    """What happened, where, and what to do about it.

    message: one or two sentences naming the file, key or line. hint: the next thing to try ("" for none).
    exit_code: 2 when the input must change (`WRONG_USE`), 1 when the work failed on its way (`FAILED`).
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = WRONG_USE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
