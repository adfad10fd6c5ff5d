"""Turns requests into answers: the layer between the protocols and the scheduler.

`Predictor` is the use case of every protocol. It resolves a request's options into a `Plan`, reads each image's header
into a `Source`, computes a `Layout` of where the views lie, and submits one scheduler job an image, whose payload is an
`ImageJob` with pixels, accumulator and the future of the answer. `Engine` runs the scheduler: its slot threads take
steps from it, `StepRunner` decodes images and runs batches through the `ImageRunner`: an `Executor` writes views into a
batch, calls the backend and maps the predictions back, and each job merges its own in one call; a `Recorder` keeps the
job's `Progress` in step with the accumulator. `GraphExecutor` is the executor of models with `backend.views: graph`: it
makes a batch's views by one graph, and where the merge is a sum, gives each job the sum over its views of the batch.
`EnsembleExecutor` has an exported ensemble in a Triton server do the same.
`Unsettled` settles each job exactly once, with an `Answer` from the `AnswerBuilder` or an error. `warm_up` measures a
model's costs before it serves; `Health` and `ModelProbe` find unhealthy models and outdated costs.
"""
