r"""SQL that repom sends through psql, as scripts with psql variables.

Names are quoted by the server's own ``format()``, and statements that are built this way
are run by ``\gexec``. ``:'live'`` and the like are psql variables.

Any role may be able to create functions, operators and views in a schema that this user's
search path names. So every script begins with `opening`, after which unqualified names are
those of ``pg_catalog``, and a user's table is read by COPY alone, which plans nothing:
planning a SELECT evaluates the functions in the table's indexes and policies.
"""

from __future__ import annotations

from collections.abc import Iterable

QUESTION = 30_000  # milliseconds that a question may take in the server
LOCK_WAIT = 10_000  # milliseconds that any statement of ours waits for a lock
_OPENING = """\\set ON_ERROR_STOP on
\\set VERBOSITY default
SET statement_timeout TO {statement};
SET lock_timeout TO {lock};
SET search_path TO '';
SET client_encoding TO 'UTF8';
SET standard_conforming_strings TO on;
SET row_security TO off;
SET default_transaction_read_only TO {read_only};
SELECT count(set_config(name, '0', false)) AS repom_set FROM pg_settings WHERE name IN
  ('transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout') \\gset
SELECT count(set_config('lc_messages', 'C', false)) AS repom_set FROM pg_roles
  WHERE rolname = current_user AND rolsuper \\gset
"""


def opening(*, changes: bool) -> str:
    """What comes before every script of ours: settings of the session, as statements, since
    a pooler refuses them as start-up options.

    :param changes: the script creates, drops or analyzes, which takes the time it takes;
        otherwise it is a question, which is read-only and has a time-out.
    """
    read_only, statement = ("off", 0) if changes else ("on", QUESTION)
    return _OPENING.format(read_only=read_only, statement=statement, lock=LOCK_WAIT)


#: Tables of the user's: no system schemas, nothing that belongs to an extension.
TABLES = """(SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'm', 'f')
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass
                  AND e.objid = c.oid AND e.deptype = 'e'))"""
#: Owners and grantees. pg_shdepend leaves out the bootstrap superuser, hence the rest.
ROLES = """(SELECT coalesce(json_agg(DISTINCT r.rolname), '[]') FROM pg_roles r WHERE r.oid IN (
    SELECT refobjid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass
      AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION SELECT nspowner FROM pg_namespace
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'))"""
LOCALE = """json_strip_nulls(json_build_object(
    'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
    'provider', to_jsonb(d)->>'datlocprovider',
    'locale', coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'),
    'icu_rules', to_jsonb(d)->>'daticurules'))"""
#: Reads Alembic's revision from an ordinary table of at most a few pages.
MIGRATION = """\\unset repom_alembic
SET lock_timeout TO '1s';
SELECT c.oid AS alembic, format('COPY %s.%s (version_num) TO STDOUT',
    quote_ident(n.nspname), quote_ident(c.relname)) AS copying
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid
  WHERE c.relname = 'alembic_version' AND c.relkind = 'r' AND NOT c.relrowsecurity
    AND a.attname = 'version_num' AND a.attgenerated = ''
    AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)
    AND pg_total_relation_size(c.oid) <= 100000
  ORDER BY n.nspname <> 'public', n.nspname LIMIT 1 \\gset repom_
\\if :{?repom_alembic}
\\echo migration
:repom_copying;
\\endif
"""


def _facts(**facts: str) -> str:
    """Statements that print a JSON object each. One that fails is a fact less: psql goes
    on with the next."""
    each = (f"SELECT json_build_object('{k}', ({v}));\n" for k, v in facts.items())
    return "\\set ON_ERROR_STOP off\n" + "".join(each)


