"""Users for locust: two models, three budgets, two priorities, real images.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000

and then http://127.0.0.1:8089; `make load` runs them without a browser, against a server of its own.

A refusal (429) is no failure: an overloaded server should refuse, and it is listed as "predict ... (refused)"; the user
then waits for `retry_after_ms`. An answer whose receipt exceeds its budget is a failure, and so is every other error.
The exit status is 1 if more than 5 % of the requests that were not refused fail.

| variable | what it is | default |
|---|---|---|
| TTA_LOAD_DATA | folder with clothing/test/*/*.jpg and nuclei/images/*.png | shared/data beside the repository |
| TTA_LOAD_MODELS | folder of models, whose samples are sent where there is no data | models |
| TTA_LOAD_VIEWS | most views an answer may have | 8 |
"""

import os
import random
import time
from pathlib import Path
from urllib.parse import urlencode

from locust import FastHttpUser, between, events, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtest.cases import BUDGETS_MS, DATA, IMAGES, MODELS

BODIES = {
    model: [
        path.read_bytes()
        for path in find(
            Path(os.environ.get("TTA_LOAD_DATA", DATA)),
            Path(os.environ.get("TTA_LOAD_MODELS", MODELS)),
        )
    ]
    for model, find in IMAGES.items()
}
VIEWS = int(os.environ.get("TTA_LOAD_VIEWS", "8"))
BUDGETS = {"short": 0.5, "normal": 1.0, "long": 5.0}
"""Multiples of the model's budget in `cases`."""
PRIORITIES = {"interactive": 3, "batch": 1}
"""With relative frequencies."""
REFUSED = "(refused)"
MOST_FAILURES = 0.05
"""Share of the requests that were not refused."""


class Client(FastHttpUser):
    """Pauses, then sends an image with a short, normal or long budget."""

    wait_time = between(0.02, 0.2)

    @task(6)
    def clothing(self) -> None:
        self._ask("clothing")

    @task(1)
    def nuclei(self) -> None:
        self._ask("nuclei")

    def _ask(self, model: str) -> None:
        budget = random.choice(list(BUDGETS))
        budget_ms = BUDGETS_MS[model] * BUDGETS[budget]
        query = {"budget_ms": f"{budget_ms:g}", "max_views": VIEWS, "stop": "all"}
        query["priority"] = random.choices(list(PRIORITIES), list(PRIORITIES.values()))[0]
        path, body = f"/v1/models/{model}/predict?{urlencode(query)}", random.choice(BODIES[model])
        name = f"predict {model} ({budget})"
        with self.client.post(path, data=body, name=name, catch_response=True) as response:
            judge(response, f"predict {model} {REFUSED}", budget_ms)
        if response.status_code == 429:
            time.sleep(response.json()["retry_after_ms"] / 1e3)  # locust makes this a switch to another user


def judge(response: ResponseContextManager, refused: str, budget_ms: float) -> None:
    """Record success, failure, or a refusal as success under the name `refused`."""
    if response.status_code == 429:
        response.request_meta["name"] = refused
        response.success()
    elif response.status_code != 200:
        response.failure(f"{response.status_code}: {(response.text or '')[:200]}")
    elif response.json()["receipt"]["elapsed_ms"] > budget_ms:
        response.failure(f"the receipt's elapsed_ms exceeds the budget of {budget_ms:g} ms")
    else:
        response.success()


@events.quitting.add_listener
def exit_status(environment: Environment, **_: object) -> None:
    admitted = [entry for entry in environment.stats.entries.values() if not entry.name.endswith(REFUSED)]
    failed = sum(entry.num_failures for entry in admitted)
    environment.process_exit_code = int(failed > MOST_FAILURES * sum(entry.num_requests for entry in admitted))
