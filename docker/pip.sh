#!/bin/sh
# In an image build, install the dependencies in pyproject.toml and the named extras into a virtual environment.
#   pip.sh VENV CONSTRAINTS EXTRA…
# /context holds pyproject.toml, the constraints with exact versions, and a folder of preferred wheels. The optional
# build secret `ca` holds the certificates to trust. The project itself follows as a wheel, so that a change of its code
# keeps this layer. Headers and static libraries are removed.
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
