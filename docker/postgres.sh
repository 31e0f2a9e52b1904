#!/bin/sh
# PostgreSQL in the foreground, with the database `prefect` and the role of that name; made at the first start.
#   postgres.sh DIR
# Environment: POSTGRES_PASSWORD, the role's; changed by a restart. The one superuser comes in by the socket only.
set -eu
: "${POSTGRES_PASSWORD:?the password of the role prefect}"
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
umask 077

# The lock tells whether a server is at work; after a kill, the process number in postmaster.pid may be anyone's.
exec 9>"$1/lock"
flock --nonblock 9 || { echo "postgres: $1 is served already" >&2; exit 1; }
rm -f "$1/db/postmaster.pid"
[ ! -e "$1/db" ] || chmod 700 "$1/db" # a volume's group may have been given rights, which postgres refuses

# SQL that no connection is needed for, and that no command line shows.
tell() { postgres --single -j -D "$1" postgres >/dev/null; }

if [ ! -e "$1/db" ]; then
    rm -rf "$1/new" # a first start that was cut off
    initdb --pgdata="$1/new" --encoding=UTF8 --locale=C.UTF-8 --auth-local=peer --auth-host=reject >/dev/null
    echo "host prefect prefect all scram-sha-256" >>"$1/new/pg_hba.conf"
    echo "CREATE ROLE prefect LOGIN;" | tell "$1/new"
    echo "CREATE DATABASE prefect OWNER prefect;" | tell "$1/new"
    mv "$1/new" "$1/db"
fi
echo "ALTER ROLE prefect PASSWORD '$(printf %s "$POSTGRES_PASSWORD" | sed "s/'/''/g")';" | tell "$1/db"
exec postgres -D "$1/db" -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off
