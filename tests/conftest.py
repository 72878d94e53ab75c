"""Fixtures that every test may ask for."""

import signal

from tests.servers import certificate, nginx, seaweed

__all__ = ["certificate", "nginx", "seaweed"]

# A shell's background jobs, and whatever they start, ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
