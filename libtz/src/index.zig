//! The tensor index, into which the header of every format is converted. Everything above it (runs,
//! plans, the C interface) uses these tensors and does not depend on the format.

const std = @import("std");
const bytes = @import("bytes.zig");
const format = @import("format.zig");

pub const Digest = [32]u8;

pub const Tensor = struct {
    name: []const u8,
    /// Dimensions in storage units.
    shape: []const u64,
    dtype: u16,
    /// Position in the writer's order.
    order: u32,
    /// Index of the owner, or `format.none`.
    tie: u32 = format.none,
    decoded_size: u64,
    /// Of the first chunk, from the start of the file; 0 without chunks.
    data_offset: u64,
    /// From the start of the first chunk to the end of the last; 0 without chunks.
    stored_size: u64,
    /// First entry in the chunk table; 0 without chunks and in foreign formats.
    chunk_begin: u64 = 0,
    /// Null in foreign formats.
    run_digest: ?*const Digest = null,
    content_digest: ?*const Digest = null,

    pub fn hasChunks(self: Tensor) bool {
        return self.tie == format.none and self.decoded_size != 0;
    }

    pub fn chunkCount(self: Tensor, chunk_size: u64) u64 {
        return if (self.hasChunks()) bytes.divCeil(self.decoded_size, chunk_size) else 0;
    }
};

/// A header of a tensor right before its data, in formats that have one.
pub const Record = struct {
    offset: u64,
    size: u32,
    role: Role,
    /// A shape without values: nothing is stored, although there are elements.
    is_meta: bool,
    /// As in the file.
    name: []const u8,
    /// Dtype and dimensions, as in the file.
    type_bytes: []const u8,

    pub const Role = enum(u8) { parameter, buffer, state };
};

pub const Index = struct {
    /// Sorted by name, bytewise; names are unique.
    tensors: []const Tensor,
    /// Indices of `tensors` in the writer's order, in which data offsets and chunk_begin ascend.
    order: []const u32,
    /// Decoded size of a chunk. Foreign formats have no chunks; their data are treated as
    /// contiguous chunks of this size without checksums.
    chunk_size: u64,
    /// One for each of `tensors`, or empty.
    records: []const Record = &.{},

    pub fn find(self: Index, name: []const u8) ?u32 {
        var begin: usize = 0;
        var end: usize = self.tensors.len;
        while (begin < end) {
            const middle = begin + (end - begin) / 2;
            switch (std.mem.order(u8, self.tensors[middle].name, name)) {
                .eq => return @intCast(middle),
                .lt => begin = middle + 1,
                .gt => end = middle,
            }
        }
        return null;
    }

    /// The tensor whose data a tensor has: itself, or the owner it is tied to.
    pub fn owner(self: Index, tensor: u32) u32 {
        const tie = self.tensors[tensor].tie;
        return if (tie == format.none) tensor else tie;
    }
};
