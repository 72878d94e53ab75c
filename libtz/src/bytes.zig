//! Little-endian fields in byte slices, checked arithmetic, and text checks. Offsets given to `get`
//! and `put` are our own constants within slices whose size was checked.

const std = @import("std");

pub fn get(comptime T: type, bytes: []const u8, offset: usize) T {
    return std.mem.readInt(T, bytes[offset..][0..@sizeOf(T)], .little);
}

pub fn put(comptime T: type, bytes: []u8, offset: usize, value: T) void {
    std.mem.writeInt(T, bytes[offset..][0..@sizeOf(T)], value, .little);
}

pub fn add(a: u64, b: u64) ?u64 {
    return std.math.add(u64, a, b) catch null;
}

pub fn mul(a: u64, b: u64) ?u64 {
    return std.math.mul(u64, a, b) catch null;
}

/// The smallest multiple of `alignment` (a power of two) that is not below `offset`.
pub fn alignUp(offset: u64, alignment: u64) ?u64 {
    const raised = add(offset, alignment - 1) orelse return null;
    return raised & ~(alignment - 1);
}

pub fn divCeil(a: u64, b: u64) u64 {
    return a / b + @intFromBool(a % b != 0);
}

pub fn allZero(bytes: []const u8) bool {
    return std.mem.allEqual(u8, bytes, 0);
}

/// Well-formed UTF-8: shortest form, no surrogates.
pub fn isText(bytes: []const u8) bool {
    return std.unicode.utf8ValidateSlice(bytes);
}

/// Whether well-formed UTF-8 holds U+0000 to U+001F or U+007F to U+009F.
pub fn hasControl(text: []const u8) bool {
    for (text, 0..) |byte, index| {
        if (byte < 0x20 or byte == 0x7F) return true;
        // U+0080 to U+009F are C2 80 to C2 9F; C2 is never a continuation byte.
        if (byte == 0xC2 and index + 1 < text.len and text[index + 1] < 0xA0) return true;
    }
    return false;
}

test hasControl {
    const expect = std.testing.expect;
    try expect(!hasControl("layer.0 ü€𝄞\u{A0}"));
    try expect(hasControl("a\x00"));
    try expect(hasControl("a\x1f"));
    try expect(hasControl("a\x7f"));
    try expect(hasControl("a\u{80}"));
    try expect(hasControl("a\u{9f}"));
}

test alignUp {
    try std.testing.expectEqual(@as(?u64, 0), alignUp(0, 64));
    try std.testing.expectEqual(@as(?u64, 64), alignUp(1, 64));
    try std.testing.expectEqual(@as(?u64, 64), alignUp(64, 64));
    try std.testing.expectEqual(@as(?u64, null), alignUp(std.math.maxInt(u64), 64));
}
