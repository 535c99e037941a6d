"""SQL that repom sends through psql, as scripts with psql variables.

Names are quoted by the server's own ``format()``, and statements that are built this way
are run by ``\\gexec``. ``:'live'`` and the like are psql variables.
"""

from __future__ import annotations

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

#: Connected to the database itself. Three lines: psql's version, facts, system identifier.
IDENTIFY = f"""\\echo :VERSION_NUM
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('alembic_version')
  AND attname = 'version_num' AND has_table_privilege(attrelid, 'select')) AS alembic \\gset
\\set migration ''
\\if :alembic
SELECT string_agg(version_num, ',') AS migration FROM alembic_version \\gset
\\endif
SELECT json_build_object(
  'migration', nullif(:'migration', ''),
  'server_version', current_setting('server_version'),
  'server_version_num', current_setting('server_version_num')::int,
  'size', pg_database_size(d.oid), 'tables', {TABLES}, 'locale', {LOCALE},
  'extensions', (SELECT coalesce(json_object_agg(extname, extversion), '{{}}') FROM pg_extension),
  'roles', {ROLES})
FROM pg_database d WHERE datname = current_database();
SELECT has_function_privilege('pg_control_system()', 'execute') AS allowed \\gset
\\if :allowed
SELECT system_identifier FROM pg_control_system();
\\endif
"""

#: Databases of repom's own, by the JSON in their comment.
OWN = """(SELECT json_agg(json_build_object('name', d.datname,
    'comment', shobj_description(d.oid, 'pg_database'),
    'size', CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END))
  FROM pg_database d WHERE d.datname ~ '^repom_[a-z]+_[0-9a-f]{8}$'
    AND shobj_description(d.oid, 'pg_database') LIKE '{%')"""

#: Sessions on `live` that this user may not end, so that the swap would wait in vain.
FIRM = """(SELECT json_agg(format('%s (%s, %s)', a.pid, a.usename, a.application_name))
    FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid, pg_roles me
    WHERE a.datname = :'live' AND me.rolname = current_user AND NOT me.rolsuper AND (r.rolsuper
      OR NOT (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))))"""

#: Connected to the maintenance database, before anything is touched: what there is and
#: what stands in the way of replacing `live`. Lines as of `IDENTIFY`, and in a container
#: the disk of the data, which psql asks the shell for: a server does not tell.
SURVEY = f"""\\echo :VERSION_NUM
SELECT json_build_object(
  'server_version', current_setting('server_version'),
  'server_version_num', current_setting('server_version_num')::int,
  'exists', EXISTS (SELECT FROM pg_database WHERE datname = :'live'),
  'size', (SELECT CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END
           FROM pg_database WHERE datname = :'live'),
  'own', {OWN},
  'may_create', (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user),
  'is_owner', (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = :'live'),
  'recovery', pg_is_in_recovery(),
  'roles', (SELECT json_agg(rolname) FROM pg_roles),
  'available', (SELECT json_agg(name) FROM pg_available_extensions),
  'prepared', (SELECT json_agg(gid) FROM pg_prepared_xacts WHERE database = :'live'),
  'slots', (SELECT json_agg(slot_name) FROM pg_replication_slots
            WHERE database = :'live' AND active),
  'subscriptions', (SELECT json_agg(subname) FROM pg_subscription s
            JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = :'live' AND s.subenabled),
  'sessions', {FIRM});
SELECT has_function_privilege('pg_control_system()', 'execute') AS allowed \\gset
\\if :allowed
SELECT system_identifier FROM pg_control_system();
\\else
\\echo
\\endif
\\if :inside
\\echo `df -Pk "$PGDATA" 2>/dev/null`
\\endif
"""

#: Options of CREATE DATABASE that make it like the old one; `locale` is JSON as above.
CREATE = """SELECT format('CREATE DATABASE %I TEMPLATE template0', :'scratch')
  || coalesce(format(' ENCODING %L', l->>'encoding'), '')
  || coalesce(format(' LC_COLLATE %L', l->>'collate'), '')
  || coalesce(format(' LC_CTYPE %L', l->>'ctype'), '')
  || CASE l->>'provider'
       WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', l->>'locale')
         || coalesce(format(' ICU_RULES %L', l->>'icu_rules'), '')
       WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', l->>'locale')
       WHEN 'c' THEN CASE WHEN current_setting('server_version_num')::int >= 150000
                          THEN ' LOCALE_PROVIDER libc' ELSE '' END
       ELSE '' END
  || coalesce((SELECT format(' OWNER %I', pg_get_userbyid(datdba)) FROM pg_database
               WHERE datname = :'live'), '')
  || coalesce((SELECT format(' TABLESPACE %I', t.spcname) FROM pg_database d
               JOIN pg_tablespace t ON t.oid = d.dattablespace
               WHERE d.datname = :'live' AND t.spcname <> 'pg_default'), '')
FROM (SELECT coalesce((SELECT LOCALE FROM pg_database d WHERE datname = :'live'),
                     :'locale'::json) l) x
\\gexec
SELECT format('COMMENT ON DATABASE %I IS %L', :'scratch', :'comment') \\gexec
SELECT 'created';
""".replace("LOCALE FROM", f"{LOCALE} FROM")

