"""Seeds of unrelated random streams."""

from __future__ import annotations


def derive_seed(seed: int, name: str) -> int:
    """A 63-bit seed from SHA-256, so that near seeds and names give unrelated streams."""
    import hashlib  # OpenSSL is slow to load, and a command that samples may do without

    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1
