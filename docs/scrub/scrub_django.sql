-- Replaces what identifies people in Django's own tables. Add your tables below.
-- No password works afterwards. To set one: python manage.py changepassword user1
UPDATE auth_user SET
  username = 'user' || id,
  first_name = '',
  last_name = '',
  email = 'user' || id || '@example.org',
  password = '!';

-- Sessions are logins, and the log of the admin quotes names.
DELETE FROM django_session;
DELETE FROM django_admin_log;
