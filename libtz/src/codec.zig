//! The registry of codecs: how stored bytes become decoded bytes.

const std = @import("std");
const format = @import("format.zig");

/// Memory that decode() works in, of any content and alignment.
pub const decode_scratch_size = 0;

/// Fills `out`. `stored` was checked to be what the file's writer wrote, which may still be
/// anything.
pub fn decode(
    codec: u8,
    dtype: u16,
    stored: []const u8,
    out: []u8,
    scratch: []u8,
) error{ Codec, Feature }!void {
    _ = dtype;
    std.debug.assert(scratch.len >= decode_scratch_size);
    switch (codec) {
        format.codec_raw => {
            if (stored.len != out.len) return error.Codec;
            @memcpy(out, stored);
        },
        else => return error.Feature,
    }
}

/// Encodes a chunk into less than its own size; null when it is to be stored raw.
pub fn encode(dtype: u16, source: []const u8, out: []u8) ?usize {
    _ = dtype;
    _ = source;
    _ = out;
    return null;
}

/// TZ1-65: what was encoded decodes to its source.
pub fn check(dtype: u16, stored: []const u8, source: []const u8) error{Codec}!void {
    _ = dtype;
    _ = stored;
    _ = source;
    return error.Codec;
}
