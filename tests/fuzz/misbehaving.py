"""What the victim must notice, as a function that a file might call."""

import os


def misbehave(folder):
    """Do what the number in a file says; 0 is to do no harm."""
    from wsikd.core.errors import SlideError

    number = int((folder / "n").read_text())
    if number == 1:
        raise KeyError("x")
    if number == 2:
        os.abort()
    if number == 3:
        os.write(2, b"libtiff: warning")
    if number == 4:
        bytearray(2 << 30)
    if number == 5:
        raise SlideError("s", "unforeseen KeyError", "report it")
    if number == 6:
        error = SlideError("s", "fault", "remedy")
        error.remedy = "two\nlines"
        raise error
