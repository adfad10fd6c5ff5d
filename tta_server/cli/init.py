"""`tta-server init`: a model folder for an ONNX file."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from tta_server.cli.console import err, loading, note, out, problem, warn
from tta_server.cli.files import find_images
from tta_server.cli.model_evidence import FromOption, LabelsOption, ModelArgument, SetOption, concluded
from tta_server.cli.notes import print_notes
from tta_server.errors import BackendUnavailable, ConfigError
from tta_server.onboarding.batch.free import FIXED, free_batch
from tta_server.onboarding.choices import Choice
from tta_server.onboarding.conclusions import Conclusion
from tta_server.onboarding.draft import draft, embeddable
from tta_server.onboarding.folder import check_folder, default_name, write_embedded, write_folder
from tta_server.onboarding.measured.measure import Images, measure_images
from tta_server.onboarding.model_file import ModelFile, read_model_file
from tta_server.repository.described import FILE, config_place
from tta_server.repository.loader import load_model
from tta_server.serving.cores import available_cores
from tta_server.serving.verification import verify

FREED = "the copied file's batch axis is free: a batch of three images gave what each gives alone (within 1e-5)"
MOST = 300
"""Images that are measured on: a random draw of more."""
OPEN = 1
"""Exit status if something is left to fill in."""


NameOption = Annotated[str | None, typer.Option("--name", help="The model's name; default: that of the file.")]
FolderOption = Annotated[
    Path, typer.Option("--models", envvar="TTA_MODELS", help="The folder of models to write into.")
]
EmbedOption = Annotated[
    bool,
    typer.Option(
        "--embed",
        help="Write tta.yaml, labels included, into the copied model file's metadata, which then needs no tta.yaml "
        "beside it.",
    ),
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        exists=True,
        file_okay=False,
        metavar="DIR",
        help="A folder of images like those that the model will serve, without labels: colours, resize and "
        "normalisation of a classifier, and colours of a detector, are measured on them where nothing states them.",
    ),
]
FreeOption = Annotated[
    bool,
    typer.Option(
        "--free-batch",
        help="Free a batch axis that the file fixes at 1, so that views and requests share batches; refused with the "
        "reason where that can't be shown to be right. Needs the extra `compile`.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace tta.yaml and the model file of a folder.")]


def init(
    model: ModelArgument,
    name: NameOption = None,
    models: FolderOption = Path("models"),
    source: FromOption = None,
    labels: LabelsOption = None,
    stated: SetOption = None,
    images: ImagesOption = None,
    free: FreeOption = False,
    embed: EmbedOption = False,
    force: ForceOption = False,
) -> None:
    """Write a model folder for an ONNX file: a tta.yaml from what describes the model, and a copy of the file.

    Evidence, the strongest first: --set, --labels and --from, the file's metadata, files beside it, inputs and outputs,
    what test images and --images show.

    What nothing states is left open in tta.yaml and printed; then the exit status is 1. A model that can't be served
    right is refused with the reason, and nothing is written.

    Example: tta-server init yolo11n.onnx, then tta-server predict photo.jpg --model yolo11n --models models
    """
    folder = check_folder(models, default_name(model) if name is None else name, force)
    with loading(f"reading {model} ..."):
        file = read_model_file(model)
    found = concluded(file, source, labels, stated)
    if found.refusals:
        raise ConfigError(f"{model} can't be served: {'; '.join(found.refusals)}")
    if images:
        _measure(file, found, images)
    content = _freed(file, found) if free else model.read_bytes()
    if file.has_fixed_batch and not free:
        found.notes.append(FIXED)
    _write(folder, content, model, found, embed)
    if found.choices:
        _print_choices(folder, found.choices)
        raise typer.Exit(OPEN)
    _check(folder)
    out.print(_next_commands(folder), soft_wrap=True)


def _measure(file: ModelFile, found: Conclusion, folder: Path) -> None:
    """Add what images show. Raises InvalidInput for a folder without any."""
    paths = find_images(folder, MOST)
    track_images = partial(track, description="measuring on images", console=err, transient=True)
    found.extend(measure_images(file, found, Images(paths, track_images, available_cores())), file)


def _freed(file: ModelFile, found: Conclusion) -> bytes:
    """The file with a free batch axis. Raises ConfigError."""
    if not file.has_fixed_batch:
        found.notes.append("--free-batch: the file's batch axis is free already")
        return file.path.read_bytes()
    with loading("freeing the batch axis ..."):
        content = free_batch(file)
    note(FREED)
    return content


def _write(folder: Path, content: bytes, model: Path, found: Conclusion, embed: bool) -> None:
    if embed and not found.choices:
        write_embedded(folder, model, content, embeddable(found))
    else:
        write_folder(folder, model, content, draft(found))
    out.print(f"{config_place(folder)}: {len(found.facts)} keys stated, {len(found.choices)} left open", soft_wrap=True)
    for each in found.notes:
        warn(each)
    if embed and found.choices:
        warn("--embed: nothing is written into the model file while values are open")


def _print_choices(folder: Path, choices: Sequence[Choice]) -> None:
    problem(f"{folder / 'tta.yaml'} is not complete: nothing says {len(choices)} of its values")
    for choice in choices:
        note(f"  {choice.key}: {choice.allowed}")
    keys = " ".join(f"--set {choice.key}=..." for choice in choices[:2])
    note(f"either fill them in there, then: {_predict(folder)}")
    note(f"or run this command again with --force and {keys}, or with --from and a file that describes the model")


def _check(folder: Path) -> None:
    """Load the model and run it on test images; print what they show. Raises ConfigError: the folder is kept."""
    try:
        with loading(f"checking {folder.name} ..."):
            loaded = load_model(folder)
            loaded.observe(verify(loaded))
    except (ConfigError, BackendUnavailable) as error:
        change = "change its tta.yaml, or " if (folder / FILE).exists() else ""
        raise ConfigError(
            f"{error}; the folder is written: {change}run the command again with --force and --set KEY=VALUE"
        ) from None
    print_notes([loaded])
    loaded.retire()
    if not loaded.observed.warnings:
        note("checked on test images: they run, and show nothing that contradicts tta.yaml")


def _next_commands(folder: Path) -> str:
    return f"{_predict(folder)}\ntta-server serve {_models(folder)}"


def _predict(folder: Path) -> str:
    return f"tta-server predict PHOTO --model {folder.name} {_models(folder)}"


def _models(folder: Path) -> str:
    return f"--models {shlex.quote(str(folder.parent))}"
