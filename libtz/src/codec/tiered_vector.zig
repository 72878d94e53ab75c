//! The vector kernels, one text for all vector lengths: tiered_isa.zig says which one this
//! compilation is for. No branch depends on data, so hostile data is as fast as any other.
//!
//! Reads go past what was asked for only within scratch memory, writes likewise: what is read of
//! stored bytes and written to the destination is exact.

const std = @import("std");
const format = @import("tiered_format.zig");
const isa = @import("tiered_isa.zig");
const jobs = @import("tiered_job.zig");
const scalar = @import("tiered_scalar.zig");
const Layout = format.Layout;
const Mask = isa.Mask;
const PlaneJob = jobs.PlaneJob;
const Vector = isa.Vector;
const Verdict = jobs.DecodeVerdict;
const lanes = isa.lanes;

const parts = format.lane_count / lanes;
const Codes = jobs.Codes;

/// Code `slot` of each lane out of the rows of a group.
inline fn codesOf(comptime code_bits: u8, comptime slot: usize, rows: []const Vector) Vector {
    const bit = slot * code_bits;
    const row = bit / 8;
    var codes = rows[row] >> @splat(bit % 8);
    if (bit % 8 + code_bits > 8) codes |= rows[row + 1] << @splat(8 - bit % 8);
    return codes & splat((1 << code_bits) - 1);
}

inline fn splat(byte: u8) Vector {
    return @splat(byte);
}

/// Adds code `slot` of each lane to the rows of a group.
inline fn addCodes(comptime code_bits: u8, comptime slot: usize, rows: []Vector, codes: Vector) void {
    const bit = slot * code_bits;
    const row = bit / 8;
    rows[row] |= codes << @splat(bit % 8);
    if (bit % 8 + code_bits > 8) rows[row + 1] |= codes >> @splat(8 - bit % 8);
}

inline fn maskOf(matches: @Vector(lanes, bool)) Mask {
    return @bitCast(matches);
}

/// The lowest `count` lanes.
inline fn firstLanes(count: usize) Mask {
    if (count >= lanes) return std.math.maxInt(Mask);
    return (@as(Mask, 1) << @intCast(count)) - 1;
}

/// Where the decoding of a plane's codes has come to.
const Cursor = struct {
    codes: [*]const u8,
    table: Vector = undefined,
    escaped: [*]const u8 = undefined,
    taken: usize = 0,
    unused: Mask = 0,

    fn ofTier(tier: jobs.Tier, escaped: [*]const u8) Cursor {
        var table: [lanes]u8 = @splat(0); // of escapes too, which `spread` needs
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

/// Turns the next `count` codes into symbols. A `count` that is no multiple of the group size must
/// be the last. Writes up to a vector more.
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
    var local = cursor.*; // registers, whatever `symbols` may point to
    var to = symbols;
    for (0..group_count) |_| {
        var rows: [parts][row_count]Vector = undefined;
        inline for (0..parts) |part| inline for (0..row_count) |row| {
            rows[part][row] = isa.load(local.codes + row * format.lane_count + part * lanes);
        };
        inline for (0..comptime format.slotCount(code_bits)) |slot| inline for (0..parts) |part| {
            const values = codesOf(code_bits, slot, &rows[part]);
            isa.store(to, symbolsOf(codes, code_bits, &local, values, std.math.maxInt(Mask)));
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

/// The symbols that escape a plane's first tier.
fn decodeInner(
    plane: *const PlaneJob,
    element_count: usize,
    scratch: *[2]jobs.Symbols,
    escaped: *jobs.Symbols,
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

fn areLiterals(plane: *const PlaneJob, literals: *const jobs.Symbols, count: usize) bool {
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

pub fn decode(job: *const jobs.DecodeJob) Verdict {
    var cursors: [format.plane_count_max]Cursor = undefined;
    for (job.activePlanes(), 0..) |*plane, index| {
        const escaped = &job.scratch.planes[index];
        cursors[index] = .{ .codes = plane.stored };
        if (plane.kind == .constant) @memset(&job.scratch.tiles[index], plane.value);
        if (plane.kind.plan().len == 0) continue;
        const verdict = decodeInner(plane, job.element_count, &job.scratch.escaped, escaped);
        if (verdict != .ok) return verdict;
        cursors[index] = .ofTier(plane.tier(job.element_count, 0), escaped);
    }
    switch (job.layout) {
        inline else => |layout| if (job.streams) {
            decodeTiles(layout, isa.stream, job, &cursors);
            isa.endStream();
        } else {
            decodeTiles(layout, isa.store, job, &cursors);
        },
    }
    for (job.activePlanes(), 0..) |*plane, index| {
        const escape_count = if (plane.kind.plan().len == 0) 0 else plane.escapes[0];
        const verdict = cursors[index].verdict(escape_count);
        if (verdict != .ok) return verdict;
    }
    return .ok;
}

const Store = fn (to: [*]u8, vector: Vector) callconv(.@"inline") void;

fn decodeTiles(
    comptime layout: Layout,
    comptime store: Store,
    job: *const jobs.DecodeJob,
    cursors: *[format.plane_count_max]Cursor,
) void {
    const plane_count = comptime layout.planeWidths().len;
    const planes = job.planes[0..plane_count];
    var begin: usize = 0;
    while (begin < job.element_count) : (begin += jobs.tile_size) {
        const count = @min(jobs.tile_size, job.element_count - begin);
        var symbols: [plane_count][*]const u8 = undefined;
        for (&symbols, planes, cursors[0..plane_count], 0..) |*from, *plane, *cursor, index| {
            const tile = &job.scratch.tiles[index];
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
        const destination = job.destination + begin * comptime layout.elementSize();
        mergeTile(layout, store, &symbols, count, destination);
    }
}

/// Puts elements together; reads and writes nothing else.
fn mergeTile(
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

/// The first or second half of what alternates between two vectors, `low` first.
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

/// The bytes at even or odd places of two vectors.
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
    return @bitCast(@shuffle(u16, @as(Words, @bitCast(first)), @as(Words, @bitCast(second)), order));
}

/// Cuts elements into symbols; writes up to a vector more per plane.
pub fn splitAll(
    comptime layout: Layout,
    source: [*]const u8,
    element_count: usize,
    planes: *[format.plane_count_max]jobs.Symbols,
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
            if (maskOf(differences != splat(0)) != 0) return false;
            return scalar.isConstant(layout, plane, symbol, source[offset..]);
        },
    }
}

/// Turns symbols into codes, which fill `packed_codes`; returns how many escape, and copies those.
/// Reads and writes up to a vector more of `symbols` and `escaped`.
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
            const values = codesFor(codes, code_bits, from, table, std.math.maxInt(Mask), &escaped_end);
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
