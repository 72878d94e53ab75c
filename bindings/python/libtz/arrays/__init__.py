"""Makes PyTorch tensors and NumPy arrays."""
