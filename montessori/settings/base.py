"""The parent class of all settings, and the part of them that a fingerprint covers."""

import re
import types
import typing
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

# Marks a field that changes no artifact, for example where tasks run: Annotated[Compute, NOT_IN_FINGERPRINT].
NOT_IN_FINGERPRINT: Any = Field(json_schema_extra={"in_fingerprint": False})


class Frozen(BaseModel):
    """A block of settings. Unknown keys are errors, values never change, and numbers are finite because JSON's are."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_true_as_a_number(cls, value: object, field: ValidationInfo) -> object:
        wanted = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {wanted, *get_args(wanted)}:
            raise ValueError("expected a number")
        return value


def _check_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value):
        raise ValueError("expected small letters, digits, dots and hyphens, a letter or a digit first")
    return value


Name = Annotated[str, Field(max_length=60), AfterValidator(_check_name)]  # part of an address in the store


def identity(settings: BaseModel) -> dict[str, Any]:
    """Return the settings that decide an artifact, as JSON values.

    Fields marked NOT_IN_FINGERPRINT are left out, in nested blocks too.
    """
    return settings.model_dump(mode="json", exclude=_excluded(type(settings)))


def _excluded(kind: type[BaseModel]) -> dict[str, Any]:
    """Return pydantic's `exclude` tree of the marked fields of `kind`."""
    tree: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("in_fingerprint") is False:
            tree[name] = True
        elif (block := block_class(field.annotation)) and (below := _excluded(block)):
            named = typing.get_origin(field.annotation) is dict
            tree[name] = {"__all__": below} if named else below
    return tree


def block_class(annotation: Any) -> type[BaseModel] | None:
    """Return the settings class in a field's annotation: `Lora` of `Lora | None` or of `dict[str, Lora]`, or None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated, dict):
        classes = (block_class(argument) for argument in get_args(annotation))
        return next(filter(None, classes), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
