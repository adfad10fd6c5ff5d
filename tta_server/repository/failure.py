"""Why a model can't be served, as a sentence for the operator and one for clients."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tta_server.errors import BackendUnavailable, ConfigError

SEE_LOG = "see the server's log"
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s:'\"]+/)+")
"""The folders of an absolute path."""
SERVER = re.compile(r"grpcs?://[^\s,;]+:\d+")
"""The address of a server elsewhere."""


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """`reason` names files and errors for the operator; `public` is the same without paths and library text."""

    reason: str
    public: str

    @property
    def retried(self) -> "LoadFailure":
        """The same of a model that is tried again."""
        again = "; it is tried again every second"
        return LoadFailure(self.reason + again, self.public + again)


def explain_failure(name: str, error: Exception, folders: Iterable[Path]) -> LoadFailure:
    """Why the model `name` in one of these folders can't be loaded, verified or warmed up."""
    if isinstance(error, BackendUnavailable):
        return LoadFailure(error.reason, str(error))
    if not isinstance(error, ConfigError):
        text = (str(error) or "no message").splitlines()[0]
        return LoadFailure(f"unexpected error: {type(error).__name__}: {text}", f"internal error: {SEE_LOG}")
    prefix = f"model {name}: "
    return LoadFailure(str(error).removeprefix(prefix), public_sentence(error, folders).removeprefix(prefix))


def public_sentence(error: ConfigError, folders: Iterable[Path]) -> str:
    """The error's sentence without addresses, text of library errors and folders of paths, but those in `folders`."""
    sentence, cause = str(error), error.__cause__
    while cause is not None:
        text = str(cause).partition("\n")[0]
        sentence = sentence.replace(text, SEE_LOG) if text else sentence
        cause = cause.__cause__
    for folder in (path for each in folders for path in (each.resolve(), each.absolute(), each)):
        if folder != Path():
            sentence = re.sub(rf"(?<![\w./]){re.escape(str(folder))}/", "", sentence)
    return ABSOLUTE.sub("", SERVER.sub("its server", sentence))
