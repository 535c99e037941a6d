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
SELECT json_build_object(
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

#: Connected to the maintenance database. What stands in the way of replacing `live`.
OBSTACLES = """\\echo :VERSION_NUM
SELECT json_build_object(
  'server_version_num', current_setting('server_version_num')::int,
  'exists', EXISTS (SELECT FROM pg_database WHERE datname = :'live'),
  'may_create', (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user),
  'recovery', pg_is_in_recovery(),
  'roles', (SELECT json_agg(rolname) FROM pg_roles),
  'extensions', (SELECT json_agg(name) FROM pg_available_extensions),
  'prepared', (SELECT json_agg(gid) FROM pg_prepared_xacts WHERE database = :'live'),
  'slots', (SELECT json_agg(slot_name) FROM pg_replication_slots
            WHERE database = :'live' AND active),
  'sessions', (SELECT json_agg(format('%s (%s, %s)', a.pid, a.usename, a.application_name))
    FROM pg_stat_activity a WHERE a.datname = :'live' AND a.usesysid IS NOT NULL
    AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    AND ((SELECT rolsuper FROM pg_roles r WHERE r.oid = a.usesysid)
      OR NOT (pg_has_role(a.usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))))
);
SELECT has_function_privilege('pg_control_system()', 'execute') AS allowed \\gset
\\if :allowed
SELECT system_identifier FROM pg_control_system();
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
#: on until the other session has committed, or has given up.
EVICT = """SELECT set_config('repom.live', :'live', false);
SELECT set_config('repom.kept', :'kept', false);
DO $$
DECLARE victim int;
BEGIN
  FOR turn IN 1..300 LOOP
    EXIT WHEN EXISTS (SELECT FROM pg_database WHERE datname = current_setting('repom.kept'));
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
"""

DROP = """SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', :'scratch') \\gexec
"""

#: Databases of repom's own for `live`, by the JSON in their comment.
OWN = """SELECT json_build_object('name', d.datname,
    'comment', shobj_description(d.oid, 'pg_database'),
    'size', CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) END,
    'busy', EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid))
  FROM pg_database d WHERE d.datname ~ '^repom_[a-z]+_[0-9a-f]{8}$'
    AND shobj_description(d.oid, 'pg_database') LIKE '{%';
"""

#: What this run still has going on in the server, also when its clients are gone.
ABORT = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE application_name = :'session' AND pid <> pg_backend_pid();
"""
