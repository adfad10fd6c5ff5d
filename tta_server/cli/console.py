"""Where commands print."""

from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text


class PlainConsole(Console):
    """Prints strings literally, in tables too, since they hold names of files, models and labels.

    Markup and emoji codes mean nothing; characters that are not printable are escaped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """Escapes control characters and the bytes of a file name that are not UTF-8; keeps line breaks."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


out = PlainConsole()
err = PlainConsole(stderr=True)


def problem(sentence: str) -> None:
    """One line on stderr: `error: ...`."""
    err.print(Text.assemble(("error:", "red"), " ", printable(sentence)), soft_wrap=True)


def warn(sentence: str) -> None:
    """One line on stderr: `warning: ...`."""
    err.print(Text.assemble(("warning:", "yellow"), " ", printable(sentence)), soft_wrap=True)


def note(sentence: str) -> None:
    """One line on stderr."""
    err.print(printable(sentence), soft_wrap=True)


def loading(text: str) -> Status:
    """A spinner on stderr while a `with` block runs."""
    return err.status(Text(printable(text)))
