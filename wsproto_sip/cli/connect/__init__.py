"""``wsproto-sip connect``: a WebSocket client for terminals and pipes."""
