//! Tests of the .tensors reader.
