//! Changes files in their fields, records and sections, which tables.zig finds. Half of all changed
//! files are resealed: all checksums are recomputed bottom-up, so that a reader reaches the rules
//! behind them.

const std = @import("std");
const reseal = @import("reseal.zig").reseal;
const sample = @import("sample.zig");
const tables = @import("tables.zig");
const tz = @import("tz");
const Field = tables.Field;
const Table = tables.Table;
const entryOffset = tables.entryOffset;
const entryRange = tables.entryRange;
const get = tables.get;
const node_fields = tables.node_fields;
const pair_fields = tables.pair_fields;
const preamble_fields = tables.preamble_fields;
const put = tables.put;
const sectionCount = tables.sectionCount;
const sectionRange = tables.sectionRange;

const Allocator = std.mem.Allocator;
const format = tz.format;
const Bytes = std.ArrayList(u8);

/// A changed copy of a file, from `arena`. `file` may be any bytes.
pub fn mutate(arena: Allocator, random: std.Random, file: []const u8) ![]u8 {
    var bytes: Bytes = .empty;
    try bytes.appendSlice(arena, file);
    const changes = if (random.boolean()) 1 else random.intRangeAtMost(usize, 1, 5);
    for (0..changes) |_| try change(arena, random, &bytes);
    if (random.boolean()) reseal(bytes.items);
    return bytes.items;
}

fn change(arena: Allocator, random: std.Random, bytes: *Bytes) !void {
    if (bytes.items.len < format.preamble_size) {
        return random.bytes(try bytes.addManyAsSlice(arena, format.preamble_size));
    }
    switch (random.uintLessThan(u8, 20)) {
        0 => changeField(random, bytes.items, 0, &preamble_fields),
        1, 2 => changeRecord(random, bytes.items, .directory),
        3, 4, 5, 6 => changeRecord(random, bytes.items, .tensors),
        7 => changeRecord(random, bytes.items, .shapes),
        8, 9 => changeRecord(random, bytes.items, .chunks),
        10, 11 => changeNode(random, bytes.items),
        12 => changePair(random, bytes.items),
        13 => changeText(random, bytes.items),
        14 => swapRecords(random, bytes.items),
        15 => try resizeSection(arena, random, bytes),
        16 => try addSection(arena, random, bytes),
        17 => changeAnything(random, bytes.items),
        18 => try growRecords(arena, random, bytes),
        else => try resizeFile(arena, random, bytes),
    }
}

fn changeField(random: std.Random, file: []u8, record: usize, fields: []const Field) void {
    const field = fields[random.uintLessThan(usize, fields.len)];
    const at = record + field.offset;
    switch (field.size) {
        inline 1, 2, 4, 8 => |size| {
            const T = @Int(.unsigned, size * 8);
            put(T, file, at, @truncate(interesting(random, get(T, file, at), file.len)));
        },
        else => unreachable,
    }
}

/// A number near the old one, near a limit, or near a size.
fn interesting(random: std.Random, old: u64, file_size: usize) u64 {
    const step = @as(u64, 1) << random.uintLessThan(u6, 13);
    return switch (random.uintLessThan(u8, 12)) {
        0 => 0,
        1 => old +% 1,
        2 => old -% 1,
        3 => old +% step,
        4 => old -% step,
        5 => old ^ (@as(u64, 1) << random.int(u6)),
        6 => std.math.maxInt(u64),
        7 => (@as(u64, 1) << random.int(u6)) -% random.uintAtMost(u64, 1),
        8 => random.uintAtMost(u64, 130),
        9 => file_size -% random.uintAtMost(u64, 2),
        10 => old *% 2,
        else => random.int(u64),
    };
}

fn recordAt(random: std.Random, file: []const u8, table: Table) ?usize {
    const range = table.range(file);
    const count = range.size / table.recordSize();
    if (count == 0) return null;
    return range.offset + random.uintLessThan(usize, count) * table.recordSize();
}

fn changeRecord(random: std.Random, file: []u8, table: Table) void {
    const record = recordAt(random, file, table) orelse return;
    changeField(random, file, record, table.fields());
}

fn swapRecords(random: std.Random, file: []u8) void {
    const table: Table = @fromBackingInt(random.int(u2));
    const a = recordAt(random, file, table) orelse return;
    const b = recordAt(random, file, table) orelse return;
    const size = table.recordSize();
    if (random.boolean()) return @memmove(file[a..][0..size], file[b..][0..size]);
    for (file[a..][0..size], file[b..][0..size]) |*left, *right| std.mem.swap(u8, left, right);
}