COUNT = f"SELECT {TABLES};\n"

#: Rows of each table, as lines with a JSON array of name and number.
ROWS = """SELECT format('SELECT json_build_array(%L, count(*)) FROM %I.%I',
    n.nspname || '.' || c.relname, n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND n.nspname !~ '^pg_'
    AND n.nspname <> 'information_schema'
\\gexec
"""

#: Everything in the database goes, in the transaction that loads the new contents. The
#: schema public is made again as initdb makes it, since pg_dump takes it for granted.
EMPTY = """SET LOCAL lock_timeout = '30s';
SET LOCAL client_min_messages = warning;
DO $$
DECLARE thing text;
BEGIN
  FOR thing IN
    SELECT format('DROP EVENT TRIGGER %I', evtname) FROM pg_event_trigger
    UNION ALL SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication
    UNION ALL SELECT format('DROP FOREIGN DATA WRAPPER IF EXISTS %I CASCADE', fdwname)
      FROM pg_foreign_data_wrapper
    UNION ALL SELECT format('DROP SCHEMA IF EXISTS %I CASCADE', nspname) FROM pg_namespace
      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL SELECT format('DROP EXTENSION IF EXISTS %I CASCADE', extname) FROM pg_extension
      WHERE extname <> 'plpgsql'
    UNION ALL SELECT format('SELECT lo_unlink(%s)', oid) FROM pg_largeobject_metadata
  LOOP
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

#: Ends a load in place unless it made as many tables as it should, -1 for any.
EXPECT = f"""
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
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'scratch')
  FROM pg_database WHERE datname = :'live' AND datacl IS NOT NULL
\\gexec
SELECT format('GRANT %s ON DATABASE %I TO %s%s', string_agg(a.privilege_type, ', '), :'scratch',
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = :'live'
  GROUP BY a.grantee, a.is_grantable
\\gexec
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
SELECT format('ALTER DATABASE %I IS_TEMPLATE true', :'scratch')
  FROM pg_database WHERE datname = :'live' AND datistemplate
\\gexec
"""

#: Both renames in one transaction: the first one takes the lock that keeps new sessions
#: out, and waits up to 5 s for the old ones to go; see `EVICT`.
SWAP = """BEGIN;
SET LOCAL lock_timeout = '10s';
SELECT format('COMMENT ON DATABASE %I IS %L', :'scratch',
  (SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :'live')) \\gexec
SELECT format('ALTER DATABASE %I RENAME TO %I', :'live', :'kept')
  FROM pg_database WHERE datname = :'live' \\gexec
SELECT format('COMMENT ON DATABASE %I IS %L', :'kept', :'description')
  FROM pg_database WHERE datname = :'kept' \\gexec
SELECT format('ALTER DATABASE %I RENAME TO %I', :'scratch', :'live') \\gexec
COMMIT;
SELECT count(*) FROM pg_database WHERE datname = :'kept';
"""

#: The second session of a swap. A pool that reconnects must not win the race, so it goes
#: on until the other session has committed and the scratch database has its new name, or
#: has given up. After a commit it drops what
#: is no longer kept: each drop makes the server write a checkpoint, which may take long.
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
\\set ON_ERROR_STOP off
SELECT format('ALTER DATABASE %I IS_TEMPLATE false', datname),
    format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
  WHERE datname ~ '^repom_undo_[0-9a-f]{8}$'
    AND starts_with(shobj_description(oid, 'pg_database'), :'described')
    AND EXISTS (SELECT FROM pg_database WHERE datname = :'kept')
  ORDER BY substring(shobj_description(oid, 'pg_database') from '"created_at": "([^"]+)"') DESC
  OFFSET :keep
\\gexec
"""

DROP = """SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', :'scratch') \\gexec
"""

#: What this run still has going on in the server, also when its clients are gone.
ABORT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE application_name = :'session' AND pid <> pg_backend_pid();
"""
