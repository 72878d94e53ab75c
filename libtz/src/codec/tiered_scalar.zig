//! The scalar kernels: a literal implementation of sections 3 to 5 of the specification. Vector
//! kernels are tested against them, and CPUs without vector kernels run them.

const std = @import("std");
const format = @import("tiered_format.zig");
const tasks = @import("tiered_task.zig");
const Layout = format.Layout;
const PlaneTask = tasks.PlaneTask;
const Codes = tasks.Codes;
const Verdict = tasks.DecodeVerdict;

/// An element's symbols, plane by plane.
pub const Symbols = [format.plane_count_max]u8;

pub inline fn split(comptime layout: Layout, element: *const [layout.elementSize()]u8) Symbols {
    return switch (layout) {
        .byte => .{ element[0], 0, 0, 0 },
        .bf16 => splitBf16(element) ++ .{ 0, 0 },
        .f16 => .{ element[1] >> 2 & 0x1f, element[1] >> 7 << 2 | (element[1] & 3), element[0], 0 },
        .f32 => splitBf16(element[2..4]) ++ .{ element[1], element[0] },
        .fp8_e4m3 => .{ element[0] >> 3 & 0xf, element[0] >> 7 << 3 | (element[0] & 7), 0, 0 },
        .fp8_e5m2 => .{ element[0] >> 2 & 0x1f, element[0] >> 7 << 2 | (element[0] & 3), 0, 0 },
    };
}

/// The exponent, and the mantissa with the sign below it.
inline fn splitBf16(element: *const [2]u8) [2]u8 {
    const rotated = std.math.rotl(u16, std.mem.readInt(u16, element, .little), 1);
    return .{ @truncate(rotated >> 8), @truncate(rotated) };
}

pub inline fn merge(comptime layout: Layout, symbols: Symbols) [layout.elementSize()]u8 {
    const exponent, const rest, const third, const fourth = symbols;
    return switch (layout) {
        .byte => .{exponent},
        .bf16 => mergeBf16(exponent, rest),
        .f16 => .{ third, rest >> 2 << 7 | exponent << 2 | (rest & 3) },
        .f32 => [_]u8{ fourth, third } ++ mergeBf16(exponent, rest),
        .fp8_e4m3 => .{rest >> 3 << 7 | exponent << 3 | (rest & 7)},
        .fp8_e5m2 => .{rest >> 2 << 7 | exponent << 2 | (rest & 3)},
    };
}

inline fn mergeBf16(exponent: u8, rest: u8) [2]u8 {
    var element: [2]u8 = undefined;
    const rotated = @as(u16, exponent) << 8 | rest;
    std.mem.writeInt(u16, &element, std.math.rotr(u16, rotated, 1), .little);
    return element;
}

/// Turns codes into symbols; an escape takes the next of `escaped`. `escaped` and `symbols` have
/// room for one symbol per code.
fn expand(
    comptime codes: Codes,
    comptime code_bits: u8,
    tier: tasks.Tier,
    escaped: [*]const u8,
    symbols: [*]u8,
) Verdict {
    const slots = comptime format.slotCount(code_bits);
    const escape_code = (1 << code_bits) - 1;
    var table: [1 << code_bits]u8 = @splat(0);
    if (codes == .tiered) @memcpy(table[0..escape_code], tier.table);
    var taken: usize = 0;
    var unused: u8 = 0;
    var index: usize = 0;
    var group = tier.codes;
    while (index < tier.count) {
        const lanes = format.groupLanes(code_bits, tier.count - index);
        inline for (0..slots) |slot| {
            const used = @min(lanes, tier.count - index);
            for (symbols[index..][0..used], 0..) |*symbol, lane| {
                const code = codeAt(code_bits, slot, group, lanes, lane);
                symbol.* = code;
                if (codes == .plain) continue;
                const next = escaped[taken]; // even if it is not needed: cheaper than a branch
                const escapes = code == escape_code;
                symbol.* = if (escapes) next else table[code];
                taken += @intFromBool(escapes);
            }
            for (used..lanes) |lane| unused |= codeAt(code_bits, slot, group, lanes, lane);
            index += used;
        }
        group += lanes * comptime format.rowCount(code_bits);
    }
    if (unused != 0) return .unused_code;
    return if (taken == tier.escape_count) .ok else .escape_count;
}

/// Code `slot` of a lane, from all of its rows.
inline fn codeAt(
    comptime code_bits: u8,
    comptime slot: usize,
    group: [*]const u8,
    lanes: usize,
    lane: usize,
) u8 {
    var word: u32 = 0;
    inline for (0..comptime format.rowCount(code_bits)) |row| {
        word |= @as(u32, group[row * lanes + lane]) << (8 * row);
    }
    return @intCast(word >> (slot * code_bits) & ((1 << code_bits) - 1));
}

fn expandTier(tier: tasks.Tier, escaped: [*]const u8, symbols: [*]u8) Verdict {
    return switch (tier.code_bits) {
        inline 2, 3, 4 => |code_bits| expand(.tiered, code_bits, tier, escaped, symbols),
        else => unreachable,
    };
}

/// Decodes the symbols that escape a plane's first tier, into `escaped[0]`.
fn decodeInner(plane: *const PlaneTask, element_count: usize, escaped: *[2]tasks.Symbols) Verdict {
    const literals = plane.literals(element_count);
    for (literals) |literal| {
        if (@as(u32, literal) >> @intCast(plane.width) != 0) return .literal;
        if (std.mem.indexOfScalar(u8, plane.symbols(), literal) != null) return .literal;
    }
    @memcpy(escaped[0][0..literals.len], literals);
    var tier_index = plane.kind.plan().len - 1;
    while (tier_index > 0) : (tier_index -= 1) {
        const tier = plane.tier(element_count, tier_index);
        const verdict = expandTier(tier, &escaped[0], &escaped[1]);
        if (verdict != .ok) return verdict;
        @memcpy(escaped[0][0..tier.count], escaped[1][0..tier.count]);
    }
    return .ok;
}

