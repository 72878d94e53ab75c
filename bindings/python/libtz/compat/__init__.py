"""Modules with the names and signatures of other libraries, to use libtz by changing an import."""
