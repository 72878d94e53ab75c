//! What the exports share: memory, slices of the caller's pointers, statuses.

const std = @import("std");
const builtin = @import("builtin");
const status = @import("../status.zig");
const Status = status.Status;

/// Without libc; the library needs none.
pub const gpa: std.mem.Allocator = if (builtin.is_test)
    .{ .ptr = undefined, .vtable = &tested }
else if (builtin.cpu.arch.isWasm())
    std.heap.wasm_allocator
else
    std.heap.smp_allocator;

/// Tests set this to one that fails.
pub var tested_allocator: std.mem.Allocator = std.heap.smp_allocator;

const tested: std.mem.Allocator.VTable = .{
    .alloc = struct {
        fn alloc(_: *anyopaque, size: usize, alignment: std.mem.Alignment, from: usize) ?[*]u8 {
            return tested_allocator.rawAlloc(size, alignment, from);
        }
    }.alloc,
    .resize = std.mem.Allocator.noResize,
    .remap = std.mem.Allocator.noRemap,
    .free = struct {
        fn free(_: *anyopaque, memory: []u8, alignment: std.mem.Alignment, from: usize) void {
            tested_allocator.rawFree(memory, alignment, from);
        }
    }.free,
};

pub fn result(outcome: status.Error!void) Status {
    outcome catch |err| return status.fromError(err);
    return .ok;
}

/// NULL is fine for nothing.
pub fn slice(comptime T: type, data: ?[*]const T, count: u64) error{Argument}![]const T {
    if (count == 0) return &.{};
    const pointer = data orelse return error.Argument;
    const size = std.math.cast(usize, count) orelse return error.Argument;
    if (size > std.math.maxInt(usize) / @sizeOf(T)) return error.Argument;
    return pointer[0..size];
}

pub fn sliceMutable(comptime T: type, data: ?[*]T, count: u64) error{Argument}![]T {
    return @constCast(try slice(T, data, count));
}

/// Gives an output struct that may grow its values, if the caller's is not older than the library knows.
pub fn give(out: anytype, value: @typeInfo(@TypeOf(out)).pointer.child) error{Argument}!void {
    if (out.struct_size < @sizeOf(@TypeOf(value))) return error.Argument;
    const struct_size = out.struct_size;
    out.* = value;
    out.struct_size = struct_size;
}

/// Where a diagnostic goes: to the caller's, emptied, or nowhere.
pub fn diagnosticOr(given: ?*status.Diagnostic, ignored: *status.Diagnostic) *status.Diagnostic {
    const place = given orelse ignored;
    place.* = .{};
    return place;
}
