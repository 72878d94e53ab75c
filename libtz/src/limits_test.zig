//! Tests of the memory that a file can make a reader allocate: nothing for sizes that it only
//! claims, little for its contents, and no damage when any allocation fails.

const std = @import("std");
const builders = @import("builder.zig");
const Builder = builders.Builder;
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const encode = @import("encode.zig");
const codecs = @import("codec.zig");
const format = @import("format.zig");
const headers = @import("header.zig");
const Header = headers.Header;
const planning = @import("plan.zig");
const types = @import("plan_types.zig");
const Range = @import("chunk_entries.zig").Range;
const status = @import("status.zig");
const Diagnostic = status.Diagnostic;
const Node = @import("structure.zig").Node;
const Pair = @import("metadata.zig").Pair;
const Verifier = @import("verifier.zig").Verifier;

const Allocator = std.mem.Allocator;
const FailingAllocator = std.testing.FailingAllocator;
const expect = std.testing.expect;
const expectEqual = std.testing.expectEqual;

const u8_code = 0x02;
const bf16_code = 0x11;

fn open(gpa: Allocator, front: []const u8, file_size: u64) !*Header {
    var diagnostic: Diagnostic = .{};
    return switch (try headers.open(gpa, front, file_size, .{}, &diagnostic)) {
        .header => |header| header,
        .need_more => error.NeedMore,
    };
}

// ---- Failing allocations ------------------------------------------------------------------------

const small_specs = [_]builders.Spec{
    .{ .name = "weight", .shape = &.{ 3, 20_000 }, .dtype = bf16_code },
    .{ .name = "bias", .shape = &.{5}, .dtype = u8_code },
    .{ .name = "tied", .shape = &.{5}, .dtype = u8_code, .tie = 1 },
    .{ .name = "none", .shape = &.{0}, .dtype = u8_code },
};

const small_options: builders.Options = .{
    .chunk_size_log2 = 16,
    .metadata = &.{ .{ .key = "b", .value = "2" }, .{ .key = "a", .value = "1" } },
    .nodes = &.{
        .{ .kind = .dict, .key_kind = .none, .value = 2 },
        .{ .kind = .list, .key_kind = .str, .key = 1, .key_bytes = "l", .value = 2 },
        .{ .kind = .tensor, .key_kind = .none, .value = 0 },
        .{ .kind = .tensor, .key_kind = .none, .value = 1 },
        .{ .kind = .tuple, .key_kind = .int, .key = 9, .value = 2 },
        .{ .kind = .tensor, .key_kind = .none, .value = 2 },
        .{ .kind = .tensor, .key_kind = .none, .value = 3 },
    },
};

/// Compressible, so that the codec allocates too.
fn smallData(gpa: Allocator, size: usize) ![]u8 {
    const data = try gpa.alloc(u8, size);
    for (data, 0..) |*byte, at| byte.* = if (at % 2 == 0) @truncate(at *% 0x9E37) else 0x3C;
    return data;
}

fn writeSmall(gpa: Allocator) ![]u8 {
    var diagnostic: Diagnostic = .{};
    const builder: *Builder = try .init(gpa, &small_specs, small_options, &diagnostic);
    defer builder.deinit();
    const file = try gpa.alloc(u8, @intCast(builder.fileSizeMax().?));
    errdefer gpa.free(file);
    @memset(file, 0);
    for (small_specs, 0..) |spec, number| {
        if (!builder.hasData(number)) continue;
        const data = try smallData(gpa, @intCast(builder.items[number].decoded_size));
        defer gpa.free(data);
        const image = try gpa.alloc(u8, encode.outputSizeMax(data.len).?);
        defer gpa.free(image);
        var entries: [2]encode.Entry = undefined;
        const count: usize = @intCast(bytes.divCeil(data.len, 1 << 16));
        const dtype: u16 = @intCast(spec.dtype);
        const list = entries[0..count];
        const encoding: encode.Options = .{ .dtype = dtype, .chunk_size = 1 << 16 };
        const size = try encode.encodeChunks(gpa, encoding, data, image, list);
        const stored = if (size == 0) data else image[0..size];
        const offset = try builder.putChunks(number, list);
        @memcpy(file[@intCast(offset)..][0..stored.len], stored);
        try builder.putContent(number, checksum.blake3(data));
    }
    const size = try builder.finish(file);
    return gpa.realloc(file, @intCast(size));
}

