//! The tensor table with its shapes and names, sections 5 to 7 of the specification: one 120-byte
//! record per tensor, sorted by name.
//!
//! Offset | Size | Field
//! 0      | 4    | name_offset, into the names section
//! 4      | 2    | name_size
//! 6      | 2    | dtype
//! 8      | 4    | shape_begin, in records of the shapes section
//! 12     | 1    | rank
//! 13     | 1    | layout: 0 row-major
//! 14     | 2    | reserved, zero
//! 16     | 4    | order: position in the writer's order
//! 20     | 4    | tie: index of the owner or 0xFFFFFFFF
//! 24     | 8    | decoded_size
//! 32     | 8    | data_offset, 0 without chunks
//! 40     | 8    | stored_size, 0 without chunks
//! 48     | 8    | chunk_begin, 0 without chunks
//! 56     | 32   | run_digest: BLAKE3 of the tensor's chunk entries
//! 88     | 32   | content_digest: BLAKE3 of the decoded bytes

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const dtypes = @import("dtype.zig");
const format = @import("format.zig");
const Directory = @import("directory.zig").Directory;
const Index = @import("index.zig").Index;
const Preamble = @import("preamble.zig").Preamble;
const status = @import("status.zig");
const Tensor = @import("index.zig").Tensor;

/// BLAKE3 of nothing: the run digest of a tensor without chunks.
pub const empty_digest = blk: {
    @setEvalBranchQuota(10_000);
    var digest: [32]u8 = undefined;
    _ = std.fmt.hexToBytes(&digest, "af1349b9f5f9a1a6a0404dea36dcc949" ++
        "9bcb25c9adc112b7cc9a93cae41f3262") catch unreachable;
    break :blk digest;
};

pub fn encode(
    tensor: Tensor,
    name_offset: u32,
    shape_begin: u32,
    out: *[format.tensor_record_size]u8,
) void {
    @memset(out, 0);
    bytes.put(u32, out, 0, name_offset);
    bytes.put(u16, out, 4, @intCast(tensor.name.len));
    bytes.put(u16, out, 6, tensor.dtype);
    bytes.put(u32, out, 8, shape_begin);
    out[12] = @intCast(tensor.shape.len);
    bytes.put(u32, out, 16, tensor.order);
    bytes.put(u32, out, 20, tensor.tie);
    bytes.put(u64, out, 24, tensor.decoded_size);
    bytes.put(u64, out, 32, tensor.data_offset);
    bytes.put(u64, out, 40, tensor.stored_size);
    bytes.put(u64, out, 48, tensor.chunk_begin);
    out[56..88].* = tensor.run_digest.?.*;
    out[88..120].* = tensor.content_digest.?.*;
}

/// TZ1-21 to TZ1-37 and TZ1-74 to TZ1-77. `front` holds the first `open_size` bytes and must
/// outlive the result, whose names and digests point into it. Arrays are allocated in `arena`.
pub fn decode(
    arena: std.mem.Allocator,
    preamble: Preamble,
    directory: Directory,
    front: []const u8,
    diagnostic: *status.Diagnostic,
) (status.DataError || error{OutOfMemory})!Index {
    const dimension_count = directory.shapes.size / directory.shapes.record_size;
    var table: Table = .{
        .directory = directory,
        .records = directory.tensors.slice(front),
        .names = directory.names.slice(front),
        .shapes = directory.shapes.slice(front),
        .tensors = try arena.alloc(Tensor, preamble.tensor_count),
        .dimensions = try arena.alloc(u64, @intCast(dimension_count)),
        .diagnostic = diagnostic,
    };
    for (0..table.tensors.len) |index| {
        diagnostic.tensor = index;
        table.tensors[index] = try table.record(@intCast(index));
    }
    diagnostic.tensor = status.Diagnostic.none;
    if (table.name_end != table.names.len) {
        return diagnostic.fail(error.Layout, 34, directory.names.offset + table.name_end);
    }
    if (table.shape_end != table.dimensions.len) {
        return diagnostic.fail(error.Layout, 34, directory.shapes.offset);
    }
    const order = try arena.alloc(u32, table.tensors.len);
    try table.permutation(order);
    try table.checkLayout(preamble, order);
    return .{ .tensors = table.tensors, .order = order, .chunk_size = preamble.chunkSize() };
}

