//! The preamble, section 3 of the specification: the first 128 bytes, which commit to all others.
//!
//! Offset | Size | Field
//! 0      | 8    | magic
//! 8      | 2    | version_major
//! 10     | 2    | version_minor
//! 12     | 4    | section_count
//! 16     | 8    | incompatible_flags
//! 24     | 8    | compatible_flags
//! 32     | 8    | file_size
//! 40     | 8    | header_size: end of the chunk table
//! 48     | 8    | open_size: start of the chunk table
//! 56     | 4    | tensor_count
//! 60     | 1    | chunk_size_log2
//! 61     | 3    | reserved, zero
//! 64     | 8    | chunk_count
//! 72     | 32   | directory_digest: BLAKE3 of the section directory
//! 104    | 20   | reserved, zero
//! 124    | 4    | preamble_crc: CRC-32C of bytes 0 to 124

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const codecs = @import("codec.zig");
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const status = @import("status.zig");

pub const Preamble = struct {
    version_minor: u16 = format.version_minor,
    section_count: u32,
    incompatible_flags: u64,
    compatible_flags: u64 = 0,
    file_size: u64,
    header_size: u64,
    open_size: u64,
    tensor_count: u32,
    chunk_size_log2: u8,
    chunk_count: u64,
    directory_digest: Digest,

    /// TZ1-1 to TZ1-10 and TZ1-68, for a file of `file_size` bytes of which `front` is the
    /// beginning: at least 128 bytes, or all of a shorter file.
    pub fn decode(
        front: []const u8,
        file_size: u64,
        diagnostic: *status.Diagnostic,
    ) status.DataError!Preamble {
        try checkMagic(front, diagnostic);
        if (front.len < format.preamble_size) {
            return diagnostic.fail(error.Truncated, 2, front.len);
        }
        const raw = front[0..format.preamble_size];
        if (bytes.get(u16, raw, 8) != format.version_major) {
            return diagnostic.fail(error.Version, 3, 8);
        }
        if (checksum.crc32c(0, raw[0..124]) != bytes.get(u32, raw, 124)) {
            return diagnostic.fail(error.Checksum, 4, 124);
        }
        const self: Preamble = .{
            .version_minor = bytes.get(u16, raw, 10),
            .section_count = bytes.get(u32, raw, 12),
            .incompatible_flags = bytes.get(u64, raw, 16),
            .compatible_flags = bytes.get(u64, raw, 24),
            .file_size = bytes.get(u64, raw, 32),
            .header_size = bytes.get(u64, raw, 40),
            .open_size = bytes.get(u64, raw, 48),
            .tensor_count = bytes.get(u32, raw, 56),
            .chunk_size_log2 = raw[60],
            .chunk_count = bytes.get(u64, raw, 64),
            .directory_digest = raw[72..104].*,
        };
        if (self.incompatible_flags & ~codecs.flags != 0) {
            return diagnostic.fail(error.Feature, 5, 16);
        }
        if (!bytes.allZero(raw[61..64])) return diagnostic.fail(error.Reserved, 7, 61);
        if (!bytes.allZero(raw[104..124])) return diagnostic.fail(error.Reserved, 7, 104);
        try self.checkLimits(diagnostic);
        try self.checkSizes(file_size, diagnostic);
        return self;
    }

    fn checkLimits(self: Preamble, diagnostic: *status.Diagnostic) status.DataError!void {
        if (self.chunk_size_log2 < format.chunk_size_log2_min or
            self.chunk_size_log2 > format.chunk_size_log2_max)
        {
            return diagnostic.fail(error.Limit, 8, 60);
        }
        if (self.tensor_count > format.tensor_count_max) return diagnostic.fail(error.Limit, 8, 56);
        if (self.chunk_count > format.chunk_count_max) return diagnostic.fail(error.Limit, 8, 64);
        if (self.section_count > format.section_count_max) {
            return diagnostic.fail(error.Limit, 8, 12);
        }
        if (self.open_size > format.open_size_max) return diagnostic.fail(error.Limit, 8, 48);
        if (self.file_size > format.file_size_max) return diagnostic.fail(error.Limit, 8, 32);
    }

    fn checkSizes(
        self: Preamble,
        file_size: u64,
        diagnostic: *status.Diagnostic,
    ) status.DataError!void {
        if (self.directoryEnd() > self.open_size) return diagnostic.fail(error.Layout, 9, 48);
        if (self.open_size > self.header_size) return diagnostic.fail(error.Layout, 9, 40);
        if (self.header_size > self.file_size) return diagnostic.fail(error.Layout, 9, 32);
        if (file_size < self.file_size) return diagnostic.fail(error.Truncated, 10, file_size);
        if (file_size > self.file_size) return diagnostic.fail(error.Trailing, 68, self.file_size);
    }

    pub fn directoryEnd(self: Preamble) u64 {
        return format.preamble_size + format.directory_entry_size * @as(u64, self.section_count);
    }

    pub fn chunkSize(self: Preamble) u64 {
        return @as(u64, 1) << @intCast(self.chunk_size_log2);
    }

    pub fn encode(self: Preamble, out: *[format.preamble_size]u8) void {
        @memset(out, 0);
        out[0..8].* = format.magic;
        bytes.put(u16, out, 8, format.version_major);
        bytes.put(u16, out, 10, self.version_minor);
        bytes.put(u32, out, 12, self.section_count);
        bytes.put(u64, out, 16, self.incompatible_flags);
        bytes.put(u64, out, 24, self.compatible_flags);
        bytes.put(u64, out, 32, self.file_size);
        bytes.put(u64, out, 40, self.header_size);
        bytes.put(u64, out, 48, self.open_size);
        bytes.put(u32, out, 56, self.tensor_count);
        out[60] = self.chunk_size_log2;
        bytes.put(u64, out, 64, self.chunk_count);
        out[72..104].* = self.directory_digest;
        bytes.put(u32, out, 124, checksum.crc32c(0, out[0..124]));
    }
};

/// TZ1-1, for as many of the eight bytes as are present.
pub fn checkMagic(front: []const u8, diagnostic: *status.Diagnostic) status.DataError!void {
    const size = @min(front.len, format.magic.len);
    if (!std.mem.eql(u8, front[0..size], format.magic[0..size])) {
        return diagnostic.fail(error.NotTz, 1, 0);
    }
}
