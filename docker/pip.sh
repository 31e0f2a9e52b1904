#!/bin/sh
# In a build: install into a virtual environment what pyproject.toml lists, and its named extras.
#   pip.sh VENV [EXTRA]…
# /context has pyproject.toml and wheels, a folder of wheels to prefer. The build secret `ca`, where it is given, holds
# the certificates to trust. What only a compiler would want is left out.
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
