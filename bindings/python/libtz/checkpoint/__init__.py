"""Checkpoints that are read: one interface, and a module for each kind of file or set."""
