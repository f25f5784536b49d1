"""SIP messages, from bytes to objects and back (RFC 3261 §7, §25)."""
