"""Which seeds the random tests take: other ones for each commit, the same ones in every process of a test run."""

import os
import random
import subprocess
from pathlib import Path


def seeds(count: int) -> list[int]:
    """Draw `count` seeds from the hash of the commit, or take 0 to n − 1 where CHAOS_SEEDS=n is in the environment."""
    if given := os.environ.get("CHAOS_SEEDS"):
        return list(range(int(given)))
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return random.Random(commit).sample(range(1_000_000), count)
