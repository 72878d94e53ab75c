//! Valid files that use every feature, made by the builder, for the mutators.

const std = @import("std");
const tz = @import("tz");

const Allocator = std.mem.Allocator;
const builders = tz.builder;
const format = tz.format;
const Node = tz.structure.Node;

pub const Kind = enum {
    /// With data, small enough to be read thousands of times a second.
    whole,
    /// A header for a huge amount of data; its chunk entries are made up.
    header_only,
};

/// The bytes of a file, or of a header, allocated from `arena`.
pub fn make(arena: Allocator, random: std.Random, kind: Kind) ![]u8 {
    // In whole files, nearly always the smallest size, so that several chunks are few bytes.
    const chunk_size_log2 = if (kind == .header_only or random.uintLessThan(u8, 8) == 0)
        random.intRangeAtMost(u32, format.chunk_size_log2_min, format.chunk_size_log2_max)
    else
        format.chunk_size_log2_min;
    const unit_count_max = switch (kind) {
        .header_only => (@as(u64, 1) << @intCast(chunk_size_log2)) * random.uintAtMost(u64, 4) / 8,
        .whole => switch (random.uintLessThan(u8, 16)) {
            0 => @as(u64, 100_000),
            1 => 5_000,
            else => 300,
        },
    };
    const specs = try makeSpecs(arena, random, unit_count_max);
    const options: builders.Options = .{
        .chunk_size_log2 = chunk_size_log2,
        .metadata = try makePairs(arena, random),
        .nodes = if (random.boolean()) try makeNodes(arena, random, specs.len) else &.{},
    };
    var diagnostic: tz.status.Diagnostic = .{};
    const builder: *builders.Builder = try .init(arena, specs, options, &diagnostic);
    const size = if (kind == .whole) builder.fileSizeMax().? else builder.header_size;
    const file = try arena.alloc(u8, @intCast(size));
    @memset(file, 0);
    for (0..specs.len) |spec| {
        if (!builder.hasData(spec)) continue;
        switch (kind) {
            .whole => try putData(arena, random, builder, spec, file),
            .header_only => try putEntries(arena, random, builder, spec),
        }
    }
    const file_size = try builder.finish(file);
    return if (kind == .whole) file[0..@intCast(file_size)] else file;
}

fn makeSpecs(arena: Allocator, random: std.Random, unit_count_max: u64) ![]builders.Spec {
    const count = if (random.uintLessThan(u8, 16) == 0) 60 else random.uintAtMost(usize, 7);
    const specs = try arena.alloc(builders.Spec, count);
    for (specs, 0..) |*spec, index| {
        spec.* = .{
            .name = try makeName(arena, random, index),
            .dtype = randomDtype(random),
            .shape = try makeShape(arena, random, unit_count_max),
        };
        if (index == 0 or random.uintLessThan(u8, 4) != 0) continue;
        const other = random.uintLessThan(u32, @intCast(index));
        if (std.mem.findScalar(u64, specs[other].shape, 0) != null) continue;
        spec.dtype = specs[other].dtype;
        spec.shape = specs[other].shape;
        spec.tie = other;
    }
    return specs;
}

fn randomDtype(random: std.Random) u32 {
    if (random.boolean()) { // dtypes of models, which codecs support
        const common = [_][]const u8{ "bf16", "f32", "f16", "f8_e4m3fn", "u8" };
        return tz.dtype.byName(common[random.uintLessThan(usize, common.len)]).?.code;
    }
    while (true) {
        if (tz.dtype.byCode(random.uintAtMost(u32, 0x50))) |info| return info.code;
    }
}

