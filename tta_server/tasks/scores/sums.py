"""How merges of class scores are summed by a graph. A maximum is no sum, and probabilities are checked row by row."""

from tta_server.tasks.scores.kinds import ScoreKind
from tta_server.tasks.sums import Score, Soundness, SumSpec

CLASS_SCORES = {
    "mean_probabilities": Score.SOFTMAX,
    "mean_logits": Score.VALUES,
    "geometric_mean": Score.LOG_SOFTMAX,
    "vote": Score.TOP_CLASS,
}
LABEL_SCORES = {
    "mean_probabilities": Score.SIGMOID,
    "mean_logits": Score.VALUES,
    "vote": Score.OVER_THRESHOLD,
}


def class_sums(output: str, kind: ScoreKind, merge: str) -> SumSpec | None:
    """The sums of classes of which one is true; None where there are none."""
    if kind.stated != "logits" or merge not in CLASS_SCORES:
        return None
    return SumSpec(output, CLASS_SCORES[merge], Soundness.TOP_FINITE, by_class=True)


def label_sums(output: str, kind: ScoreKind, merge: str, threshold: float) -> SumSpec | None:
    """The same of labels that may be present together; `threshold` is the least probability of a vote."""
    if kind.stated != "logits" or merge not in LABEL_SCORES:
        return None
    return SumSpec(output, LABEL_SCORES[merge], Soundness.NO_NAN, threshold=threshold, by_class=True)
