//! Turns decoded bytes into stored chunks with their entries.

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const codecs = @import("codec.zig");
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const status = @import("status.zig");

/// `tz_entry` in tz.h.
pub const Entry = extern struct {
    stored_length: u32,
    codec: u32,
    crc: u32,
    reserved: u32 = 0,
    digest: Digest,
};

pub const Compress = enum(u32) { off, auto };

/// What `out` must hold: an encoded chunk is smaller than its source, and whole chunks need no padding.
pub fn outputSizeMax(size: usize) usize {
    return size + format.chunk_alignment;
}

/// Encodes the whole chunks of `source`, of which the last may be shorter; one entry each. Returns the size of the
/// image in `out`, or 0 when every chunk stayed raw, so that the source itself is the image.
pub fn encodeChunks(
    gpa: std.mem.Allocator,
    dtype: u16,
    chunk_size: usize,
    compress: Compress,
    source: []const u8,
    out: []u8,
    entries: []Entry,
) status.Error!usize {
    std.debug.assert(out.len >= outputSizeMax(source.len));
    std.debug.assert(entries.len == bytes.divCeil(source.len, chunk_size));
    var encoder: ?Encoder = if (compress == .auto) try .init(gpa, dtype, @min(chunk_size, source.len)) else null;
    defer if (encoder) |*made| made.deinit();
    // Nothing is copied until a chunk compresses: the image then begins with the raw chunks before it.
    var image: ?usize = null;
    for (entries, 0..) |*entry, number| {
        const begin = number * chunk_size;
        const chunk = source[begin..@min(begin + chunk_size, source.len)];
        const at = if (image) |end| std.mem.alignForward(usize, end, format.chunk_alignment) else begin;
        const encoded = if (encoder) |*made| try made.encode(chunk, out[at..]) else null;
        if (encoded) |size| {
            if (image) |end| @memset(out[end..at], 0) else @memcpy(out[0..begin], source[0..begin]);
            image = at + size;
            entry.* = describe(out[at..][0..size], format.codec_tiered);
        } else {
            if (image) |end| {
                @memset(out[end..at], 0);
                @memcpy(out[at..][0..chunk.len], chunk);
                image = at + chunk.len;
            }
            entry.* = describe(chunk, format.codec_raw);
        }
    }
    return image orelse 0;
}

fn describe(stored: []const u8, codec: u8) Entry {
    return .{
        .stored_length = @intCast(stored.len),
        .codec = codec,
        .crc = checksum.crc32c(0, stored),
        .digest = checksum.blake3(stored),
    };
}

/// Encodes chunks and checks each by decoding it again.
const Encoder = struct {
    gpa: std.mem.Allocator,
    dtype: u16,
    /// A workspace, and room for a decoded chunk. Allocated raw: filling it with a pattern, as
    /// safe builds do, would cost more than finding out that a batch of chunks stays raw.
    memory: []u8,

    const alignment: std.mem.Alignment = .of(codecs.Workspace);

    fn init(gpa: std.mem.Allocator, dtype: u16, chunk_size: usize) error{OutOfMemory}!Encoder {
        const size = @sizeOf(codecs.Workspace) + chunk_size;
        const memory = gpa.rawAlloc(size, alignment, @returnAddress()) orelse return error.OutOfMemory;
        return .{ .gpa = gpa, .dtype = dtype, .memory = memory[0..size] };
    }

    fn deinit(self: *Encoder) void {
        self.gpa.rawFree(self.memory, alignment, @returnAddress());
    }

    fn encode(self: *Encoder, chunk: []const u8, out: []u8) error{Codec}!?usize {
        const workspace: *codecs.Workspace = @ptrCast(@alignCast(self.memory.ptr));
        const size = codecs.encode(self.dtype, chunk, out, workspace) orelse return null;
        const decoded = self.memory[@sizeOf(codecs.Workspace)..][0..chunk.len];
        try codecs.check(self.dtype, out[0..size], chunk, decoded, workspace);
        return size;
    }
};
