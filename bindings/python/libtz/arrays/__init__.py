"""Tensors of the libraries that a load can make: PyTorch's and NumPy's."""
