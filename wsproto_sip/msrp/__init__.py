"""MSRP over WebSocket (RFC 7977, RFC 4975, RFC 4976)."""
