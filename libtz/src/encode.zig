//! Turns decoded bytes into stored chunks with their entries.

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const codecs = @import("codec.zig");
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const status = @import("status.zig");

pub const Entry = struct {
    stored_length: u32,
    codec: u32,
    crc: u32,
    digest: Digest,
};

pub const Compress = enum(u32) { off, auto };

/// The size that `out` needs: an encoded chunk is smaller than its source, and whole chunks need no
/// padding.
pub fn outputSizeMax(size: usize) ?usize {
    return std.math.add(usize, size, format.chunk_alignment) catch null;
}

pub const Options = struct {
    dtype: u16,
    chunk_size: usize,
    compress: Compress = .auto,
};

/// Encodes the chunks of `source`, the last of which may be shorter, with one entry each. Returns
/// the size of the image in `out`, or 0 if every chunk is raw, so that the source itself is the
/// image.
pub fn encodeChunks(
    gpa: std.mem.Allocator,
    options: Options,
    source: []const u8,
    out: []u8,
    entries: []Entry,
) status.Error!usize {
    const chunk_size = options.chunk_size;
    std.debug.assert(out.len >= outputSizeMax(source.len).?);
    std.debug.assert(entries.len == bytes.divCeil(source.len, chunk_size));
    var encoder: ?Encoder = null;
    if (options.compress == .auto) {
        encoder = try .init(gpa, options.dtype, @min(chunk_size, source.len));
    }
    defer if (encoder) |*made| made.deinit();
    // Nothing is copied until a chunk compresses. Then the image begins with the raw chunks before
    // it.
    var image: ?usize = null;
    for (entries, 0..) |*entry, number| {
        const begin = number * chunk_size;
        const chunk = source[begin..@min(begin + chunk_size, source.len)];
        const end = image orelse begin;
        const at = std.mem.alignForward(usize, end, format.chunk_alignment);
        const encoded = if (encoder) |*made| try made.encode(chunk, out[at..]) else null;
        if (encoded) |size| {
            if (image == null) @memcpy(out[0..begin], source[0..begin]);
            @memset(out[end..at], 0);
            image = at + size;
            entry.* = describe(out[at..][0..size], codecs.preferred.id);
        } else {
            if (image != null) {
                @memset(out[end..at], 0);
                @memcpy(out[at..][0..chunk.len], chunk);
                image = at + chunk.len;
            }
            entry.* = describe(chunk, codecs.raw);
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
    /// Scratch memory, and room for a decoded chunk. Allocated raw: safe builds would fill it with
    /// a pattern, which takes longer than detecting that a batch of chunks stays raw.
    memory: []u8,

    const codec = codecs.preferred;
    const scratch_size = @max(codec.encode_scratch_size, codec.decode_scratch_size);

    fn init(gpa: std.mem.Allocator, dtype: u16, chunk_size: usize) error{OutOfMemory}!Encoder {
        const size = scratch_size + chunk_size;
        const memory = gpa.rawAlloc(size, .@"1", @returnAddress()) orelse
            return error.OutOfMemory;
        return .{ .gpa = gpa, .dtype = dtype, .memory = memory[0..size] };
    }

    fn deinit(self: *Encoder) void {
        self.gpa.rawFree(self.memory, .@"1", @returnAddress());
    }

    fn encode(self: *Encoder, chunk: []const u8, out: []u8) error{Codec}!?usize {
        const scratch = self.memory[0..scratch_size];
        const size = codec.encode(self.dtype, chunk, out, scratch) orelse return null;
        const decoded = self.memory[scratch_size..][0..chunk.len];
        try codec.check(self.dtype, out[0..size], chunk, decoded, scratch);
        return size;
    }
};
