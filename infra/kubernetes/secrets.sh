#!/bin/sh
# Make the namespace and its secrets: passwords of its own, and the keys of the store and the hub from the environment.
#   AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… [AWS_DEFAULT_REGION=…] [HF_TOKEN=…] [OPENAI_API_KEY=…] sh secrets.sh
# For managed services: POSTGRES=user:password@host:5432/prefect REDIS=rediss://:password@host:6379
# Secrets that are there are kept: delete one with kubectl to have it made anew. No value is on a command line.
set -eu
: "${AWS_ACCESS_KEY_ID:?of the store}" "${AWS_SECRET_ACCESS_KEY:?of the store}"
kubectl=${KUBECTL:-kubectl}
here=$(dirname "$0")
namespace=$(sed -n 's/^namespace: //p' "$here/kustomization.yaml")
random() { od -An -v -N20 -tx1 /dev/urandom | tr -d ' \n'; }
make() {
    if $kubectl --namespace "$namespace" get secret "$1" >/dev/null 2>&1; then cat >/dev/null; echo "$1 is there"; else
        $kubectl --namespace "$namespace" create secret generic "$1" --from-env-file=/dev/stdin
    fi
}

$kubectl apply --filename "$here/namespace.yaml"
postgres=$(random)
redis=$(random)
make data <<END
POSTGRES_PASSWORD=$postgres
REDIS_PASSWORD=$redis
END
REDIS=${REDIS:-redis://:$redis@redis:6379}
make prefect-server <<END
PREFECT_API_DATABASE_CONNECTION_URL=postgresql+asyncpg://${POSTGRES:-prefect:$postgres@postgres:5432/prefect}
PREFECT_REDIS_MESSAGING_URL=$REDIS/0
PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL=$REDIS/0
PREFECT_SERVER_DOCKET_URL=$REDIS/1
END
make prefect-client <<END
PREFECT_API_AUTH_STRING=montessori:$(random)
END
make montessori <<END
AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID
AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY
AWS_DEFAULT_REGION=${AWS_DEFAULT_REGION:-us-east-1}
HF_TOKEN=${HF_TOKEN:-}
OPENAI_API_KEY=${OPENAI_API_KEY:-}
END
