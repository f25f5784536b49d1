"""The registrar: bindings, domains, users and their authentication (RFC 3261 §10, §22)."""
