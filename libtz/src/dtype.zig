//! The registry of data types, section 11 of the specification.

const std = @import("std");
const bytes = @import("bytes.zig");
const format = @import("format.zig");

pub const Info = struct {
    code: u16,
    name: [:0]const u8,
    /// Size of a storage unit, which dimensions count; always whole bytes.
    unit_bits: u32,
    /// Numbers in a unit.
    elements: u32 = 1,
    /// The name in safetensors headers.
    safetensors: ?[:0]const u8 = null,

    pub fn unitSize(self: Info) u64 {
        return self.unit_bits / 8;
    }
};

pub const table = [_]Info{
    .{ .code = 0x01, .name = "bool", .unit_bits = 8, .safetensors = "BOOL" },
    .{ .code = 0x02, .name = "u8", .unit_bits = 8, .safetensors = "U8" },
    .{ .code = 0x03, .name = "i8", .unit_bits = 8, .safetensors = "I8" },
    .{ .code = 0x04, .name = "u16", .unit_bits = 16, .safetensors = "U16" },
    .{ .code = 0x05, .name = "i16", .unit_bits = 16, .safetensors = "I16" },
    .{ .code = 0x06, .name = "u32", .unit_bits = 32, .safetensors = "U32" },
    .{ .code = 0x07, .name = "i32", .unit_bits = 32, .safetensors = "I32" },
    .{ .code = 0x08, .name = "u64", .unit_bits = 64, .safetensors = "U64" },
    .{ .code = 0x09, .name = "i64", .unit_bits = 64, .safetensors = "I64" },
    .{ .code = 0x10, .name = "f16", .unit_bits = 16, .safetensors = "F16" },
    .{ .code = 0x11, .name = "bf16", .unit_bits = 16, .safetensors = "BF16" },
    .{ .code = 0x12, .name = "f32", .unit_bits = 32, .safetensors = "F32" },
    .{ .code = 0x13, .name = "f64", .unit_bits = 64, .safetensors = "F64" },
    .{ .code = 0x18, .name = "c32", .unit_bits = 32 },
    .{ .code = 0x19, .name = "c64", .unit_bits = 64, .safetensors = "C64" },
    .{ .code = 0x1A, .name = "c128", .unit_bits = 128 },
    .{ .code = 0x20, .name = "f8_e4m3fn", .unit_bits = 8, .safetensors = "F8_E4M3" },
    .{ .code = 0x21, .name = "f8_e5m2", .unit_bits = 8, .safetensors = "F8_E5M2" },
    .{ .code = 0x22, .name = "f8_e4m3fnuz", .unit_bits = 8, .safetensors = "F8_E4M3FNUZ" },
    .{ .code = 0x23, .name = "f8_e5m2fnuz", .unit_bits = 8, .safetensors = "F8_E5M2FNUZ" },
    .{ .code = 0x24, .name = "f8_e8m0fnu", .unit_bits = 8, .safetensors = "F8_E8M0" },
    .{ .code = 0x28, .name = "f4_e2m1fn_x2", .unit_bits = 8, .elements = 2, .safetensors = "F4" },
    .{
        .code = 0x29,
        .name = "f6_e2m3_x4",
        .unit_bits = 24,
        .elements = 4,
        .safetensors = "F6_E2M3",
    },
    .{
        .code = 0x2A,
        .name = "f6_e3m2_x4",
        .unit_bits = 24,
        .elements = 4,
        .safetensors = "F6_E3M2",
    },
    .{ .code = 0x30, .name = "u1", .unit_bits = 8 },
    .{ .code = 0x31, .name = "u2", .unit_bits = 8 },
    .{ .code = 0x32, .name = "u3", .unit_bits = 8 },
    .{ .code = 0x33, .name = "u4", .unit_bits = 8 },
    .{ .code = 0x34, .name = "u5", .unit_bits = 8 },
    .{ .code = 0x35, .name = "u6", .unit_bits = 8 },
    .{ .code = 0x36, .name = "u7", .unit_bits = 8 },
    .{ .code = 0x38, .name = "i1", .unit_bits = 8 },
    .{ .code = 0x39, .name = "i2", .unit_bits = 8 },
    .{ .code = 0x3A, .name = "i3", .unit_bits = 8 },
    .{ .code = 0x3B, .name = "i4", .unit_bits = 8 },
    .{ .code = 0x3C, .name = "i5", .unit_bits = 8 },
    .{ .code = 0x3D, .name = "i6", .unit_bits = 8 },
    .{ .code = 0x3E, .name = "i7", .unit_bits = 8 },
    .{ .code = 0x40, .name = "u1_x8", .unit_bits = 8, .elements = 8 },
    .{ .code = 0x41, .name = "u2_x4", .unit_bits = 8, .elements = 4 },
    .{ .code = 0x42, .name = "u4_x2", .unit_bits = 8, .elements = 2 },
    .{ .code = 0x43, .name = "b8", .unit_bits = 8 },
    .{ .code = 0x44, .name = "b16", .unit_bits = 16 },
};

/// Codes that later versions may add without breaking readers: such tensors can be listed, checked
/// and copied, but their values cannot be used.
pub fn isExtensible(code: u32) bool {
    return code >= 0x0100 and code <= 0x01FF;
}

const code_max = table[table.len - 1].code;
const by_code: [code_max + 1]?Info = blk: {
    var result: [code_max + 1]?Info = @splat(null);
    for (table) |row| result[row.code] = row;
    break :blk result;
};

pub fn byCode(code: u32) ?Info {
    return if (code <= code_max) by_code[code] else null;
}

/// The size of a tensor in bytes. Null if the product of the unit and all non-zero dimensions
/// exceeds what files can hold (TZ1-29).
pub fn sizeOf(unit_size: u64, shape: []const u64) ?u64 {
    var product = unit_size;
    var empty = false;
    for (shape) |dimension| {
        if (dimension == 0) {
            empty = true;
        } else {
            product = bytes.mul(product, dimension) orelse return null;
        }
    }
    if (product > format.file_size_max) return null;
    return if (empty) 0 else product;
}

pub fn byName(name: []const u8) ?Info {
    for (table) |row| if (std.mem.eql(u8, row.name, name)) return row;
    return null;
}

pub fn bySafetensors(name: []const u8) ?Info {
    for (table) |row| {
        if (row.safetensors) |known| if (std.mem.eql(u8, known, name)) return row;
    }
    return null;
}

comptime {
    for (table, 0..) |row, index| {
        std.debug.assert(row.unit_bits % 8 == 0);
        if (index > 0) std.debug.assert(table[index - 1].code < row.code);
    }
}
