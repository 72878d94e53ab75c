//! The vector kernels, in one source for all vector lengths; tiered_isa.zig defines the length of
//! this compilation. No branch depends on data, so hostile data is as fast as any other.
//!
//! Only scratch memory is read and written beyond the requested range. Reads of stored bytes and
//! writes to the destination are exact.

const std = @import("std");
const format = @import("tiered_format.zig");
const elements = @import("tiered_vector_elements.zig");
const isa = @import("tiered_isa.zig");
const tasks = @import("tiered_task.zig");
const Layout = format.Layout;
const Mask = isa.Mask;
const PlaneTask = tasks.PlaneTask;
const Vector = isa.Vector;
const Verdict = tasks.DecodeVerdict;
const lanes = isa.lanes;
const maskOf = isa.maskOf;
const splat = isa.splat;

pub const splitAll = elements.splitAll;
pub const isConstant = elements.isConstant;

const parts = format.lane_count / lanes;
const Codes = tasks.Codes;

/// Code `slot` of each lane, from the rows of a group.
inline fn codesOf(comptime code_bits: u8, comptime slot: usize, rows: []const Vector) Vector {
    const bit = slot * code_bits;
    const row = bit / 8;
    var codes = rows[row] >> @splat(bit % 8);
    if (bit % 8 + code_bits > 8) codes |= rows[row + 1] << @splat(8 - bit % 8);
    return codes & splat((1 << code_bits) - 1);
}

/// Adds code `slot` of each lane to the rows of a group.
inline fn addCodes(
    comptime code_bits: u8,
    comptime slot: usize,
    rows: []Vector,
    codes: Vector,
) void {
    const bit = slot * code_bits;
    const row = bit / 8;
    rows[row] |= codes << @splat(bit % 8);
    if (bit % 8 + code_bits > 8) rows[row + 1] |= codes >> @splat(8 - bit % 8);
}

const all_lanes = std.math.maxInt(Mask);

/// The lowest `count` lanes.
inline fn firstLanes(count: usize) Mask {
    if (count >= lanes) return all_lanes;
    return (@as(Mask, 1) << @intCast(count)) - 1;
}

/// The position of the decoder in a plane's codes.
const Cursor = struct {
    codes: [*]const u8,
    table: Vector = undefined,
    escaped: [*]const u8 = undefined,
    taken: usize = 0,
    unused: Mask = 0,

    fn ofTier(tier: tasks.Tier, escaped: [*]const u8) Cursor {
        var table: [lanes]u8 = @splat(0); // 0 also for escapes, as `spread` needs
        for (&table, 0..) |*symbol, index| {
            const code = index % 16;
            if (code < format.symbolCount(tier.code_bits)) symbol.* = tier.table[code];
        }
        return .{ .codes = tier.codes, .table = table, .escaped = escaped };
    }

    fn verdict(cursor: *const Cursor, escape_count: usize) Verdict {
        if (cursor.unused != 0) return .unused_code;
        return if (cursor.taken == escape_count) .ok else .escape_count;
    }
};

/// Turns the next `count` codes into symbols. Only the last `count` need not be a multiple of the
/// group size. Writes up to a vector more.
fn expand(
    comptime codes: Codes,
    comptime code_bits: u8,
    cursor: *Cursor,
    count: usize,
    symbols: [*]u8,
) void {
    const group_size = comptime format.groupSize(code_bits);
    const tail_count = count % group_size;
    expandGroups(codes, code_bits, cursor, count / group_size, symbols);
    if (tail_count != 0) {
        expandTail(codes, code_bits, cursor, tail_count, symbols + count - tail_count);
    }
}

fn expandGroups(
    comptime codes: Codes,
    comptime code_bits: u8,
    cursor: *Cursor,
    group_count: usize,
    symbols: [*]u8,
) void {
    const row_count = comptime format.rowCount(code_bits);
    @setEvalBranchQuota(20_000); // for the unrolled groups
    var local = cursor.*; // stays in registers, since `symbols` cannot alias it
    var to = symbols;
    for (0..group_count) |_| {
        var rows: [parts][row_count]Vector = undefined;
        inline for (0..parts) |part| inline for (0..row_count) |row| {
            rows[part][row] = isa.load(local.codes + row * format.lane_count + part * lanes);
        };
        inline for (0..comptime format.slotCount(code_bits)) |slot| inline for (0..parts) |part| {
            const values = codesOf(code_bits, slot, &rows[part]);
            isa.store(to, symbolsOf(codes, code_bits, &local, values, all_lanes));
            to += lanes;
        };
        local.codes += format.lane_count * row_count;
    }
    cursor.* = local;
}

