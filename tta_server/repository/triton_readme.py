"""The README.md of an exported Triton repository."""

from pathlib import Path

from tta_server.repository.model import Model
from tta_server.repository.triton_export import batch_sizes
from tta_server.tasks.sums import SumSpec

CALL = """\
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from tta_server.repository.loader import load_model
from tta_server.serving.ensemble import EnsembleImage

model = load_model(Path({folder!r}))  # tta.yaml and the model file
client = triton.InferenceServerClient("127.0.0.1:8001")


def tensor(name, values):
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


image = EnsembleImage(model, Path("photo.jpg").read_bytes(), policy={policy!r}, rows={rows})
for request in image.requests():
    inputs = [tensor(name, values) for name, values in request.inputs.items()]
    answer = client.infer("{name}_tta", inputs, client_timeout=10)
    image.add(request, {{name: answer.as_numpy(name) for name in request.outputs}})
print(image.result())
"""

PAGE = """\
# {name} with test-time augmentation, in Triton

Written by `tta-server export-triton {name}`. Start it with `tritonserver --model-repository=<this folder>`.

| model | does |
|---|---|
| `{name}_front` | makes the model's input, one row a view, from the images' bytes and a table of views |
| `{name}` | the model file, unchanged; Triton batches the rows of several requests ({batches}) |
{tail}| `{name}_tta` | the ensemble of these: the one to call |

## Call it

```python
{call}```

`EnsembleImage` decodes and resizes the image and makes a request for each size of input. Inputs of the ensemble:

- `slab` uint8 (N, C, H, W): resized images, zeros to the right of and below each; `slab_size` float32 (W, H).
- `rows` float32 (B, 28): a row for each view, as `tta_server.compiled.rows.front_table` makes it.
- `x`, `y` float32: 0, 1, 2, ... for the columns and rows of the model's input.
{inputs}
A request has at most {rows} rows, which Triton refuses to exceed. Other policies need no other export, unless their
views have weights by class; another merge does.

## What is lost without tta-server

- Budgets: all views run, whatever time is left; `client_timeout` ends a request without an answer.
- Stop rules: no view is saved where the answer is clear.
- Admission: under overload requests wait in Triton's queues, instead of being refused at once or getting fewer views.
- Priorities, receipts, retries, health of the model, the checks of tta.yaml in each answer.
- The images are decoded and resized by the client.
{limits}
To keep them, let tta-server call the ensemble: `backend: {{name: triton, url: ..., model: {name}_tta, views: graph}}`.
"""

TILES = "- Images that are looked at in tiles: `EnsembleImage` refuses them.\n"

ROWS = """\
- Outputs are those of the model, one row a view: merging them by {merge} needs each view, which `EnsembleImage`
  undoes and merges in the client. So there is no tail.
"""
VECTORS = """\
- `weight` (B, 1), or (B, C) by class: the views' weights. `owner` (N, B): 1 where the row is of the image, else 0.
- Outputs: `total` and `weights`, the sums by image, and `sound`, which rows are part of them.
"""
MAPS = """\
- `map_rows` float32 (B, 23): how each view's map moves back, as `tta_server.compiled.map_rows.map_table` makes it.
- `owner` (N, B): 1 where the row is of the image, else 0; `map_size` float32 (w, h) of the model's maps.
- `map_x`, `map_y` float32: 0.5, 1.5, ... for the columns and rows of the answer.
- Outputs: `total` and `weights`, the sums by image, flat, and `sound`, which rows are part of them.
{peaks}- `EnsembleImage` runs the model itself once for each size of input, to learn the size of its maps.
"""
PEAKS = """\
- `column`, `line` float32: 0, 1, 2, ... for the columns and rows of the model's maps. Output `peaks` (B, J, 5): the
  cell of each row's peaks (column, row), from its centre to the point (x, y), and the probability there.
"""


def readme(model: Model, folder: Path, policy: str | None, spec: SumSpec | None) -> str:
    """Return the page; `folder` and `policy` are those of the snippet, `spec` says how views are summed."""
    ladder = batch_sizes(model)
    rows = max(ladder, default=1)
    batches = f"to {', '.join(map(str, ladder))}" if rows > 1 else "not this one, which takes one row a run"
    merges = f"| `{model.name}_tail` | sums the outputs of each image's views: {model.merge} |\n"
    return PAGE.format(
        name=model.name,
        batches=batches,
        rows=rows,
        tail=merges if spec else "",
        call=CALL.format(name=model.name, folder=str(folder), policy=policy, rows=rows),
        inputs=_inputs(model, spec),
        limits=TILES if spec and spec.offset is not None and model.preprocessing.tile else "",
    )


def _inputs(model: Model, spec: SumSpec | None) -> str:
    if spec is None:
        return ROWS.format(merge=model.merge)
    return VECTORS if spec.offset is None else MAPS.format(peaks=PEAKS if spec.mirror_order else "")
