"""`tta-server views`: a contact sheet of one image's views."""

from pathlib import Path
from typing import Annotated

import typer

from tta_server.cli.console import out
from tta_server.cli.contact_sheet import draw_sheet
from tta_server.cli.files import model_folder, picture_file, read_image, save_picture
from tta_server.cli.options import MaxBytesOption, MaxPixelsOption, MergeOption, ModelOption, ModelsOption, PolicyOption
from tta_server.cli.sources import read_settings
from tta_server.errors import TTAError
from tta_server.repository.loader import load_model
from tta_server.serving.verification import verify

OutOption = Annotated[Path, typer.Option("--out", "-o", callback=picture_file, help="File of the picture.")]


def views(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    model: ModelOption,
    models: ModelsOption = None,
    policy: PolicyOption = None,
    merge: MergeOption = None,
    to: OutOption = Path("sheet.png"),
    max_bytes: MaxBytesOption = None,
    max_pixels: MaxPixelsOption = None,
) -> None:
    """Draw each view as the model sees it, with its own prediction and weight, and the merged answer last.

    Example: tta-server views photo.jpg --model clothing --policy ten_crop --out sheet.png
    """
    settings = read_settings(models=models, max_bytes=max_bytes, max_pixels=max_pixels)
    folder = model_folder(settings.models, model)
    try:
        encoded = read_image(image, settings.limits)
    except TTAError as error:
        raise type(error)(f"{image}: {error}") from error
    loaded = load_model(folder)
    loaded.observe(verify(loaded))
    picture = draw_sheet(loaded, encoded, policy, merge, settings.limits)
    save_picture(picture, to)
    out.print(f"{to}: {picture.width}x{picture.height}")
