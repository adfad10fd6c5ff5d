"""Our own metadata: the key `tta.yaml` holds the text of a tta.yaml."""

from collections.abc import Iterator

import yaml

from tta_server.errors.validation import explain_yaml
from tta_server.onboarding.evidence import Evidence, Fact, Finding, Refusal
from tta_server.repository.described import KEY

NESTED = ("input", "output")


def read_embedded(evidence: Evidence) -> Iterator[Finding]:
    """All keys of the embedded text; those of `input` and `output` one by one."""
    text = evidence.file.metadata.get(KEY)
    if text is None:
        return
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        yield Refusal("task", f"the metadata {KEY} {explain_yaml(error)}")
        return
    if not isinstance(found, dict):
        yield Refusal("task", f"the metadata {KEY} holds no keys like 'task' and 'input'")
        return
    for key, value in found.items():
        inner = value.items() if key in NESTED and isinstance(value, dict) else ()
        for name, part in inner:
            yield Fact(f"{key}.{name}", part, f"metadata {KEY}")
        if not inner:
            yield Fact(str(key), value, f"metadata {KEY}")
