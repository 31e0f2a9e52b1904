"""Is this container fit to work: does the Prefect API that it needs answer? Exit code 0 for yes, 1 for no.

The address is HEALTH_URL, or PREFECT_API_URL with /health; a container that was given neither needs no API.
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
