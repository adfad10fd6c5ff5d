"""The panels of the dashboard: what each asks Prometheus, and what its curve means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SERVER = '{job=~"$job",instance=~"$instance"}'
MODEL = '{job=~"$job",instance=~"$instance",model=~"$model"}'
BY_LOAD = MODEL.replace("}", ',reason!="budget"}')


@dataclass(frozen=True)
class Panel:
    """`queries` are pairs of PromQL and legend. `limits`, first orange then red, fall where high values are good."""

    title: str
    text: str
    unit: str
    queries: Sequence[tuple[str, str]]
    limits: tuple[float, float] | None = None
    is_heatmap: bool = False
    has_exemplars: bool = False


def rate(metric: str, by: str = "model", labels: str = MODEL) -> str:
    return f"sum by ({by}) (rate({metric}{labels}[$__rate_interval]))"


def mean(histogram: str, by: str = "model") -> str:
    return f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}"


def quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share:g}, {rate(f'{histogram}_bucket', 'model, le')})"


ANSWERS, LATE, EXPIRED = rate("tta_answer_seconds_count"), rate("tta_late_answers_total"), rate("tta_expired_total")
REFUSED = rate("tta_refusals_total", labels=BY_LOAD)
FAILED = rate("tta_errors_total", labels=MODEL.replace("}", ',code=~"backend_failed|internal|not_ready"}'))

IN_TIME = [
    Panel(
        "SLO attainment",
        "Answers in time over all images that deserved one: answered, refused for load, expired or failed. Below the "
        "objective of 99 %, read goodput beside it for the share that is missing. An error of a request of several "
        "images counts once.",
        "percentunit",
        [(f"({ANSWERS} - {LATE}) / ({ANSWERS} + {REFUSED} + {EXPIRED} + {FAILED})", "{{model}}")],
        (0.99, 0.95),
    ),
    Panel(
        "Goodput",
        "Images a second, by what became of them. Goodput is flat while refusals rise: the server is full; add slots "
        "or servers. Late answers: the machine stalls, or the budget is shorter than the plain view takes. Expired: "
        "an admitted image got no answer, which should not happen; see faults.",
        "reqps",
        [
            (f"{ANSWERS} - {LATE}", "{{model}}: in time"),
            (LATE, "{{model}}: late"),
            (REFUSED, "{{model}}: refused"),
            (EXPIRED, "{{model}}: expired"),
        ],
    ),
    Panel(
        "K: views of an answer",
        "Mean views of an answer. It falls under load before anything is refused, and with stop rules on easy images; "
        "the next panel separates the two.",
        "short",
        [(mean("tta_views"), "{{model}}")],
    ),
    Panel(
        "Views over wanted",
        "Views of answers over those that they would have had with time for all. 100 %: load takes no view. Near "
        "1 / K: only mandatory views are left, and the next load is refused. Add slots or servers, raise budgets, or "
        "plan fewer views.",
        "percentunit",
        [(f"{rate('tta_views_sum')} / {rate('tta_wanted_views_total')}", "{{model}}")],
        (0.8, 0.5),
    ),
    Panel(
        "Latency",
        "Seconds from a request's arrival to its answer, by bucket; with --traces each dot is the trace of a request. "
        "Answers use their budget up if views are left, so a band at the budget is a full server, not a slow one.",
        "s",
        [("sum by (le) (increase(tta_answer_seconds_bucket" + MODEL + "[$__rate_interval]))", "{{le}}")],
        is_heatmap=True,
        has_exemplars=True,
    ),
    Panel(
        "Latency, p50 and p99",
        "As the server measures it. If clients measure more, the time goes to the network, or before the request is "
        "read: see the lag of the event loop.",
        "s",
        [
            (quantile(0.5, "tta_answer_seconds"), "{{model}}: p50"),
            (quantile(0.99, "tta_answer_seconds"), "{{model}}: p99"),
        ],
        has_exemplars=True,
    ),
]

LOAD = [
    Panel(
        "Refusals by reason",
        "time: mandatory work would be late; add slots. jobs, bytes: --max-waiting, --max-waiting-mb. api: the event "
        "loop is behind; add servers. budget: the client's budget is below what one view takes; clients must change.",
        "reqps",
        [(rate("tta_refusals_total", "reason"), "{{reason}}")],
    ),
    Panel(
        "Backlog of a slot",
        "Seconds of mandatory work that wait, for each slot. Budgets bound it: what cannot be done in time is refused. "
        "High with idle slots (see time in batches): one device's pool or one model holds the work.",
        "s",
        [
            (
                f"sum by (instance) (tta_backlog_seconds{SERVER}) / sum by (instance) (tta_slots{SERVER})",
                "{{instance}}",
            )
        ],
        (0.1, 0.25),
    ),
    Panel(
        "Images in progress",
        "Images that are admitted and not yet answered. --max-waiting bounds them.",
        "short",
        [(f"sum by (instance) (tta_jobs{SERVER})", "{{instance}}")],
    ),
    Panel(
        "Memory of images in progress",
        "Bytes set aside for images that are not yet answered. --max-waiting-mb bounds them; refusals for bytes begin "
        "there.",
        "bytes",
        [(f"sum by (instance) (tta_backlog_bytes{SERVER})", "{{instance}}")],
    ),
    Panel(
        "Lag of the event loop",
        "How late HTTP and gRPC are served. Requests whose budget it uses up are refused for reason api: reading "
        "and writing all of them needs more than one core. Add servers, or send several images a request.",
        "s",
        [(f"max by (instance) (tta_event_loop_lag_seconds{SERVER})", "{{instance}}")],
        (0.02, 0.05),
    ),
    Panel(
        "Stop reasons",
        "Why answers have no more views. deadline and capacity: lack of time. all_views: the plan is complete. Others: "
        "a stop rule. backend_failed: an optional view's batch failed.",
        "reqps",
        [(rate("tta_answers_total", "stop_reason"), "{{stop_reason}}")],
    ),
]

TIME = [
    Panel(
        "Stages of an answer",
        "Mean seconds of an answer by stage, summed over its views. decode: large images; queue: slots are busy; "
        "prepare: views are made outside the model, try backend.views: graph; infer: the model itself.",
        "s",
        [(mean("tta_stage_seconds", "stage"), "{{stage}}")],
    ),
    Panel(
        "Cost-model error",
        "Time of a batch over its estimate. Estimates follow slowly changing costs, so a mean that stays over 1.25 "
        "is a neighbour on the same cores, or throttling: set CPU requests equal to limits, or fewer --slots.",
        "short",
        [(mean("tta_cost_ratio"), "{{model}}: mean"), (quantile(0.9, "tta_cost_ratio"), "{{model}}: p90")],
        (1.25, 2),
    ),
    Panel(
        "Time of a slot in batches",
        "Share of a slot's time in batches. On a CPU a slot also decodes and answers, so a full slot has less than "
        "100 %. Low while images wait: see faults and the lag of the event loop.",
        "percentunit",
        [
            (
                f"{rate('tta_batch_seconds_sum', 'instance')} / sum by (instance) (tta_slots{SERVER})",
                "{{instance}}",
            )
        ],
    ),
    Panel(
        "Batch size",
        "Mean views of a batch. On a device it should grow with load; on a CPU small batches are right.",
        "short",
        [(mean("tta_batch_size"), "{{model}}")],
    ),
    Panel(
        "Time in batches by model",
        "Seconds of slots a second that each model takes. A model that takes nearly all while another one's views fall "
        "starves it: give one of them servers of its own.",
        "short",
        [(rate("tta_batch_seconds_sum"), "{{model}}")],
    ),
    Panel(
        "Risky batches",
        "Optional batches a second that took the last free slot, so that an arriving request could be late. They are "
        "part of the design; with late answers beside them, set --slots higher or shorten the batches.",
        "ops",
        [(rate("tta_risks_total"), "{{model}}")],
    ),
]

ERRORS = [
    Panel(
        "Errors by code",
        "Errors a second. invalid_input, too_large, unsupported_media are the client's; overloaded and "
        "deadline_exceeded are load; backend_failed and internal are in the server's log by request id.",
        "reqps",
        [(rate("tta_errors_total", "code"), "{{code}}")],
    ),
    Panel(
        "Models ready",
        "1 while a model serves. At 0 GET /readyz has the reason.",
        "short",
        [(f"min by (instance, model) (tta_model_ready{MODEL})", "{{instance}} {{model}}")],
        (1, 0.5),
    ),
    Panel(
        "Faults",
        "Batches a second that failed, or were aborted because they took far too long (ended). The log has the error; "
        "a model with several in a row is unhealthy and is probed.",
        "ops",
        [(rate("tta_faults_total", "model, kind"), "{{model}}: {{kind}}")],
    ),
    Panel(
        "Dropped views",
        "Views a second that were left out: NaN, infinity, or not to be merged. Half precision overflows are the usual "
        "cause: export the model in float32.",
        "ops",
        [(rate("tta_dropped_views_total"), "{{model}}")],
    ),
    Panel(
        "Doubts about tta.yaml",
        "Views a second whose output is not what tta.yaml states, by check. The log has a sentence with the key and "
        "the value that would fit.",
        "ops",
        [(rate("tta_declaration_doubts_total", "model, check"), "{{model}}: {{check}}")],
    ),
    Panel(
        "Clients that left, dropped spans",
        "Clients that disconnect before their answer have a timeout below their budget. Spans are dropped if the "
        "collector is down or slow; answers are not affected.",
        "ops",
        [
            (rate("tta_left_total"), "{{model}}: left"),
            (rate("tta_dropped_spans_total", "instance", SERVER), "{{instance}}: dropped spans"),
        ],
    ),
]

ROWS: Mapping[str, Sequence[Panel]] = {
    "Answers in time": IN_TIME,
    "Load": LOAD,
    "Where the time goes": TIME,
    "Errors": ERRORS,
}
