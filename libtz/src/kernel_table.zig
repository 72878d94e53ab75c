//! The functions compiled once per CPU level. kernels.zig fills one table per level, dispatch.zig
//! picks a table, and all callers go through it. To add a kernel, add a field here and its
//! implementation in kernels.zig.
//!
//! Only C types are passed: the two sides are compiled for different CPUs, so vectors have
//! different calling conventions, and Zig's own convention is not stable across compilations.
//! Kernels check nothing; callers must pass valid arguments.

const Level = @import("cpu.zig").Level;
const TieredKernels = @import("codec/tiered_task.zig").Kernels;

pub const KernelTable = extern struct {
    level: Level,

    /// The CRC-32 of zlib, with the same parameters as the next one.
    crc32: *const fn (initial: u32, data: [*]const u8, size: usize) callconv(.c) u32,

    /// CRC-32C of `size` bytes, continuing from `initial` (0 at the start).
    crc32c: *const fn (initial: u32, data: [*]const u8, size: usize) callconv(.c) u32,

    /// The same, and copies the bytes, with stores that bypass the cache if the CPU has them.
    crc32c_copy: *const fn (
        initial: u32,
        noalias destination: [*]u8,
        noalias source: [*]const u8,
        size: usize,
    ) callconv(.c) u32,

    blake3: *const fn (data: [*]const u8, size: usize, digest: *[32]u8) callconv(.c) void,
    blake3_init: *const fn (state: *Blake3State) callconv(.c) void,
    blake3_update: *const fn (
        state: *Blake3State,
        data: [*]const u8,
        size: usize,
    ) callconv(.c) void,
    blake3_final: *const fn (state: *const Blake3State, digest: *[32]u8) callconv(.c) void,

    /// Sub-blocks of the tiered codec.
    tiered: TieredKernels,
};

/// The state of a BLAKE3 computation. Only the kernels of one level know its layout.
pub const Blake3State = extern struct {
    private: [2048]u8 align(8),
};
