//! Splits elements into symbols and merges them, with vectors; see split and merge in
//! tiered_scalar.zig.

const std = @import("std");
const format = @import("tiered_format.zig");
const isa = @import("tiered_isa.zig");
const tasks = @import("tiered_task.zig");
const scalar = @import("tiered_scalar.zig");
const Layout = format.Layout;
const Vector = isa.Vector;
const lanes = isa.lanes;
const splat = isa.splat;

/// The function that stores a vector: isa.store or isa.stream.
pub const Store = fn (to: [*]u8, vector: Vector) callconv(.@"inline") void;

/// Merges symbols into elements. Reads and writes exactly these.
pub fn mergeAll(
    comptime layout: Layout,
    comptime store: Store,
    symbols: *const [layout.planeWidths().len][*]const u8,
    count: usize,
    destination: [*]u8,
) void {
    const element_size = comptime layout.elementSize();
    var planes: [symbols.len]Vector = undefined;
    var index: usize = 0;
    while (count - index >= lanes) : (index += lanes) {
        inline for (&planes, symbols) |*plane, from| plane.* = isa.load(from + index);
        storeAll(store, destination + index * element_size, merge(layout, planes));
    }
    const rest = count - index;
    if (rest == 0) return;
    inline for (&planes, symbols) |*plane, from| {
        var copy: [lanes]u8 = @splat(0);
        @memcpy(copy[0..rest], from[index..]);
        plane.* = copy;
    }
    var elements: [element_size * lanes]u8 = undefined;
    storeAll(isa.store, &elements, merge(layout, planes));
    @memcpy(destination[index * element_size ..], elements[0 .. rest * element_size]);
}

inline fn storeAll(comptime store: Store, to: [*]u8, vectors: anytype) void {
    inline for (vectors, 0..) |vector, index| store(to + index * lanes, vector);
}

inline fn loadAll(comptime count: usize, from: [*]const u8) [count]Vector {
    var vectors: [count]Vector = undefined;
    inline for (&vectors, 0..) |*vector, index| vector.* = isa.load(from + index * lanes);
    return vectors;
}

const Words = @Vector(lanes / 2, u16);

inline fn merge(
    comptime layout: Layout,
    planes: [layout.planeWidths().len]Vector,
) [layout.elementSize()]Vector {
    switch (layout) {
        .byte => return planes,
        .bf16 => return .{ mergeBf16(planes, 0), mergeBf16(planes, 1) },
        .f16 => {
            const high = mergeE5M2(planes[0], planes[1]);
            return .{ interleave(u8, planes[2], high, 0), interleave(u8, planes[2], high, 1) };
        },
        .f32 => {
            var result: [4]Vector = undefined;
            inline for (0..2) |half| {
                const high: Words = @bitCast(mergeBf16(planes[0..2].*, half));
                const low: Words = @bitCast(interleave(u8, planes[3], planes[2], half));
                result[2 * half] = @bitCast(interleave(u16, low, high, 0));
                result[2 * half + 1] = @bitCast(interleave(u16, low, high, 1));
            }
            return result;
        },
        .fp8_e4m3 => {
            const sign = planes[1] >> splat(3) << splat(7);
            return .{sign | planes[0] << splat(3) | (planes[1] & splat(7))};
        },
        .fp8_e5m2 => return .{mergeE5M2(planes[0], planes[1])},
    }
}

inline fn mergeBf16(planes: [2]Vector, comptime half: usize) Vector {
    const rotated: Words = @bitCast(interleave(u8, planes[1], planes[0], half));
    return @bitCast(rotated >> @splat(1) | rotated << @splat(15));
}

inline fn mergeE5M2(exponent: Vector, rest: Vector) Vector {
    return rest >> splat(2) << splat(7) | exponent << splat(2) | (rest & splat(3));
}

/// The first or second half of two interleaved vectors, beginning with `low`.
inline fn interleave(
    comptime T: type,
    low: anytype,
    high: @TypeOf(low),
    comptime half: usize,
) @TypeOf(low) {
    const count = @typeInfo(@TypeOf(low)).vector.len;
    comptime var order: [count]i32 = undefined;
    inline for (&order, 0..) |*from, index| {
        const lane = half * count / 2 + index / 2;
        from.* = if (index % 2 == 0) lane else ~@as(i32, lane);
    }
    return @shuffle(T, low, high, order);
}