VERSION = """\\echo :VERSION_NUM
SELECT json_build_object('server_version', current_setting('server_version'),
  'server_version_num', current_setting('server_version_num')::int);
"""
SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
#: Connected to the database itself. A line with psql's version, then JSON objects, then
#: perhaps ``migration`` and the values of Alembic's table.
IDENTIFY = (
    VERSION
    + _facts(
        size="SELECT pg_database_size(current_database())",
        tables=TABLES,
        locale=f"SELECT {LOCALE} FROM pg_database d WHERE datname = current_database()",
        extensions="SELECT json_object_agg(extname, extversion) FROM pg_extension",
        roles=ROLES,
        system_identifier=SYSTEM,
    )
    + MIGRATION
)
#: Databases of repom's own, by the JSON in their comment. Only a database's owner and a
#: superuser can write it: one of another role's is not trusted.
OWN = """(SELECT json_agg(json_build_object('name', d.datname,
    'comment', shobj_description(d.oid, 'pg_database'), 'valid', d.datconnlimit <> -2))
  FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
  WHERE d.datname ~ '^repom_[a-z]+_[0-9a-f]{8}$'
    AND (r.rolsuper OR r.rolname = current_user
      OR r.oid = (SELECT datdba FROM pg_database WHERE datname = :'live')))"""
#: Sessions on `live` that this user may not end, so that the swap would wait in vain.
FIRM = """(SELECT json_agg(format('%s (%s, %s)', a.pid, a.usename, a.application_name))
    FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid, pg_roles me
    WHERE a.datname = :'live' AND me.rolname = current_user AND NOT me.rolsuper AND (r.rolsuper
      OR NOT (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))))"""
#: Connected to the maintenance database, before anything is touched: what there is and
#: what stands in the way of replacing `live`. Lines as of `IDENTIFY`, and in a container
#: the disk of the data, which psql asks the shell for: a server does not tell. Names of
#: roles are bytes, since they have the encoding of the database that they were created in.
SURVEY = (
    VERSION
    + f"""SELECT json_build_object(
  'exists', EXISTS (SELECT FROM pg_database WHERE datname = :'live'),
  'owner', (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = :'live'),
  'own', {OWN},
  'may_create', (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user),
  'is_owner', (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = :'live'),
  'recovery', pg_is_in_recovery(),
  'roles', (SELECT json_agg(encode(textsend(rolname::text), 'hex')) FROM pg_roles),
  'prepared', (SELECT json_agg(gid) FROM pg_prepared_xacts WHERE database = :'live'),
  'slots', (SELECT json_agg(slot_name) FROM pg_replication_slots
            WHERE database = :'live' AND NOT temporary),
  'subscriptions', (SELECT json_agg(subname) FROM pg_subscription s
            JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = :'live' AND s.subenabled),
  'firm', {FIRM},
  'present', (SELECT json_agg(DISTINCT application_name) FROM pg_stat_activity
            WHERE application_name ~ '^repom-[0-9a-f]{{8}}$'));
"""
    + _facts(
        size="SELECT pg_database_size(:'live')",
        own_sizes="""SELECT json_object_agg(datname, pg_database_size(oid)) FROM pg_database
  WHERE datname ~ '^repom_[a-z]+_[0-9a-f]{8}$' AND has_database_privilege(oid, 'CONNECT')""",
        available="SELECT json_agg(name) FROM pg_available_extensions",
        sessions="""SELECT json_agg(format('%s (%s)', a.usename, coalesce(
    nullif(a.application_name, ''), host(a.client_addr), 'local'))) FROM pg_stat_activity a
  WHERE a.datname = :'live' AND a.backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND a.application_name IS DISTINCT FROM :'session'""",
        system_identifier=SYSTEM,
    )
    + r"""\if :inside
\echo `df -Pk "$PGDATA" 2>/dev/null`
\endif
"""
)
#: A database like the old one, into which only this user can connect while it is
#: loaded: a trigger that another role added then would run as this user. `locale` is JSON
#: as above.
CREATE = """SELECT format('CREATE DATABASE %I ALLOW_CONNECTIONS false', :'scratch')
  || ' TEMPLATE template0'
  -- not format('%L'), which makes NULL of a value that is not there
  || coalesce(' ENCODING ' || quote_literal(l->>'encoding'), '')
  || coalesce(' LC_COLLATE ' || quote_literal(l->>'collate'), '')
  || coalesce(' LC_CTYPE ' || quote_literal(l->>'ctype'), '')
  || CASE l->>'provider'
       WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', l->>'locale')
         || coalesce(' ICU_RULES ' || quote_literal(l->>'icu_rules'), '')
       WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', l->>'locale')
       WHEN 'c' THEN CASE WHEN current_setting('server_version_num')::int >= 150000
                          THEN ' LOCALE_PROVIDER libc' ELSE '' END
       ELSE '' END
  || coalesce((SELECT format(' TABLESPACE %I', t.spcname) FROM pg_database d
               JOIN pg_tablespace t ON t.oid = d.dattablespace
               WHERE d.datname = :'live' AND t.spcname <> 'pg_default'), '')
FROM (SELECT coalesce((SELECT LOCALE FROM pg_database d WHERE datname = :'live'),
                     :'locale'::json) l) x
\\gexec
SELECT format('COMMENT ON DATABASE %I IS %L', :'scratch', :'comment') \\gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'scratch') \\gexec
SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', :'scratch') \\gexec
SELECT 'created';
""".replace("LOCALE FROM", f"{LOCALE} FROM")
COUNT = f"SELECT {TABLES};\n"
#: Schema, name and quoted name of each table with rows of its own, as JSON.
NAMES = """SELECT json_agg(json_build_array(n.nspname || '.' || c.relname,
    format('%I.%I', n.nspname, c.relname)) ORDER BY c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema';
"""


