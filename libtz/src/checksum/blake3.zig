//! BLAKE3-256, from std, specialised for the CPU level this file is compiled for.

const std = @import("std");
const Blake3 = std.crypto.hash.Blake3;
const State = @import("../kernel_table.zig").Blake3State;

pub fn kernel(data: [*]const u8, size: usize, digest: *[32]u8) callconv(.c) void {
    Blake3.hash(data[0..size], digest, .{});
}

// A stream's state belongs to the caller, who knows neither its layout nor its alignment (std's depends on the CPU
// level): it is copied out, advanced and copied back, 2 KiB against the pieces of a megabyte that are hashed.

comptime {
    std.debug.assert(@sizeOf(Blake3) <= @sizeOf(State));
}

pub fn init(state: *State) callconv(.c) void {
    store(state, .init(.{}));
}

pub fn update(state: *State, data: [*]const u8, size: usize) callconv(.c) void {
    var hasher = load(state);
    hasher.update(data[0..size]);
    store(state, hasher);
}

pub fn final(state: *const State, digest: *[32]u8) callconv(.c) void {
    var hasher = load(state);
    hasher.final(digest);
}

fn load(state: *const State) Blake3 {
    var hasher: Blake3 = undefined;
    @memcpy(std.mem.asBytes(&hasher), state.bytes[0..@sizeOf(Blake3)]);
    return hasher;
}

fn store(state: *State, hasher: Blake3) void {
    @memcpy(state.bytes[0..@sizeOf(Blake3)], std.mem.asBytes(&hasher));
}
