"""Moves bytes from a source, through checks and decoders, into host or device memory."""
