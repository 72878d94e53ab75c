//! Counts over all executions how many inputs were accepted, and how often each rule of the
//! specification refused one. The mutators do not test rules with a count of 0.

const std = @import("std");
const tz = @import("tz");

pub var accepted: u64 = 0;
pub var rules: [64]u64 = @splat(0);

pub fn reset() void {
    accepted = 0;
    rules = @splat(0);
}

pub fn refused(diagnostic: tz.status.Diagnostic) void {
    if (diagnostic.rule < rules.len) rules[diagnostic.rule] += 1;
}

/// Refusals of a foreign format, by reason.
pub fn refusedForeign(diagnostic: tz.status.Diagnostic) !void {
    refused(diagnostic);
    if (diagnostic.reason == null) return error.NoReason;
    if (diagnostic.offset == tz.status.Diagnostic.none) return error.NoOffset;
}

pub fn print(executions: u64) void {
    std.debug.print("  accepted {d} of {d}; refused by rule:", .{ accepted, executions });
    for (rules, 0..) |count, rule| {
        if (count != 0) std.debug.print(" {d}:{d}", .{ rule, count });
    }
    std.debug.print("\n", .{});
}
