"""The link by which a browser finds the report of a run.

MONTESSORI_REPORTS_URL   where `montessori reports` serves the store, for example http://127.0.0.1:4201
"""

import os
from pathlib import Path

from montessori.artifacts import Store


def report_link(store: Store, address: str) -> str:
    """Return the link to the report of the run at `address`: where it is served, else where it lies.

    No browser opens a file or a bucket from a page that came by http, such as Prefect's.
    """
    served = os.environ.get("MONTESSORI_REPORTS_URL", "").rstrip("/")
    if served:
        return f"{served}/{address}/report.html"
    location = f"{store.locate(address)}/report.html"
    return location if "://" in location else Path(location).as_uri()
