"""A peer: uvicorn and FastAPI in one process, photos decoded by a pool of threads, the model on a thread of its own.

No batches across clients. Run by the step `peers` with the port as its argument.
"""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.device_steps import peer_model


def application() -> FastAPI:
    app = FastAPI()
    cores = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
    device = ThreadPoolExecutor(1)  # a captured graph belongs to its thread
    model = device.submit(peer_model.from_environment).result()
    device.submit(model.warm, (1,)).result()

    @app.get("/ready")
    async def ready() -> bool:
        return True

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        body, loop = await request.body(), asyncio.get_running_loop()
        crop = await loop.run_in_executor(cores, peer_model.decode, body)
        probabilities = await loop.run_in_executor(device, model.predict, crop[None])
        return peer_model.answer(probabilities[0])

    return app


if __name__ == "__main__":
    uvicorn.run(application(), port=int(sys.argv[1]), log_level="warning")
