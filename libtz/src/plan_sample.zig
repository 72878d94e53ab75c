//! Random files, items and options for tests and fuzzing of plans.

const std = @import("std");
const chunk_table = @import("chunk_table.zig");
const dtypes = @import("dtype.zig");
const encode = @import("encode.zig");
const format = @import("format.zig");
const Index = @import("index.zig").Index;
const types = @import("plan_types.zig");
const Tensor = @import("index.zig").Tensor;

const Allocator = std.mem.Allocator;

/// A file in memory, with the members of a Header that the planner uses.
pub const File = struct {
    index: Index,
    bytes: []const u8,
    /// Decoded, by tensor; empty for tied ones.
    contents: []const []const u8,
    /// Chunk entries by tensor, empty when missing; null in a foreign file.
    chunk_entries: ?[][]const u8,

    pub fn chunks(self: File, tensor: u32) error{EntriesMissing}!chunk_table.Iterator {
        const run = if (self.chunk_entries) |chunk_entries| chunk_entries[tensor] else null;
        if (run) |entries| if (entries.len == 0) return error.EntriesMissing;
        const record_size = format.chunk_record_size;
        return .init(self.index.tensors[tensor], run, record_size, self.index.chunk_size);
    }

    pub fn random(arena: Allocator, source: std.Random) !File {
        const foreign = source.boolean();
        const count = source.intRangeAtMost(u32, 1, 8);
        const tensors = try arena.alloc(Tensor, count);
        const order = try arena.alloc(u32, count);
        for (order, 0..) |*entry, number| entry.* = @intCast(number);
        source.shuffle(u32, order);
        // Tiny chunks, as any size serves the types.
        const chunk_size = @as(u64, 64) << source.uintAtMost(u6, 6);
        for (tensors, 0..) |*tensor, number| {
            const owner = source.uintAtMost(usize, number);
            const tied = !foreign and number != owner and source.boolean() and
                tensors[owner].tie == format.none and tensors[owner].decoded_size != 0;
            tensor.* = if (tied) tensors[owner] else try randomTensor(arena, source);
            if (tied) tensor.tie = @intCast(owner);
        }
        for (order, 0..) |tensor, position| tensors[tensor].order = @intCast(position);
        return build(arena, source, .{
            .tensors = tensors,
            .order = order,
            .chunk_size = chunk_size,
        }, foreign);
    }

    /// Makes up the data and fills in where they lie.
    pub fn build(arena: Allocator, source: std.Random, index: Index, foreign: bool) !File {
        const tensors: []Tensor = @constCast(index.tensors);
        const contents = try arena.alloc([]const u8, tensors.len);
        const chunk_entries = try arena.alloc([]const u8, tensors.len);
        @memset(contents, &.{});
        @memset(chunk_entries, &.{});
        var file: std.ArrayList(u8) = .empty;
        const header_size = source.intRangeAtMost(usize, 1, 300);
        try file.appendNTimes(arena, 0x11, if (foreign) header_size else header_size * 64);
        for (index.order) |number| {
            const tensor = &tensors[number];
            if (!tensor.hasChunks()) continue;
            const content = try randomContent(arena, source, tensor.*, index.chunk_size);
            contents[number] = content;
            const alignment: usize = @intCast(format.tensorAlignment(tensor.decoded_size));
            if (!foreign) try pad(arena, &file, alignment);
            tensor.data_offset = file.items.len;
            if (foreign) {
                try file.appendSlice(arena, content);
            } else {
                const chunk_size: usize = @intCast(index.chunk_size);
                const mode = source.enumValue(encode.Compress);
                chunk_entries[number] =
                    try appendChunks(arena, &file, tensor.dtype, chunk_size, mode, content);
                tensor.run_digest = chunk_entries[number][0..32]; // only its presence counts here
            }
            tensor.stored_size = file.items.len - tensor.data_offset;
        }
        return .{
            .index = index,
            .bytes = file.items,
            .contents = contents,
            .chunk_entries = if (foreign) null else chunk_entries,
        };
    }

    pub fn contentOf(self: File, tensor: u32) []const u8 {
        return self.contents[self.index.owner(tensor)];
    }
};

