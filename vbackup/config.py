"""The configuration as frozen values; `vbackup.settings` reads them from TOML.

Keys, defaults and meanings are in config.example.toml; docs/configuration.md explains them.
Durations are seconds here ("5m" in the file), sizes are bytes ("512MiB" in the file).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, model_validator

from vbackup.config_links import LinkConfig
from vbackup.config_types import ConfigPath, Duration, Memory, Section, Size
from vbackup.model.names import COPIES, is_copy


class PostgresConfig(Section):
    dsn: SecretStr
    jobs: int = Field(2, ge=1, le=64)
    include_globals: Literal["auto", "always", "never"] = "auto"
    bin_dir: ConfigPath | None = None
    connect_timeout: Duration = 10.0
    large_table: Size = 256 * 1024**2
    maintenance_work_mem: Memory = None


class QdrantConfig(Section):
    url: str | None = None
    nodes: tuple[str, ...] = ()
    api_key: SecretStr | None = None
    collections: tuple[str, ...] = ("*",)
    timeout: Duration = 60.0
    recover_timeout: Duration = 3600.0
    ca_file: ConfigPath | None = None
    verify_tls: bool = True
    collections_ignore_missing: bool = False

    @property
    def patterns(self) -> tuple[str, ...]:
        """`collections` without the copies that restores and switches leave beside live ones;
        one that is named exactly stays, and so does one that an alias stands for."""
        if any(is_copy(name) for name in self.collections):
            return self.collections
        return (*self.collections, *(f"!{pattern}" for pattern in COPIES))

    @property
    def urls(self) -> tuple[str, ...]:
        """All configured node URLs; at least one."""
        return self.nodes or ((self.url,) if self.url else ("http://localhost:6333",))


class RepositoryConfig(Section):
    url: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    path_style: Literal["auto", "always", "never"] = "auto"
    ca_file: ConfigPath | None = None
    verify_tls: bool = True
    connect_timeout: Duration = 10.0
    read_timeout: Duration = 60.0
    retries: int = Field(6, ge=0, le=50)
    storage_class: str | None = None
    server_side_encryption: str | None = None
    kms_key_id: str | None = None
    object_lock: Duration | None = None
    object_lock_mode: Literal["governance", "compliance"] = "governance"
    checksums: Literal["auto", "always", "never"] = "auto"
    payload_signing: Literal["auto", "always", "never"] = "auto"
    encryption: Literal["passphrase", "none"] = "passphrase"
    passphrase: SecretStr | None = None
    passphrase_file: ConfigPath | None = None
    passphrase_command: str | None = None
    compression_level: int = Field(1, ge=-7, le=19)
    chunk_size: Size = 128 * 1024
    pack_size: Size = 16 * 1024**2
    upload_jobs: int = Field(4, ge=1, le=64)


class WatermarkConfig(Section):
    strategy: Literal["capture", "fence", "lock"] = "capture"
    max_index_lag: Duration = 300.0
    lead_in: Duration = 2.0
    tick: Duration = 0.15
    budget: Duration = 12.0
    candidates: int = Field(8, ge=1, le=32)
    capture_memory: Size = 256 * 1024**2
    fence_key: int = 0x7662_6163_6B75_7000
    lock_timeout: Duration = 5.0
    max_pause: Duration = 0.0
    feed: Literal["auto", "xmin", "column", "slot"] = "auto"
    restore_point: bool = False
    work_dir: ConfigPath | None = None


class RetentionConfig(Section):
    keep_last: int = Field(3, ge=0)
    keep_hourly: int = Field(0, ge=0)
    keep_daily: int = Field(7, ge=0)
    keep_weekly: int = Field(5, ge=0)
    keep_monthly: int = Field(12, ge=0)
    keep_yearly: int = Field(0, ge=0)
    delete_after: Duration = 0.0

    @property
    def keeps_all(self) -> bool:
        """Whether no rule is set: then nothing is ever removed."""
        return not any(value for name, value in self if name.startswith("keep_"))


class RedisConfig(Section):
    url: SecretStr
    on_restore: Literal["flush", "prefix", "epoch", "none"] = "none"
    prefixes: tuple[str, ...] = ()
    epoch_key: str = "vbackup:epoch"
    backup: bool = False


class ScheduleConfig(Section):
    backup: str | None = None
    verify: str | None = None
    drill: str | None = None
    reconcile: str | None = None
    prune: str | None = None
    verify_level: Literal["manifest", "chunks", "offline"] = "chunks"
    verify_sample: str | None = None
    timezone: str = "UTC"
    jitter: Duration = 0.0
    listen: str = "127.0.0.1:9187"
    state_dir: ConfigPath | None = None
    textfile: ConfigPath | None = None
    stop_grace: Duration = 10.0


class DrillCheckConfig(Section):
    """One question to the restored pair: SQL, a search, or a command."""

    name: str = Field(min_length=1)
    sql: str | None = None
    expect: bool | int | float | str | None = None
    expect_min: float | None = None
    collection: str | None = None
    vector: tuple[float, ...] = ()
    like: int | str | None = None
    using: str | None = None
    expect_ids: tuple[int | str, ...] = ()
    limit: int = Field(10, ge=1, le=1000)
    command: str | None = None
    timeout: Duration = 300.0

    @model_validator(mode="after")
    def _one_kind(self) -> DrillCheckConfig:
        kinds = [kind for kind in _DRILL_KINDS if getattr(self, kind)]
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of {', '.join(_DRILL_KINDS)}")
        stray = self.model_fields_set - {"name", "timeout", kinds[0], *_DRILL_KINDS[kinds[0]]}
        if stray:
            raise ValueError(f"{', '.join(sorted(stray))} cannot go with {kinds[0]}")
        if self.sql and (self.expect is None) == (self.expect_min is None):
            raise ValueError("sql needs expect or expect_min")
        if self.collection and bool(self.vector) == (self.like is not None):
            raise ValueError("collection needs vector or like: what to search for")
        if self.collection and not self.expect_ids:
            raise ValueError("collection needs expect_ids: points that the search must find")
        return self


_DRILL_KINDS = {
    "sql": ("expect", "expect_min"),
    "collection": ("vector", "like", "using", "expect_ids", "limit"),
    "command": (),
}


class DrillConfig(Section):
    """Where `verify --level drill` restores: throwaway servers, unless targets are given."""

    postgres: SecretStr | None = None
    qdrant: str | None = None
    qdrant_api_key: SecretStr | None = None
    postgres_bin_dir: ConfigPath | None = None
    qdrant_bin: ConfigPath | None = None
    jobs: int = Field(2, ge=1, le=64)
    work_dir: ConfigPath | None = None
    check: tuple[DrillCheckConfig, ...] = ()


class ObjectiveConfig(Section):
    """How old the newest good backup and the newest passed drill may become."""

    backup_age: Duration = 26 * 3600.0
    drill_age: Duration = 8 * 86400.0


class HooksConfig(Section):
    before: str | None = None
    after: str | None = None
    timeout: Duration = 300.0


class NotifyConfig(Section):
    on: Literal["failure", "always", "never"] = "failure"
    webhook: SecretStr | None = None
    urls: tuple[SecretStr, ...] = ()
    ping: SecretStr | None = None
    timeout: Duration = 10.0


class VectorsConfig(Section):
    engine: Literal["qdrant", "pgvector"] = "qdrant"


class Config(Section):
    """The whole file. `qdrant` is None for pgvector alone."""

    postgres: PostgresConfig
    repository: RepositoryConfig
    qdrant: QdrantConfig | None = None
    watermark: WatermarkConfig = WatermarkConfig()
    retention: RetentionConfig = RetentionConfig()
    link: tuple[LinkConfig, ...] = ()
    ignore: tuple[str, ...] = ()
    redis: RedisConfig | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    drill: DrillConfig = DrillConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    hooks: HooksConfig = HooksConfig()
    notify: NotifyConfig = NotifyConfig()
    vectors: VectorsConfig = VectorsConfig()
