//! Checksums as the rest of the library sees them: CRC-32C against accidents, BLAKE3 against
//! everybody. Both run on the best kernels of the running CPU.

const std = @import("std");
const dispatch = @import("dispatch.zig");
const State = @import("kernel_table.zig").Blake3State;

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

/// BLAKE3-256 of a stream. Plain memory: may be copied, needs no freeing.
pub const Blake3 = extern struct {
    state: State,

    pub fn init() Blake3 {
        var self: Blake3 = undefined;
        dispatch.kernels().blake3_init(&self.state);
        return self;
    }

    pub fn update(self: *Blake3, bytes: []const u8) void {
        dispatch.kernels().blake3_update(&self.state, bytes.ptr, bytes.len);
    }

    /// The digest so far; the stream may go on.
    pub fn final(self: *const Blake3) Blake3Digest {
        var digest: Blake3Digest = undefined;
        dispatch.kernels().blake3_final(&self.state, &digest);
        return digest;
    }
};

test Blake3 {
    // Lengths around block, chunk and SIMD borders; bytes as in the official vectors.
    var data: [70_000]u8 = undefined;
    for (&data, 0..) |*byte, index| byte.* = @intCast(index % 251);
    for ([_]usize{ 0, 1, 63, 64, 65, 1023, 1024, 1025, 16 * 1024, 16 * 1024 + 1, 70_000 }) |size| {
        var stream: Blake3 = .init();
        var begin: usize = 0;
        var piece: usize = 1;
        while (begin < size) : (piece = piece * 3 + 1) {
            const end = @min(begin + piece, size);
            stream.update(data[begin..end]);
            begin = end;
        }
        try std.testing.expectEqualSlices(u8, &blake3(data[0..size]), &stream.final());
        try std.testing.expectEqualSlices(u8, &blake3(data[0..size]), &stream.final());
    }
}
