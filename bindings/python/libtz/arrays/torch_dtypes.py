"""The format's dtypes and PyTorch's."""

from __future__ import annotations

import torch

__all__ = ["FORMAT_NAMES", "TORCH_DTYPES"]

# By the format's name (section 11 of the specification). PyTorch has no types for `f6_e2m3_x4` and
# `f6_e3m2_x4`.
TORCH_DTYPES: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "u8": torch.uint8,
    "i8": torch.int8,
    "u16": torch.uint16,
    "i16": torch.int16,
    "u32": torch.uint32,
    "i32": torch.int32,
    "u64": torch.uint64,
    "i64": torch.int64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "c32": torch.complex32,
    "c64": torch.complex64,
    "c128": torch.complex128,
    "f8_e4m3fn": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
    "f8_e4m3fnuz": torch.float8_e4m3fnuz,
    "f8_e5m2fnuz": torch.float8_e5m2fnuz,
    "f8_e8m0fnu": torch.float8_e8m0fnu,
    "f4_e2m1fn_x2": torch.float4_e2m1fn_x2,
    **{f"u{bits}": getattr(torch, f"uint{bits}") for bits in range(1, 8)},
    **{f"i{bits}": getattr(torch, f"int{bits}") for bits in range(1, 8)},
    "u1_x8": torch.bits1x8,
    "u2_x4": torch.bits2x4,
    "u4_x2": torch.bits4x2,
    "b8": torch.bits8,
    "b16": torch.bits16,
}

FORMAT_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
