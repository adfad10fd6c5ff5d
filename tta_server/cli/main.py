"""`tta-server`: the commands and their help."""

import sys

import typer

from tta_server import __version__
from tta_server.cli.calibrate import calibrate
from tta_server.cli.console import problem
from tta_server.cli.export_triton import export_triton
from tta_server.cli.init import init
from tta_server.cli.inspect import inspect
from tta_server.cli.listing import list_models, list_policies
from tta_server.cli.options import Command
from tta_server.cli.ping import ping
from tta_server.cli.predict import predict
from tta_server.cli.score import score
from tta_server.cli.score_options import ScoreCommand
from tta_server.cli.serve import serve
from tta_server.cli.simulate import simulate
from tta_server.cli.version import read_commit
from tta_server.cli.views import views
from tta_server.errors import BackendUnavailable, TTAError
from tta_server.imaging.libraries import configure_libraries

cli = typer.Typer(
    name="tta-server",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Test-time augmentation for vision models: run several views of an image, undo each view on its prediction, "
    "merge them, and answer within a budget.",
    epilog="Start with [bold]tta-server serve[/bold], "
    "or try [bold]tta-server predict photo.jpg --model clothing[/bold]. "
    "[bold]tta-server serve --help[/bold] explains a command and its options.",
)
cli.command(cls=Command)(serve)
cli.command(cls=Command)(init)
cli.command(cls=Command)(inspect)
cli.command(cls=Command)(predict)
cli.command(cls=ScoreCommand)(score)
cli.command(cls=Command)(views)
cli.command(cls=Command)(calibrate)
cli.command(cls=Command)(simulate)
cli.command(cls=Command)(ping)
cli.command("export-triton", cls=Command)(export_triton)
cli.command("models", cls=Command)(list_models)
cli.command("policies", cls=Command)(list_policies)


def _version(wanted: bool) -> None:
    if wanted:
        commit = read_commit()
        typer.echo(f"tta-server {__version__}" + (f", commit {commit}" if commit else ""))
        raise typer.Exit


@cli.callback()
def common(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print version and commit, and exit."
    ),
) -> None:
    configure_libraries()


def app() -> None:
    """The console script. Exit status 2 and one sentence on stderr for a TTAError or an OSError."""
    try:
        cli()
    except TTAError as error:
        problem(error.reason if isinstance(error, BackendUnavailable) else str(error))
        sys.exit(2)
    except OSError as error:
        problem(f"{error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
