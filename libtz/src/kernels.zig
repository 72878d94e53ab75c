//! Root of one object file per CPU level: build.zig compiles this file several times, each time
//! for another CPU, and std.crypto inside is specialised along with it. One hidden symbol leaves
//! the object, the table `tz_kernels_<level>`.

const std = @import("std");
const kernel_options = @import("kernel_options");
const Level = @import("cpu.zig").Level;
const KernelTable = @import("kernel_table.zig").KernelTable;
const Crc32 = @import("checksum/crc32.zig").Crc32;
const blake3 = @import("checksum/blake3.zig");
const tiered = @import("codec/tiered_kernels.zig");

/// Only our own mistakes can cause a panic here, so the objects contain no stack-trace code.
pub const panic = std.debug.no_panic;

const table: KernelTable = .{
    .level = std.meta.stringToEnum(Level, kernel_options.level).?,
    .crc32 = Crc32(.zlib).kernel,
    .crc32c = Crc32(.castagnoli).kernel,
    .crc32c_copy = Crc32(.castagnoli).copyKernel,
    .blake3 = blake3.hash,
    .blake3_init = blake3.init,
    .blake3_update = blake3.update,
    .blake3_final = blake3.final,
    .tiered = tiered.kernels,
};

comptime {
    @export(&table, .{ .name = "tz_kernels_" ++ kernel_options.level, .visibility = .hidden });
}
