//! Changes files where it matters: in fields, records and sections that are found by the format's
//! own tables. Half of all changed files are resealed: every checksum is computed again bottom-up,
//! so that a reader gets past them to the rules behind.

const std = @import("std");
const sample = @import("sample.zig");
const tz = @import("tz");

const Allocator = std.mem.Allocator;
const format = tz.format;
const Bytes = std.ArrayList(u8);

const Field = struct { offset: usize, size: usize };

const preamble_fields = [_]Field{
    .{ .offset = 8, .size = 2 },  .{ .offset = 10, .size = 2 },  .{ .offset = 12, .size = 4 },
    .{ .offset = 16, .size = 8 }, .{ .offset = 24, .size = 8 },  .{ .offset = 32, .size = 8 },
    .{ .offset = 40, .size = 8 }, .{ .offset = 48, .size = 8 },  .{ .offset = 56, .size = 4 },
    .{ .offset = 60, .size = 1 }, .{ .offset = 61, .size = 1 },  .{ .offset = 64, .size = 8 },
    .{ .offset = 72, .size = 8 }, .{ .offset = 104, .size = 8 },
};
const directory_fields = [_]Field{
    .{ .offset = 0, .size = 4 },  .{ .offset = 4, .size = 4 },  .{ .offset = 8, .size = 8 },
    .{ .offset = 16, .size = 8 }, .{ .offset = 24, .size = 4 }, .{ .offset = 28, .size = 4 },
    .{ .offset = 32, .size = 8 },
};
const tensor_fields = [_]Field{
    .{ .offset = 0, .size = 4 },  .{ .offset = 4, .size = 2 },  .{ .offset = 6, .size = 2 },
    .{ .offset = 8, .size = 4 },  .{ .offset = 12, .size = 1 }, .{ .offset = 13, .size = 1 },
    .{ .offset = 14, .size = 2 }, .{ .offset = 16, .size = 4 }, .{ .offset = 20, .size = 4 },
    .{ .offset = 24, .size = 8 }, .{ .offset = 32, .size = 8 }, .{ .offset = 40, .size = 8 },
    .{ .offset = 48, .size = 8 }, .{ .offset = 56, .size = 8 }, .{ .offset = 88, .size = 8 },
};
const shape_fields = [_]Field{.{ .offset = 0, .size = 8 }};
const chunk_fields = [_]Field{
    .{ .offset = 0, .size = 4 }, .{ .offset = 4, .size = 4 },  .{ .offset = 8, .size = 1 },
    .{ .offset = 9, .size = 1 }, .{ .offset = 16, .size = 8 },
};
const node_fields = [_]Field{
    .{ .offset = 0, .size = 1 }, .{ .offset = 1, .size = 1 },  .{ .offset = 2, .size = 1 },
    .{ .offset = 8, .size = 8 }, .{ .offset = 16, .size = 8 },
};
const pair_fields = [_]Field{ .{ .offset = 0, .size = 4 }, .{ .offset = 4, .size = 4 } };

/// A changed copy of a file, from `arena`. `file` may be anything, and is changed somehow.
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

// ---- Where things are --------------------------------------------------------------------------

const Range = struct { offset: usize, size: usize };

const Table = enum {
    directory,
    tensors,
    shapes,
    chunks,

    fn recordSize(self: Table) usize {
        return switch (self) {
            .directory => format.directory_entry_size,
            .tensors => format.tensor_record_size,
            .shapes => format.shape_record_size,
            .chunks => format.chunk_record_size,
        };
    }

    fn fields(self: Table) []const Field {
        return switch (self) {
            .directory => &directory_fields,
            .tensors => &tensor_fields,
            .shapes => &shape_fields,
            .chunks => &chunk_fields,
        };
    }

    fn range(self: Table, file: []const u8) Range {
        return switch (self) {
            .directory => .{
                .offset = format.preamble_size,
                .size = sectionCount(file) * format.directory_entry_size,
            },
            .tensors => sectionRange(file, format.section.tensors),
            .shapes => sectionRange(file, format.section.shapes),
            .chunks => sectionRange(file, format.section.chunks),
        };
    }
};

// What is behind the end is read as 0 and written nowhere: an earlier change may have cut the file
// in the middle of its tables.

fn get(comptime T: type, file: []const u8, offset: usize) T {
    if (offset + @sizeOf(T) > file.len) return 0;
    return std.mem.readInt(T, file[offset..][0..@sizeOf(T)], .little);
}

fn put(comptime T: type, file: []u8, offset: usize, value: T) void {
    if (offset + @sizeOf(T) > file.len) return;
    std.mem.writeInt(T, file[offset..][0..@sizeOf(T)], value, .little);
}

