"""The rules of routing as pure functions, one RFC or subject per module."""
