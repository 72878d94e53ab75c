"""Connects libtz to frameworks that load models. Each is imported only when it is used."""
