"""Modules with the names and signatures of other libraries: code runs after an import swap."""
