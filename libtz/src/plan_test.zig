//! Tests of the planner and of what executes its plans.

const std = @import("std");
const simulation = @import("plan_simulation.zig");

const testing = std.testing;

test "random plans keep all promises and deliver what was wanted" {
    for (0..1000) |seed| {
        errdefer std.debug.print("seed {d}\n", .{seed});
        var prng: std.Random.DefaultPrng = .init(seed);
        try simulation.simulate(testing.allocator, prng.random());
    }
}
