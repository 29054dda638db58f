"""Narrows a restored database to one tenant.

Its rows are those that say so themselves (own), rows that refer to them by a foreign key, and so
on (belonging), and whatever these refer to, so that every foreign key holds (referenced). Nothing
is followed downwards from a row that is only referenced: what refers to a shared row is another
tenant's business; nor into a table that says itself whose its rows are. References that a
delete sets to null or to a default do not make a row belong.

Kept rows are set aside, all tables are emptied and the rows put back, in one transaction and with
the foreign keys taken away meanwhile; adding them again proves that nothing is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from vbackup.errors import NotFound, Refused
from vbackup.model.keys import canonical
from vbackup.model.link import RowSource
from vbackup.model.tenancy import KeptTable, TenantTable
from vbackup.postgres import relations
from vbackup.postgres.connection import Connection
from vbackup.postgres.failures import translated
from vbackup.postgres.row_plan import plan

OWN, BELONGING, REFERENCED = range(3)
_FOLLOWED = frozenset("acr")
"""ON DELETE NO ACTION, CASCADE, RESTRICT: such a row cannot outlive what it refers to."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table with rows of its own. `origin` is how its rows are read; `names` are the columns
    that can be written. All names are quoted."""

    oid: int
    name: str
    origin: str
    names: tuple[str, ...]

    @property
    def columns(self) -> str:
        return ", ".join(self.names)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    name: str
    child: int
    parent: int
    match: str
    """The condition between `c` (the child) and `p` (the parent)."""
    on_delete: str
    definition: str


def narrow(
    connection: Connection, tables: Sequence[TenantTable], tenant: str
) -> tuple[list[KeptTable], list[str]]:
    """Remove every row of the database that is not the tenant's; what was kept, and warnings.

    Raises NotFound (no such table, no row of the tenant), Refused (a view), Usage."""
    with translated("narrowing the restored database", configured=True):
        with connection.transaction():
            known = tables_of(connection)
            keys = foreign_keys(connection, known)
            seeds = _seed(connection, known, tables, tenant)
            _close(connection, known, keys, seeds)
            kept = _counts(connection, known)
            if not kept:
                raise NotFound(f"the backup has no rows of tenant {tenant!r}")
            warnings = _rewrite(connection, known, keys)
        connection.execute("ANALYZE")
    return kept, warnings


def tables_of(connection: Connection) -> dict[int, Table]:
    return {
        int(str(oid)): Table(
            int(str(oid)),
            str(name),
            str(origin),
            tuple(map(str, names)) if isinstance(names, list) else (),
        )
        for oid, name, origin, names in connection.execute(_TABLES)
    }


def foreign_keys(connection: Connection, known: Mapping[int, Table]) -> list[ForeignKey]:
    return [
        ForeignKey(
            str(name), int(str(child)), int(str(parent)), str(match), str(deletes), str(text)
        )
        for name, child, parent, match, deletes, text in connection.execute(_FOREIGN_KEYS)
        if int(str(child)) in known and int(str(parent)) in known
    ]


def _seed(
    connection: Connection,
    known: Mapping[int, Table],
    tables: Sequence[TenantTable],
    tenant: str,
) -> set[int]:
    """Keep the rows that say themselves whose they are; the tables that do."""
    connection.execute(_KEPT)
    seeds: set[int] = set()
    for named in tables:
        relation = relations.find(connection, named.table)
        if relation.oid not in known:
            raise Refused(
                f"{named.table} is no table with rows of its own",
                hint="name the tables that a view or a query reads",
            )
        source = RowSource(table=named.table, key=(named.tenant,))
        condition = plan(connection, source).having([canonical(tenant) or tenant])
        seeds.add(relation.oid)
        if condition is not None:
            origin = sql.SQL(known[relation.oid].origin)
            select = sql.SQL("SELECT {}, tableoid, ctid, {} FROM {} WHERE {}").format(
                sql.Literal(relation.oid), sql.Literal(OWN), origin, condition
            )
            connection.execute(sql.SQL(_KEEP).format(select))
    return seeds


def _close(
    connection: Connection,
    known: Mapping[int, Table],
    keys: Sequence[ForeignKey],
    seeds: set[int],
) -> None:
    """Follow foreign keys until nothing new is found."""
    down = [key for key in keys if key.on_delete in _FOLLOWED and key.child not in seeds]
    while True:
        found = sum(_follow(connection, known, key, BELONGING) for key in down)
        found += sum(_follow(connection, known, key, REFERENCED) for key in keys)
        if not found:
            return


def _follow(connection: Connection, known: Mapping[int, Table], key: ForeignKey, why: int) -> int:
    """Rows that refer to kept ones (belonging), or that kept ones refer to."""
    child, parent = known[key.child].origin, known[key.parent].origin
    new, old = ("c", "p") if why == BELONGING else ("p", "c")
    of = key.child if why == BELONGING else key.parent
    known_of = key.parent if why == BELONGING else key.child
    limit = f"AND k.why < {REFERENCED}" if why == BELONGING else ""
    select = (
        f"SELECT DISTINCT {of}, {new}.tableoid, {new}.ctid, {why}"  # noqa: S608 - catalog names
        f" FROM {child} c JOIN {parent} p ON {key.match}"
        f" JOIN pg_temp.vbackup_kept k ON k.relation = {known_of}"
        f" AND k.leaf = {old}.tableoid AND k.place = {old}.ctid {limit}"
    )
    return connection.execute(sql.SQL(_KEEP).format(raw(select))).rowcount


def _counts(connection: Connection, known: Mapping[int, Table]) -> list[KeptTable]:
    counts: dict[int, list[int]] = {}
    for relation, why, count in connection.execute(
        "SELECT relation::bigint, why, count(*) FROM pg_temp.vbackup_kept GROUP BY 1, 2"
    ):
        counts.setdefault(int(str(relation)), [0, 0, 0])[int(str(why))] = int(str(count))
    return sorted(
        (KeptTable(known[oid].name, *found) for oid, found in counts.items()),
        key=lambda table: table.table,
    )


def _rewrite(
    connection: Connection, known: Mapping[int, Table], keys: Sequence[ForeignKey]
) -> list[str]:
    """Leave only the kept rows."""
    triggers = [(str(off), str(on)) for off, on in connection.execute(_TRIGGERS)]
    for key in keys:
        _run(connection, f"ALTER TABLE {known[key.child].name} DROP CONSTRAINT {key.name}")
    for off, _ in triggers:
        _run(connection, off)
    for table in known.values():
        _run(
            connection,
            f"CREATE TEMP TABLE vbackup_{table.oid} AS SELECT {table.columns or 'NULL AS nothing'}"  # noqa: S608
            f" FROM {table.origin} t JOIN pg_temp.vbackup_kept k ON k.relation = {table.oid}"
            " AND k.leaf = t.tableoid AND k.place = t.ctid",
        )
    if known:
        _run(connection, "TRUNCATE " + ", ".join(table.origin for table in known.values()))
    for table in known.values():
        if table.columns:
            _run(
                connection,
                f"INSERT INTO {table.name} ({table.columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608
                f" SELECT * FROM pg_temp.vbackup_{table.oid}",
            )
        _run(connection, f"DROP TABLE pg_temp.vbackup_{table.oid}")
    for key in keys:
        child = known[key.child].name
        _run(connection, f"ALTER TABLE {child} ADD CONSTRAINT {key.name} {key.definition}")
    for _, on in triggers:
        _run(connection, on)
    connection.execute("DROP TABLE pg_temp.vbackup_kept")
    return _rest(connection)


def _rest(connection: Connection) -> list[str]:
    """What else holds data of everybody: views that keep rows, and large objects."""
    views = [str(name) for (name,) in connection.execute(_MATERIALIZED)]
    for name in views:
        _run(connection, f"REFRESH MATERIALIZED VIEW {name} WITH NO DATA")
    for name in views:
        _run(connection, f"REFRESH MATERIALIZED VIEW {name}")
    gone = connection.execute(
        "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata"
    ).rowcount
    return [f"{gone} large objects were left out: nothing says whose they are"] if gone else []


def _run(connection: Connection, statement: str) -> None:
    connection.execute(raw(statement))


def raw(text: str) -> sql.SQL:
    """SQL out of quoted names that the catalog gave."""
    return sql.SQL(text.replace("{", "{{").replace("}", "}}"))


_KEPT = """
CREATE TEMP TABLE vbackup_kept (
    relation oid NOT NULL, leaf oid NOT NULL, place tid NOT NULL, why int NOT NULL,
    PRIMARY KEY (leaf, place)
)
"""
_KEEP = """
INSERT INTO pg_temp.vbackup_kept AS kept (relation, leaf, place, why) {}
ON CONFLICT (leaf, place) DO UPDATE SET why = excluded.why WHERE kept.why > excluded.why
"""
# Tables of users that are not partitions; what an extension made is its own.
_TABLES = """
SELECT c.oid::bigint, pg_catalog.format('%I.%I', n.nspname, c.relname),
       pg_catalog.format(CASE c.relkind WHEN 'r' THEN 'ONLY %I.%I' ELSE '%I.%I' END,
                         n.nspname, c.relname),
       (SELECT pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attgenerated = '')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid
