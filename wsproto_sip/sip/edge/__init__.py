"""The edge: a SIP server for WebSocket clients, or the proxy in front of one (RFC 7118)."""