fn planSmall(gpa: Allocator, header: *const Header) !void {
    const begin = [_]u64{ 1, 7 };
    const end = [_]u64{ 3, 9_000 };
    const items = [_]types.ReadItem{
        .{ .tensor = header.index.find("weight").? },
        .{ .tensor = header.index.find("weight").?, .begin = &begin, .end = &end },
        .{ .tensor = header.index.find("tied").? },
    };
    var diagnostic: Diagnostic = .{};
    const slabs: types.Options = .{ .slab_size_max = 100, .slab_tensor_max = 10 };
    var plan = try planning.make(gpa, header, &items, slabs, &diagnostic);
    plan.deinit();
    var staged = try planning.make(gpa, header, items[2..], .{ .staged = true }, &diagnostic);
    staged.deinit();
}

fn verifySmall(gpa: Allocator, header: *const Header, file: []const u8) !void {
    var verifier: Verifier = try .init(gpa, header);
    defer verifier.deinit();
    var diagnostic: Diagnostic = .{};
    while (true) {
        const range = try verifier.next(&diagnostic);
        if (range.size == 0) return verifier.finish(&diagnostic);
        try verifier.put(file[@intCast(range.offset)..][0..@intCast(range.size)], &diagnostic);
    }
}

fn wholeLife(gpa: Allocator) !void {
    const file = try writeSmall(gpa);
    defer gpa.free(file);
    const header = try open(gpa, file, file.len);
    defer header.deinit();
    const chunk_entries = &header.chunk_entries.?;
    var ranges: [4]Range = undefined;
    var diagnostic: Diagnostic = .{};
    const count = try chunk_entries.missing(gpa, header.index, &.{ 0, 3 }, 0, &ranges);
    for (ranges[0..count]) |range| {
        const run = file[@intCast(range.offset)..][0..@intCast(range.size)];
        try chunk_entries.put(gpa, header.index, range.offset, run, &diagnostic);
    }
    try planSmall(gpa, header);
    try verifySmall(gpa, header, file);
}

test "every allocation may fail, from writing to checking" {
    try std.testing.checkAllAllocationFailures(std.testing.allocator, wholeLife, .{});
}

test "chunk entries that found no memory can be put again" {
    const gpa = std.testing.allocator;
    const file = try writeSmall(gpa);
    defer gpa.free(file);
    const header = try open(gpa, file, file.len);
    defer header.deinit();
    const chunk_entries = &header.chunk_entries.?;
    var diagnostic: Diagnostic = .{};
    for (0..2) |fail_index| {
        var failing: FailingAllocator = .init(gpa, .{ .fail_index = fail_index });
        const put = chunk_entries.put(failing.allocator(), header.index, 0, file, &diagnostic);
        try std.testing.expectError(error.OutOfMemory, put);
        try expectEqual(1, try chunk_entries.missing(gpa, header.index, null, 0, &.{}));
    }
    try chunk_entries.put(gpa, header.index, 0, file, &diagnostic);
    try expectEqual(0, try chunk_entries.missing(gpa, header.index, null, 0, &.{}));
}

// ---- Claimed sizes ------------------------------------------------------------------------------