const Table = struct {
    directory: Directory,
    records: []const u8,
    names: []const u8,
    shapes: []const u8,
    tensors: []Tensor,
    dimensions: []u64,
    diagnostic: *status.Diagnostic,
    /// Sums over the records so far.
    name_end: usize = 0,
    shape_end: usize = 0,

    fn recordOffset(self: *const Table, index: usize) u64 {
        return self.directory.tensors.offset + index * self.directory.tensors.record_size;
    }

    /// TZ1-21 to TZ1-33 for the next record.
    fn record(self: *Table, index: u32) status.DataError!Tensor {
        const stride = self.directory.tensors.record_size;
        const raw = self.records[@as(usize, index) * stride ..][0..format.tensor_record_size];
        const at = self.recordOffset(index);
        const diagnostic = self.diagnostic;
        if (bytes.get(u16, raw, 14) != 0) return diagnostic.fail(error.Reserved, 21, at + 14);
        const name = try self.nextName(raw, index);
        errdefer diagnostic.setName(name);
        const dtype = bytes.get(u16, raw, 6);
        if (dtypes.byCode(dtype) == null and !dtypes.isExtensible(dtype)) {
            return diagnostic.fail(error.Feature, 25, at + 6);
        }
        if (raw[13] != 0) return diagnostic.fail(error.Feature, 26, at + 13);
        const shape = try self.nextShape(raw, at);
        const tensor: Tensor = .{
            .name = name,
            .shape = shape,
            .dtype = dtype,
            .order = bytes.get(u32, raw, 16),
            .tie = bytes.get(u32, raw, 20),
            .decoded_size = bytes.get(u64, raw, 24),
            .data_offset = bytes.get(u64, raw, 32),
            .stored_size = bytes.get(u64, raw, 40),
            .chunk_begin = bytes.get(u64, raw, 48),
            .run_digest = raw[56..88],
            .content_digest = raw[88..120],
        };
        const size = decodedSize(dtype, shape) orelse
            return diagnostic.fail(error.Limit, 29, at + 8);
        if (tensor.decoded_size > format.file_size_max) {
            return diagnostic.fail(error.Limit, 74, at + 24);
        }
        if (dtypes.byCode(dtype) != null and tensor.decoded_size != size) {
            return diagnostic.fail(error.Shape, 30, at + 24);
        }
        if (tensor.order >= self.tensors.len) return diagnostic.fail(error.Order, 31, at + 16);
        if (tensor.tie != format.none) try self.checkTie(tensor, index);
        if (!tensor.hasChunks() and (tensor.data_offset != 0 or tensor.stored_size != 0 or
            tensor.chunk_begin != 0 or !std.mem.eql(u8, tensor.run_digest.?, &empty_digest)))
        {
            return diagnostic.fail(error.Layout, 33, at + 32);
        }
        return tensor;
    }

    /// TZ1-22 to TZ1-24.
    fn nextName(self: *Table, raw: []const u8, index: u32) status.DataError![]const u8 {
        const at = self.recordOffset(index);
        const size = bytes.get(u16, raw, 4);
        if (bytes.get(u32, raw, 0) != self.name_end or size > self.names.len - self.name_end) {
            return self.diagnostic.fail(error.Layout, 22, at);
        }
        const name = self.names[self.name_end..][0..size];
        const name_offset = self.directory.names.offset + self.name_end;
        self.name_end += size;
        if (!bytes.isText(name) or bytes.hasControl(name)) {
            return self.diagnostic.fail(error.Name, 23, name_offset);
        }
        if (index > 0 and std.mem.order(u8, self.tensors[index - 1].name, name) != .lt) {
            return self.diagnostic.fail(error.Name, 24, name_offset);
        }
        return name;
    }

    /// TZ1-27 and TZ1-28.
    fn nextShape(self: *Table, raw: []const u8, at: u64) status.DataError![]const u64 {
        const rank = raw[12];
        if (rank > format.rank_max) return self.diagnostic.fail(error.Limit, 27, at + 12);
        const rest = self.dimensions.len - self.shape_end;
        if (bytes.get(u32, raw, 8) != self.shape_end or rank > rest) {
            return self.diagnostic.fail(error.Layout, 28, at + 8);
        }
        const shape = self.dimensions[self.shape_end..][0..rank];
        for (shape, self.shape_end..) |*dimension, number| {
            dimension.* = bytes.get(u64, self.shapes, number * self.directory.shapes.record_size);
        }
        self.shape_end += rank;
        return shape;
    }

    /// TZ1-32 and TZ1-75 to TZ1-77.
    fn checkTie(self: *const Table, tensor: Tensor, index: u32) status.DataError!void {
        const at = self.recordOffset(index);
        if (tensor.tie >= index) return self.diagnostic.fail(error.Tie, 32, at + 20);
        const owner = self.tensors[tensor.tie];
        if (owner.tie != format.none) return self.diagnostic.fail(error.Tie, 75, at + 20);
        if (owner.dtype != tensor.dtype or
            !std.mem.eql(u64, owner.shape, tensor.shape) or
            owner.decoded_size != tensor.decoded_size or
            !std.mem.eql(u8, owner.content_digest.?, tensor.content_digest.?))
        {
            return self.diagnostic.fail(error.Tie, 76, at + 20);
        }
        if (tensor.decoded_size == 0) return self.diagnostic.fail(error.Tie, 77, at + 24);
    }

    /// TZ1-35.
    fn permutation(self: *const Table, order: []u32) status.DataError!void {
        @memset(order, format.none);
        for (self.tensors, 0..) |tensor, index| {
            if (order[tensor.order] != format.none) {
                return self.diagnostic.fail(error.Order, 35, self.recordOffset(index) + 16);
            }
            order[tensor.order] = @intCast(index);
        }
    }

    /// TZ1-36 and TZ1-37.
    fn checkLayout(
        self: *const Table,
        preamble: Preamble,
        order: []const u32,
    ) status.DataError!void {
        var end = preamble.header_size;
        var chunk_end: u64 = 0;
        for (order) |index| {
            const tensor = self.tensors[index];
            if (!tensor.hasChunks()) continue;
            const at = self.recordOffset(index);
            self.diagnostic.tensor = index;
            errdefer self.diagnostic.setName(tensor.name);
            const chunk_count = tensor.chunkCount(preamble.chunkSize());
            const smallest = format.chunk_alignment * (chunk_count - 1) + 1;
            if (tensor.chunk_begin != chunk_end) {
                return self.diagnostic.fail(error.Layout, 36, at + 48);
            }
            const begin = bytes.alignUp(end, format.tensorAlignment(tensor.decoded_size));
            if (tensor.data_offset != begin) return self.diagnostic.fail(error.Layout, 36, at + 32);
            if (tensor.stored_size < smallest or tensor.stored_size > tensor.decoded_size) {
                return self.diagnostic.fail(error.Layout, 36, at + 40);
            }
            end = bytes.add(tensor.data_offset, tensor.stored_size) orelse
                return self.diagnostic.fail(error.Layout, 36, at + 40);
            // No overflow: chunks take 64 bytes each of an end that fits, but one per tensor.
            chunk_end += chunk_count;
        }
        self.diagnostic.tensor = status.Diagnostic.none;
        if (chunk_end != preamble.chunk_count) return self.diagnostic.fail(error.Layout, 37, 64);
        if (end != preamble.file_size) return self.diagnostic.fail(error.Layout, 37, 32);
    }
};

