//! What a reader of a foreign format makes of the front of a file.

const Pair = @import("../metadata.zig").Pair;
const Record = @import("../index.zig").Record;
const status = @import("../status.zig");
const Structure = @import("../structure.zig").Structure;
const Tensor = @import("../index.zig").Tensor;

pub const Decoded = struct {
    /// Sorted by name.
    tensors: []const Tensor,
    /// Indices of `tensors` in the order of the file. Of tensors at the same place the empty ones
    /// come first.
    order: []const u32,
    /// One for each of `tensors`, or none at all.
    records: []const Record = &.{},
    /// Sorted by key.
    metadata: []const Pair = &.{},
    /// Nothing if all names are flat.
    structure: Structure = .{},
    /// What had to be read; where the rest of the file begins.
    header_size: u64,
    is_encrypted: bool = false,
};

pub const Error = status.DataError || error{OutOfMemory};