test "a preamble that claims the most costs nothing" {
    const gpa = std.testing.allocator;
    const file = try writeSmall(gpa);
    defer gpa.free(file);
    const preamble = file[0..format.preamble_size];
    bytes.put(u32, preamble, 12, format.section_count_max);
    bytes.put(u64, preamble, 32, format.file_size_max);
    bytes.put(u64, preamble, 40, format.file_size_max);
    bytes.put(u64, preamble, 48, format.open_size_max);
    bytes.put(u32, preamble, 56, format.tensor_count_max);
    bytes.put(u64, preamble, 64, format.chunk_count_max);
    bytes.put(u32, preamble, 124, checksum.crc32c(0, preamble[0..124]));
    var failing: FailingAllocator = .init(gpa, .{ .fail_index = 0 });
    const none = failing.allocator();
    var diagnostic: Diagnostic = .{};
    const size = format.file_size_max;
    const outcome = try headers.open(none, preamble, size, .{}, &diagnostic);
    try expectEqual(format.open_size_max, outcome.need_more);
    // The caller's limit refuses it before more is fetched.
    const refused = headers.open(none, preamble, size, .{ .open_size_max = 1 << 20 }, &diagnostic);
    try std.testing.expectError(error.Limit, refused);
    try expect(!failing.has_induced_failure);
}

test "counts and sizes in the tables cost nothing either" {
    const gpa = std.testing.allocator;
    // A tensor of 2^62 bytes is refused, since its chunk entries are not in the table.
    var diagnostic: Diagnostic = .{};
    const specs = [_]builders.Spec{.{ .name = "w", .shape = &.{1 << 62}, .dtype = u8_code }};
    var failing: FailingAllocator = .init(gpa, .{});
    const made = Builder.init(failing.allocator(), &specs, .{}, &diagnostic);
    try std.testing.expectError(error.Limit, made);
    try expect(failing.allocated_bytes < 10_000);
    try expectEqual(failing.allocated_bytes, failing.freed_bytes);
}

/// Bytes that opening allocates in total, per byte of the header.
fn costOfOpening(specs: []const builders.Spec, options: builders.Options) !f64 {
    const gpa = std.testing.allocator;
    var diagnostic: Diagnostic = .{};
    const builder: *Builder = try .init(gpa, specs, options, &diagnostic);
    defer builder.deinit();
    const header_bytes = try gpa.alloc(u8, @intCast(builder.header_size));
    defer gpa.free(header_bytes);
    const file_size = try builder.finish(header_bytes);
    var counting: FailingAllocator = .init(gpa, .{});
    const header = try open(counting.allocator(), header_bytes, file_size);
    defer header.deinit();
    const cost: f64 = @floatFromInt(counting.allocated_bytes);
    return cost / @as(f64, @floatFromInt(header.open_size));
}

test "opening takes memory in proportion to the header, for any contents" {
    var arena_state: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena_state.deinit();
    const arena = arena_state.allocator();
    const count = 20_000;
    // Empty tensors, which have only records.
    const specs = try arena.alloc(builders.Spec, count);
    const deep: [format.rank_max]u64 = @splat(0);
    for (specs, 0..) |*spec, number| {
        const name = try std.fmt.allocPrint(arena, "{x}", .{number});
        spec.* = .{ .name = name, .shape = &.{0}, .dtype = u8_code };
    }
    try expect(try costOfOpening(specs, .{}) < 6);
    for (specs) |*spec| spec.shape = &deep;
    try expect(try costOfOpening(specs, .{}) < 6);
    // The shortest pairs: 8 bytes and a short key.
    const pairs = try arena.alloc(Pair, format.metadata_count_max);
    for (pairs, 0..) |*pair, number| {
        pair.* = .{ .key = try std.fmt.allocPrint(arena, "{x}", .{number}), .value = "" };
    }
    try expect(try costOfOpening(&.{}, .{ .metadata = pairs }) < 18);
    // Nodes of 24 bytes: leaves, then dicts, whose keys are collected to find duplicates.
    const nodes = try arena.alloc(Node, count);
    @memset(nodes, .{ .kind = .none, .key_kind = .none });
    nodes[0] = .{ .kind = .list, .key_kind = .none, .value = count - 1 };
    try expect(try costOfOpening(&.{}, .{ .nodes = nodes }) < 4);
    nodes[0].kind = .dict;
    for (nodes[1..], 1..) |*node, number| {
        node.* = .{ .kind = .none, .key_kind = .int, .key = number };
    }
    try expect(try costOfOpening(&.{}, .{ .nodes = nodes }) < 5);
}

// ---- Large files --------------------------------------------------------------------------------