def rows(quoted: Iterable[str], count: str) -> str:
    """A script that prints for each table the rows that COPY gives, counted by the program
    `count` where psql runs, and whether that failed, in a line each."""
    each = (f"\\o |{count}\nCOPY {name} TO STDOUT;\n\\o\n\\echo :ERROR\n" for name in quoted)
    return "\\set ON_ERROR_STOP off\n" + "".join(each)


#: Functions that run as this user, a superuser, for every caller.
DEFINERS = """SELECT json_agg(p.oid::regprocedure::text) FROM pg_proc p, pg_roles me
  WHERE me.rolname = current_user AND me.rolsuper AND p.prosecdef AND p.proowner = me.oid
    AND p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend e
      WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e');
"""
#: What ANALYZE has to look at after a load: tables that no statistics came along for, and
#: those with extended statistics, which no archive holds. A partitioned table stands for
#: its partitions. `part` of `parts` sessions takes its share, the largest first.
ANALYZE = """\\set ON_ERROR_STOP off
SELECT format('ANALYZE %I.%I', n.nspname, c.relname)
  FROM (SELECT c.*, row_number() OVER (ORDER BY pg_relation_size(c.oid) DESC, c.oid) AS place
        FROM pg_class c WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
          -- The catalogs grow meanwhile, and each session would count in another order.
          AND c.oid >= 16384) c
    JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND c.place % :parts = :part
    AND (EXISTS (SELECT FROM pg_statistic_ext e WHERE e.stxrelid = c.oid)
      OR (c.relkind = 'r' AND c.relhassubclass AND 2 > (SELECT count(DISTINCT s.inherited)
          FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname))
      OR EXISTS (SELECT FROM (SELECT c.oid UNION ALL
            SELECT relid FROM pg_partition_tree(c.oid) WHERE c.relkind = 'p') t
          JOIN pg_class o ON o.oid = t.oid JOIN pg_namespace m ON m.oid = o.relnamespace
        WHERE NOT EXISTS (SELECT FROM pg_stats s
          WHERE s.schemaname = m.nspname AND s.tablename = o.relname)))
  ORDER BY c.place
\\gexec
"""
#: What is in a database and in no schema, of the user's and not of an extension's: what it
#: is for people, and the statement that removes it, in the order in which that works.
_LOOSE = r"""
  SELECT 1, 'event trigger ' || evtname, format('DROP EVENT TRIGGER %I', evtname),
      'pg_event_trigger'::regclass, oid FROM pg_event_trigger
    UNION ALL SELECT 2, 'publication ' || pubname, format('DROP PUBLICATION %I', pubname),
      'pg_publication'::regclass, oid FROM pg_publication
    UNION ALL SELECT 3, 'extension ' || extname,
      format('DROP EXTENSION IF EXISTS %I CASCADE', extname),
      'pg_extension'::regclass, oid FROM pg_extension WHERE extname <> 'plpgsql'
    UNION ALL SELECT 4, 'foreign data wrapper ' || fdwname,
      format('DROP FOREIGN DATA WRAPPER IF EXISTS %I CASCADE', fdwname),
      'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 5, 'cast', format('DROP CAST IF EXISTS (%s AS %s) CASCADE',
      castsource::regtype, casttarget::regtype), 'pg_cast'::regclass, oid FROM pg_cast
    UNION ALL SELECT 6, 'transform', format('DROP TRANSFORM IF EXISTS FOR %s LANGUAGE %I CASCADE',
      trftype::regtype, (SELECT lanname FROM pg_language l WHERE l.oid = trflang)),
      'pg_transform'::regclass, oid FROM pg_transform
    UNION ALL SELECT 7, 'schema ' || nspname, format('DROP SCHEMA IF EXISTS %I CASCADE', nspname),
      'pg_namespace'::regclass, 16384 FROM pg_namespace
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL SELECT 8, 'language ' || lanname, format('DROP LANGUAGE IF EXISTS %I CASCADE',
      lanname), 'pg_language'::regclass, oid FROM pg_language
    UNION ALL SELECT 9, 'access method ' || amname,
      format('DROP ACCESS METHOD IF EXISTS %I CASCADE', amname), 'pg_am'::regclass, oid FROM pg_am
    UNION ALL SELECT 10, 'large object ' || oid, format('SELECT lo_unlink(%s)', oid),
      'pg_largeobject'::regclass, 16384 FROM pg_largeobject_metadata
    UNION ALL SELECT 11, 'default privileges', format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE %I REVOKE ALL ON %s FROM %s',
        pg_get_userbyid(defaclrole), kind, who), 'pg_default_acl'::regclass, 16384
      FROM (SELECT a.defaclrole, CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN
          'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS'
          ELSE 'LARGE OBJECTS' END AS kind, CASE x.grantee WHEN 0 THEN 'PUBLIC'
          ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS who
        FROM pg_default_acl a, aclexplode(a.defaclacl) x WHERE a.defaclnamespace = 0) d
    UNION ALL SELECT 12, 'default privileges', format(
        'ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT %s ON %s TO %s',
        pg_get_userbyid(a.defaclrole), x.privilege_type, CASE a.defaclobjtype WHEN 'r' THEN
          'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES'
          WHEN 'n' THEN 'SCHEMAS' ELSE 'LARGE OBJECTS' END, CASE x.grantee WHEN 0 THEN 'PUBLIC'
          ELSE quote_ident(pg_get_userbyid(x.grantee)) END), 'pg_default_acl'::regclass, 16384
      FROM pg_default_acl a, aclexplode(acldefault(CASE a.defaclobjtype WHEN 'S' THEN 's'::"char"
        ELSE a.defaclobjtype END, a.defaclrole)) x WHERE a.defaclnamespace = 0"""