fn changeNode(random: std.Random, file: []u8) void {
    const range = sectionRange(file, format.section.structure);
    // Each node with equal probability: a later one may replace the choice so far.
    var chosen: ?usize = null;
    var number: usize = 0;
    var at = range.offset;
    const end = range.offset + range.size;
    while (at + format.structure_node_size <= end) : (number += 1) {
        if (random.uintAtMost(usize, number) == 0) chosen = at;
        var size: u64 = format.structure_node_size;
        if (file[at + 1] == 1 or file[at + 1] == 3) size +|= get(u64, file, at + 8);
        const kind = file[at];
        if (kind == 4 or kind == 5 or kind == 10) size +|= get(u64, file, at + 16);
        if (size > end - at) break;
        at += @intCast(size);
    }
    changeField(random, file, chosen orelse return, &node_fields);
}

fn changePair(random: std.Random, file: []u8) void {
    const range = sectionRange(file, format.section.metadata);
    var chosen: ?usize = null;
    var number: usize = 0;
    var at = range.offset;
    const end = range.offset + range.size;
    while (at + 8 <= end) : (number += 1) {
        if (random.uintAtMost(usize, number) == 0) chosen = at;
        const size = 8 + @as(u64, get(u32, file, at)) + get(u32, file, at + 4);
        if (size > end - at) break;
        at += @intCast(size);
    }
    changeField(random, file, chosen orelse return, &pair_fields);
}

/// Replaces a byte of a name, key or value with one that text rules concern.
fn changeText(random: std.Random, file: []u8) void {
    const types = [_]u32{ format.section.names, format.section.structure, format.section.metadata };
    const range = sectionRange(file, types[random.uintLessThan(usize, types.len)]);
    if (range.size == 0) return;
    const letters = "\x00\x1F\x7F\x80\x9F\xA0\xBF\xC0\xC2\xE0\xED\xF4\xFFa0.";
    const at = range.offset + random.uintLessThan(usize, range.size);
    file[at] = letters[random.uintLessThan(usize, letters.len)];
}

fn changeAnything(random: std.Random, file: []u8) void {
    for (0..random.intRangeAtMost(usize, 1, 8)) |_| {
        // Usually in the header.
        const limit = if (random.boolean()) file.len else @min(file.len, 2048);
        file[random.uintLessThan(usize, limit)] ^= @as(u8, 1) << random.int(u3);
    }
}

fn resizeFile(arena: Allocator, random: std.Random, bytes: *Bytes) !void {
    const size = random.intRangeAtMost(usize, 1, 200);
    if (random.boolean()) {
        bytes.shrinkRetainingCapacity(bytes.items.len -| size);
    } else {
        @memset(try bytes.addManyAsSlice(arena, size), 0);
    }
    if (bytes.items.len >= format.preamble_size and random.boolean()) {
        put(u64, bytes.items, 32, bytes.items.len);
    }
}

/// Makes a section longer or shorter and moves everything behind it, as a writer of such a section
/// would.
fn resizeSection(arena: Allocator, random: std.Random, bytes: *Bytes) !void {
    const count = sectionCount(bytes.items);
    if (count == 0) return;
    const number = random.uintLessThan(usize, count);
    const record_size = get(u32, bytes.items, entryOffset(number) + 24);
    const unit = if (record_size == 0 or record_size > 1000) 1 else record_size;
    const change_size = unit * random.intRangeAtMost(usize, 1, 3);
    const range = entryRange(bytes.items, number);
    if (random.boolean()) {
        try insert(arena, random, bytes, number, range.offset + range.size, change_size);
    } else if (range.size >= change_size) {
        const begin = range.offset + range.size - change_size;
        bytes.replaceRangeAssumeCapacity(begin, change_size, &.{});
        put(u64, bytes.items, entryOffset(number) + 16, range.size - change_size);
        try realign(arena, bytes, number);
    }
}

/// New bytes at the end of a section: random, or a copy of the bytes before them.
fn insert(
    arena: Allocator,
    random: std.Random,
    bytes: *Bytes,
    number: usize,
    at: usize,
    size: usize,
) !void {
    const fresh = try arena.alloc(u8, size);
    if (random.boolean() and at >= size) {
        @memcpy(fresh, bytes.items[at - size ..][0..size]);
    } else random.bytes(fresh);
    try bytes.insertSlice(arena, at, fresh);
    const entry = entryOffset(number);
    put(u64, bytes.items, entry + 16, get(u64, bytes.items, entry + 16) +% size);
    try realign(arena, bytes, number);
}

