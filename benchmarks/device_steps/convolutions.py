"""What the CUDA provider's ways to choose convolutions cost, with channels first and last."""

from functools import partial

from benchmarks.device_steps import bare
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import Setting
from benchmarks.device_steps.timing import median_ms, milliseconds, rounded

SEARCHES = ("HEURISTIC", "DEFAULT", "EXHAUSTIVE")
ROWS = (64, 8)


def run(setting: Setting, report: Report) -> None:
    """The CPU has one way."""
    for net in setting.nets:
        for search in SEARCHES if setting.is_cuda else SEARCHES[:1]:
            for last in (False, True) if setting.is_cuda else (False,):
                report.attempt(f"{net}, {search}", partial(_measure, setting, report, net, search, last))


def _measure(setting: Setting, report: Report, net: str, search: str, channels_last: bool) -> None:
    precision = setting.file_precision
    options = {"cudnn_conv_algo_search": search, "prefer_nhwc": str(int(channels_last))}
    made = bare.session(setting, net, precision, **options)
    first, usual = dict[int, float](), dict[int, float]()
    for rows in ROWS if setting.is_cuda else setting.rungs[:1]:
        action = bare.bound(setting, made, rows, precision)
        first[rows] = milliseconds(action)
        usual[rows] = median_ms(action, limit_s=setting.seconds(0.3))
    report.say(net=net, precision=precision, search=search, channels_last=channels_last, first_ms=rounded(first),
               ms=rounded(usual))  # fmt: skip