/// The product of dimensions and storage unit (one byte for an unknown dtype), or null when the
/// product of the non-zero ones exceeds the limit of TZ1-29.
pub fn decodedSize(dtype: u32, shape: []const u64) ?u64 {
    const unit = if (dtypes.byCode(dtype)) |info| info.unitSize() else 1;
    var size: u64 = unit;
    var empty = false;
    for (shape) |dimension| {
        if (dimension == 0) {
            empty = true;
        } else {
            size = bytes.mul(size, dimension) orelse return null;
            if (size > format.file_size_max) return null;
        }
    }
    return if (empty) 0 else size;
}

test decodedSize {
    const expect = std.testing.expectEqual;
    try expect(@as(?u64, 4), decodedSize(0x12, &.{}));
    try expect(@as(?u64, 24), decodedSize(0x12, &.{ 2, 3 }));
    try expect(@as(?u64, 0), decodedSize(0x12, &.{ 2, 0, 3 }));
    try expect(@as(?u64, null), decodedSize(0x12, &.{ 1 << 61, 1 }));
    try expect(@as(?u64, null), decodedSize(0x12, &.{ 0, 1 << 61 }));
    try expect(@as(?u64, (1 << 63) - 1), decodedSize(0x02, &.{(1 << 63) - 1}));
    try expect(@as(?u64, null), decodedSize(0x02, &.{1 << 63}));
}

test empty_digest {
    try std.testing.expectEqualSlices(u8, &checksum.blake3(""), &empty_digest);
}
