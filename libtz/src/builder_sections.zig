//! What a builder derives from the specs before it gets any data: checked, sorted and tied items,
//! and the sections that do not depend on data.

const std = @import("std");
const bytes = @import("bytes.zig");
const dtypes = @import("dtype.zig");
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const Pair = @import("metadata.zig").Pair;
const metadata = @import("metadata.zig");
const status = @import("status.zig");
const structures = @import("structure.zig");
const tensor_table = @import("tensor_table.zig");

const Allocator = std.mem.Allocator;
const nowhere = status.Diagnostic.none;

pub const Spec = struct {
    name: []const u8,
    shape: []const u64,
    dtype: u32,
    /// Another spec whose data this one shares, or `format.none`.
    tie: u32 = format.none,
    /// Needed for a dtype of the extensible range only, where it does not follow from the shape.
    decoded_size: u64 = 0,
};

/// A spec, with derived facts and what has been put for it.
pub const Item = struct {
    spec: Spec,
    decoded_size: u64,
    /// Index in the tensor table.
    sorted: u32 = 0,
    /// The spec with the smallest name among those tied; itself if not tied.
    owner: u32,
    data_offset: u64 = 0,
    stored_size: u64 = 0,
    chunk_begin: u64 = 0,
    /// Null until it is put. Empty tensors have one from the beginning.
    content: ?Digest = null,

    pub fn hasData(self: Item, index: usize) bool {
        return self.owner == index and self.decoded_size != 0;
    }
};

pub fn copySpecs(
    allocator: Allocator,
    specs: []const Spec,
    diagnostic: *status.Diagnostic,
) status.Error![]Item {
    const items = try allocator.alloc(Item, specs.len);
    for (specs, items, 0..) |spec, *item, index| {
        diagnostic.tensor = index;
        if (spec.name.len > format.name_size_max) return diagnostic.fail(error.Name, 22, nowhere);
        if (!bytes.isText(spec.name) or bytes.hasControl(spec.name)) {
            return diagnostic.fail(error.Name, 23, nowhere);
        }
        if (dtypes.byCode(spec.dtype) == null and !dtypes.isExtensible(spec.dtype)) {
            return diagnostic.fail(error.Feature, 25, nowhere);
        }
        if (spec.shape.len > format.rank_max) return diagnostic.fail(error.Limit, 27, nowhere);
        item.* = .{
            .spec = .{
                .name = try allocator.dupe(u8, spec.name),
                .shape = try allocator.dupe(u64, spec.shape),
                .dtype = spec.dtype,
                .tie = spec.tie,
            },
            .decoded_size = try decodedSize(spec, diagnostic),
            .owner = @intCast(index),
        };
    }
    diagnostic.tensor = nowhere;
    return items;
}

fn decodedSize(spec: Spec, diagnostic: *status.Diagnostic) status.DataError!u64 {
    const size = tensor_table.decodedSize(spec.dtype, spec.shape) orelse
        return diagnostic.fail(error.Limit, 29, nowhere);
    if (spec.decoded_size > format.file_size_max) return diagnostic.fail(error.Limit, 74, nowhere);
    if (dtypes.byCode(spec.dtype) == null) return spec.decoded_size;
    if (spec.decoded_size != 0 and spec.decoded_size != size) {
        return diagnostic.fail(error.Shape, 30, nowhere);
    }
    return size;
}

pub fn sortByName(
    allocator: Allocator,
    items: []Item,
    diagnostic: *status.Diagnostic,
) status.Error![]u32 {
    const sorted = try allocator.alloc(u32, items.len);
    for (sorted, 0..) |*spec, index| spec.* = @intCast(index);
    std.mem.sortUnstable(u32, sorted, @as([]const Item, items), struct {
        fn lessThan(all: []const Item, a: u32, b: u32) bool {
            return std.mem.order(u8, all[a].spec.name, all[b].spec.name) == .lt;
        }
    }.lessThan);
    for (sorted, 0..) |spec, index| {
        items[spec].sorted = @intCast(index);
        if (index == 0) continue;
        const before = items[sorted[index - 1]].spec.name;
        if (std.mem.eql(u8, before, items[spec].spec.name)) {
            diagnostic.tensor = @max(spec, sorted[index - 1]);
            return diagnostic.fail(error.Name, 24, nowhere);
        }
    }
    return sorted;
}

/// Joins specs that are tied, directly or through others, and makes the smallest name of each group
/// the owner.
pub fn resolveTies(items: []Item, diagnostic: *status.Diagnostic) status.Error!void {
    for (items, 0..) |item, index| {
        if (item.spec.tie == format.none) continue;
        diagnostic.tensor = index;
        if (item.spec.tie >= items.len) return error.Argument;
        if (item.spec.tie == index) return diagnostic.fail(error.Tie, 32, nowhere);
        const other = items[item.spec.tie];
        if (other.spec.dtype != item.spec.dtype or other.decoded_size != item.decoded_size or
            !std.mem.eql(u64, other.spec.shape, item.spec.shape))
        {
            return diagnostic.fail(error.Tie, 76, nowhere);
        }
        if (item.decoded_size == 0) return diagnostic.fail(error.Tie, 77, nowhere);
        const a = root(items, @intCast(index));
        const b = root(items, item.spec.tie);
        if (items[a].sorted < items[b].sorted) items[b].owner = a else items[a].owner = b;
    }
    diagnostic.tensor = nowhere;
    for (items, 0..) |*item, index| item.owner = root(items, @intCast(index));
}

