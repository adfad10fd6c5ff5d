"""Where the models of a server are: in a repository, and in single folders with names of their own."""

from collections.abc import Mapping
from pathlib import Path

from tta_server.errors import ConfigError
from tta_server.repository.loader import find_models, load_model
from tta_server.repository.model import Model


class ModelFolders:
    """Folders by the names under which their models are served."""

    def __init__(self, repository: Path | None, named: Mapping[str, Path]) -> None:
        self._repository = repository
        self.named = dict(named)

    @property
    def roots(self) -> list[Path]:
        """Folders that clients need not know: errors name what is inside them."""
        return [*self.named.values(), *([self._repository] if self._repository else [])]

    def of(self, name: str) -> Path:
        """The folder of a model, whether or not it is there."""
        if name in self.named or self._repository is None:
            return self.named[name]
        return self._repository / name

    def load(self, name: str) -> Model:
        """Raises ConfigError and BackendUnavailable."""
        if name not in self.named:
            return load_model(self.of(name))
        from tta_server.onboarding.undescribed import load_folder  # readers of many formats, for single models only

        return load_folder(self.of(name), name)

    def find(self) -> list[str]:
        """Names of all models. Raises ConfigError for a name of two models, and for a repository without models."""
        found = [path.name for path in find_models(self._repository)] if self._repository else []
        for name in found:
            if name in self.named:
                raise ConfigError(
                    f"--model {name}={self.named[name]}: {self._repository} has a model of that name; give another name"
                )
        return [*self.named, *found]

    def names(self) -> set[str]:
        """Names of the models that are there now; those of the repository only while it can be read."""
        try:
            found = find_models(self._repository) if self._repository else []
        except ConfigError:
            found = []
        return {*self.named, *(path.name for path in found)}
