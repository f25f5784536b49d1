"""Where the state machines meet sockets, clocks and event loops. Nothing here knows a protocol."""