/// As many directory entries as there are and the file has.
fn sectionCount(file: []const u8) usize {
    if (file.len < format.preamble_size) return 0;
    const space = (file.len - format.preamble_size) / format.directory_entry_size;
    return @min(get(u32, file, 12), space, format.section_count_max);
}

fn entryOffset(number: usize) usize {
    return format.preamble_size + number * format.directory_entry_size;
}

fn clip(file: []const u8, offset: u64, size: u64) Range {
    const begin: usize = @intCast(@min(offset, file.len));
    return .{ .offset = begin, .size = @intCast(@min(size, file.len - begin)) };
}

fn entryRange(file: []const u8, number: usize) Range {
    const at = entryOffset(number);
    return clip(file, get(u64, file, at + 8), get(u64, file, at + 16));
}

/// What the file has of its first section of this type; nothing when there is none.
fn sectionRange(file: []const u8, section_type: u32) Range {
    for (0..sectionCount(file)) |number| {
        if (get(u32, file, entryOffset(number)) == section_type) return entryRange(file, number);
    }
    return .{ .offset = 0, .size = 0 };
}

// ---- Changes -----------------------------------------------------------------------------------

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
    // Any of the nodes with equal chance: a later one replaces the choice so far.
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

/// A byte of a name, key or value becomes one that text rules are about.
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
        // Mostly in the header.
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
/// would have.
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

/// New bytes at the end of a section: random, or again what stands before them.
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

/// Makes the zeros after `end` reach exactly to `begin`.
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

/// A later minor version with longer records, of which this one reads the front (section 15).
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

// ---- Checksums ---------------------------------------------------------------------------------

/// Computes every checksum again, as far as the tables lead to bytes of the file: chunks, runs,
/// sections, directory, preamble.
pub fn reseal(file: []u8) void {
    if (file.len < format.preamble_size) return;
    resealTensors(file);
    for (0..sectionCount(file)) |number| {
        const entry = entryOffset(number);
        const range = entryRange(file, number);
        file[entry + 32 ..][0..32].* = if (get(u32, file, entry) == format.section.chunks)
            @splat(0)
        else
            tz.checksum.blake3(file[range.offset..][0..range.size]);
    }
    const directory = Table.directory.range(file);
    file[72..104].* = tz.checksum.blake3(file[directory.offset..][0..directory.size]);
    put(u32, file, 124, tz.checksum.crc32c(0, file[0..124]));
}

/// How the records of a table are spaced in this file.
fn recordStride(file: []const u8, section_type: u32, smallest: usize) usize {
    for (0..sectionCount(file)) |number| {
        const entry = entryOffset(number);
        if (get(u32, file, entry) != section_type) continue;
        return @max(smallest, get(u32, file, entry + 24));
    }
    return smallest;
}

fn resealTensors(file: []u8) void {
    const tensors = Table.tensors.range(file);
    const table = Table.chunks.range(file);
    const stride = recordStride(file, format.section.tensors, format.tensor_record_size);
    const chunk_stride = recordStride(file, format.section.chunks, format.chunk_record_size);
    const chunk_size = @as(u64, 1) << @truncate(file[60]);
    var at = tensors.offset;
    while (at + format.tensor_record_size <= tensors.offset + tensors.size) : (at += stride) {
        const decoded_size = get(u64, file, at + 24);
        const tied = get(u32, file, at + 20) != format.none;
        const count = decoded_size / chunk_size + @intFromBool(decoded_size % chunk_size != 0);
        const run_offset = table.offset +| get(u64, file, at + 48) *| chunk_stride;
        const run = clip(file, run_offset, if (tied) 0 else count *| chunk_stride);
        resealChunks(file, run, chunk_stride, get(u64, file, at + 32));
        file[at + 56 ..][0..32].* = tz.checksum.blake3(file[run.offset..][0..run.size]);
    }
}

fn resealChunks(file: []u8, run: Range, stride: usize, data_offset: u64) void {
    var offset = data_offset;
    var at = run.offset;
    while (at + format.chunk_record_size <= run.offset + run.size) : (at += stride) {
        const length = get(u32, file, at);
        // Chunks that the file does not have keep their made-up checksums.
        if (offset < run.offset + run.size or offset +| length > file.len) return;
        const stored = file[@intCast(offset)..][0..length];
        put(u32, file, at + 4, tz.checksum.crc32c(0, stored));
        file[at + 16 ..][0..32].* = tz.checksum.blake3(stored);
        offset = std.mem.alignForward(u64, offset + length, format.chunk_alignment);
    }
}

test "resealing a valid file changes nothing" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var prng: std.Random.DefaultPrng = .init(std.testing.random_seed);
    for (0..50) |_| {
        const file = try sample.make(arena.allocator(), prng.random(), .whole);
        const copy = try arena.allocator().dupe(u8, file);
        reseal(copy);
        try std.testing.expectEqualSlices(u8, file, copy);
    }
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