LOOSE = f"""(SELECT * FROM ({_LOOSE}) loose (place, what, statement, class, id)
  WHERE id >= 16384 AND NOT EXISTS (SELECT FROM pg_depend e
    WHERE e.classid = class AND e.objid = id AND e.deptype = 'e')) loose"""
#: Everything in the database goes, in the transaction that loads the new contents. The
#: schema public is made again as initdb makes it, since pg_dump takes it for granted.
EMPTY = f"""SET LOCAL search_path TO '';
SET LOCAL lock_timeout = '30s';
SET LOCAL client_min_messages = warning;
DO $$
DECLARE thing text;
BEGIN
  FOR thing IN SELECT statement FROM {LOOSE} ORDER BY place LOOP
    EXECUTE thing;
  END LOOP;
END $$;
CREATE SCHEMA public;
DO $$ BEGIN
  IF current_setting('server_version_num')::int >= 150000 THEN
    ALTER SCHEMA public OWNER TO pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
  ELSE
    GRANT ALL ON SCHEMA public TO PUBLIC;
  END IF;
END $$;
COMMENT ON SCHEMA public IS 'standard public schema';
"""
#: Whether all contents can be replaced in one transaction: what this user cannot remove,
#: and the locks that removing takes and the server has.
IN_PLACE = """SELECT json_build_object(
  'others', (SELECT json_agg(what) FROM (
    SELECT 'subscription ' || subname FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT 'grants on ' || p.oid::regprocedure FROM pg_proc p LEFT JOIN pg_init_privs i
      ON i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid
      WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proacl IS DISTINCT FROM i.initprivs
    UNION ALL SELECT 'grants on ' || c.oid::regclass FROM pg_class c LEFT JOIN pg_init_privs i
      ON i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0
      WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relacl IS DISTINCT FROM i.initprivs
    UNION ALL SELECT 'grants on ' || c.oid::regclass FROM pg_class c JOIN pg_attribute a
      ON a.attrelid = c.oid LEFT JOIN pg_init_privs i
      ON i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = a.attnum
      WHERE c.relnamespace = 'pg_catalog'::regnamespace AND a.attacl IS DISTINCT FROM i.initprivs
    ) o (what)),
  'locks', (SELECT count(*) FROM pg_class WHERE oid >= 16384)
    + (SELECT count(*) FROM pg_largeobject_metadata)
    + (SELECT count(*) FROM pg_proc WHERE oid >= 16384)
    + (SELECT count(*) FROM pg_type WHERE oid >= 16384),
  'capacity', current_setting('max_locks_per_transaction')::int
    * (current_setting('max_connections')::int
      + current_setting('max_prepared_transactions')::int));
"""
#: Ends a load in place unless it made as many tables as it should, -1 for any.
EXPECT = f"""SET LOCAL search_path TO '';
DO $$ DECLARE found bigint := {TABLES}; expected bigint := {{tables}};
BEGIN
  IF found <> expected AND (expected >= 0 OR found = 0) THEN
    RAISE EXCEPTION 'the backup holds % tables, and % were restored', expected, found;
  END IF;
END $$;
"""
#: Who holds locks on tables of this database that keep a dump out.
LOCKERS = """SELECT DISTINCT format('process %s (%s, %s, %s)', a.pid, a.usename,
    a.application_name, a.state)
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'AccessExclusiveLock'
    AND a.datname = current_database();
"""
#: Whether the server works for the sessions of this run, and whom they wait for: those
#: that have held a lock for 10 s that one of them wants. (Servers before 14 do not say for
#: how long.) Autovacuum gives way by itself.
WORKING = """SELECT json_build_object(
  'working', EXISTS (SELECT FROM pg_stat_activity WHERE application_name = :'session'
    AND pid <> pg_backend_pid() AND state = 'active'
    AND wait_event_type IS DISTINCT FROM 'Client'),
  'blockers', (SELECT json_agg(DISTINCT format('process %s (%s, %s, %s)', b.pid, b.usename,
      b.application_name, b.state))
    FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid AND NOT l.granted,
      unnest(pg_blocking_pids(a.pid)) blocker JOIN pg_stat_activity b ON b.pid = blocker
    WHERE a.application_name = :'session' AND b.application_name IS DISTINCT FROM :'session'
      AND b.backend_type <> 'autovacuum worker'
      AND coalesce((to_jsonb(l)->>'waitstart')::timestamptz, '-infinity')
        < now() - interval '10 s'));
"""
#: What belongs to the old database and not to its contents. A statement that this user
#: may not run is a warning, so psql goes on after an error.
PROPERTIES = """\\set ON_ERROR_STOP off
SELECT CASE WHEN p[1] IN ('search_path', 'temp_tablespaces', 'session_preload_libraries',
                          'local_preload_libraries')
    -- stored as a list that is quoted already: one literal would become one entry
    THEN format('SELECT set_config(%L, %L, true); ALTER %s SET %I FROM CURRENT',
      p[1], p[2], target, p[1])
    ELSE format('ALTER %s SET %I TO %L', target, p[1], p[2]) END
  FROM (SELECT CASE s.setrole WHEN 0 THEN format('DATABASE %I', :'scratch')
      ELSE format('ROLE %I IN DATABASE %I', pg_get_userbyid(s.setrole), :'scratch') END AS target,
      regexp_match(c, '^([^=]+)=(.*)$', 's') AS p
    FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) c
    WHERE d.datname = :'live') x
\\gexec
SELECT format('ALTER DATABASE %I CONNECTION LIMIT %s', :'scratch', datconnlimit)
  FROM pg_database WHERE datname = :'live' AND datconnlimit >= 0
\\gexec
"""
#: Gives the scratch database to the owner of the old one, as the swap will, and prints what
#: makes a session act as that role; nothing for a superuser, and for this user itself.
OWNED = """SELECT format('ALTER DATABASE %I OWNER TO %I', :'scratch', r.rolname),
    format('SELECT %L', format('SET LOCAL ROLE %I', r.rolname))
  FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
  WHERE d.datname = :'live' AND NOT r.rolsuper AND r.rolname <> current_user \\gexec
"""
#: The key of an advisory lock, in two halves as pg_locks shows it.
HOLD = """SELECT pg_try_advisory_lock(:key) AS repom_free \\gset
\\if :repom_free
\\echo held
\\else
SELECT format('%s (%s)', a.pid, a.application_name) FROM pg_locks l
    JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.classid::int8 << 32) | l.objid::int8 = :key;
\\endif
"""
#: An advisory lock of this database until the session ends, and whether such a lock is held.
SHOW = "BEGIN;\nSELECT pg_advisory_xact_lock(:key);\n"
SEEN = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::int8 << 32) | objid::int8 = :key;
"""
BUSY = "in use by another repom"
#: Both renames in one transaction: the first one takes the lock that keeps new sessions
#: out, and waits for the old ones to go; see `EVICT`. What is a property of the name and
#: would keep a scratch database from being dropped, or let others into it, comes last.
SWAP = f"""BEGIN;
SELECT pg_try_advisory_xact_lock(:key) AS repom_free \\gset
\\if :repom_free
\\else
SELECT '{BUSY}'::int;
\\endif
SELECT format('COMMENT ON DATABASE %I IS %L', :'scratch',
  (SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :'live')) \\gexec