/// The bytes at even or odd indices of two vectors.
inline fn every2nd(first: Vector, second: Vector, comptime offset: usize) Vector {
    comptime var order: [lanes]i32 = undefined;
    inline for (&order, 0..) |*from, index| {
        const byte: i32 = (2 * index + offset) % lanes;
        from.* = if (index < lanes / 2) byte else ~byte;
    }
    return @shuffle(u8, first, second, order);
}

inline fn split(
    comptime layout: Layout,
    elements: [layout.elementSize()]Vector,
) [layout.planeWidths().len]Vector {
    switch (layout) {
        .byte => return elements,
        .bf16 => return splitBf16(elements),
        .f16 => {
            const high = every2nd(elements[0], elements[1], 1);
            return splitE5M2(high) ++ .{every2nd(elements[0], elements[1], 0)};
        },
        .f32 => {
            const low: [2]Vector = .{
                every2ndWord(elements[0], elements[1], 0),
                every2ndWord(elements[2], elements[3], 0),
            };
            const high: [2]Vector = .{
                every2ndWord(elements[0], elements[1], 1),
                every2ndWord(elements[2], elements[3], 1),
            };
            return splitBf16(high) ++ .{ every2nd(low[0], low[1], 1), every2nd(low[0], low[1], 0) };
        },
        .fp8_e4m3 => {
            const sign = elements[0] >> splat(7) << splat(3);
            return .{ elements[0] >> splat(3) & splat(0xf), sign | (elements[0] & splat(7)) };
        },
        .fp8_e5m2 => return splitE5M2(elements[0]),
    }
}

inline fn splitBf16(elements: [2]Vector) [2]Vector {
    var rotated: [2]Vector = undefined;
    inline for (&rotated, elements) |*result, vector| {
        const words: Words = @bitCast(vector);
        result.* = @bitCast(words << @splat(1) | words >> @splat(15));
    }
    return .{ every2nd(rotated[0], rotated[1], 1), every2nd(rotated[0], rotated[1], 0) };
}

inline fn splitE5M2(bytes: Vector) [2]Vector {
    const sign = bytes >> splat(7) << splat(2);
    return .{ bytes >> splat(2) & splat(0x1f), sign | (bytes & splat(3)) };
}

inline fn every2ndWord(first: Vector, second: Vector, comptime offset: usize) Vector {
    comptime var order: [lanes / 2]i32 = undefined;
    inline for (&order, 0..) |*from, index| {
        const word: i32 = (2 * index + offset) % (lanes / 2);
        from.* = if (index < lanes / 4) word else ~word;
    }
    const words: [2]Words = .{ @bitCast(first), @bitCast(second) };
    return @bitCast(@shuffle(u16, words[0], words[1], order));
}

/// Splits elements into symbols. Writes up to a vector more per plane.
pub fn splitAll(
    comptime layout: Layout,
    source: [*]const u8,
    element_count: usize,
    planes: *[format.plane_count_max]tasks.Symbols,
) void {
    const element_size = comptime layout.elementSize();
    var copy: [element_size * lanes]u8 = @splat(0);
    var index: usize = 0;
    while (index < element_count) : (index += lanes) {
        var from = source + index * element_size;
        const rest = element_count - index;
        if (rest < lanes) {
            @memcpy(copy[0 .. rest * element_size], from);
            from = &copy;
        }
        const elements = loadAll(element_size, from);
        inline for (split(layout, elements), 0..) |symbols, plane| {
            isa.store(planes[plane][index..].ptr, symbols);
        }
    }
}

pub fn isConstant(layout: Layout, plane: usize, symbol: u8, source: []const u8) bool {
    switch (layout) {
        inline else => |known| {
            const step = lanes * comptime known.elementSize();
            var differences = splat(0);
            var offset: usize = 0;
            while (source.len - offset >= step) : (offset += step) {
                const symbols = split(known, loadAll(step / lanes, source.ptr + offset));
                inline for (symbols, 0..) |vector, index| {
                    if (index == plane) differences |= vector ^ splat(symbol);
                }
            }
            if (isa.maskOf(differences != splat(0)) != 0) return false;
            return scalar.isConstant(layout, plane, symbol, source[offset..]);
        },
    }
}
