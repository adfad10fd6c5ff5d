"""The steps of `benchmarks/devices.py`: one module each, run as a process of its own by `__main__`.

A step is a module with `run(setting, report)`, and an entry in STEPS.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """`limit_s` is the longest that a step may take; `needs` are steps whose files it reads."""

    limit_s: float
    checks: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()


STEPS = {
    "samples": Step(110, checks=(9,)),
    "nets": Step(70),
    "front_and_tail": Step(60, checks=(9, 11), needs=("nets",)),
    "rungs": Step(60, checks=(9,), needs=("nets",)),
    "cycling": Step(50, checks=(10,), needs=("nets",)),
    "gateway": Step(90, checks=(13, 15), needs=("nets",)),
    "peers": Step(170, checks=(14,), needs=("nets", "gateway")),
    "memory": Step(60, checks=(12,), needs=("nets",)),
    "convolutions": Step(60, needs=("nets",)),
    "ceilings": Step(40),
    "scaling": Step(80),
}
"""By name, the most important first; `checks` are those whose figures the step measures."""
CHECKS = {
    9: "answers on the device equal the CPU's",
    10: "batches of all sizes in turn, over each size repeated",
    11: "views, model and sums over the model alone",
    12: "growth of memory over batches of random sizes",
    13: "answers over HTTP",
    14: "goodput over that of the best peer",
    15: "requests of one view a second that the process bears",
}