SELECT format('ALTER DATABASE %I RENAME TO %I', :'live', :'kept')
  FROM pg_database WHERE datname = :'live' \\gexec
SELECT format('COMMENT ON DATABASE %I IS %L', :'kept', :'description')
  FROM pg_database WHERE datname = :'kept' \\gexec
SELECT format('ALTER DATABASE %I RENAME TO %I', :'scratch', :'live') \\gexec
SELECT format('ALTER DATABASE %I IS_TEMPLATE %s ALLOW_CONNECTIONS %s', :'live',
    datistemplate::text, datallowconn::text)
  FROM pg_database WHERE datname = :'kept' AND :'scratch' LIKE 'repom_scratch_%'
    AND (datistemplate OR NOT datallowconn) \\gexec
SELECT format('ALTER DATABASE %I OWNER TO %I', :'live', pg_get_userbyid(k.datdba))
  FROM pg_database k JOIN pg_database n ON n.datname = :'live' AND n.datdba <> k.datdba
  WHERE k.datname = :'kept' AND :'scratch' LIKE 'repom_scratch_%' \\gexec
\\set ON_ERROR_STOP off
\\set ON_ERROR_ROLLBACK on
SELECT format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO PUBLIC', :'live')
  WHERE :'scratch' LIKE 'repom_scratch_%' AND NOT EXISTS
    (SELECT FROM pg_database WHERE datname = :'kept' AND datacl IS NOT NULL) \\gexec
