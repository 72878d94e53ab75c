"""Makes tensors of PyTorch and arrays of NumPy."""