"""
_FOREIGN_KEYS = """
SELECT pg_catalog.quote_ident(k.conname), k.conrelid::bigint, k.confrelid::bigint,
       (SELECT pg_catalog.string_agg(
                   pg_catalog.format('c.%I = p.%I', mine.attname, theirs.attname), ' AND ')
        FROM unnest(k.conkey, k.confkey) AS pair(mine, theirs)
        JOIN pg_catalog.pg_attribute mine
          ON mine.attrelid = k.conrelid AND mine.attnum = pair.mine
        JOIN pg_catalog.pg_attribute theirs
          ON theirs.attrelid = k.confrelid AND theirs.attnum = pair.theirs),
       k.confdeltype::text, pg_catalog.pg_get_constraintdef(k.oid)
FROM pg_catalog.pg_constraint k
WHERE k.contype = 'f' AND k.conparentid = 0
ORDER BY k.oid
"""
# Each trigger that fires, and how it gets back the way it fires.
_TRIGGERS = """
SELECT pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', t.tgrelid::pg_catalog.regclass,
                         t.tgname),
       pg_catalog.format('ALTER TABLE %s ENABLE %s TRIGGER %I', t.tgrelid::pg_catalog.regclass,
                         CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA'
                                          ELSE '' END,
                         t.tgname)
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid AND c.relkind IN ('r', 'p')
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgparentid = 0
"""
_MATERIALIZED = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND c.relispopulated
ORDER BY c.oid
"""
