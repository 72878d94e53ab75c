//! Helpers of the exports: memory, slices from the caller's pointers, statuses.

const std = @import("std");
const builtin = @import("builtin");
const bytes = @import("../bytes.zig");
const c = @import("types.zig");
const Diagnostic = status.Diagnostic;
const status = @import("../status.zig");
const Status = status.Status;

/// Needs no libc.
pub const gpa: std.mem.Allocator = if (builtin.is_test)
    .{ .ptr = undefined, .vtable = &tested }
else
    std.heap.smp_allocator;

/// Tests replace it with an allocator that fails.
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

/// NULL is allowed if the size is 0.
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

/// No struct of this interface will ever be larger. An uninitialised struct_size usually is.
const struct_size_max = 4096;

/// The smallest struct_size that a caller may have: that of the first release.
fn sizeMin(comptime T: type) usize {
    return if (@hasDecl(T, "size_min")) T.size_min else @sizeOf(T);
}

fn checkSize(comptime T: type, struct_size: u32) error{Argument}!void {
    if (struct_size < sizeMin(T) or struct_size > struct_size_max) return error.Argument;
}

/// The caller's struct with the fields that this library knows. Fields that an older caller lacks
/// are 0; fields of a newer caller that the library does not know must be 0.
pub fn take(comptime T: type, given: *const T) error{Argument}!T {
    try checkSize(T, given.struct_size);
    return takeBytes(T, @as([*]const u8, @ptrCast(given))[0..given.struct_size]);
}

fn takeBytes(comptime T: type, given: []const u8) error{Argument}!T {
    const common = @min(given.len, @sizeOf(T));
    if (!bytes.allZero(given[common..])) return error.Argument;
    var known = std.mem.zeroes(T);
    @memcpy(std.mem.asBytes(&known)[0..common], given[0..common]);
    return known;
}

/// Fills the fields of an output struct that the caller knows. Fields that the library does not
/// know become 0.
pub fn give(out: anytype, value: @typeInfo(@TypeOf(out)).pointer.child) error{Argument}!void {
    const T = @TypeOf(value);
    try checkSize(T, out.struct_size);
    giveBytes(@as([*]u8, @ptrCast(out))[0..out.struct_size], value);
}

fn giveBytes(out: []u8, value: anytype) void {
    var known = value;
    known.struct_size = @intCast(out.len);
    const common = @min(out.len, @sizeOf(@TypeOf(value)));
    @memcpy(out[0..common], std.mem.asBytes(&known)[0..common]);
    @memset(out[common..], 0);
}

/// A caller's array of structs that may grow. The struct_size of the first element is the stride.
pub fn Array(comptime T: type) type {
    return struct {
        memory: []u8 = &.{},
        stride: usize = 1,

        const Self = @This();

        pub fn init(first: ?*const T, count: u64) error{Argument}!Self {
            if (count == 0) return .{};
            const pointer = first orelse return error.Argument;
            const stride = pointer.struct_size;
            try checkSize(T, stride);
            const total = bytes.mul(stride, count) orelse return error.Argument;
            const size = std.math.cast(usize, total) orelse return error.Argument;
            const memory: [*]u8 = @ptrCast(@constCast(pointer));
            return .{ .memory = memory[0..size], .stride = stride };
        }

        pub fn len(self: Self) usize {
            return self.memory.len / self.stride;
        }

        pub fn get(self: Self, index: usize) error{Argument}!T {
            return takeBytes(T, self.memory[index * self.stride ..][0..self.stride]);
        }

        pub fn put(self: Self, index: usize, value: T) void {
            giveBytes(self.memory[index * self.stride ..][0..self.stride], value);
        }
    };
}

/// The diagnostic of a call, which is copied to the caller at the end of the call.
pub const Report = struct {
    diagnostic: Diagnostic = .{},
    out: ?*c.Diagnostic,

    pub fn init(out: ?*c.Diagnostic) error{Argument}!Report {
        if (out) |given| try checkSize(c.Diagnostic, given.struct_size);
        return .{ .out = out };
    }

    pub fn deliver(self: *const Report) void {
        const found = &self.diagnostic;
        give(self.out orelse return, .{
            .rule = found.rule,
            .offset = found.offset,
            .tensor = found.tensor,
            .chunk = found.chunk,
            .reason = found.reason,
            .name_size = found.name_size,
            .name = found.name,
        }) catch {}; // checked by init
    }
};

/// Tests structs that grow, with an older, a newer and a current caller.
const Grown = extern struct {
    struct_size: u32,
    old: u32,
    new: u64 = 0,

    pub const size_min = 8;
};

test "structs of older and newer callers" {
    const expectEqual = std.testing.expectEqual;
    const Newer = extern struct { known: Grown, unknown: u64 };
    var newer: Newer = .{ .known = .{ .struct_size = 24, .old = 1, .new = 2 }, .unknown = 0 };
    var older: extern struct { struct_size: u32 = 8, old: u32 = 3, behind: u64 = 9 } = .{};
    const older_known: *Grown = @ptrCast(&older);

    try expectEqual(2, (try take(Grown, &newer.known)).new);
    newer.unknown = 5; // unknown to this library, so it must be refused
    try std.testing.expectError(error.Argument, take(Grown, &newer.known));
    try expectEqual(Grown{ .struct_size = 8, .old = 3 }, try take(Grown, older_known));

    try give(&newer.known, .{ .struct_size = 0, .old = 6, .new = 7 });
    const filled: Grown = .{ .struct_size = 24, .old = 6, .new = 7 };
    try expectEqual(Newer{ .known = filled, .unknown = 0 }, newer);
    try give(older_known, .{ .struct_size = 0, .old = 8, .new = 8 });
    try expectEqual(8, older.old);
    try expectEqual(9, older.behind);

    for ([_]u32{ 0, 7, struct_size_max + 1, 0xFFFF_FFFF }) |size| {
        older.struct_size = size;
        try std.testing.expectError(error.Argument, take(Grown, older_known));
        const given = give(older_known, .{ .struct_size = 0, .old = 0 });
        try std.testing.expectError(error.Argument, given);
    }
}

test "arrays have the distance of their first element" {
    const expectEqual = std.testing.expectEqual;
    var elements = [_][3]u64{ .{ 24 | 1 << 32, 2, 0 }, .{ 3 << 32, 4, 0 }, .{ 5 << 32, 6, 7 } };
    const array: Array(Grown) = try .init(@ptrCast(&elements), 3);
    try expectEqual(3, array.len());
    try expectEqual(2, (try array.get(0)).new);
    try expectEqual(3, (try array.get(1)).old);
    try std.testing.expectError(error.Argument, array.get(2));
    array.put(2, .{ .struct_size = 0, .old = 8, .new = 9 });
    try expectEqual([3]u64{ 24 | 8 << 32, 9, 0 }, elements[2]);
    try expectEqual(0, (try Array(Grown).init(null, 0)).len());
    try std.testing.expectError(error.Argument, Array(Grown).init(null, 1));
    const many = Array(Grown).init(@ptrCast(&elements), std.math.maxInt(u64));
    try std.testing.expectError(error.Argument, many);
}