SELECT format('GRANT %s ON DATABASE %I TO %s%s', string_agg(a.privilege_type, ', '), :'live',
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM pg_database d, aclexplode(d.datacl) a
  WHERE d.datname = :'kept' AND :'scratch' LIKE 'repom_scratch_%'
  GROUP BY a.grantee, a.is_grantable \\gexec
\\set ON_ERROR_ROLLBACK off
\\set ON_ERROR_STOP on
COMMIT;
SELECT count(*) FROM pg_database WHERE datname = :'kept';
"""
#: The second session of a swap. A pool that reconnects must not win the race, so it goes
#: on until the other session has committed and the scratch database has its new name, or
#: has given up. What follows it drops what is no longer kept: each drop makes the server
#: write a checkpoint, which may take long.
EVICT = """SELECT set_config('repom.live', :'live', false);
SELECT set_config('repom.scratch', :'scratch', false);
DO $$
DECLARE victim int;
BEGIN
  FOR turn IN 1..300 LOOP
    EXIT WHEN NOT EXISTS
      (SELECT FROM pg_database WHERE datname = current_setting('repom.scratch'));
    PERFORM pg_stat_clear_snapshot();
    FOR victim IN SELECT pid FROM pg_stat_activity
        WHERE datname = current_setting('repom.live') AND pid <> pg_backend_pid() LOOP
      BEGIN
        PERFORM pg_terminate_backend(victim);
      EXCEPTION WHEN insufficient_privilege THEN NULL;
      END;
    END LOOP;
    PERFORM pg_sleep(0.02);
  END LOOP;
END $$;
SELECT EXISTS (SELECT FROM pg_database WHERE datname = :'kept') AS repom_swapped \\gset
"""


def drop(names: Iterable[str], maintenance: str) -> str:
    """A script that drops databases of repom's own, with what keeps a database from being
    dropped, and prints the names of those that stay.

    :param names: each of the form ``repom_<kind>_<8 hex>``.
    :param maintenance: the database that the script runs in.
    """
    again = f"\\connect {maintenance}\n{opening(changes=True)}"
    each = (_drop(name, again) for name in names)
    return "\\set ON_ERROR_STOP off\n" + "".join(each)


def _drop(name: str, again: str) -> str:
    return f"""\\set repom_subscribed f
SELECT count(*) > 0 AS repom_subscribed FROM pg_subscription s
  JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = '{name}' \\gset
\\if :repom_subscribed
\\connect {name}
{opening(changes=True)}SELECT format('ALTER SUBSCRIPTION %I DISABLE', subname),
    format('ALTER SUBSCRIPTION %I SET (slot_name = NONE)', subname),
    format('DROP SUBSCRIPTION %I', subname)
  FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = '{name}')
\\gexec
{again}\\endif
SELECT format('ALTER DATABASE %I IS_TEMPLATE false', datname) FROM pg_database
  WHERE datname = '{name}' AND datistemplate \\gexec
DROP DATABASE IF EXISTS {name} WITH (FORCE);
-- FORCE may not end an autovacuum worker for an ordinary role; without, the server ends it.
DROP DATABASE IF EXISTS {name};
SELECT datname FROM pg_database WHERE datname = '{name}';
"""


#: Ends what a run still has going on in the server, also when its clients are gone, and
#: waits until it has ended.
ABORT = """SELECT set_config('repom.session', :'session', false) \\gset repom_
SELECT set_config('repom.spared', :'spared', false) \\gset repom_
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE application_name = :'session' AND pid NOT IN (pg_backend_pid(), :spared);
DO $$ BEGIN
  FOR turn IN 1..40 LOOP
    PERFORM pg_stat_clear_snapshot();
    EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity
      WHERE application_name = current_setting('repom.session')
        AND pid NOT IN (pg_backend_pid(), current_setting('repom.spared')::int));
    PERFORM pg_sleep(0.02);
  END LOOP;
END $$;
"""
