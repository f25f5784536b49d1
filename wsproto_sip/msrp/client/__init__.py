"""A client's session with a relay (RFC 4975 §7, RFC 4976 §5, RFC 7977 §5)."""
