"""The I/O layer: sockets, clocks and event loops. No module here implements a protocol."""
