#!/bin/sh
# In a build: install into a virtual environment the packages of the project's base and of the named extras.
#   pip.sh VENV CONSTRAINTS EXTRA…
# /context holds pyproject.toml, the constraints with exact versions, and wheels, a folder of wheels to prefer. The build
# secret `ca` holds the certificates to trust, where the machine's network needs its own. The project itself comes later,
# as a wheel, so that a change of its code does not install the packages again. Files for a compiler are left out.
set -eu
venv=$1 constraints=$2; shift 2
[ ! -s /run/secrets/ca ] || export PIP_CERT=/run/secrets/ca
python3 - "$@" <<'END' >/tmp/requirements
import re, sys, tomllib
project = tomllib.load(open("/context/pyproject.toml", "rb"))["project"]

def listed(extra):
    for line in project["optional-dependencies"][extra]:
        if own := re.fullmatch(r"montessori\[(.*)\]", line):
            for other in own[1].split(","):
                yield from listed(other)
        else:
            yield line

print(*project["dependencies"], *(line for extra in sys.argv[1:] for line in listed(extra)), sep="\n")
END
/opt/pip/bin/pip --python "$venv/bin/python" install --quiet --find-links /context/wheels \
  --constraint "/context/$constraints" --requirement /tmp/requirements
packages=$(echo "$venv"/lib/python3*/site-packages)
rm -rf "$packages"/torch/include "$packages"/pyarrow/include
find "$packages" -name '*.a' -delete
