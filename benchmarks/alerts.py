"""What a real Prometheus makes of the alert rules and the dashboard while a real server is overloaded.

Phases of open-loop load (loadtest's generator): 1x is the rate of a closed loop of 8 connections with all 8 views.
Rules are those of dashboards/alerts.yaml with windows of 10 s and without waiting (`for`), so that they fire in
seconds. After each phase every query of the dashboard is asked, and its values are printed. Spans go to a closed port,
so that they are dropped. Exits with 1 if an expected alert does not fire, one of overload fires before it or does not
end after it, or a query has no data.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
from PIL import Image

from benchmarks.server import MODELS, ROOT, served
from dashboards.panels import ROWS
from loadtest.cases import Case
from loadtest.generator import Shot, closed_loop, open_loop, poisson
from loadtest.report import outcome
from loadtest.target import Target
from tests.support.prometheus import PROMETHEUS, prometheus
from tests.support.remote import free_port

WINDOW = "10s"
PATIENCE_S = 60
OVERLOAD = {"TtaViewsCollapsed", "TtaObjectiveFastBurn"}
EXPECTED = OVERLOAD | {"TtaDroppedSpans"}
WITHOUT_DATA = {"Doubts about tta.yaml"}
"""Nothing to show: the bundled models are what their tta.yaml states."""


@dataclass(frozen=True)
class Phase:
    name: str
    loads: Sequence[tuple[Case, float]]
    """What is requested, and how often a second."""


def shortened(rules: str) -> str:
    return re.sub(r"for: \w+", "for: 0s", re.sub(r"\[\d+[mh]\]", f"[{WINDOW}]", rules))


class Watch:
    """Asks one Prometheus."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=f"{address}/api/v1", timeout=30)
        self.seen: set[str] = set()

    def _get(self, path: str, **query: str) -> Any:
        for _ in range(PATIENCE_S):
            try:
                return self._client.get(path, params=query).raise_for_status().json()["data"]
            except (httpx.TransportError, httpx.HTTPStatusError):
                time.sleep(1)
        raise SystemExit(f"Prometheus does not answer {path}")

    def firing(self) -> set[str]:
        found = {a["labels"]["alertname"] for a in self._get("alerts")["alerts"] if a["state"] == "firing"}
        self.seen |= found
        return found

    def value(self, expression: str, legend: str) -> dict[str, float]:
        """By legend; series without a number are left out."""
        query = re.sub(r"\$(job|instance|model)\b", ".*", expression.replace("$__rate_interval", WINDOW))
        found = {}
        for series in self._get("query", query=query)["result"]:
            name = re.sub(r"{{(\w+)}}", lambda m, of=series["metric"]: of.get(m[1], ""), legend)
            if (number := float(series["value"][1])) == number:
                found[name] = number
        return found

    def panels(self) -> Iterator[tuple[str, dict[str, float], int]]:
        """Title, values by legend, queries without a value."""
        for panels in ROWS.values():
            for panel in panels:
                values = [self.value(*query) for query in panel.queries]
                yield panel.title, {k: v for each in values for k, v in each.items()}, sum(not each for each in values)


async def send(address: tuple[str, int], phase: Phase, seconds: float, watch: Watch) -> list[Shot]:
    """Sends the phase's requests, and asks meanwhile which alerts fire."""

    async def look() -> None:
        while True:
            await asyncio.to_thread(watch.firing)
            await asyncio.sleep(0.5)

    looking = asyncio.create_task(look())
    loops = [
        open_loop(address, case.requests("adaptive"), poisson(rate, seconds, Random(1)), case.budget_ms / 1e3 + 2)
        for case, rate in phase.loads
    ]
    shots = await asyncio.gather(*loops)
    looking.cancel()
    return [shot for each in shots for shot in each]


def report(phase: Phase, shots: Sequence[Shot], watch: Watch) -> set[str]:
    """Prints the dashboard; returns the panels with a query without data."""
    good = sum(outcome(shot).status == 200 for shot in shots)
    rates = ", ".join(f"{case.model} {rate:.1f}/s" for case, rate in phase.loads)
    print(f"\n== {phase.name}: {rates}; {good} of {len(shots)} answered; firing: {sorted(watch.firing()) or 'none'}")
    empty = set()
    for title, values, missing in watch.panels():
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if value)
        print(f"  {title}: {shown or ('0' if values else 'no data')}")
        if missing:
            empty.add(title)
    return empty