/// All symbols of a plane; `symbols` holds those that escape its first tier.
fn decodeOuter(
    plane: *const PlaneTask,
    element_count: usize,
    symbols: *tasks.Symbols,
    spare: *tasks.Symbols,
) Verdict {
    switch (plane.kind) {
        .constant => @memset(symbols[0..element_count], plane.value),
        .raw => switch (plane.width) {
            inline 3, 4 => |width| {
                return expand(.plain, width, plane.raw(element_count), undefined, symbols);
            },
            else => @memcpy(symbols[0..element_count], plane.stored),
        },
        else => {
            const tier = plane.tier(element_count, 0);
            @memcpy(spare[0..tier.escape_count], symbols[0..tier.escape_count]);
            return expandTier(tier, spare, symbols);
        },
    }
    return .ok;
}

pub fn decode(task: *const tasks.DecodeTask) Verdict {
    const element_count = task.element_count;
    const scratch = task.scratch;
    for (task.activePlanes(), 0..) |*plane, index| {
        if (plane.kind.plan().len == 0) continue;
        const verdict = decodeInner(plane, element_count, &scratch.escaped);
        if (verdict != .ok) return verdict;
        const escape_count = plane.escapes[0];
        @memcpy(scratch.planes[index][0..escape_count], scratch.escaped[0][0..escape_count]);
    }
    for (task.activePlanes(), 0..) |*plane, index| {
        const symbols = &scratch.planes[index];
        const verdict = decodeOuter(plane, element_count, symbols, &scratch.escaped[0]);
        if (verdict != .ok) return verdict;
    }
    switch (task.layout) {
        inline else => |layout| for (0..element_count) |index| {
            const element_size = comptime layout.elementSize();
            var symbols: Symbols = @splat(0);
            inline for (0..comptime layout.planeWidths().len) |plane| {
                symbols[plane] = scratch.planes[plane][index];
            }
            task.destination[index * element_size ..][0..element_size].* = merge(layout, symbols);
        },
    }
    return .ok;
}

/// Cuts elements into symbols.
pub fn splitAll(
    comptime layout: Layout,
    source: [*]const u8,
    element_count: usize,
    planes: *[format.plane_count_max]tasks.Symbols,
) void {
    const element_size = comptime layout.elementSize();
    for (0..element_count) |index| {
        const symbols = split(layout, source[index * element_size ..][0..element_size]);
        inline for (0..comptime layout.planeWidths().len) |plane| {
            planes[plane][index] = symbols[plane];
        }
    }
}

/// Turns symbols into codes, which fill `packed_codes`. Copies the symbols that escape, and returns
/// their number.
pub fn pack(
    comptime codes: Codes,
    comptime code_bits: u8,
    symbols: []const u8,
    table: [*]const u8,
    packed_codes: []u8,
    escaped: [*]u8,
) usize {
    const slots = comptime format.slotCount(code_bits);
    const rows = comptime format.rowCount(code_bits);
    const escape_code = (1 << code_bits) - 1;
    var code_of: [256]u8 = @splat(escape_code);
    if (codes == .tiered) {
        for (table[0..escape_code], 0..) |symbol, code| code_of[symbol] = @intCast(code);
    }
    @memset(packed_codes, 0);
    var escape_count: usize = 0;
    var index: usize = 0;
    var group = packed_codes.ptr;
    while (index < symbols.len) {
        const lanes = format.groupLanes(code_bits, symbols.len - index);
        inline for (0..slots) |slot| {
            const used = @min(lanes, symbols.len - index);
            for (symbols[index..][0..used], 0..) |symbol, lane| {
                const code = if (codes == .plain) symbol else code_of[symbol];
                const word = @as(u32, code) << (slot * code_bits);
                inline for (0..rows) |row| {
                    group[row * lanes + lane] |= @truncate(word >> (8 * row));
                }
                if (codes == .plain) continue;
                escaped[escape_count] = symbol; // overwritten unless it escapes
                escape_count += @intFromBool(code == escape_code);
            }
            index += used;
        }
        group += rows * lanes;
    }
    return escape_count;
}

/// In lines of the sample.
const prefetch_distance = 24;

pub fn histogram(sample: *const tasks.Sample, histograms: *tasks.Histograms) void {
    switch (sample.layout) {
        inline else => |layout| {
            const element_size = comptime layout.elementSize();
            var line: usize = 0;
            while (line < sample.line_count) : (line += sample.stride) {
                // Hardware prefetchers do not recognise such strides. Two prefetches, since the
                // source may not be aligned to cache lines.
                const ahead = sample.source + (line + prefetch_distance * sample.stride) * 64;
                @prefetch(ahead, .{});
                @prefetch(ahead + 63, .{});
                const elements = sample.source[line * 64 ..][0..64];
                for (0..64 / element_size) |index| {
                    const element = elements[index * element_size ..][0..element_size];
                    const symbols = split(layout, element);
                    inline for (0..comptime layout.planeWidths().len) |plane| {
                        histograms[plane][symbols[plane]] += 1;
                    }
                }
            }
        },
    }
}

pub fn isConstant(layout: Layout, plane: usize, symbol: u8, source: []const u8) bool {
    switch (layout) {
        inline else => |known| {
            const element_size = comptime known.elementSize();
            var index: usize = 0;
            while (index < source.len) : (index += element_size) {
                if (split(known, source[index..][0..element_size])[plane] != symbol) return false;
            }
        },
    }
    return true;
}
