"""Names are printed as they are."""

import io

from rich.table import Table

from tta_server.cli.console import PlainConsole, printable


def test_what_is_not_printable_is_escaped() -> None:
    assert printable("a\x1b[31m\udcff\u202eé[b]\nc") == "a\\x1b[31m\\udcff\\u202eé[b]\nc"
    console = PlainConsole(file=io.StringIO(), width=80)
    table = Table("[bold]head", title=":smile:[/b]")
    table.add_row("\udcff\x1b[2J[/x]")
    console.print(table)
    console.print("[b]\x1b", "é")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(text in shown for text in ("[bold]head", ":smile:[/b]", "\\udcff\\x1b[2J[/x]", "[b]\\x1b é"))
