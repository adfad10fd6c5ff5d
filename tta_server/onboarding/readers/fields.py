"""Fields of other tools' JSON: those that are read have types, all others are ignored."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tta_server.errors.validation import explain, explain_value
from tta_server.onboarding.evidence import Refusal

Side = Annotated[int, Field(gt=0, le=16_384)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Threshold = Annotated[float, Field(ge=0, lt=1)]
"""Of a probability or an overlap."""
Words = Annotated[list[str], BeforeValidator(lambda found: found.split() if isinstance(found, str) else found)]
"""A list, or a text with words between spaces."""
Numbers = Annotated[list[Number], BeforeValidator(lambda found: found.split() if isinstance(found, str) else found)]


class Fields(BaseModel):
    """Fields that may be missing or null, which are the same."""

    model_config = ConfigDict(extra="ignore", frozen=True)


F = TypeVar("F", bound=Fields)


def read_fields(kind: type[F], key: str, name: str, content: Mapping[str, Any]) -> F | Refusal:
    """Return the fields of a file; a refusal of `key` if one has a value of another type."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        sentences = [explain_value(mistake, ()) for mistake in explain(error, content)]
        return Refusal(key, f"{name}: {'; '.join(sentences)}")
