//! Data types of .tensors files: NumPy's `dtype.str`. For types that NumPy lacks, it is the type of
//! raw bytes of that size, a zero byte, and PyTorch's name: "<V2\x00torch.bfloat16".

const std = @import("std");
const dtypes = @import("../dtype.zig");

/// For an unknown type: its tensors can be listed, but not loaded.
pub const code_unknown = 0x01FF;

comptime {
    std.debug.assert(dtypes.isExtensible(code_unknown));
}

pub const Found = struct {
    code: u16,
    unit_size: u64,

    pub fn decode(text: []const u8) error{ Foreign, Feature }!Found {
        const zero = std.mem.findScalar(u8, text, 0);
        const storage: Storage = try .decode(text[0 .. zero orelse text.len]);
        const name = if (zero) |at| byTorch(text[at + 1 ..]) else storage.name();
        if (zero) |at| {
            if (storage.kind != 'V') return error.Foreign;
            if (std.mem.findScalar(u8, text[at + 1 ..], 0) != null) return error.Foreign;
        }
        const info = dtypes.byName(name orelse "") orelse
            return .{ .code = code_unknown, .unit_size = storage.size };
        if (info.unitSize() != storage.size) return error.Foreign;
        return .{ .code = info.code, .unit_size = storage.size };
    }
};

/// A byte order, a kind and a size.
const Storage = struct {
    order: u8,
    kind: u8,
    size: u64,

    fn decode(text: []const u8) error{ Foreign, Feature }!Storage {
        if (text.len < 3) return error.Foreign;
        if (std.mem.findScalar(u8, "<>|", text[0]) == null) return error.Foreign;
        if (!std.ascii.isAlphabetic(text[1])) return error.Foreign;
        // Types with a unit, such as "<M8[ns]", are not numbers.
        for (text[2..]) |byte| if (!std.ascii.isDigit(byte)) return error.Feature;
        const count = std.fmt.parseInt(u32, text[2..], 10) catch return error.Feature;
        const size: u64 = if (text[1] == 'U') 4 * @as(u64, count) else count;
        if (size == 0) return error.Feature;
        return .{ .order = text[0], .kind = text[1], .size = size };
    }

    /// Null if it is not a number, or not little-endian.
    fn name(self: Storage) ?[]const u8 {
        const expected: u8 = if (self.size == 1) '|' else '<';
        if (self.order != expected) return null;
        for (numbers) |row| {
            if (row[0] == self.kind and row[1] == self.size) return row[2];
        }
        return null;
    }
};

const numbers = [_]struct { u8, u64, []const u8 }{
    .{ 'b', 1, "bool" },
    .{ 'u', 1, "u8" },
    .{ 'u', 2, "u16" },
    .{ 'u', 4, "u32" },
    .{ 'u', 8, "u64" },
    .{ 'i', 1, "i8" },
    .{ 'i', 2, "i16" },
    .{ 'i', 4, "i32" },
    .{ 'i', 8, "i64" },
    .{ 'f', 2, "f16" },
    .{ 'f', 4, "f32" },
    .{ 'f', 8, "f64" },
    .{ 'c', 8, "c64" },
    .{ 'c', 16, "c128" },
};

/// The name of section 11 for one of PyTorch's; null if there is none.
fn byTorch(name: []const u8) ?[]const u8 {
    const prefix = "torch.";
    if (!std.mem.startsWith(u8, name, prefix)) return null;
    for (torch_names) |row| {
        if (std.mem.eql(u8, row[0], name[prefix.len..])) return row[1];
    }
    return null;
}

const torch_names = [_]struct { []const u8, []const u8 }{
    .{ "bfloat16", "bf16" },
    .{ "complex32", "c32" },
    .{ "float8_e4m3fn", "f8_e4m3fn" },
    .{ "float8_e5m2", "f8_e5m2" },
    .{ "float8_e4m3fnuz", "f8_e4m3fnuz" },
    .{ "float8_e5m2fnuz", "f8_e5m2fnuz" },
    .{ "float8_e8m0fnu", "f8_e8m0fnu" },
    .{ "float4_e2m1fn_x2", "f4_e2m1fn_x2" },
    .{ "uint1", "u1" },
    .{ "uint2", "u2" },
    .{ "uint3", "u3" },
    .{ "uint4", "u4" },
    .{ "uint5", "u5" },
    .{ "uint6", "u6" },
    .{ "uint7", "u7" },
    .{ "int1", "i1" },
    .{ "int2", "i2" },
    .{ "int3", "i3" },
    .{ "int4", "i4" },
    .{ "int5", "i5" },
    .{ "int6", "i6" },
    .{ "int7", "i7" },
    .{ "bits1x8", "u1_x8" },
    .{ "bits2x4", "u2_x4" },
    .{ "bits4x2", "u4_x2" },
    .{ "bits8", "b8" },
    .{ "bits16", "b16" },
    // Older releases of NumPy and PyTorch could not exchange these.
    .{ "uint16", "u16" },
    .{ "uint32", "u32" },
    .{ "uint64", "u64" },
};

const testing = std.testing;

fn expectFound(name: []const u8, text: []const u8) !void {
    errdefer std.debug.print("{s}\n", .{text});
    const info = dtypes.byName(name).?;
    const found: Found = try .decode(text);
    try testing.expectEqual(info.code, found.code);
    try testing.expectEqual(info.unitSize(), found.unit_size);
}

test "numbers" {
    try expectFound("f32", "<f4");
    try expectFound("bool", "|b1");
    try expectFound("u8", "|u1");
    try expectFound("c128", "<c16");
    try expectFound("bf16", "<V2\x00torch.bfloat16");
    try expectFound("c32", "<V4\x00torch.complex32");
    try expectFound("f8_e5m2", "|V1\x00torch.float8_e5m2");
    try expectFound("b16", "<V2\x00torch.bits16");
    for (torch_names) |row| try testing.expect(dtypes.byName(row[1]) != null);
}

test "types that only list" {
    for ([_]struct { []const u8, u64 }{
        .{ ">f4", 4 },
        .{ "|V3", 3 },
        .{ "<f16", 16 },
        .{ "|S10", 10 },
        .{ "<U4", 16 },
        .{ "|f4", 4 },
        .{ "<b1", 1 },
        .{ "<V4\x00torch.float17", 4 },
        .{ "<V4\x00numpy.bfloat16", 4 },
        .{ "<V4\x00", 4 },
    }) |case| {
        errdefer std.debug.print("{s}\n", .{case[0]});
        const found: Found = try .decode(case[0]);
        try testing.expectEqual(Found{ .code = code_unknown, .unit_size = case[1] }, found);
    }
}

test "invalid types" {
    for ([_]struct { error{ Foreign, Feature }, []const u8 }{
        .{ error.Foreign, "" },
        .{ error.Foreign, "f4" },
        .{ error.Foreign, "<f" },
        .{ error.Foreign, "=f4" },
        .{ error.Foreign, "<44" },
        .{ error.Feature, "<M8[ns]" },
        .{ error.Feature, "<f0" },
        .{ error.Feature, "<f4294967296" },
        .{ error.Foreign, "<f4\x00torch.bfloat16" },
        .{ error.Foreign, "<V4\x00torch.bfloat16" },
        .{ error.Foreign, "<V2\x00torch.bfloat16\x00" },
    }) |case| {
        errdefer std.debug.print("{s}\n", .{case[1]});
        try testing.expectError(case[0], Found.decode(case[1]));
    }
}
