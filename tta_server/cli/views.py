"""`tta-server views`: a contact sheet of what TTA does to one image."""

from pathlib import Path
from typing import Annotated

import typer

from tta_server.cli.console import (
    DEFAULT_MODELS,
    ModelOption,
    ModelsOption,
    PolicyOption,
    model_folder,
    out,
    picture_file,
    save_picture,
)
from tta_server.repository import load_model
from tta_server.sheet import draw_sheet


def views(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An image file.")],
    model: ModelOption,
    models: ModelsOption = DEFAULT_MODELS,
    policy: PolicyOption = None,
    merge: Annotated[str | None, typer.Option(help="How predictions merge; default: the model's own.")] = None,
    to: Annotated[Path, typer.Option("--out", "-o", callback=picture_file, help="Where the picture goes.")] = Path(
        "sheet.png"
    ),
) -> None:
    """Draw every view as the model sees it, its own prediction and weight under it, the merged answer last.

    Example: tta-server views photo.jpg --model clothing --policy ten_crop --out sheet.png
    """
    picture = draw_sheet(load_model(model_folder(models, model)), image.read_bytes(), policy, merge)
    save_picture(picture, to)
    out.print(f"{to}: {picture.width}x{picture.height}", highlight=False)
