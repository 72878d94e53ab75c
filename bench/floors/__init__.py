"""The physical floors: the least that any loader must do. Reviewed as code."""
