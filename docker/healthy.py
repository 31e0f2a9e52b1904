"""Check that the Prefect API of this container answers. Exit code 0 if it does, 1 if not.

The address is HEALTH_URL, or PREFECT_API_URL with /health. A container with neither needs no API.
"""

import os
import sys
import urllib.request

api = os.environ.get("PREFECT_API_URL")
url = os.environ.get("HEALTH_URL") or (f"{api}/health" if api else None)
try:
    if url:
        urllib.request.urlopen(url, timeout=8).close()
except OSError as error:
    sys.exit(f"{url}: {error}")
