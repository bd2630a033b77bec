-- The three database roles, the database, and who may do what in it.
--
-- Run once by the administrator of the server (PostgreSQL 14 or newer), and again whenever you like: it changes
-- nothing that is already so.      psql --no-psqlrc --dbname postgres --file config/sql/roles.sql
--
--   flowplane_owner   owns the tables and runs the migrations; backs the database up, and restores it into a new one
--   flowplane_app     the web process: sees only the rows that row-level security lets its request see
--   flowplane_system  worker, clock, watcher: sees all rows, by policies of the tables, not by BYPASSRLS
--
-- No role gets a password here: give each one the way to sign in that your site uses (ALTER ROLE ... PASSWORD,
-- certificates, or peer as on the laptop).

\set ON_ERROR_STOP on
SET client_min_messages = warning;

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['flowplane_owner', 'flowplane_app', 'flowplane_system'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            EXECUTE format('CREATE ROLE %I', wanted);
        END IF;
    END LOOP;
END
$$;

-- CREATEDB: a backup is restored into a database of its own, which then takes the other one's name.
ALTER ROLE flowplane_owner LOGIN NOSUPERUSER CREATEDB NOCREATEROLE NOBYPASSRLS;
-- NOINHERIT: membership alone opens nothing; the web process must say SET LOCAL ROLE where it means it.
ALTER ROLE flowplane_system LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
ALTER ROLE flowplane_app LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS;
GRANT flowplane_system TO flowplane_app;
-- So that a restore may see and, when told to, end their connections. It shows the owner nothing that it does not own.
GRANT flowplane_app, flowplane_system TO flowplane_owner;

-- A migration that waits for a lock makes everybody who comes after it wait, too: it gives up instead, and is repeated.
ALTER ROLE flowplane_owner SET lock_timeout = '5s';

-- Whoever freezes in a transaction holds its locks, a region's row for one, and everybody would wait for it: its session
-- is ended. Nothing of ours waits in a transaction but the page on which operators see what a turn would do now.
ALTER ROLE flowplane_app SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE flowplane_system SET idle_in_transaction_session_timeout = '30s';

SELECT 'CREATE DATABASE flowplane OWNER flowplane_owner ENCODING ''UTF8'' TEMPLATE template0'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'flowplane')
\gexec

REVOKE ALL ON DATABASE flowplane FROM PUBLIC;
GRANT CONNECT ON DATABASE flowplane TO flowplane_app, flowplane_system;

\connect flowplane
SET client_min_messages = warning;

ALTER SCHEMA public OWNER TO flowplane_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO flowplane_app, flowplane_system;

-- Tables that migrations make from now on; a migration may take some of this back (history is append-only).
ALTER DEFAULT PRIVILEGES FOR ROLE flowplane_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO flowplane_app, flowplane_system;
ALTER DEFAULT PRIVILEGES FOR ROLE flowplane_owner IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO flowplane_app, flowplane_system;
