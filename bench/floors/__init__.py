"""The floors: programs that do the least work that any loader must do."""
