"""Settings of the datasets: where rows come from, and the sizes of the pocket world."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from montessori.settings.base import Frozen

Column = Literal["instruction", "input", "response", "system", "history", "messages", "tools", "id"]


def _check_parts(value: object) -> object:
    unknown = next((name for name in value if name not in get_args(Column)), None) if isinstance(value, dict) else None
    if unknown is not None:
        raise ValueError(f"{unknown} is no part of a row; expected your names after {', '.join(get_args(Column))}")
    return value


Columns = Annotated[dict[Column, str], BeforeValidator(_check_parts)]  # the user's name of each part of a row


class Part(Frozen):
    """The rows of a source that are read, and the names of their columns."""

    config: str | None = Field(None, description="Configuration of a hub dataset, for example `main` of openai/gsm8k.")
    split: str = Field("train", description="Split of a hub dataset, or of a folder of files.")
    skip: int = Field(0, ge=0, description="Number of rows to skip at the start.")
    limit: int | None = Field(None, ge=1, description="Number of rows to read after the skipped ones. Null: all.")
    columns: Columns = Field(
        {},
        description="Your names of the columns, for example `{instruction: frage, response: antwort}`. A dot leads "
        "into an object, as in `answers.text`.",
    )


class DataSource(Part):
    """Where rows come from: a file, a folder of files, a hub name, or `pocket`."""

    source: str = Field(
        description="A file (JSON Lines, JSON, CSV, TSV, Parquet or Arrow), a folder of such files, a hub dataset "
        "`user/name[@revision]`, one file of a hub dataset `hf://datasets/user/name[@revision]/file.json`, or `pocket` "
        "for the pocket world."
    )

    def part(self) -> dict[str, Any]:
        """Return the settings of the part, for the request that reads it."""
        return self.model_dump(mode="json", exclude={"source"})

    @model_validator(mode="after")
    def _pocket_is_whole(self) -> Self:
        if self.source == "pocket" and self.part() != Part().model_dump(mode="json"):
            raise ValueError(
                "the pocket world has no config, split, skip, limit or columns; its sizes are in pocket.seeds, "
                "reference, test"
            )
        return self


def _name_the_source(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[DataSource, BeforeValidator(_name_the_source)]  # a path or a hub name alone stands for the block


class PocketWorld(Frozen):
    """Sizes of the pocket world's datasets, used where a data source is `pocket`."""

    seeds: int = Field(160, ge=1, description="Number of seed examples.")
    reference: int = Field(64, ge=1, description="Number of reference examples.")
    test: int = Field(256, ge=1, description="Number of held-out examples.")
