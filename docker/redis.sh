#!/bin/sh
# Redis in the foreground, every second's writes kept in the folder DIR.
#   redis.sh DIR
# Environment: REDIS_PASSWORD.
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
