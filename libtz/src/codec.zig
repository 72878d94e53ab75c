//! The registry of codecs: how stored bytes become decoded bytes and the other way round.

const std = @import("std");
const format = @import("format.zig");
pub const tiered = @import("codec/tiered.zig");

const scratch_alignment = @alignOf(tiered.DecodeScratch);

/// Memory that decode() works in, of any content and alignment.
pub const decode_scratch_size = @sizeOf(tiered.DecodeScratch) + scratch_alignment - 1;

/// Fills `out`. `stored` was checked to be what the file's writer wrote, which may still be
/// anything.
pub fn decode(
    codec: u8,
    dtype: u16,
    stored: []const u8,
    out: []u8,
    scratch: []u8,
) error{ Codec, Feature }!void {
    std.debug.assert(scratch.len >= decode_scratch_size);
    switch (codec) {
        format.codec_raw => {
            if (stored.len != out.len) return error.Codec;
            @memcpy(out, stored);
        },
        format.codec_tiered => {
            const layout = tiered.Layout.ofDtype(dtype) orelse return error.Codec;
            const begin = std.mem.alignForward(usize, @intFromPtr(scratch.ptr), scratch_alignment);
            tiered.decode(layout, stored, out, @ptrFromInt(begin)) catch return error.Codec;
        },
        else => return error.Feature,
    }
}

/// What encode() and its check work in.
pub const Workspace = struct {
    encode: tiered.EncodeScratch,
    decode: tiered.DecodeScratch,
};

/// Encodes a chunk into less than its own size, in `out`, which is at least as large as the chunk. Null: store it raw.
pub fn encode(dtype: u16, source: []const u8, out: []u8, workspace: *Workspace) ?usize {
    const layout = tiered.Layout.ofDtype(dtype) orelse return null;
    return tiered.encode(layout, source, out, &workspace.encode);
}

/// TZ1-65: what was encoded decodes to its source. `decoded` is as large as the source.
pub fn check(
    dtype: u16,
    stored: []const u8,
    source: []const u8,
    decoded: []u8,
    workspace: *Workspace,
) error{Codec}!void {
    const layout = tiered.Layout.ofDtype(dtype) orelse return error.Codec;
    tiered.decode(layout, stored, decoded, &workspace.decode) catch return error.Codec;
    if (!std.mem.eql(u8, decoded, source)) return error.Codec;
}
