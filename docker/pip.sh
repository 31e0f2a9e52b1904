#!/bin/sh
# Install the dependencies in pyproject.toml and the named extras into a virtual environment, in an image build.
#   pip.sh VENV [EXTRA]…
# /context holds pyproject.toml and wheels, a folder of preferred wheels. The optional build secret `ca` holds the
# certificates to trust. Headers and static libraries are removed.
set -eu
venv=$1; shift
[ ! -s /run/secrets/ca ] || export PIP_CERT=/run/secrets/ca
python3 - "$@" <<'EOF' >/tmp/requirements
import sys, tomllib
project = tomllib.load(open("/context/pyproject.toml", "rb"))["project"]
extras = [line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra]]
print(*project["dependencies"], *extras, sep="\n")
EOF
/opt/pip/bin/pip --python "$venv/bin/python" install --quiet --find-links /context/wheels -r /tmp/requirements
packages=$(echo "$venv"/lib/python3*/site-packages)
rm -rf "$packages"/torch/include "$packages"/pyarrow/include
find "$packages" -name '*.a' -delete