fn expandTail(
    comptime codes: Codes,
    comptime code_bits: u8,
    cursor: *Cursor,
    count: usize,
    symbols: [*]u8,
) void {
    const row_count = comptime format.rowCount(code_bits);
    const lane_count = format.groupLanes(code_bits, count);
    var copies: [row_count][format.lane_count]u8 = @splat(@splat(0));
    for (&copies, 0..) |*copy, row| {
        @memcpy(copy[0..lane_count], cursor.codes[row * lane_count ..]);
    }
    inline for (0..comptime format.slotCount(code_bits)) |slot| {
        var lane: usize = 0;
        while (lane < lane_count) : (lane += lanes) {
            var rows: [row_count]Vector = undefined;
            inline for (&rows, &copies) |*row, *copy| row.* = isa.load(copy[lane..].ptr);
            const values = codesOf(code_bits, slot, &rows);
            const index = slot * lane_count + lane;
            const valid = firstLanes(@min(count -| index, lane_count - lane));
            cursor.unused |= maskOf(values != splat(0)) & ~valid;
            const decoded = symbolsOf(codes, code_bits, cursor, values, valid);
            if (index < count) isa.store(symbols + index, decoded);
        }
    }
}

inline fn symbolsOf(
    comptime codes: Codes,
    comptime code_bits: u8,
    cursor: *Cursor,
    values: Vector,
    valid: Mask,
) Vector {
    if (codes == .plain) return values;
    const escape_code = (1 << code_bits) - 1;
    const escapes = maskOf(values == splat(escape_code)) & valid;
    const from = cursor.escaped + cursor.taken;
    cursor.taken += @popCount(escapes);
    return isa.spread(isa.lookup(cursor.table, values), escapes, from);
}

fn expandTiered(code_bits: u8, cursor: *Cursor, count: usize, symbols: [*]u8) void {
    switch (code_bits) {
        inline 2, 3, 4 => |known| expand(.tiered, known, cursor, count, symbols),
        else => unreachable,
    }
}

/// Decodes the symbols that escape a plane's first tier.
fn decodeInner(
    plane: *const PlaneTask,
    element_count: usize,
    scratch: *[2]tasks.Symbols,
    escaped: *tasks.Symbols,
) Verdict {
    const literals = plane.literals(element_count);
    @memcpy(scratch[0][0..literals.len], literals);
    if (!areLiterals(plane, &scratch[0], literals.len)) return .literal;
    var tier_index = plane.kind.plan().len - 1;
    var source: usize = 0;
    while (tier_index > 0) : (tier_index -= 1) {
        const tier = plane.tier(element_count, tier_index);
        const symbols = if (tier_index == 1) escaped else &scratch[1 - source];
        var cursor: Cursor = .ofTier(tier, &scratch[source]);
        expandTiered(tier.code_bits, &cursor, tier.count, symbols);
        const verdict = cursor.verdict(tier.escape_count);
        if (verdict != .ok) return verdict;
        source = 1 - source;
    }
    return .ok;
}

fn areLiterals(plane: *const PlaneTask, literals: *const tasks.Symbols, count: usize) bool {
    const largest: u8 = @truncate((@as(u32, 1) << @intCast(plane.width)) - 1);
    var index: usize = 0;
    while (index < count) : (index += lanes) {
        const values = isa.load(literals[index..].ptr);
        var wrong = maskOf(values > splat(largest));
        for (plane.symbols()) |symbol| wrong |= maskOf(values == splat(symbol));
        if (wrong & firstLanes(count - index) != 0) return false;
    }
    return true;
}

pub fn decode(task: *const tasks.DecodeTask) Verdict {
    var cursors: [format.plane_count_max]Cursor = undefined;
    for (task.activePlanes(), 0..) |*plane, index| {
        const escaped = &task.scratch.planes[index];
        cursors[index] = .{ .codes = plane.stored };
        if (plane.kind == .constant) @memset(&task.scratch.tiles[index], plane.value);
        if (plane.kind.plan().len == 0) continue;
        const verdict = decodeInner(plane, task.element_count, &task.scratch.escaped, escaped);
        if (verdict != .ok) return verdict;
        cursors[index] = .ofTier(plane.tier(task.element_count, 0), escaped);
    }
    switch (task.layout) {
        inline else => |layout| if (task.streams) {
            decodeTiles(layout, isa.stream, task, &cursors);
            isa.endStream();
        } else {
            decodeTiles(layout, isa.store, task, &cursors);
        },
    }
    for (task.activePlanes(), 0..) |*plane, index| {
        const escape_count = if (plane.kind.plan().len == 0) 0 else plane.escapes[0];
        const verdict = cursors[index].verdict(escape_count);
        if (verdict != .ok) return verdict;
    }
    return .ok;
}

