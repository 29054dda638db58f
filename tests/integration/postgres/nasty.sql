-- A database that is hard to dump and restore: every common type, two schemas with names that need
-- quotes, cycles, partitions, policies, large objects. Values are functions of a row's number.
CREATE SCHEMA "Ünï""cødé.schéma";
CREATE SCHEMA app;

CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'it''s "happy"');
CREATE TYPE app.pair AS (x int, "Y y" text);
CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
CREATE TYPE app.float_range AS RANGE (subtype = float8);
CREATE SEQUENCE app."odd sequence" INCREMENT BY -7 MAXVALUE 1000 MINVALUE -100000 START 500 CACHE 3;
SELECT nextval('app."odd sequence"') FROM generate_series(1, 9);

CREATE FUNCTION app.immutable_upper(text) RETURNS text
    LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.upper($1) $$;

CREATE TABLE app.types (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    a_smallint smallint, a_int int, a_bigint bigint, a_numeric numeric, a_money_like numeric(12, 2),
    a_real real, a_double double precision, a_bool boolean, a_char char(7), a_varchar varchar(40),
    a_text text, a_name name, a_bytea bytea, a_uuid uuid, a_date date, a_time time, a_timetz timetz,
    a_timestamp timestamp, a_timestamptz timestamptz, a_interval interval, a_json json,
    a_jsonb jsonb, a_xml_like text, a_inet inet, a_cidr cidr, a_macaddr macaddr, a_macaddr8 macaddr8,
    a_bit bit(5), a_varbit bit varying(9), a_point point, a_line line, a_lseg lseg, a_box box,
    a_path path, a_polygon polygon, a_circle circle, a_tsvector tsvector, a_tsquery tsquery,
    a_int4range int4range, a_tstzrange tstzrange, a_multirange int4multirange,
    a_float_range app.float_range, a_mood app.mood, a_pair app.pair, a_positive app.positive,
    a_ints int[], a_texts text[][], a_moods app.mood[], a_oid oid, a_regclass regclass,
    a_lsn pg_lsn, a_gone text, "Größe ""in"" mm" int, "select" text DEFAULT 'sélect',
    a_generated text GENERATED ALWAYS AS (app.immutable_upper(a_text)) STORED,
    a_collated text COLLATE "C" NOT NULL DEFAULT E'tab\tline\nback\\slash'
);
INSERT INTO app.types (
    a_smallint, a_int, a_bigint, a_numeric, a_money_like, a_real, a_double, a_bool, a_char,
    a_varchar, a_text, a_name, a_bytea, a_uuid, a_date, a_time, a_timetz, a_timestamp,
    a_timestamptz, a_interval, a_json, a_jsonb, a_xml_like, a_inet, a_cidr, a_macaddr, a_macaddr8,
    a_bit, a_varbit, a_point, a_line, a_lseg, a_box, a_path, a_polygon, a_circle, a_tsvector,
    a_tsquery, a_int4range, a_tstzrange, a_multirange, a_float_range, a_mood, a_pair, a_positive,
    a_ints, a_texts, a_moods, a_oid, a_regclass, a_lsn, a_gone, "Größe ""in"" mm"
)
SELECT (g % 32767), g, g * 10000000019, g / 7.0, g / 3.0, g / 7.0, CASE g % 4 WHEN 0 THEN 'NaN'
        WHEN 1 THEN '-Infinity' ELSE g / 7.0 END, g % 2 = 0, 'c' || g, 'v' || g,
    E'\\N \\. "quoted" \t tab \n line \r return ☃ ' || repeat(md5(g::text), g % 300),
    'name' || g, decode(md5(g::text) || '00ff5c', 'hex'), md5(g::text)::uuid,
    date '1000-01-01' + g * 97, time '00:00' + g * interval '1 minute', '01:02:03.000004+05:45',
    timestamp 'epoch' + g * interval '7 hours', timestamptz 'epoch' - g * interval '7 days',
    g * interval '1 month 2 days 3 seconds', json_build_object('g', g, 'é', 'ü'),
    jsonb_build_object('list', jsonb_build_array(g, null, true, 'x"y')), '<a>' || g || '</a>',
    ('10.0.' || g % 256 || '.1/24')::inet, '2001:db8::/32', '08:00:2b:01:02:03',
    '08:00:2b:01:02:03:04:05', B'10101', substring(B'110010111' FROM 1 FOR 1 + g % 9), point(g, -g), '{1,2,3}',
    '[(0,0),(1,1)]', '((0,0),(1,1))', '[(0,0),(1,2)]', '((0,0),(1,1),(1,0))', '<(1,2),3>',
    to_tsvector('english', 'the quick brown fox ' || g), 'fox & !dog', int4range(g, g + 10),
    tstzrange('epoch', NULL), '{[1,3),[5,7)}', '[1.5,2.5)',
    (enum_range(NULL::app.mood))[1 + g % 3], ROW(g, 'a,b"c')::app.pair, g, ARRAY[g, NULL, -g],
    ARRAY[['a', NULL], ['"', ',']], ARRAY['sad', 'ok']::app.mood[], g, 'pg_catalog.pg_class',
    '16/B374D848', 'gone', g
