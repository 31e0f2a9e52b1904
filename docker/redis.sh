#!/bin/sh
# Run Redis in the foreground. It saves its writes in the folder DIR every second.
#   redis.sh DIR
# Environment: REDIS_PASSWORD, the password of all clients.
set -eu
: "${REDIS_PASSWORD:?the password}"
exec redis-server - <<EOF
dir $1
bind * -::*
requirepass "$REDIS_PASSWORD"
appendonly yes
save ""
maxmemory-policy noeviction
EOF