/// The header of a model of 2 TB in 150,000 tensors, with made-up chunk entries.
const Giant = struct {
    const tensor_count = 150_000;
    const tensor_size = 13_400_000;

    bytes: []u8,
    file_size: u64,

    fn init(gpa: Allocator) !Giant {
        var arena_state: std.heap.ArenaAllocator = .init(gpa);
        defer arena_state.deinit();
        const arena = arena_state.allocator();
        const specs = try arena.alloc(builders.Spec, tensor_count);
        for (specs, 0..) |*spec, number| spec.* = .{
            .name = try std.fmt.allocPrint(
                arena,
                "model.layers.{d}.mlp.experts.{d}.down_proj.weight",
                .{ number / 512, number % 512 },
            ),
            .shape = try arena.dupe(u64, &.{ 3350, 2000 }),
            .dtype = bf16_code,
        };
        var diagnostic: Diagnostic = .{};
        const builder: *Builder = try .init(gpa, specs, .{}, &diagnostic);
        defer builder.deinit();
        try expectEqual(2 << 20, builder.chunk_size);
        var entries: [7]encode.Entry = undefined;
        for (&entries, 0..) |*entry, number| entry.* = .{
            .stored_length = if (number < 6) 2 << 20 else tensor_size - 6 * (2 << 20),
            .codec = codecs.raw,
            .crc = 0,
            .digest = @splat(1),
        };
        for (0..tensor_count) |spec| {
            _ = try builder.putChunks(spec, &entries);
            try builder.putContent(spec, @splat(2));
        }
        const out = try gpa.alloc(u8, @intCast(builder.header_size));
        errdefer gpa.free(out);
        return .{ .bytes = out, .file_size = try builder.finish(out) };
    }
};

test "2 TB in 150,000 tensors open within 200 MiB, and one tensor costs its run" {
    const gpa = std.testing.allocator;
    const giant: Giant = try .init(gpa);
    defer gpa.free(giant.bytes);
    try expect(giant.file_size > 2_000_000_000_000);
    const open_size: usize = @intCast(bytes.get(u64, giant.bytes, 48));

    const io = std.testing.io;
    var fastest_ms: i64 = std.math.maxInt(i64);
    for (0..3) |_| { // the machine may be busy
        const begin: std.Io.Timestamp = .now(io, .awake);
        (try open(std.heap.smp_allocator, giant.bytes[0..open_size], giant.file_size)).deinit();
        fastest_ms = @min(fastest_ms, begin.untilNow(io, .awake).toMilliseconds());
    }
    // Tests are not optimized; a release build takes a fifth of the time.
    try expect(fastest_ms < 5000);

    var counting: FailingAllocator = .init(gpa, .{});
    const header = try open(counting.allocator(), giant.bytes[0..open_size], giant.file_size);
    defer header.deinit();
    try expect(counting.allocated_bytes < 200 << 20);
    try expect(counting.allocated_bytes < 6 * open_size);

    // One tensor in the middle: seven entries to fetch, and memory only for these.
    const chunk_entries = &header.chunk_entries.?;
    var ranges: [2]Range = undefined;
    const before = counting.allocated_bytes;
    const allocator = counting.allocator();
    const tensors = [_]u32{77_777};
    const missing = try chunk_entries.missing(allocator, header.index, &tensors, 1 << 20, &ranges);
    try expectEqual(1, missing);
    try expectEqual(7 * format.chunk_record_size, ranges[0].size);
    const run = giant.bytes[@intCast(ranges[0].offset)..][0..@intCast(ranges[0].size)];
    var diagnostic: Diagnostic = .{};
    try chunk_entries.put(allocator, header.index, ranges[0].offset, run, &diagnostic);
    const items = [_]types.ReadItem{.{ .tensor = 77_777 }};
    var plan = try planning.make(allocator, header, &items, .{}, &diagnostic);
    defer plan.deinit();
    try expectEqual(1, plan.requests.items.len);
    try expectEqual(Giant.tensor_size, plan.bytes_read);
    try expect(counting.allocated_bytes - before < 10_000);
}
