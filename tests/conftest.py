"""Fixtures that every test may ask for."""

from tests.servers import certificate, nginx, seaweed

__all__ = ["certificate", "nginx", "seaweed"]