/// After the section `changed` was resized: pads it to the alignment, moves the entries of later
/// sections with their bytes, and makes counts and sizes in the preamble fit.
fn realign(arena: Allocator, bytes: *Bytes, changed: usize) !void {
    var end: usize = 0;
    for (changed..@max(changed, sectionCount(bytes.items))) |number| {
        const entry = entryOffset(number);
        if (number == changed) {
            const range = entryRange(bytes.items, number);
            end = range.offset + range.size;
        } else {
            const begin = std.mem.alignForward(usize, end, format.section_alignment);
            try setPadding(arena, bytes, end, begin);
            put(u64, bytes.items, entry + 8, begin);
            end = begin + @as(usize, @intCast(@min(get(u64, bytes.items, entry + 16), 1 << 40)));
        }
        fixCounts(bytes.items, entry, end);
    }
    put(u64, bytes.items, 40, end);
    put(u64, bytes.items, 32, bytes.items.len);
}

/// Makes the padding after `end` end exactly at `begin`.
fn setPadding(arena: Allocator, bytes: *Bytes, end: usize, begin: usize) !void {
    if (end > bytes.items.len) return;
    var zeros: usize = 0;
    for (bytes.items[end..]) |byte| {
        if (byte != 0 or zeros == 64) break;
        zeros += 1;
    }
    const padding: [64]u8 = @splat(0);
    try bytes.replaceRange(arena, end, zeros, padding[0 .. begin - end]);
}

fn fixCounts(file: []u8, entry: usize, end: usize) void {
    const size = get(u64, file, entry + 16);
    const record_size = @max(1, get(u32, file, entry + 24));
    switch (get(u32, file, entry)) {
        format.section.tensors => put(u32, file, 56, @truncate(size / record_size)),
        format.section.chunks => {
            put(u64, file, 48, end -| size);
            put(u64, file, 64, size / record_size);
        },
        else => {},
    }
}

/// A section of another type, critical or not, with its bytes.
fn addSection(arena: Allocator, random: std.Random, bytes: *Bytes) !void {
    const count = sectionCount(bytes.items);
    if (count == 0) return;
    const number = random.uintAtMost(usize, count);
    // The directory grows by an entry and stays a multiple of the alignment.
    var entry: [format.directory_entry_size]u8 = @splat(0);
    const before = if (number == 0) 0 else get(u32, bytes.items, entryOffset(number - 1));
    put(u32, &entry, 0, before +% random.intRangeAtMost(u32, 1, 20));
    put(u32, &entry, 4, random.uintAtMost(u32, 1));
    const content_at = if (number == count)
        bytes.items.len
    else
        entryRange(bytes.items, number).offset;
    try bytes.insertSlice(arena, entryOffset(number), &entry);
    put(u32, bytes.items, 12, @intCast(count + 1));
    for (0..count + 1) |other| { // all sections moved with the directory's end
        if (other == number) continue;
        const at = entryOffset(other) + 8;
        put(u64, bytes.items, at, get(u64, bytes.items, at) +% format.directory_entry_size);
    }
    const begin = content_at + format.directory_entry_size;
    put(u64, bytes.items, entryOffset(number) + 8, begin);
    try insert(arena, random, bytes, number, begin, 64 * random.uintAtMost(usize, 2));
}

/// A later minor version with longer records, whose beginnings this version reads (section 15).
fn growRecords(arena: Allocator, random: std.Random, bytes: *Bytes) !void {
    put(u16, bytes.items, 10, random.intRangeAtMost(u16, 0, 2));
    const types = [_]u32{ format.section.tensors, format.section.shapes, format.section.chunks };
    const wanted = types[random.uintLessThan(usize, types.len)];
    const number = for (0..sectionCount(bytes.items)) |number| {
        if (get(u32, bytes.items, entryOffset(number)) == wanted) break number;
    } else return;
    const range = entryRange(bytes.items, number);
    const entry = entryOffset(number);
    const old = get(u32, bytes.items, entry + 24);
    if (old == 0 or range.size / old > 1000) return;
    const extra = 8 * random.intRangeAtMost(usize, 1, 4);
    const count = range.size / old;
    const grown = try arena.alloc(u8, count * (old + extra));
    for (0..count) |record| {
        const target = grown[record * (old + extra) ..][0 .. old + extra];
        @memcpy(target[0..old], bytes.items[range.offset + record * old ..][0..old]);
        random.bytes(target[old..]);
    }
    try bytes.replaceRange(arena, range.offset, range.size, grown);
    put(u32, bytes.items, entry + 24, @truncate(old + extra));
    put(u64, bytes.items, entry + 16, grown.len);
    try realign(arena, bytes, number);
}

test "anything can be changed, again and again" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var prng: std.Random.DefaultPrng = .init(std.testing.random_seed);
    const random = prng.random();
    for (0..100) |round| {
        _ = arena.reset(.retain_capacity);
        const size = random.uintAtMost(usize, 600);
        var file = if (round % 2 == 0)
            try sample.make(arena.allocator(), random, .header_only)
        else
            try arena.allocator().alloc(u8, size);
        if (round % 2 == 1) random.bytes(file);
        for (0..100) |_| file = try mutate(arena.allocator(), random, file);
    }
}
