"""What connects libtz to frameworks that load models. None is imported before it is used."""