FROM generate_series(1, 500) g;
INSERT INTO app.types DEFAULT VALUES;
ALTER TABLE app.types DROP COLUMN a_gone;
CREATE INDEX "Index ""ünï""" ON app.types (lower(a_text) varchar_pattern_ops) WHERE a_bool;
CREATE INDEX types_search ON app.types USING gin (a_tsvector);
CREATE STATISTICS app.types_statistics (dependencies) ON a_int, a_bigint FROM app.types;
COMMENT ON TABLE app.types IS E'it''s a "comment"\nin two lines; -- not SQL';
COMMENT ON COLUMN app.types."Größe ""in"" mm" IS '\restrict $$';

-- Names that need quoting, of tables that a pattern could confuse.
CREATE TABLE "Ünï""cødé.schéma"."Täble.with ""quotes"" * ? $1 [x] | (y)+" (
    "Ké""y" uuid PRIMARY KEY, "Va.lue" text, payload bytea
);
INSERT INTO "Ünï""cødé.schéma"."Täble.with ""quotes"" * ? $1 [x] | (y)+"
SELECT md5(g::text)::uuid, repeat('välue ', g % 50), sha256(convert_to(g::text, 'UTF8'))
FROM generate_series(1, 3000) g;
CREATE TABLE "Ünï""cødé.schéma"."Täble" (id int PRIMARY KEY, t text);
INSERT INTO "Ünï""cødé.schéma"."Täble" SELECT g, 'decoy ' || g FROM generate_series(1, 50) g;
CREATE TABLE "Ünï""cødé.schéma"."täble" (id int PRIMARY KEY, t text);
CREATE TABLE app."UPPER" (id int PRIMARY KEY);
CREATE TABLE app.upper (id int PRIMARY KEY);
INSERT INTO app."UPPER" SELECT g FROM generate_series(1, 20) g;
INSERT INTO app.upper SELECT g FROM generate_series(1, 5) g;
CREATE TABLE app.no_columns ();
INSERT INTO app.no_columns DEFAULT VALUES;

-- A cycle of foreign keys, with a trigger that would change what a restore loads.
CREATE TABLE app.author (id int PRIMARY KEY, favourite int);
CREATE TABLE app.book (id int PRIMARY KEY, author int NOT NULL REFERENCES app.author, touched int DEFAULT 0);
INSERT INTO app.author SELECT g, NULL FROM generate_series(1, 400) g;
INSERT INTO app.book SELECT g, 1 + g % 400 FROM generate_series(1, 2000) g;
UPDATE app.author SET favourite = id;
ALTER TABLE app.author ADD CONSTRAINT "favourite ""fk""" FOREIGN KEY (favourite)
    REFERENCES app.book DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE app.author ADD parent int REFERENCES app.author;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END $body$;
CREATE TRIGGER "touch ""it""" BEFORE INSERT OR UPDATE ON app.book
    FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE TRIGGER never AFTER DELETE ON app.book FOR EACH STATEMENT
    EXECUTE FUNCTION app.touch();
