"""MSRP chunks and messages: bytes to objects and back (RFC 4975)."""
