"""`tta-server export-triton`: a Triton repository with a model, the graphs around it, and their ensemble."""

from pathlib import Path
from typing import Annotated

import typer

from tta_server.cli.console import loading, out
from tta_server.cli.files import model_folder
from tta_server.cli.options import ModelsOption, PolicyOption
from tta_server.cli.sources import read_settings
from tta_server.repository.loader import load_model
from tta_server.repository.triton_export import check_target, triton_models, write_models
from tta_server.repository.triton_readme import readme
from tta_server.serving.ensemble import ensemble_plan
from tta_server.serving.verification import verify


def export_triton(
    model: Annotated[str, typer.Argument(help="Name of a model in the folder of models.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="REPO", help="Folder of the Triton repository.")],
    models: ModelsOption = None,
    policy: PolicyOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that is not empty; replace this model in it.")
    ] = False,
) -> None:
    """Write a Triton repository that runs a model with its views: by Triton alone, or behind this server.

    MODEL_front makes views from images' bytes; MODEL is the model file, with dynamic batching.

    MODEL_tail sums the outputs of each image's views, where the merge is a sum; MODEL_tta is the ensemble to call, also
    by this server: `backend: {name: triton, url: ..., model: MODEL_tta, views: graph}` in its tta.yaml.

    REPO/README.md has a client, and what is lost without this server: budgets, stop rules, admission.

    Needs the onnx package, which is in the extra compile.

    Example: tta-server export-triton clothing --out triton-models
    """
    folder = model_folder(read_settings(models=models).models, model)
    check_target(to, folder.name, force)
    loaded = load_model(folder)
    with loading(f"exporting {loaded.name}"):
        loaded.observe(verify(loaded))
        plan = ensemble_plan(loaded, policy)
        made = triton_models(loaded, folder, plan.sums)
        write_models(to, loaded.name, made)
        page = readme(loaded, folder, policy, plan.sums)
        (to / "README.md").write_text(page, "utf-8")
    for each in made:
        out.print(f"{to / each.name}")
    out.print(f"{to / 'README.md'}: how to call {loaded.name}_tta")
