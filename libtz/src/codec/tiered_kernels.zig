//! The codec's kernels for the CPU level of this compilation: vector kernels if tiered_isa.zig has
//! the instructions, otherwise the scalar ones.

const std = @import("std");
const format = @import("tiered_format.zig");
const isa = @import("tiered_isa.zig");
const tasks = @import("tiered_task.zig");
const scalar = @import("tiered_scalar.zig");
const vector = @import("tiered_vector.zig");

pub const kernels: tasks.Kernels = kernelsOf(if (isa.lanes == 0) scalar else vector);

/// The scalar reference, for tests.
pub const kernels_scalar: tasks.Kernels = kernelsOf(scalar);

fn kernelsOf(comptime leaf: type) tasks.Kernels {
    const entry = struct {
        fn decode(task: *const tasks.DecodeTask) callconv(.c) tasks.DecodeVerdict {
            return leaf.decode(task);
        }

        fn encode(task: *tasks.EncodeTask) callconv(.c) usize {
            return encodeBlock(leaf, task) orelse tasks.no_room;
        }

        fn histogram(sample: *const tasks.Sample, result: *tasks.Histograms) callconv(.c) void {
            scalar.histogram(sample, result);
        }

        fn isConstant(
            layout: format.Layout,
            plane: usize,
            symbol: u8,
            source: [*]const u8,
            size: usize,
        ) callconv(.c) bool {
            return leaf.isConstant(layout, plane, symbol, source[0..size]);
        }
    };
    return .{
        .decode = entry.decode,
        .encode = entry.encode,
        .histogram = entry.histogram,
        .is_constant = entry.isConstant,
    };
}

fn encodeBlock(comptime leaf: type, task: *tasks.EncodeTask) ?usize {
    const element_count = task.element_count;
    switch (task.layout) {
        inline else => |layout| {
            leaf.splitAll(layout, task.source, element_count, &task.scratch.planes);
        },
    }
    const destination = task.destination[0..task.capacity];
    var size: usize = 0;
    for (task.activePlanes(), 0..) |*plane, index| {
        const symbols = task.scratch.planes[index][0..element_count];
        const free = destination[size..];
        const plane_size = encodePlane(leaf, plane, symbols, free, &task.scratch.escaped) orelse
            return null;
        const padded_size = format.alignPlane(plane_size);
        if (padded_size > free.len) return null;
        @memset(free[plane_size..padded_size], 0);
        size += padded_size;
    }
    return size;
}

/// Writes a plane without padding; null if `destination` is too small.
fn encodePlane(
    comptime leaf: type,
    plane: *tasks.PlaneTask,
    symbols: []const u8,
    destination: []u8,
    escaped: *[2]tasks.Symbols,
) ?usize {
    switch (plane.kind) {
        .constant => return 0,
        .raw => {
            const size = format.rawSize(plane.width, symbols.len);
            if (size > destination.len) return null;
            switch (plane.width) {
                inline 3, 4 => |width| {
                    const codes = destination[0..size];
                    _ = leaf.pack(.plain, width, symbols, undefined, codes, undefined);
                },
                else => @memcpy(destination[0..size], symbols),
            }
            return size;
        },
        else => {},
    }
    var rest = symbols;
    var table: [*]const u8 = &plane.table;
    var size: usize = 0;
    for (plane.kind.plan(), 0..) |code_bits, tier| {
        const tier_size = format.packedSize(code_bits, rest.len);
        if (tier_size > destination.len - size) return null;
        const codes = destination[size..][0..tier_size];
        const into = &escaped[tier % 2];
        const escape_count = switch (code_bits) {
            inline 2, 3, 4 => |known| leaf.pack(.tiered, known, rest, table, codes, into),
            else => unreachable,
        };
        plane.escapes[tier] = @intCast(escape_count);
        rest = into[0..escape_count];
        table += format.symbolCount(code_bits);
        size += tier_size;
    }
    if (rest.len > destination.len - size) return null;
    @memcpy(destination[size..][0..rest.len], rest);
    return size + rest.len;
}
