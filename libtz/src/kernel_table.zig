//! The functions compiled once per CPU level. kernels.zig fills one table per level, dispatch.zig
//! picks a table, everybody else calls through it. To add a kernel: a field here, its
//! implementation in kernels.zig.
//!
//! Only C types cross this border: the two sides are compiled for different CPUs, so vectors have
//! different calling conventions, and Zig's own convention promises nothing between compilations.

const Level = @import("cpu.zig").Level;

/// BLAKE3 of a stream; `tz_blake3_state` in tz.h. Only the kernels of one level know what is inside.
pub const Blake3State = extern struct {
    bytes: [2048]u8 align(8),
};

pub const KernelTable = extern struct {
    level: Level,

    /// CRC-32C of `size` bytes, continuing from `initial` (0 at the start).
    crc32c: *const fn (initial: u32, data: [*]const u8, size: usize) callconv(.c) u32,

    blake3: *const fn (data: [*]const u8, size: usize, digest: *[32]u8) callconv(.c) void,
    blake3_init: *const fn (state: *Blake3State) callconv(.c) void,
    blake3_update: *const fn (state: *Blake3State, data: [*]const u8, size: usize) callconv(.c) void,
    blake3_final: *const fn (state: *const Blake3State, digest: *[32]u8) callconv(.c) void,
};
