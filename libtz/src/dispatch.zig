//! Chooses the kernels for the running CPU.

const std = @import("std");
const builtin = @import("builtin");
const options = @import("options");
const cpu = @import("cpu.zig");
const KernelTable = @import("kernel_table.zig").KernelTable;

pub const Level = cpu.Level;

/// The levels that build.zig compiles for this architecture, lowest first.
pub const levels: []const Level = switch (builtin.cpu.arch) {
    .x86_64 => &.{ .baseline, .v2, .v3, .v3_vaes, .v4 },
    .aarch64 => &.{ .baseline, .armv8_crypto },
    else => &.{.baseline},
};

/// The choice, made once. It is the only state of the library that outlives a call. It depends on
/// the CPU only, so racing threads store the same value.
var chosen: std.atomic.Value(?*const KernelTable) = .init(null);

/// The best kernels the running CPU supports.
pub fn kernels() *const KernelTable {
    return chosen.load(.acquire) orelse choose();
}

/// The kernels of one level, or null if the running CPU lacks it. For tests.
pub fn kernelsAt(level: Level) ?*const KernelTable {
    if (@backingInt(level) > @backingInt(cpu.detect())) return null;
    inline for (levels) |candidate| {
        if (candidate == level) return tableOf(candidate);
    }
    return null;
}

/// Makes all callers use `table`, which may be faulty; null: the running CPU's again.
pub fn replaceForTest(table: ?*const KernelTable) void {
    comptime std.debug.assert(builtin.is_test);
    chosen.store(table, .release);
}

fn choose() *const KernelTable {
    @branchHint(.cold);
    const highest: Level = if (options.level_max) |name|
        comptime std.meta.stringToEnum(Level, name) orelse @compileError("no level " ++ name)
    else
        levels[levels.len - 1];
    const level: Level = @fromBackingInt(@min(@backingInt(cpu.detect()), @backingInt(highest)));
    const table = kernelsAt(level).?;
    chosen.store(table, .release);
    return table;
}

fn tableOf(comptime level: Level) *const KernelTable {
    return @extern(*const KernelTable, .{ .name = "tz_kernels_" ++ @tagName(level) });
}
