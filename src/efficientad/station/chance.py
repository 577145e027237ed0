"""Random numbers that follow from a part: repeatable, and nobody can choose them."""

import hashlib


def chance(part: str, purpose: str) -> float:
    """Return a number in [0, 1), uniform over parts and independent over purposes."""
    digest = hashlib.sha256(f"{part}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
