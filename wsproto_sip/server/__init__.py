"""Many connections: commands and their forms on the wire, statistics, parameters."""
