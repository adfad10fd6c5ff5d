"""A peer: LitServe, which batches across clients. Run by the step `peers` with the port as its argument."""

import os
import sys
from typing import Any

import litserve  # type: ignore[import-not-found]
import numpy as np
from fastapi import Request

from benchmarks.device_steps import peer_model

SIZES = (1, 4, 16)
"""Batches are padded to these, for each is compiled."""


class Api(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.model = peer_model.from_environment()
        self.model.warm(SIZES)

    def decode_request(self, request: Request) -> Any:  # LitServe reads the annotation; what comes is a form
        return peer_model.decode(request["image"].file.read())

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, crops: Any) -> Any:
        size = next(size for size in SIZES if size >= len(crops))
        padded = np.concatenate([crops, np.zeros((size - len(crops), *crops.shape[1:]), np.uint8)])
        return self.model.predict(padded)[: len(crops)]

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return peer_model.answer(output)


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=SIZES[-1], batch_timeout=0.002),
        accelerator=os.environ["PEER_DEVICE"],
        workers_per_device=1,
    )
    server.run(port=int(sys.argv[1]), host="127.0.0.1", num_api_servers=4, generate_client_file=False)