fn pad(arena: Allocator, file: *std.ArrayList(u8), alignment: usize) !void {
    // Not zero, so that padding taken for data is noticed.
    const size = std.mem.alignForward(usize, file.items.len, alignment) - file.items.len;
    try file.appendNTimes(arena, 0x22, size);
}

/// Chunks of noise and chunks that compress. Takes little from `random`, which may be a fuzzer's
/// input and has more to decide.
fn randomContent(arena: Allocator, random: std.Random, tensor: Tensor, chunk_size: u64) ![]u8 {
    var prng: std.Random.DefaultPrng = .init(random.int(u64));
    const source = prng.random();
    const content = try arena.alloc(u8, @intCast(tensor.decoded_size));
    source.bytes(content);
    var rest = content;
    while (rest.len != 0) {
        const chunk = rest[0..@intCast(@min(chunk_size, rest.len))];
        rest = rest[chunk.len..];
        if (source.boolean()) for (chunk) |*byte| {
            byte.* &= 1;
        };
    }
    return content;
}

/// Returns the chunk entries.
fn appendChunks(
    arena: Allocator,
    file: *std.ArrayList(u8),
    dtype: u16,
    chunk_size: usize,
    mode: encode.Compress,
    content: []const u8,
) ![]const u8 {
    const image = try arena.alloc(u8, encode.outputSizeMax(content.len).?);
    const count = std.math.divCeil(usize, content.len, chunk_size) catch unreachable;
    const entries = try arena.alloc(encode.Entry, count);
    const options: encode.Options = .{
        .dtype = dtype,
        .chunk_size = chunk_size,
        .compress = mode,
    };
    const size = try encode.encodeChunks(arena, options, content, image, entries);
    try file.appendSlice(arena, if (size == 0) content else image[0..size]);
    const run = try arena.alloc(u8, count * format.chunk_record_size);
    for (entries, 0..) |entry, number| {
        const record: chunk_table.Entry = .{
            .stored_length = entry.stored_length,
            .crc = entry.crc,
            .codec = @intCast(entry.codec),
            .digest = entry.digest,
        };
        record.encode(run[number * format.chunk_record_size ..][0..format.chunk_record_size]);
    }
    return run;
}

fn randomTensor(arena: Allocator, source: std.Random) !Tensor {
    const dtype = dtypes.table[source.uintLessThan(usize, dtypes.table.len)];
    const shape = try arena.alloc(u64, source.uintAtMost(usize, 4));
    var size = dtype.unitSize();
    for (shape) |*dimension| {
        dimension.* = source.intRangeAtMost(u64, @intFromBool(source.uintLessThan(u8, 8) != 0), 12);
        size *= dimension.*;
    }
    return .{
        .name = "",
        .shape = shape,
        .dtype = dtype.code,
        .order = 0,
        .decoded_size = size,
        .data_offset = 0,
        .stored_size = 0,
    };
}

pub fn randomItems(arena: Allocator, source: std.Random, index: Index) ![]types.ReadItem {
    const read_items = try arena.alloc(types.ReadItem, source.uintAtMost(usize, 12));
    for (read_items) |*item| {
        item.* = .{ .tensor = source.uintLessThan(u32, @intCast(index.tensors.len)) };
        if (source.boolean()) continue;
        const shape = index.tensors[item.tensor].shape;
        const begin = try arena.alloc(u64, shape.len);
        const end = try arena.alloc(u64, shape.len);
        for (shape, begin, end) |size, *low, *high| {
            const all = source.boolean();
            low.* = if (all) 0 else source.uintAtMost(u64, size);
            high.* = if (all) size else source.intRangeAtMost(u64, low.*, size);
        }
        item.begin = begin.ptr;
        item.end = end.ptr;
    }
    return read_items;
}

pub fn randomOptions(source: std.Random) types.Options {
    return .{
        .staged = source.uintLessThan(u8, 3) == 0,
        .request_size_max = @as(u64, 1) << source.uintAtMost(u6, 20),
        .gap_max = @as(u64, 1) << source.uintAtMost(u6, 16),
        .slab_size_max = if (source.boolean()) 0 else @as(u64, 1) << source.uintAtMost(u6, 18),
        .slab_tensor_max = @as(u64, 1) << source.uintAtMost(u6, 14),
    };
}
