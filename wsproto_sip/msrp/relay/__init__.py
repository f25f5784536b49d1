"""The relay: its state, its decisions, and its place on an endpoint (RFC 4976)."""
