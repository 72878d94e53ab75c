"""Reads checkpoints: one interface, and a module for each kind of file or set."""