fn decodeTiles(
    comptime layout: Layout,
    comptime store: elements.Store,
    task: *const tasks.DecodeTask,
    cursors: *[format.plane_count_max]Cursor,
) void {
    const plane_count = comptime layout.planeWidths().len;
    const planes = task.planes[0..plane_count];
    var begin: usize = 0;
    while (begin < task.element_count) : (begin += tasks.tile_size) {
        const count = @min(tasks.tile_size, task.element_count - begin);
        var symbols: [plane_count][*]const u8 = undefined;
        for (&symbols, planes, cursors[0..plane_count], 0..) |*from, *plane, *cursor, index| {
            const tile = &task.scratch.tiles[index];
            from.* = tile;
            switch (plane.kind) {
                .constant => {},
                .raw => switch (plane.width) {
                    inline 3, 4 => |width| expand(.plain, width, cursor, count, tile),
                    else => from.* = plane.stored + begin,
                },
                else => |kind| expandTiered(kind.plan()[0], cursor, count, tile),
            }
        }
        const destination = task.destination + begin * comptime layout.elementSize();
        elements.mergeAll(layout, store, &symbols, count, destination);
    }
}

/// Turns symbols into codes, which fill `packed_codes`. Copies the symbols that escape, and returns
/// their number. Reads and writes up to a vector more of `symbols` and `escaped`.
pub fn pack(
    comptime codes: Codes,
    comptime code_bits: u8,
    symbols: []const u8,
    table: [*]const u8,
    packed_codes: []u8,
    escaped: [*]u8,
) usize {
    const slots = comptime format.slotCount(code_bits);
    const row_count = comptime format.rowCount(code_bits);
    const group_size = comptime format.groupSize(code_bits);
    @setEvalBranchQuota(20_000); // for the unrolled groups
    var to = packed_codes.ptr;
    var escaped_end = escaped;
    const tail_begin = symbols.len / group_size * group_size;
    var begin: usize = 0;
    while (begin < tail_begin) : (begin += group_size) {
        var rows: [parts][row_count]Vector = @splat(@splat(splat(0)));
        inline for (0..slots) |slot| inline for (0..parts) |part| {
            const from = symbols.ptr + begin + slot * format.lane_count + part * lanes;
            const values = codesFor(codes, code_bits, from, table, all_lanes, &escaped_end);
            addCodes(code_bits, slot, &rows[part], values);
        };
        inline for (0..parts) |part| inline for (0..row_count) |row| {
            isa.store(to + row * format.lane_count + part * lanes, rows[part][row]);
        };
        to += row_count * format.lane_count;
    }
    if (begin == symbols.len) return escaped_end - escaped;

    const lane_count = format.groupLanes(code_bits, symbols.len - begin);
    var values: [group_size + lanes]u8 = @splat(0);
    var index = begin;
    while (index < symbols.len) : (index += lanes) {
        const valid = firstLanes(symbols.len - index);
        isa.store(
            values[index - begin ..].ptr,
            codesFor(codes, code_bits, symbols.ptr + index, table, valid, &escaped_end),
        );
    }
    for (0..lane_count) |lane| {
        var word: u32 = 0;
        inline for (0..slots) |slot| {
            word |= @as(u32, values[slot * lane_count + lane]) << (slot * code_bits);
        }
        inline for (0..row_count) |row| to[row * lane_count + lane] = @truncate(word >> (8 * row));
    }
    return escaped_end - escaped;
}

inline fn codesFor(
    comptime codes: Codes,
    comptime code_bits: u8,
    from: [*]const u8,
    table: [*]const u8,
    valid: Mask,
    escaped_end: *[*]u8,
) Vector {
    const symbols = isa.load(from);
    var values = symbols;
    if (codes == .tiered) {
        const escape_code = (1 << code_bits) - 1;
        values = splat(escape_code);
        inline for (0..escape_code) |code| {
            values = @select(u8, symbols == splat(table[code]), splat(code), values);
        }
        const escapes = maskOf(values == splat(escape_code)) & valid;
        isa.gather(escaped_end.*, escapes, symbols, from);
        escaped_end.* += @popCount(escapes);
    }
    return @select(u8, @as(@Vector(lanes, bool), @bitCast(valid)), values, splat(0));
}
