//! Random chunks of every kind, for tests and fuzzers.

const std = @import("std");
const format = @import("tiered_format.zig");
const scalar = @import("tiered_scalar.zig");
const Header = format.Header;
const PlaneKind = format.PlaneKind;

pub const Kinds = [format.plane_count_max]PlaneKind;

/// A header with these kinds, or others where a plane's width does not allow them, and with tables
/// of random symbols.
pub fn header(
    random: std.Random,
    layout: format.Layout,
    element_count: usize,
    kinds: Kinds,
) Header {
    var result = Header.init(layout, element_count * layout.elementSize()) catch unreachable;
    for (layout.planeWidths(), 0..) |width, index| {
        const plane = &result.plane_buffer[index];
        plane.* = .{ .kind = .constant, .width = width };
        for ([_]PlaneKind{ kinds[index], .raw, .tiered_223 }) |kind| {
            if (!kind.isAllowed(width)) continue;
            plane.kind = kind;
            break;
        }
        var symbols: [256]u8 = undefined;
        const alphabet = symbols[0 .. @as(usize, 1) << @intCast(width)];
        for (alphabet, 0..) |*symbol, value| symbol.* = @intCast(value);
        random.shuffle(u8, alphabet);
        if (plane.kind == .constant) plane.value = alphabet[0];
        const table_size = plane.kind.tableSize();
        @memcpy(plane.table[0..table_size], alphabet[0..table_size]);
    }
    return result;
}

/// Fills `source` with elements for `target`. Symbols are from the plane's table, mostly from its
/// beginning; with odds of `escape_odds` in 256, any symbol.
pub fn fill(random: std.Random, target: *const Header, escape_odds: u8, source: []u8) void {
    switch (target.layout) {
        inline else => |layout| {
            const element_size = comptime layout.elementSize();
            for (0..target.element_count) |index| {
                var symbols: scalar.Symbols = @splat(0);
                for (target.planes(), 0..) |*plane, plane_index| {
                    symbols[plane_index] = symbolOf(random, plane, escape_odds);
                }
                const element = source[index * element_size ..][0..element_size];
                element.* = scalar.merge(layout, symbols);
            }
        },
    }
}

fn symbolOf(random: std.Random, plane: *const format.Plane, escape_odds: u8) u8 {
    if (plane.kind == .constant) return plane.value;
    const table = plane.table[0..plane.kind.tableSize()];
    const bits = random.int(u64);
    const index = @clz(@as(u32, @truncate(bits)));
    const escapes = @as(u8, @truncate(bits >> 32)) < escape_odds;
    if (index < table.len and !escapes) return table[index];
    const mask = (@as(u16, 1) << @intCast(plane.width)) - 1;
    return @intCast(@as(u16, @truncate(bits >> 40)) & mask);
}
