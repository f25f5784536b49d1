"""The management commands as octets, and back; without I/O."""
