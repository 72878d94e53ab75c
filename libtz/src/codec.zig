//! The registry of codecs, which turn decoded bytes into stored bytes and back. To add one, add a
//! row here and in section 10 of the specification.

const std = @import("std");
pub const tiered = @import("codec/tiered.zig");

pub const Info = struct {
    id: u8,
    /// Bit of `incompatible_flags` that announces it; 0 if every reader has it.
    flag: u64,
    /// Encoded chunks are shorter than decoded ones; otherwise they are as long.
    shrinks: bool,
    /// Size of the scratch memory of the functions, of any content and alignment.
    encode_scratch_size: usize,
    decode_scratch_size: usize,
    /// Encodes a chunk into less than its own size, in `out`, which is as large as the chunk. Null:
    /// store it raw.
    encode: *const fn (dtype: u16, source: []const u8, out: []u8, scratch: []u8) ?usize,
    /// Fills `out`. `stored` is what the file's writer wrote, according to its checksum, but may
    /// still be any bytes.
    decode: *const fn (
        dtype: u16,
        stored: []const u8,
        out: []u8,
        scratch: []u8,
    ) error{Codec}!void,

    /// TZ1-41: whether a chunk of `decoded_length` bytes can be stored in `stored_length` bytes.
    pub fn fits(self: *const Info, stored_length: u64, decoded_length: u64) bool {
        if (!self.shrinks) return stored_length == decoded_length;
        return stored_length > 0 and stored_length < decoded_length;
    }

    /// TZ1-65: what was encoded decodes to its source. `decoded` is as large as the source.
    pub fn check(
        self: *const Info,
        dtype: u16,
        stored: []const u8,
        source: []const u8,
        decoded: []u8,
        scratch: []u8,
    ) error{Codec}!void {
        try self.decode(dtype, stored, decoded, scratch);
        if (!std.mem.eql(u8, decoded, source)) return error.Codec;
    }
};

pub const table = [_]Info{
    .{
        .id = raw,
        .flag = 0,
        .shrinks = false,
        .encode_scratch_size = 0,
        .decode_scratch_size = 0,
        .encode = keepRaw,
        .decode = copyRaw,
    },
    .{
        .id = 1,
        .flag = 1 << 1,
        .shrinks = true,
        .encode_scratch_size = scratchSize(tiered.EncodeScratch),
        .decode_scratch_size = scratchSize(tiered.DecodeScratch),
        .encode = encodeTiered,
        .decode = decodeTiered,
    },
};

/// The id of chunks that are stored unchanged. They need no codec.
pub const raw = 0;

/// All flags that announce codecs.
pub const flags: u64 = blk: {
    var all: u64 = 0;
    for (table) |row| all |= row.flag;
    break :blk all;
};

/// Enough scratch memory to decode with any codec of the table.
pub const decode_scratch_size: usize = blk: {
    var largest: usize = 0;
    for (table) |row| largest = @max(largest, row.decode_scratch_size);
    break :blk largest;
};

/// Null for an id without an entry.
pub fn info(id: u32) ?*const Info {
    return if (id < table.len) &table[id] else null;
}

/// The codec that a writer tries.
pub const preferred = &table[table.len - 1];

comptime {
    for (table, 0..) |row, number| std.debug.assert(row.id == number);
}

fn keepRaw(_: u16, _: []const u8, _: []u8, _: []u8) ?usize {
    return null;
}

fn copyRaw(_: u16, stored: []const u8, out: []u8, _: []u8) error{Codec}!void {
    if (stored.len != out.len) return error.Codec;
    @memcpy(out, stored);
}

fn encodeTiered(dtype: u16, source: []const u8, out: []u8, scratch: []u8) ?usize {
    const layout = tiered.Layout.ofDtype(dtype) orelse return null;
    return tiered.encode(layout, source, out, scratchAs(tiered.EncodeScratch, scratch));
}

fn decodeTiered(dtype: u16, stored: []const u8, out: []u8, scratch: []u8) error{Codec}!void {
    const layout = tiered.Layout.ofDtype(dtype) orelse return error.Codec;
    const aligned = scratchAs(tiered.DecodeScratch, scratch);
    tiered.decode(layout, stored, out, aligned) catch return error.Codec;
}

/// Room for a T wherever the memory begins.
fn scratchSize(comptime T: type) usize {
    return @sizeOf(T) + @alignOf(T) - 1;
}

fn scratchAs(comptime T: type, memory: []u8) *T {
    std.debug.assert(memory.len >= scratchSize(T));
    return @ptrFromInt(std.mem.alignForward(usize, @intFromPtr(memory.ptr), @alignOf(T)));
}
