//! BLAKE3-256, from std, specialised for the CPU level this file is compiled for.

const std = @import("std");
const Blake3 = std.crypto.hash.Blake3;
const Blake3State = @import("../kernel_table.zig").Blake3State;

/// C code allocates the state, at an alignment of 8; std wants more for its own. Hence the copies
/// below: two times 2 KiB, nothing beside the hashing of a chunk.
const Stored = *align(@alignOf(Blake3State)) Blake3;

comptime {
    std.debug.assert(@sizeOf(Blake3) <= @sizeOf(Blake3State));
}

pub fn hash(data: [*]const u8, size: usize, digest: *[32]u8) callconv(.c) void {
    Blake3.hash(data[0..size], digest, .{});
}

pub fn init(state: *Blake3State) callconv(.c) void {
    @as(Stored, @ptrCast(state)).* = .init(.{});
}

pub fn update(state: *Blake3State, data: [*]const u8, size: usize) callconv(.c) void {
    const stored: Stored = @ptrCast(state);
    var hasher = stored.*;
    hasher.update(data[0..size]);
    stored.* = hasher;
}

pub fn final(state: *const Blake3State, digest: *[32]u8) callconv(.c) void {
    const hasher = @as(Stored, @ptrCast(@constCast(state))).*;
    hasher.final(digest);
}
