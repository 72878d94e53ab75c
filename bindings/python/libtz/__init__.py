"""Load model weights from .tz files."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("libtz")
