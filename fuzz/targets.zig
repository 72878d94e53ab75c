//! The table of targets. A target is a file with `run(input: []const u8)`, which panics or returns
//! an error if its invariant does not hold. `make(arena, random)` makes useful inputs, and
//! `mutate(arena, random, input)` similar ones. Targets without these get their corpus with
//! randomly changed bytes.

const std = @import("std");

const Allocator = std.mem.Allocator;

pub const Target = struct {
    name: []const u8,
    run: *const fn (input: []const u8) anyerror!void,
    make: ?*const fn (arena: Allocator, random: std.Random) anyerror![]u8,
    mutate: *const fn (arena: Allocator, random: std.Random, input: []const u8) anyerror![]u8,
};

pub const all = [_]Target{
    describe("header", @import("header.zig")),
    describe("file", @import("file.zig")),
    describe("plan", @import("plan.zig")),
    describe("safetensors", @import("safetensors.zig")),
    describe("coreweave", @import("coreweave.zig")),
    describe("codec_tiered", @import("codec_tiered.zig")),
};

/// Not part of "all", since it fails.
pub const canary = describe("canary", @import("canary.zig"));

fn describe(comptime name: []const u8, comptime File: type) Target {
    return .{
        .name = name,
        .run = struct {
            fn run(input: []const u8) anyerror!void {
                try File.run(input);
            }
        }.run,
        .make = if (@hasDecl(File, "make")) struct {
            fn make(arena: Allocator, random: std.Random) anyerror![]u8 {
                return File.make(arena, random);
            }
        }.make else null,
        .mutate = if (@hasDecl(File, "mutate")) struct {
            fn mutate(arena: Allocator, random: std.Random, input: []const u8) anyerror![]u8 {
                return File.mutate(arena, random, input);
            }
        }.mutate else changeBytes,
    };
}

pub fn find(name: []const u8) ?Target {
    for (all ++ .{canary}) |target| if (std.mem.eql(u8, target.name, name)) return target;
    return null;
}

/// For targets without a mutator: flips, copies, cuts and inserts bytes.
fn changeBytes(arena: Allocator, random: std.Random, input: []const u8) anyerror![]u8 {
    var bytes: std.ArrayList(u8) = .empty;
    try bytes.appendSlice(arena, input);
    for (0..random.intRangeAtMost(usize, 1, 6)) |_| {
        const size = bytes.items.len;
        const at = random.uintAtMost(usize, size);
        const some = random.uintAtMost(usize, @min(16, size - at));
        switch (random.uintLessThan(u8, 5)) {
            0 => random.bytes(try bytes.addManyAt(arena, at, random.intRangeAtMost(usize, 1, 8))),
            1 => bytes.replaceRangeAssumeCapacity(at, some, &.{}),
            2 => if (at < size) {
                bytes.items[at] ^= @as(u8, 1) << random.int(u3);
            },
            3 => if (at < size) {
                bytes.items[at] = random.int(u8);
            },
            else => {
                const from = random.uintAtMost(usize, size - some);
                @memmove(bytes.items[at..][0..some], bytes.items[from..][0..some]);
            },
        }
    }
    return bytes.items;
}