/// The end of a chain of owners. Halves the chain on the way, so that long ones stay cheap.
fn root(items: []Item, start: u32) u32 {
    var index = start;
    while (items[index].owner != index) {
        items[index].owner = items[items[index].owner].owner;
        index = items[index].owner;
    }
    return index;
}

/// 1 MiB, doubled as long as the file would have more than 2^20 chunks.
pub fn chunkSize(items: []const Item, log2: u32) status.CallError!u64 {
    if (log2 != 0) {
        const is_valid = log2 >= format.chunk_size_log2_min and log2 <= format.chunk_size_log2_max;
        if (!is_valid) return error.Argument;
        return @as(u64, 1) << @intCast(log2);
    }
    var total: u64 = 0;
    for (items, 0..) |item, index| {
        if (item.hasData(index)) total +|= item.decoded_size;
    }
    var size: u64 = 1 << 20;
    while (size < 1 << format.chunk_size_log2_max and total / size > 1 << 20) size *= 2;
    return size;
}

pub fn encodeShapes(
    allocator: Allocator,
    items: []const Item,
    sorted: []const u32,
) error{OutOfMemory}![]u8 {
    var count: usize = 0;
    for (items) |item| count += item.spec.shape.len;
    const out = try allocator.alloc(u8, count * format.shape_record_size);
    var position: usize = 0;
    for (sorted) |spec| {
        for (items[spec].spec.shape) |dimension| {
            bytes.put(u64, out, position, dimension);
            position += format.shape_record_size;
        }
    }
    return out;
}

pub fn encodeNames(
    allocator: Allocator,
    items: []const Item,
    sorted: []const u32,
    diagnostic: *status.Diagnostic,
) status.Error![]u8 {
    var size: u64 = 0;
    for (items) |item| size += item.spec.name.len;
    if (size > format.open_size_max) return diagnostic.fail(error.Limit, 8, nowhere);
    const out = try allocator.alloc(u8, @intCast(size));
    var position: usize = 0;
    for (sorted) |spec| {
        const name = items[spec].spec.name;
        @memcpy(out[position..][0..name.len], name);
        position += name.len;
    }
    return out;
}

/// Checks the nodes by reading back what was written: one set of rules for both directions.
pub fn encodeStructure(
    gpa: Allocator,
    allocator: Allocator,
    items: []const Item,
    nodes: []const structures.Node,
    diagnostic: *status.Diagnostic,
) status.Error![]u8 {
    if (nodes.len == 0) return &.{};
    var size: u64 = 0;
    for (nodes) |node| size +|= node.encodedSize();
    if (size > format.open_size_max) return diagnostic.fail(error.Limit, 8, nowhere);
    const out = try allocator.alloc(u8, @intCast(size));
    var position: usize = 0;
    for (nodes) |node| {
        var numbered = node;
        if (node.kind == .tensor) {
            if (node.value >= items.len) return error.Argument;
            numbered.value = items[@intCast(node.value)].sorted;
        }
        numbered.encode(out[position..][0..@intCast(node.encodedSize())]);
        position += @intCast(node.encodedSize());
    }
    _ = try structures.decode(gpa, allocator, out, @intCast(items.len), 0, diagnostic);
    return out;
}

pub fn encodeMetadata(
    allocator: Allocator,
    pairs: []const Pair,
    diagnostic: *status.Diagnostic,
) status.Error![]u8 {
    const sorted = try allocator.dupe(Pair, pairs);
    std.mem.sortUnstable(Pair, sorted, {}, Pair.lessThan);
    var size: u64 = 0;
    for (sorted) |pair| {
        if (std.mem.startsWith(u8, pair.key, "tz.")) {
            return diagnostic.fail(error.Metadata, 59, nowhere);
        }
        if (pair.value.len > std.math.maxInt(u32)) {
            return diagnostic.fail(error.Limit, 8, nowhere);
        }
        size +|= pair.encodedSize();
    }
    if (size > format.open_size_max) return diagnostic.fail(error.Limit, 8, nowhere);
    const out = try allocator.alloc(u8, @intCast(size));
    var position: usize = 0;
    for (sorted) |pair| {
        pair.encode(out[position..][0..@intCast(pair.encodedSize())]);
        position += @intCast(pair.encodedSize());
    }
    _ = try metadata.decode(allocator, out, 0, diagnostic);
    return out;
}
