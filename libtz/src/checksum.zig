//! Checksums for the rest of the library: CRC-32C against accidents, BLAKE3 against attackers, and
//! CRC-32 for a foreign format. All use the best kernels of the running CPU.

const std = @import("std");
const dispatch = @import("dispatch.zig");
const Blake3State = @import("kernel_table.zig").Blake3State;

/// CRC-32C of `bytes`, continuing from `initial`: 0 at the start, the last result after that.
pub fn crc32c(initial: u32, bytes: []const u8) u32 {
    return dispatch.kernels().crc32c(initial, bytes.ptr, bytes.len);
}

/// CRC-32 of `bytes` as in zlib, continued in the same way.
pub fn crc32(initial: u32, bytes: []const u8) u32 {
    return dispatch.kernels().crc32(initial, bytes.ptr, bytes.len);
}

/// Copies `source` to `destination`, which must not overlap, and returns the CRC-32C as above.
///
/// On x86-64, the copy bypasses the cache. For memory larger than the cache, that is twice as fast
/// as a checksum and a copy. If the destination is read again soon, use those instead.
pub fn crc32cCopy(
    initial: u32,
    noalias destination: []u8,
    noalias source: []const u8,
) u32 {
    std.debug.assert(destination.len == source.len);
    return dispatch.kernels().crc32c_copy(initial, destination.ptr, source.ptr, source.len);
}

pub const Blake3Digest = [32]u8;

/// BLAKE3-256 of `bytes`.
pub fn blake3(bytes: []const u8) Blake3Digest {
    var digest: Blake3Digest = undefined;
    dispatch.kernels().blake3(bytes.ptr, bytes.len, &digest);
    return digest;
}

/// BLAKE3-256 of bytes that arrive in pieces.
pub const Blake3 = struct {
    state: Blake3State,

    pub fn init() Blake3 {
        var self: Blake3 = undefined;
        dispatch.kernels().blake3_init(&self.state);
        return self;
    }

    pub fn update(self: *Blake3, bytes: []const u8) void {
        dispatch.kernels().blake3_update(&self.state, bytes.ptr, bytes.len);
    }

    /// The digest of all bytes so far; more may follow.
    pub fn final(self: *const Blake3) Blake3Digest {
        var digest: Blake3Digest = undefined;
        dispatch.kernels().blake3_final(&self.state, &digest);
        return digest;
    }
};