def large_image(folder: Path) -> Path:
    path = folder / "large.jpg"
    Image.effect_noise((6000, 4000), 40).convert("RGB").save(path, quality=80)
    return path


def phases(clothing: Case, nuclei: Case, large: Case, one_x: float, nuclei_x: float) -> list[Phase]:
    return [
        Phase("quiet, 0.1x", [(clothing, 0.1 * one_x)]),
        Phase("views fall, 3x", [(clothing, 3 * one_x)]),
        Phase("overload, 12x", [(clothing, 12 * one_x)]),
        Phase("large images, 3/s", [(large, 3)]),
        Phase("one model starves another: nuclei 8x", [(clothing, 0.2 * one_x), (nuclei, 8 * nuclei_x)]),
        Phase("more than the event loop bears", [(clothing, 1000)]),
        Phase("quiet again, 0.1x", [(clothing, 0.1 * one_x)]),
    ]


@contextmanager
def watched(binary: str, folder: Path) -> Iterator[tuple[tuple[str, int], Watch]]:
    rules = folder / "alerts.yaml"
    rules.write_text(shortened((ROOT / "dashboards" / "alerts.yaml").read_text()))
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_MAX_QUEUE_SIZE": "64",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64",
    }
    with (
        served("--slots", "2", "--traces", env=env) as server,
        prometheus(binary, server.url.removeprefix("http://"), folder, rules) as address,
    ):
        yield server.http, Watch(address)


def closed_rate(address: tuple[str, int], case: Case, seconds: float) -> float:
    budget_ms = Target("http://{}:{}".format(*address)).max_budget_ms(case.model)
    shots = asyncio.run(closed_loop(address, case.requests("fixed", budget_ms), seconds))
    if failed := [shot for shot in shots if outcome(shot).status != 200]:
        raise SystemExit(f"the closed loop got an error: {failed[0].answer[-300:].decode(errors='replace')}")
    return len(shots) / (max(shot.ended for shot in shots) - min(shot.sent for shot in shots))


def wait_until_over(address: tuple[str, int], quiet: Phase, watch: Watch) -> float:
    """Seconds of quiet load until no alert of overload fires; infinite if that takes too long."""
    start = time.monotonic()
    while watch.firing() & OVERLOAD:
        if time.monotonic() - start > PATIENCE_S:
            return float("inf")
        asyncio.run(send(address, quiet, 2, watch))
    return time.monotonic() - start


def verdicts(before: set[str], seen: set[str], over: float, empty: set[str]) -> bool:
    checks = {
        f"alerts of overload at quiet load before: {sorted(before) or 'none'}; target none": not before,
        f"of {sorted(EXPECTED)} fired: {sorted(EXPECTED & seen)}; target all": seen >= EXPECTED,
        f"overload's alerts ended {over:.1f} s after the load; target under {PATIENCE_S} s": over < PATIENCE_S,
        f"panels without data: {sorted(empty) or 'none'}; target none but {sorted(WITHOUT_DATA)}": empty
        <= WITHOUT_DATA,
    }
    for text, is_met in checks.items():
        print(f"{text}: {'met' if is_met else 'MISSED'}")
    return all(checks.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus", default=str(PROMETHEUS), help="the binary (make prometheus)")
    parser.add_argument("--seconds", type=float, default=15, help="of a phase")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, watched(args.prometheus, Path(name)) as (address, watch):
        clothing = Case("clothing", (MODELS / "clothing" / "sample.jpg",), 300, 8)
        nuclei = Case("nuclei", (MODELS / "nuclei" / "sample.png",), 600, 8)
        large = Case("clothing", (large_image(Path(name)),), 2000, 8)
        rates = [closed_rate(address, case, 4) for case in (clothing, nuclei)]
        print(f"1x: clothing {rates[0]:.1f}/s, nuclei {rates[1]:.1f}/s")
        before, empty = set[str](), None
        for phase in phases(clothing, nuclei, large, *rates):
            if phase.name.startswith("quiet again"):
                over = wait_until_over(address, phase, watch)
            shots = asyncio.run(send(address, phase, args.seconds, watch))
            without = report(phase, shots, watch)
            empty = without if empty is None else empty & without
            if phase.name.startswith("quiet, "):
                before = watch.firing() & OVERLOAD
    return 0 if verdicts(before, watch.seen, over, empty or set()) else 1


if __name__ == "__main__":
    sys.exit(main())
