"""The command line: `tz inspect`, `tz verify`, `tz digest`, `tz convert`, `tz load`."""
