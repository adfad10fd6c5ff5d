"""`tta-server views`: a contact sheet of what TTA does to one image."""

from pathlib import Path
from typing import Annotated

import typer

from tta_server.cli.console import (
    DEFAULT_MODELS,
    MAX_BYTES,
    MAX_PIXELS,
    MaxBytesOption,
    MaxPixelsOption,
    ModelOption,
    ModelsOption,
    PolicyOption,
    model_folder,
    out,
    picture_file,
    read_image,
    save_picture,
    settings_of,
)
from tta_server.cli.contact_sheet import draw_sheet
from tta_server.errors import TTAError
from tta_server.repository.loader import load_model


def views(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    model: ModelOption,
    models: ModelsOption = DEFAULT_MODELS,
    policy: PolicyOption = None,
    merge: Annotated[str | None, typer.Option(help="How predictions merge; default: the model's own.")] = None,
    to: Annotated[Path, typer.Option("--out", "-o", callback=picture_file, help="Where the picture goes.")] = Path(
        "sheet.png"
    ),
    max_bytes: MaxBytesOption = MAX_BYTES,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
) -> None:
    """Draw every view as the model sees it, its own prediction and weight under it, the merged answer last.

    Example: tta-server views photo.jpg --model clothing --policy ten_crop --out sheet.png
    """
    limits = settings_of(max_bytes=max_bytes, max_pixels=max_pixels).limits
    folder = model_folder(models, model)
    try:
        encoded = read_image(image, limits)
    except TTAError as error:
        raise type(error)(f"{image}: {error}") from error
    picture = draw_sheet(load_model(folder), encoded, policy, merge, limits)
    save_picture(picture, to)
    out.print(f"{to}: {picture.width}x{picture.height}", highlight=False)
