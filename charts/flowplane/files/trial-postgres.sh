# PostgreSQL for a trial: makes the database with our three roles the first time, then is the server.
# Passwords come from the addresses that our processes are given, so that they stand in one place.
set -eu -o pipefail
umask 077
PATH="$PATH:$(printf '%s:' /usr/lib/postgresql/*/bin)"
made=/data/made fresh=/data/fresh

password() { # the password in an address: postgresql://role:PASSWORD@host/name
  address="$(cat "/etc/trial/$1")"
  address="${address#*://*:}"
  printf '%s' "${address%%@*}"
}

if [ ! -e "$made" ]; then
  rm -rf "$fresh"
  initdb --pgdata "$fresh" --username postgres --encoding UTF8 --no-locale --auth-local trust --auth-host scram-sha-256 >/dev/null
  echo "host flowplane flowplane_owner,flowplane_app,flowplane_system all scram-sha-256" >>"$fresh/pg_hba.conf"
  pg_ctl --pgdata "$fresh" --silent --wait -o "-c listen_addresses='' -c unix_socket_directories=/run/postgresql" start
  export PGHOST=/run/postgresql PGUSER=postgres PGDATABASE=postgres
  psql --no-psqlrc --quiet --file /roles/roles.sql
  for role in owner app system; do
    # Letters and digits, or the statement is refused: there is no quoting to get wrong.
    word="$(password "$role")"
    case "$word" in "" | *[!A-Za-z0-9]*) echo "the password in $role's address must be letters and digits" >&2 && exit 64 ;; esac
    psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 <<<"ALTER ROLE flowplane_$role PASSWORD '$word'"
  done
  pg_ctl --pgdata "$fresh" --silent --wait --mode fast stop
  unset PGHOST PGUSER PGDATABASE
  mv "$fresh" "$made"
fi
# Its log must not repeat what a refused statement was to write (docs/production.md).
exec postgres -D "$made" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql \
  -c log_min_error_statement=panic -c log_error_verbosity=terse -c shared_buffers=32MB
