"""Is an artifact what was committed? Every byte is read where it is kept, never a copy."""

from collections.abc import Callable

from montessori.artifacts.store import Store
from montessori.errors import ArtifactError


def damage(store: Store, address: str, on_bytes: Callable[[int], None] = lambda _: None) -> str | None:
    """What is wrong with the artifact at `address`, or None; tells `on_bytes` how many bytes it has read."""
    try:
        manifest = store.manifest(address)
        if manifest["address"] != address:
            return f"its manifest is that of {manifest['address']}"
        found = []
        for name, file in manifest["files"].items():
            try:
                if store.hashed(address, manifest, name, on_bytes) != file["sha256"]:
                    found.append(f"{name} differs from what was committed")
            except FileNotFoundError:
                found.append(f"{name} is missing")
            except OSError as error:
                found.append(f"{name} cannot be read ({error.strerror})")
    except ArtifactError as error:
        return str(error)
    except (KeyError, TypeError):
        return "its manifest lacks what every manifest has"
    return "; ".join(found) or None
