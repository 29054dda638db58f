"""How to reach a running server: what every starter returns, and what tests and demos take."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A PostgreSQL server. `version` is what it says of itself ("16.14"); the user is superuser.

    `bin_dir` holds its client tools (pg_dump, pg_restore, psql), None when none are known.
    `data_dir` is None for servers that vbackup did not start from binaries. `logical` tells
    whether wal_level is logical; `query` is appended to every DSN ("sslmode=require").
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    version: str
    bin_dir: str | None = None
    data_dir: str | None = None
    query: str = ""
    logical: bool = False

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def dsn(self, dbname: str = "postgres") -> str:
        """A connection URI with the password in it: never print it."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        address = f"{self.host}:{self.port}/{quote(dbname, safe='')}"
        return f"postgresql://{login}@{address}" + (f"?{self.query}" if self.query else "")

    @property
    def admin_dsn(self) -> str:
        return self.dsn("postgres")


@dataclass(frozen=True, slots=True)
class QdrantServer:
    """A Qdrant deployment: one URL a node. `clustered` tells whether consensus runs."""

    urls: tuple[str, ...]
    version: str
    api_key: str | None = field(default=None, repr=False)
    clustered: bool = False
    grpc_ports: tuple[int, ...] = ()

    @property
    def url(self) -> str:
        return self.urls[0]


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 endpoint with one bucket that exists."""

    endpoint_url: str
    bucket: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"
    session_token: str | None = field(default=None, repr=False)
