//! Stores that bypass the cache, for output that is larger than the cache: the old contents of the
//! destination are not read first, and nothing useful is evicted. Plain stores if the CPU has none.

const std = @import("std");
const builtin = @import("builtin");

const has_stores = builtin.cpu.arch == .x86_64;
/// A constant, since debug builds would otherwise compile both branches.
const has_avx = has_stores and builtin.cpu.has(.x86, .avx);

/// The destination of `copy`, and the widest of `store`, are aligned to this.
pub const alignment = 64;

/// Stores a vector at an address aligned to its size. Call `fence` after the last one.
pub inline fn store(destination: [*]u8, value: anytype) void {
    const Vector = @TypeOf(value);
    std.debug.assert(@intFromPtr(destination) % @sizeOf(Vector) == 0);
    if (!has_stores) {
        @as(*Vector, @ptrCast(@alignCast(destination))).* = value;
    } else if (has_avx) {
        asm volatile ("vmovntdq %[value], (%[destination])"
            :
            : [value] "v" (value),
              [destination] "r" (destination),
            : .{ .memory = true });
    } else {
        asm volatile ("movntdq %[value], (%[destination])"
            :
            : [value] "x" (value),
              [destination] "r" (destination),
            : .{ .memory = true });
    }
}

/// Makes the stores before it visible to other threads in order, as plain stores are.
pub inline fn fence() void {
    if (has_stores) asm volatile ("sfence" ::: .{ .memory = true });
}

/// As @memcpy, with a destination aligned to `alignment`. Call `fence` after the last one.
pub fn copy(noalias destination: [*]u8, noalias source: []const u8) void {
    const Vector = @Vector(if (has_avx) 4 else 2, u64);
    const whole = source.len - source.len % alignment;
    var offset: usize = 0;
    while (has_stores and offset < whole) : (offset += alignment) {
        inline for (0..alignment / @sizeOf(Vector)) |index| {
            const position = offset + index * @sizeOf(Vector);
            const value = @as(*align(1) const Vector, @ptrCast(source.ptr + position)).*;
            store(destination + position, value);
        }
    }
    @memcpy(destination[offset..source.len], source[offset..]);
}
