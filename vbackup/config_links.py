"""The `[[link]]` sections of the configuration: which rows own which points or vectors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vbackup.config_types import OneOrMany, Section
from vbackup.model.link import PayloadPath

PAYLOAD = "payload:"


class RowsConfig(Section):
    table: str | None = None
    sql: str | None = None
    key: OneOrMany = ()
    where: str | None = None
    live: str | None = None
    version: str | None = None
    count: str | None = None
    tenant: str | None = None
    changed_by: str | None = None

    @model_validator(mode="after")
    def _table_or_sql(self) -> RowsConfig:
        if bool(self.table) == bool(self.sql):
            raise ValueError("needs either table (with key) or sql, not both")
        if self.table and not self.key:
            raise ValueError("table needs key: the column whose value the points refer to")
        if self.sql:
            given = [n for n in self.model_fields_set if n != "sql" and getattr(self, n)]
            if given:
                raise ValueError(f"sql yields its own columns; remove {', '.join(sorted(given))}")
        return self


class PointConfig(Section):
    ref: OneOrMany = ("id",)
    version: str | None = None
    cardinality: Literal["one", "many"] = "one"
    filter: dict[str, str | int | bool] = Field(default_factory=dict)
    must_not: dict[str, str | int | bool] = Field(default_factory=dict)
    tenant: str | None = None

    @field_validator("ref")
    @classmethod
    def _id_or_payload(cls, refs: tuple[str, ...]) -> tuple[str, ...]:
        if refs == ("id",):
            return refs
        if not refs or not all(ref.startswith(PAYLOAD) for ref in refs):
            raise ValueError('write "id", "payload:a.b" or a list of payload paths')
        for ref in refs:
            PayloadPath.parse(ref.removeprefix(PAYLOAD))
        return refs

    @field_validator("version", "tenant")
    @classmethod
    def _payload_path(cls, path: str | None) -> str | None:
        if path is not None:
            PayloadPath.parse(path.removeprefix(PAYLOAD))
        return path


class LinkVectorsConfig(Section):
    """Vectors that pgvector keeps: in a column of the rows' table, or in a table of their own."""

    column: str = Field(min_length=1)
    dimensions: int | None = Field(None, ge=1)
    table: str | None = None
    key: OneOrMany = ()
    version: str | None = None
    where: str | None = None

    @model_validator(mode="after")
    def _table_with_key(self) -> LinkVectorsConfig:
        if bool(self.table) != bool(self.key):
            raise ValueError("table and key go together: the columns that hold the row's key")
        if self.where and not self.table:
            raise ValueError("where is for a table of vectors; rows have a where of their own")
        return self


class LinkConfig(Section):
    name: str = Field(min_length=1)
    collection: str = Field(min_length=1)
    rows: tuple[RowsConfig, ...] = Field(min_length=1)
    point: PointConfig = PointConfig()
    not_live: Literal["delete", "keep"] = "delete"
    immutable: bool = False
    vectors: LinkVectorsConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _vectors_are_named_after_their_table(cls, values: object) -> object:
        """Vectors in the database need no name of a collection."""
        if not isinstance(values, dict) or "collection" in values or not values.get("vectors"):
            return values
        table = _value(values["vectors"], "table") or _table_of(values.get("rows"))
        return {**values, "collection": table} if table else values

    @model_validator(mode="after")
    def _as_many_keys_as_references(self) -> LinkConfig:
        name, parts = "point.ref", len(self.point.ref)
        if self.vectors:
            self._fits_vectors()
            name, parts = "vectors.key", len(self.vectors.key)
        for number, rows in enumerate(self.rows):
            if rows.key and parts and len(rows.key) != parts:
                raise ValueError(
                    f"rows[{number}].key has {len(rows.key)} part(s), {name} has {parts}"
                )
        return self

    def _fits_vectors(self) -> None:
        stray = self.point.model_fields_set - {"cardinality"}
        if stray:
            raise ValueError(f"vectors have no point.{min(stray)}: vectors says whose they are")
        if self.vectors and not self.vectors.table and not all(rows.table for rows in self.rows):
            raise ValueError("vectors needs table and key where rows come from sql")


def _value(section: object, name: str) -> object:
    """A value of a section that is a mapping, or parsed already."""
    return section.get(name) if isinstance(section, dict) else getattr(section, name, None)


def _table_of(rows: object) -> object:
    """The table of the first row source that has one."""
    sources = rows if isinstance(rows, (list, tuple)) else ()
    return next((table for source in sources if (table := _value(source, "table"))), None)
