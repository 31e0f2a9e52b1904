#!/bin/sh
# Run PostgreSQL in the foreground. The first start creates the role and the database `prefect`.
#   postgres.sh DIR
# Environment: POSTGRES_PASSWORD, the password of the role, set anew at each start. The superuser can connect only
# through the socket.
set -eu
: "${POSTGRES_PASSWORD:?the password of the role prefect}"
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
umask 077

# The lock shows whether a server runs. After a kill, postmaster.pid may name a process of something else.
exec 9>"$1/lock"
flock --nonblock 9 || { echo "postgres: $1 is served already" >&2; exit 1; }
rm -f "$1/db/postmaster.pid"
[ ! -e "$1/db" ] || chmod 700 "$1/db" # postgres refuses a folder that the group can read, as in some volumes

# Run SQL without a server, from standard input, so that no command line shows a password.
tell() { postgres --single -j -D "$1" postgres >/dev/null; }

if [ ! -e "$1/db" ]; then
    rm -rf "$1/new" # left by an interrupted first start
    initdb --pgdata="$1/new" --encoding=UTF8 --locale=C.UTF-8 --auth-local=peer --auth-host=reject >/dev/null
    echo "host prefect prefect all scram-sha-256" >>"$1/new/pg_hba.conf"
    echo "CREATE ROLE prefect LOGIN;" | tell "$1/new"
    echo "CREATE DATABASE prefect OWNER prefect;" | tell "$1/new"
    mv "$1/new" "$1/db"
fi
echo "ALTER ROLE prefect PASSWORD '$(printf %s "$POSTGRES_PASSWORD" | sed "s/'/''/g")';" | tell "$1/db"
exec postgres -D "$1/db" -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off