/// Unique by its number, at the beginning or at the end.
fn makeName(arena: Allocator, random: std.Random, index: usize) ![]const u8 {
    const parts = [_][]const u8{
        "", "a", "layers.", "weight", "\u{FC}", "\u{20AC}", "\u{1D11E}", "../", " ",
    };
    const part = parts[random.uintLessThan(usize, parts.len)];
    if (random.uintLessThan(u8, 64) == 0) {
        const long = try arena.alloc(u8, random.intRangeAtMost(usize, 200, 3000));
        @memset(long, 'x');
        return std.fmt.allocPrint(arena, "{d}{s}", .{ index, long });
    }
    return if (random.boolean())
        std.fmt.allocPrint(arena, "{d}{s}", .{ index, part })
    else
        std.fmt.allocPrint(arena, "{s}.{d}", .{ part, index });
}

fn makeShape(arena: Allocator, random: std.Random, unit_count_max: u64) ![]u64 {
    const deep = random.uintLessThan(u8, 32) == 0;
    const rank = if (deep) format.rank_max else random.uintAtMost(usize, 4);
    const shape = try arena.alloc(u64, rank);
    var left = @max(1, unit_count_max);
    for (shape) |*dimension| {
        dimension.* = random.intRangeAtMost(u64, 1, @min(left, if (rank > 4) 2 else left));
        left /= dimension.*;
    }
    if (rank != 0 and random.uintLessThan(u8, 12) == 0) {
        shape[0] <<= 30; // no data, so it may be large
        shape[random.uintLessThan(usize, rank)] = 0;
    }
    return shape;
}

fn makePairs(arena: Allocator, random: std.Random) ![]tz.metadata.Pair {
    const count = if (random.boolean()) 0 else random.uintAtMost(usize, 4);
    const pairs = try arena.alloc(tz.metadata.Pair, count);
    for (pairs, 0..) |*pair, index| {
        const value = try arena.alloc(u8, random.uintAtMost(usize, 20));
        for (value) |*byte| byte.* = random.uintAtMost(u8, 0x7F);
        pair.* = .{ .key = try makeName(arena, random, index), .value = value };
        pair.key = pair.key[0..@min(pair.key.len, format.metadata_key_size_max)];
    }
    return pairs;
}

/// Every tensor once, with leaves of other kinds between, in containers that open and close at
/// random.
fn makeNodes(arena: Allocator, random: std.Random, tensor_count: usize) ![]Node {
    var nodes: std.ArrayList(Node) = .empty;
    var open: std.ArrayList(usize) = .empty;
    try nodes.append(arena, .{ .kind = randomContainer(random), .key_kind = .none });
    try open.append(arena, 0);
    var tensor: usize = 0;
    while (tensor < tensor_count) {
        const parent = open.items[open.items.len - 1];
        const choice = random.uintLessThan(u8, 12);
        if (choice < 2 and open.items.len > 1) {
            _ = open.pop();
            continue;
        }
        var node: Node = .{ .kind = .tensor, .key_kind = .none };
        if (choice < 4 and open.items.len < format.depth_max) {
            node.kind = randomContainer(random);
        } else if (choice < 7) {
            try randomLeaf(arena, random, &node);
        } else {
            node.value = tensor;
            tensor += 1;
        }
        if (nodes.items[parent].kind == .dict) try setKey(arena, random, &node, nodes.items.len);
        nodes.items[parent].value += 1;
        if (node.kind == .dict or node.kind == .list or node.kind == .tuple) {
            try open.append(arena, nodes.items.len);
        }
        try nodes.append(arena, node);
    }
    return nodes.items;
}

fn randomContainer(random: std.Random) tz.structure.Kind {
    return ([_]tz.structure.Kind{ .dict, .list, .tuple })[random.uintLessThan(usize, 3)];
}