ALTER TABLE app.book DISABLE TRIGGER never;

-- Partitions in two levels, inheritance, exclusion, rules.
CREATE TABLE app.event (at date NOT NULL, kind text NOT NULL, body text, PRIMARY KEY (at, kind, body))
    PARTITION BY RANGE (at);
CREATE TABLE app.event_old PARTITION OF app.event FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE app."event 2020" PARTITION OF app.event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')
    PARTITION BY LIST (kind);
CREATE TABLE app."event 2020 a" PARTITION OF app."event 2020" FOR VALUES IN ('a', 'b');
CREATE TABLE app."event 2020 *" PARTITION OF app."event 2020" DEFAULT;
CREATE TABLE app.event_rest PARTITION OF app.event DEFAULT;
INSERT INTO app.event SELECT date '2019-06-01' + g, chr(97 + g % 4), md5(g::text) || repeat('x', 200)
FROM generate_series(1, 1500) g;
CREATE TABLE app.hashed (id bigint) PARTITION BY HASH (id);
CREATE TABLE app.hashed_0 PARTITION OF app.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE app.hashed_1 PARTITION OF app.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO app.hashed SELECT generate_series(1, 300);
CREATE TABLE app.child (extra text) INHERITS (app.upper);
INSERT INTO app.child SELECT g, 'child' FROM generate_series(100, 130) g;
CREATE TABLE app.booking (room int, during tsrange, EXCLUDE USING gist (during WITH &&));
INSERT INTO app.booking SELECT g, tsrange(timestamp 'epoch' + g * interval '1 hour',
    timestamp 'epoch' + (g + 1) * interval '1 hour') FROM generate_series(1, 40) g;
CREATE UNLOGGED TABLE app.unlogged AS SELECT g FROM generate_series(1, 30) g;
CREATE RULE "no delete" AS ON DELETE TO app.booking DO INSTEAD NOTHING;

-- Views on views, materialized views with and without data.
CREATE VIEW app."view ""v""" AS SELECT id, a_text FROM app.types WHERE a_bool;
CREATE VIEW app.view_on_view WITH (security_barrier) AS
    SELECT v.id, b.author FROM app."view ""v""" v JOIN app.book b USING (id);
CREATE MATERIALIZED VIEW app.summary AS
    SELECT kind, count(*) AS n FROM app.event GROUP BY kind;
CREATE UNIQUE INDEX summary_kind ON app.summary (kind);
CREATE MATERIALIZED VIEW app.empty_summary AS SELECT * FROM app.summary WITH NO DATA;

-- Row security, privileges, publications.
CREATE TABLE app.secret (id int PRIMARY KEY, tenant text, body text);
INSERT INTO app.secret SELECT g, 'tenant ' || g % 3, md5(g::text) FROM generate_series(1, 300) g;
ALTER TABLE app.secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.secret FORCE ROW LEVEL SECURITY;
CREATE POLICY "own ""rows""" ON app.secret USING (tenant = current_user) WITH CHECK (true);
GRANT SELECT ON app.secret TO PUBLIC;
GRANT SELECT (id), UPDATE (a_text) ON app.types TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;
CREATE PUBLICATION "pub ""1""" FOR TABLE app.book;
CREATE AGGREGATE app.longest(text) (SFUNC = textcat, STYPE = text, INITCOND = '');
CREATE OPERATOR app.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE TEXT SEARCH CONFIGURATION app.simple_copy (COPY = pg_catalog.simple);
CREATE PROCEDURE app.proc(IN a int, INOUT b int) LANGUAGE plpgsql AS $$ BEGIN b := a; END $$;

-- Large objects, with owners' comments and a hole.
SELECT lo_from_bytea(90001, decode(repeat('00ff5c27', 20000), 'hex'));
SELECT lo_from_bytea(90002, '');
SELECT lo_from_bytea(90003, 'small "object"');
COMMENT ON LARGE OBJECT 90003 IS 'a large object';
ANALYZE;
