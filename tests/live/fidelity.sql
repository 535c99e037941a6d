-- One of every kind of object that pg_dump knows, and values that get lost in bad pipes.
CREATE SCHEMA shop;
CREATE SCHEMA "odd schema; --";
COMMENT ON SCHEMA shop IS 'it''s a shop; DROP DATABASE nothing;';
CREATE EXTENSION hstore;
CREATE EXTENSION pg_trgm WITH SCHEMA shop;

CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'happy');
ALTER TYPE shop.mood ADD VALUE 'meh' BEFORE 'ok';
CREATE TYPE shop.money_range AS RANGE (subtype = numeric);
CREATE TYPE shop.address AS (street text, number int);
CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0);
CREATE COLLATION shop.posix (LOCALE = 'C');

CREATE FUNCTION shop.twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS $body$ SELECT $1 * 2 $body$;
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $outer$
BEGIN
-- the lines below begin like commands and are none
  PERFORM $q$
DROP DATABASE postgres;
\connect elsewhere
COPY shop.item FROM stdin;
$q$;
  NEW.note := coalesce(NEW.note, 'touched');
  RETURN NEW;
END $outer$;
CREATE PROCEDURE shop.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE shop.total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR shop.@@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE CAST (shop.address AS text) WITH INOUT;

CREATE TABLE shop.item (
    id int GENERATED ALWAYS AS IDENTITY (START 100) PRIMARY KEY,
    price shop.positive NOT NULL,
    doubled int GENERATED ALWAYS AS (price * 2) STORED,
    name text COLLATE shop.posix NOT NULL,
    mood shop.mood DEFAULT 'ok',
    home shop.address,
    note text,
    during shop.money_range,
    attributes hstore,
    CONSTRAINT apart EXCLUDE USING gist (during WITH &&)
);
COMMENT ON TABLE shop.item IS E'tab\there, a ''quote'', a \\ and a\nline';
CREATE TRIGGER touch BEFORE INSERT ON shop.item FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE INDEX item_trgm ON shop.item USING gin (name shop.gin_trgm_ops);
CREATE UNIQUE INDEX item_partial ON shop.item (shop.twice(price)) WHERE price > 50;
CREATE STATISTICS shop.item_stats ON price, mood FROM shop.item;
ALTER TABLE shop.item ALTER COLUMN name SET STATISTICS 500;
INSERT INTO shop.item (price, name, home, during, attributes)
    SELECT n, 'item ' || n, ('road', n)::shop.address, shop.money_range(n, n + 1),
           hstore('n', n::text) FROM generate_series(1, 100) n;

CREATE TABLE shop.sale (
    id bigserial PRIMARY KEY, item_id int NOT NULL REFERENCES shop.item DEFERRABLE INITIALLY DEFERRED,
    at timestamptz NOT NULL, amount numeric(12, 2)
);
INSERT INTO shop.sale (item_id, at, amount)
    SELECT 100 + n % 100, '2026-01-01 00:00+00'::timestamptz + n * interval '1 hour', n / 7.0
    FROM generate_series(1, 500) n;

-- pg_dump --clean first writes this one as CREATE OR REPLACE VIEW … AS SELECT NULL
CREATE VIEW shop.per_item AS SELECT i.id, i.name, i.mood, count(*) AS sales
    FROM shop.item i JOIN shop.sale s ON s.item_id = i.id GROUP BY i.id;
CREATE MATERIALIZED VIEW shop.best AS SELECT * FROM shop.per_item ORDER BY sales DESC LIMIT 5;
CREATE MATERIALIZED VIEW shop.unfilled AS SELECT 1 AS one WITH NO DATA;
CREATE RULE no_delete AS ON DELETE TO shop.sale WHERE OLD.amount > 1000000 DO INSTEAD NOTHING;

CREATE TABLE measure (at date NOT NULL, value double precision) PARTITION BY RANGE (at);
CREATE TABLE measure_2025 PARTITION OF measure FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measure_2026 PARTITION OF measure FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')
    PARTITION BY LIST (value);
CREATE TABLE measure_2026_rest PARTITION OF measure_2026 DEFAULT;
CREATE TABLE hashed (id int PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO hashed SELECT generate_series(1, 50);
INSERT INTO measure VALUES ('2025-06-01', 'NaN'), ('2025-06-02', 'Infinity'),
    ('2026-06-01', '-Infinity'), ('2026-06-02', 1e-300);
CREATE TABLE parent (a int);
CREATE TABLE child (b text) INHERITS (parent);
INSERT INTO child VALUES (1, 'one');
CREATE UNLOGGED TABLE fleeting (a int);
INSERT INTO fleeting VALUES (7);
CREATE SEQUENCE counter INCREMENT 5 CYCLE MAXVALUE 1000;
SELECT setval('counter', 500);

CREATE TABLE raw (id int PRIMARY KEY, data bytea, text text);
INSERT INTO raw SELECT n, decode(lpad(to_hex(n), 2, '0'), 'hex'), chr(n + 1)
    FROM generate_series(0, 255) n;
INSERT INTO raw SELECT 1000, string_agg(data, ''::bytea ORDER BY id), NULL FROM raw WHERE id < 256;
INSERT INTO raw VALUES (1001, '\x0d0a0d0a1a04ff00', E'line\r\nline\n\\.\n\\N\ttab 漢字 🐘 \u00e9');
INSERT INTO raw VALUES (1002, NULL, repeat('long ', 100000));
INSERT INTO raw VALUES (1003, NULL, E'\\.'), (1004, NULL, '-- Name: x; Type: y'), (1005, NULL, '');
CREATE TABLE moments (d date, t timestamptz, i interval, n numeric, a int[], j jsonb, u uuid);
INSERT INTO moments VALUES ('infinity', '-infinity', '1 year -3 days', 'NaN', '{{1,NULL},{3,4}}',
    '{"a": [1, "b", null]}', '00000000-0000-0000-0000-000000000001');
CREATE TABLE "Odd "" table; DROP" ("select" int, "a b" text);
INSERT INTO "Odd "" table; DROP" VALUES (1, 'x');
CREATE TABLE "odd schema; --".t (a int);
CREATE TABLE wide (a int, b int);
ALTER TABLE wide DROP COLUMN a;
INSERT INTO wide VALUES (2);
SELECT lo_from_bytea(424242, '\x00ff0d0a1a');
COMMENT ON LARGE OBJECT 424242 IS 'large';

ALTER TABLE wide ENABLE ROW LEVEL SECURITY;
CREATE POLICY positive ON wide USING (b > 0);
GRANT USAGE ON SCHEMA shop TO repom_reader;
GRANT SELECT, UPDATE (price) ON shop.item TO repom_reader WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO repom_reader;
ALTER TABLE shop.sale OWNER TO repom_reader;
CREATE PUBLICATION pub FOR TABLE shop.item;
CREATE TEXT SEARCH CONFIGURATION shop.search (COPY = simple);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE distant (a int) SERVER far;
CREATE FUNCTION shop.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION shop.on_ddl();
