//! Checksums as the rest of the library sees them: CRC-32C against accidents, BLAKE3 against
//! everybody. Both run on the best kernels of the running CPU.

const dispatch = @import("dispatch.zig");

/// CRC-32C of `bytes`, continuing from `initial`: 0 at the start, the last result after that.
pub fn crc32c(initial: u32, bytes: []const u8) u32 {
    return dispatch.kernels().crc32c(initial, bytes.ptr, bytes.len);
}

pub const Blake3Digest = [32]u8;

/// BLAKE3-256 of `bytes`.
pub fn blake3(bytes: []const u8) Blake3Digest {
    var digest: Blake3Digest = undefined;
    dispatch.kernels().blake3(bytes.ptr, bytes.len, &digest);
    return digest;
}
