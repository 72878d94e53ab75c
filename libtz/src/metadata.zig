//! The metadata section, section 10 of the specification: text pairs, sorted by key. Each pair is
//!
//! Offset | Size | Field
//! 0      | 4    | key size
//! 4      | 4    | value size
//! 8      |      | key bytes, then value bytes

const std = @import("std");
const bytes = @import("bytes.zig");
const format = @import("format.zig");
const status = @import("status.zig");

pub const Pair = struct {
    key: []const u8,
    value: []const u8,

    pub const fixed_size = 8;

    pub fn lessThan(_: void, a: Pair, b: Pair) bool {
        return std.mem.order(u8, a.key, b.key) == .lt;
    }

    pub fn encodedSize(self: Pair) u64 {
        return fixed_size + self.key.len + self.value.len;
    }

    /// `out` has encodedSize() bytes.
    pub fn encode(self: Pair, out: []u8) void {
        bytes.put(u32, out, 0, @intCast(self.key.len));
        bytes.put(u32, out, 4, @intCast(self.value.len));
        @memcpy(out[fixed_size..][0..self.key.len], self.key);
        @memcpy(out[fixed_size + self.key.len ..], self.value);
    }
};

/// TZ1-55 to TZ1-58 and TZ1-83. The pairs point into `raw`, which lies at `offset` in the file.
pub fn decode(
    arena: std.mem.Allocator,
    raw: []const u8,
    offset: u64,
    diagnostic: *status.Diagnostic,
) (status.DataError || error{OutOfMemory})![]const Pair {
    var pairs: std.ArrayList(Pair) = .empty;
    var position: usize = 0;
    while (position != raw.len) {
        const at = offset + position;
        const rest = raw[position..];
        if (pairs.items.len == format.metadata_count_max) {
            return diagnostic.fail(error.Limit, 58, at);
        }
        if (rest.len < Pair.fixed_size) return diagnostic.fail(error.Metadata, 55, at);
        const key_size: u64 = bytes.get(u32, rest, 0);
        const value_size: u64 = bytes.get(u32, rest, 4);
        if (key_size + value_size > rest.len - Pair.fixed_size) {
            return diagnostic.fail(error.Metadata, 55, at);
        }
        if (key_size > format.metadata_key_size_max) return diagnostic.fail(error.Limit, 83, at);
        const pair: Pair = .{
            .key = rest[Pair.fixed_size..][0..@intCast(key_size)],
            .value = rest[@intCast(Pair.fixed_size + key_size)..][0..@intCast(value_size)],
        };
        if (!bytes.isText(pair.key) or !bytes.isText(pair.value) or
            bytes.hasControl(pair.key) or pair.key.len == 0)
        {
            return diagnostic.fail(error.Metadata, 56, at);
        }
        if (pairs.items.len > 0 and !Pair.lessThan({}, pairs.items[pairs.items.len - 1], pair)) {
            return diagnostic.fail(error.Metadata, 57, at);
        }
        try pairs.append(arena, pair);
        position += @intCast(pair.encodedSize());
    }
    return pairs.items;
}
