"""Settings of the datasets: where rows come from, and the sizes of the pocket world."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from montessori.settings.base import Frozen


class DataSource(Frozen):
    """Where rows come from: a JSONL, JSON or Parquet file, a hub name, or `pocket`."""

    source: str = Field(
        description="A JSONL, JSON or Parquet file, a hub dataset `user/name[@revision]`, one file of a hub dataset "
        "`hf://datasets/user/name[@revision]/file.json`, or `pocket` for the pocket world."
    )
    split: str = Field("train", description="Split of a hub dataset.")
    skip: int = Field(0, ge=0, description="Number of rows to skip at the start.")
    limit: int | None = Field(None, ge=1, description="Number of rows to read after the skipped ones. Null: all.")

    @model_validator(mode="after")
    def _pocket_is_whole(self) -> Self:
        if self.source == "pocket" and (self.split, self.skip, self.limit) != ("train", 0, None):
            raise ValueError(
                "the pocket world has no split, skip or limit; its sizes are in pocket.seeds, reference, test"
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
