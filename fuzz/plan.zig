//! Invariant: for any tensors, boxes and options, a plan has all properties that tz.h documents,
//! and executing it in any order, in pieces of any size, delivers exactly the items.
//!
//! An input replaces the output of a random number generator, which decides shapes, chunk sizes,
//! boxes and options. After its end, numbers follow that depend only on its size.

const std = @import("std");
const memories = @import("memory.zig");
const observe = @import("observe.zig");
const tz = @import("tz");

pub fn make(arena: std.mem.Allocator, random: std.Random) ![]u8 {
    const input = try arena.alloc(u8, random.intRangeAtMost(usize, 16, 1024));
    random.bytes(input);
    return input;
}

pub fn run(input: []const u8) !void {
    var decisions: Decisions = .{ .rest = input, .prng = .init(input.len) };
    const feats = try tz.plan_simulation.simulate(memories.backing, decisions.random());
    if (!feats.contains(.refused)) observe.accepted += 1;
}

/// Returns the input as random numbers.
const Decisions = struct {
    rest: []const u8,
    prng: std.Random.DefaultPrng,

    fn random(self: *Decisions) std.Random {
        return .init(self, fill);
    }

    fn fill(self: *Decisions, out: []u8) void {
        const size = @min(out.len, self.rest.len);
        @memcpy(out[0..size], self.rest[0..size]);
        self.rest = self.rest[size..];
        // Not zeros, with which some distributions never end.
        self.prng.random().bytes(out[size..]);
    }
};
