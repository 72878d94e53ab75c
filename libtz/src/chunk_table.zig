//! The chunk table, section 8 of the specification: one 48-byte entry per chunk.
//!
//! Offset | Size | Field           | Rule
//! 0      | 4    | stored_length   | raw: the decoded length; else 1 to decoded length - 1
//! 4      | 4    | crc             | CRC-32C of the stored bytes
//! 8      | 1    | codec           | see codec.zig
//! 9      | 7    | reserved        | zero
//! 16     | 32   | digest          | BLAKE3 of the stored bytes

const std = @import("std");
const bytes = @import("bytes.zig");
const codecs = @import("codec.zig");
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const Tensor = @import("index.zig").Tensor;
const status = @import("status.zig");

pub const Entry = struct {
    stored_length: u32,
    crc: u32,
    codec: u8,
    digest: Digest,

    pub fn encode(self: Entry, out: *[format.chunk_record_size]u8) void {
        @memset(out, 0);
        bytes.put(u32, out, 0, self.stored_length);
        bytes.put(u32, out, 4, self.crc);
        bytes.put(u8, out, 8, self.codec);
        out[16..48].* = self.digest;
    }
};

/// A chunk with its offset, for the planner and the decoder.
pub const Chunk = struct {
    offset: u64,
    /// First decoded byte within the tensor.
    decoded_begin: u64,
    stored_length: u32,
    decoded_length: u32,
    codec: u8,
    crc: u32 = 0,
    /// Null in foreign formats: nothing to check.
    digest: ?*const Digest,
};

/// The chunks of one tensor in their order. `run` is empty for foreign formats.
pub const Iterator = struct {
    run: []const u8,
    record_size: usize,
    chunk_size: u64,
    decoded_size: u64,
    decoded_begin: u64 = 0,
    offset: u64,

    /// `run`: the tensor's checked chunk entries, or null for a foreign format.
    pub fn init(tensor: Tensor, run: ?[]const u8, record_size: usize, chunk_size: u64) Iterator {
        return .{
            .run = run orelse &.{},
            .record_size = record_size,
            .chunk_size = chunk_size,
            .decoded_size = if (tensor.hasChunks()) tensor.decoded_size else 0,
            .offset = tensor.data_offset,
        };
    }

    /// Skips `count` chunks, which must exist. Free in foreign formats, where no received data
    /// limit the number of chunks.
    pub fn skip(self: *Iterator, count: u64) void {
        if (self.run.len == 0) {
            const size = count * self.chunk_size; // of whole chunks: the last is not passed over
            self.decoded_begin += size;
            self.offset += size;
        } else {
            for (0..@intCast(count)) |_| _ = self.next().?;
        }
        std.debug.assert(self.decoded_begin <= self.decoded_size);
    }

    pub fn next(self: *Iterator) ?Chunk {
        if (self.decoded_begin == self.decoded_size) return null;
        const decoded_length = @min(self.chunk_size, self.decoded_size - self.decoded_begin);
        var chunk: Chunk = .{
            .offset = self.offset,
            .decoded_begin = self.decoded_begin,
            .stored_length = @intCast(decoded_length),
            .decoded_length = @intCast(decoded_length),
            .codec = codecs.raw,
            .digest = null,
        };
        if (self.run.len != 0) {
            chunk.stored_length = bytes.get(u32, self.run, 0);
            chunk.crc = bytes.get(u32, self.run, 4);
            chunk.codec = self.run[8];
            chunk.digest = self.run[16..48];
            self.run = self.run[self.record_size..];
            self.offset += std.mem.alignForward(u64, chunk.stored_length, format.chunk_alignment);
        } else {
            self.offset += decoded_length;
        }
        self.decoded_begin += decoded_length;
        return chunk;
    }
};

/// TZ1-39 to TZ1-42. The digest of the run was checked before; `offset` is where the run begins in
/// the file.
pub fn checkRun(
    tensor: Tensor,
    run: []const u8,
    record_size: usize,
    chunk_size: u64,
    incompatible_flags: u64,
    offset: u64,
    diagnostic: *status.Diagnostic,
) status.DataError!void {
    var decoded_rest = tensor.decoded_size;
    var end: u64 = 0; // relative to data_offset; the sum of at most 2^32 lengths of 32 bits
    var number: u64 = 0;
    while (decoded_rest != 0) : (number += 1) {
        const entry = run[@intCast(number * record_size)..][0..format.chunk_record_size];
        const at = offset + number * record_size;
        diagnostic.chunk = number;
        const decoded_length = @min(chunk_size, decoded_rest);
        const stored_length = bytes.get(u32, entry, 0);
        if (!bytes.allZero(entry[9..16])) return diagnostic.fail(error.Reserved, 39, at + 9);
        const codec = codecs.info(entry[8]) orelse
            return diagnostic.fail(error.Feature, 40, at + 8);
        if (codec.flag & ~incompatible_flags != 0) {
            return diagnostic.fail(error.Feature, 40, at + 8);
        }
        if (!codec.fits(stored_length, decoded_length)) {
            return diagnostic.fail(error.Chunk, 41, at);
        }
        end = std.mem.alignForward(u64, end, format.chunk_alignment) + stored_length;
        decoded_rest -= decoded_length;
    }
    diagnostic.chunk = status.Diagnostic.none;
    if (end != tensor.stored_size) return diagnostic.fail(error.Chunk, 42, offset);
}
