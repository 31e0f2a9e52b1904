"""Artifacts: folders of files under the fingerprint of what made them, committed whole or not at all."""

from montessori.artifacts.journal import Journal
from montessori.artifacts.request import Request, identity, is_artifact
from montessori.artifacts.store import Store

__all__ = ["Journal", "Request", "Store", "identity", "is_artifact"]
