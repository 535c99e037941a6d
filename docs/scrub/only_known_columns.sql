-- Fails when a column appears that this list does not know, so that a new one cannot
-- bring personal data along before you have decided what becomes of it.
CREATE TEMPORARY TABLE allowed (relation text, name text) ON COMMIT DROP;
INSERT INTO allowed VALUES
  ('public.auth_user', 'id'),
  ('public.auth_user', 'username'),
  ('public.auth_user', 'first_name'),
  ('public.auth_user', 'last_name'),
  ('public.auth_user', 'email'),
  ('public.auth_user', 'password'),
  ('public.auth_user', 'is_superuser'),
  ('public.django_session', 'session_key'),
  ('public.django_session', 'session_data'),
  ('public.django_session', 'expire_date'),
  ('public.django_admin_log', 'id'),
  ('public.django_admin_log', 'object_repr');

DO $$
DECLARE unknown text;
BEGIN
  SELECT string_agg(format('%s.%s.%s', n.nspname, c.relname, a.attname), ', ') INTO unknown
  FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM allowed
      WHERE relation = format('%s.%s', n.nspname, c.relname) AND name = a.attname);
  IF unknown IS NOT NULL THEN
    RAISE EXCEPTION 'the list does not know these columns: %', unknown;
  END IF;
END $$;
