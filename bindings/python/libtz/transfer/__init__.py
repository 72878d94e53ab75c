"""Moves the bytes: from a source, through checks and decoders, into memory of hosts and devices."""
