"""Text that people read: what somebody else chose, and what is said of a mistake."""

from __future__ import annotations

SHOWN = 300
"""Characters of a text from outside that are shown: more than a name or a path, less than a flood."""


LONGEST = 4000
"""Characters of any text that is shown, and of one that has to come back whole: of a field with 4096 bytes or more
`journalctl -o json` shows nothing but null."""


def shown(text: str, most: int = SHOWN) -> str:
    r"""Return a text as it may be printed: one line that drives no terminal, of at most `most` characters (60 or more).

    What is not printable (control characters, line breaks, bidi and other format marks, spaces that are not U+0020, the
    bytes of broken UTF-8) stands as `\n`, `\x1b`, `\u202e`. Shown twice it is the same.
    """
    if len(text) <= most:
        whole = str(text) if text.isprintable() else "".join(map(_escaped, text))
        if len(whole) <= most:
            return whole
    kept: list[str] = []
    room = most - len(_left_out(len(text)))
    for char in text:  # no more of it than fits is looked at
        escaped = _escaped(char)
        room -= len(escaped)
        if room < 0:
            break
        kept.append(escaped)
    return "".join(kept) + _left_out(len(text) - len(kept))


def _left_out(count: int) -> str:
    return f" … ({count} characters left out)"


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8, as os.fsdecode gives it
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


class Outside(str):
    """A text that somebody else chose: a path, a server's message, a reason.

    In an f-string it is `shown`. Everywhere else it is raw, so that it may be compared and opened: str() too, since
    Path() asks that, and a name that differs from the shown one must never open what has the shown one as its name. So
    to print one is for report alone, which shows whatever it prints.
    """

    __slots__ = ()

    def __format__(self, spec: str, /) -> str:
        return format(shown(self), spec)


NOTHING_SAID = Outside()

THREADS_OFF = (
    "master {pid} runs without Python threads, so after an outage of MongoDB only a restart of uWSGI helps; "
    "add `enable-threads = true` to its configuration"
)
"""What is told, shown and checked of such a master, with its pid to be filled in."""


class WatchdogError(Exception):
    """What mongo-watchdog raises on purpose; its text names the thing, what was expected and the mend."""


def fault(error: Exception) -> str:
    """Return what is said of a bug: what it is and where it was raised. That part is blind then, and nothing ends."""
    place, trace = "", error.__traceback__
    while trace:
        _, inside, module = trace.tb_frame.f_code.co_filename.rpartition("/watchdogd/")
        place = f" in {module}:{trace.tb_lineno}" if inside else place
        trace = trace.tb_next
    return f"internal error{place}: {Outside(repr(error))}; please report it"


class AlreadyRunning(WatchdogError):
    """Another daemon holds the state folder or the control socket."""
