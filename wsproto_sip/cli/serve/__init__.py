"""The command ``serve``: a SIP server for WebSocket clients, an MSRP relay, and an echo."""