fn randomLeaf(arena: Allocator, random: std.Random, node: *Node) !void {
    const kinds = [_]tz.structure.Kind{ .none, .bool, .int, .float, .str, .bytes, .large_int };
    node.kind = kinds[random.uintLessThan(usize, kinds.len)];
    switch (node.kind) {
        .none => {},
        .bool => node.value = random.uintAtMost(u64, 1),
        .int, .float => node.value = random.int(u64),
        .str, .bytes => {
            node.value_bytes = "text \u{20AC}"[0..if (random.boolean()) 8 else 0];
            node.value = node.value_bytes.len;
        },
        .large_int => {
            const positive: [9]u8 = .{ 0, 0, 0, 0, 0, 0, 0, 0, 1 };
            const negative: [12]u8 = .{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x80 };
            const data: []const u8 = if (random.boolean()) &positive else &negative;
            node.value_bytes = try arena.dupe(u8, data);
            node.value = node.value_bytes.len;
        },
        else => unreachable,
    }
}

fn setKey(arena: Allocator, random: std.Random, node: *Node, number: usize) !void {
    const choice = random.uintLessThan(u8, 8);
    if (choice < 2) {
        node.key_kind = .int;
        node.key = number;
    } else if (choice == 2) {
        const data = try arena.alloc(u8, 17);
        @memset(data, 1);
        std.mem.writeInt(u64, data[0..8], number, .little);
        node.key_kind = .large_int;
        node.key_bytes = data;
        node.key = data.len;
    } else {
        node.key_kind = .str;
        node.key_bytes = try std.fmt.allocPrint(arena, "{d}", .{number});
        node.key = node.key_bytes.len;
    }
}

fn chunkCount(size: u64, chunk_size: u64) usize {
    return @intCast(size / chunk_size + @intFromBool(size % chunk_size != 0));
}

fn putData(
    arena: Allocator,
    random: std.Random,
    builder: *builders.Builder,
    spec: usize,
    file: []u8,
) !void {
    const item = builder.items[spec];
    const data = try arena.alloc(u8, @intCast(item.decoded_size));
    fill(random, data);
    const chunk_size: usize = @intCast(builder.chunk_size);
    const image = try arena.alloc(u8, tz.encode.outputSizeMax(data.len).?);
    const entries = try arena.alloc(tz.encode.Entry, chunkCount(data.len, chunk_size));
    const dtype: u16 = @intCast(item.spec.dtype);
    const encoding: tz.encode.Options = .{ .dtype = dtype, .chunk_size = chunk_size };
    const size = try tz.encode.encodeChunks(arena, encoding, data, image, entries);
    const stored = if (size == 0) data else image[0..size];
    const offset = try builder.putChunks(spec, entries);
    @memcpy(file[@intCast(offset)..][0..stored.len], stored);
    try builder.putContent(spec, tz.checksum.blake3(data));
}

/// Values like weights (which a codec can compress), constants, or noise.
fn fill(random: std.Random, data: []u8) void {
    switch (random.uintLessThan(u8, 4)) {
        0 => random.bytes(data),
        1 => @memset(data, random.int(u8)),
        else => {
            random.bytes(data);
            var index: usize = 1;
            while (index < data.len) : (index += 2) data[index] = 0x3C | data[index] & 3;
        },
    }
}

fn putEntries(arena: Allocator, random: std.Random, builder: *builders.Builder, spec: usize) !void {
    const size = builder.items[spec].decoded_size;
    const entries = try arena.alloc(tz.encode.Entry, chunkCount(size, builder.chunk_size));
    const compressed = random.boolean();
    for (entries, 0..) |*entry, number| {
        const left = size - number * builder.chunk_size;
        const decoded_length: u32 = @intCast(@min(builder.chunk_size, left));
        entry.* = .{
            .stored_length = decoded_length,
            .codec = tz.codec.raw,
            .crc = random.int(u32),
            .digest = undefined,
        };
        random.bytes(&entry.digest);
        if (compressed and decoded_length > 1 and random.boolean()) {
            entry.codec = tz.codec.preferred.id;
            entry.stored_length = random.intRangeLessThan(u32, 1, decoded_length);
        }
    }
    _ = try builder.putChunks(spec, entries);
    try builder.putContent(spec, @splat(0x77));
}
