//! What a reader of a foreign format returns for the beginning of a file.

const Pair = @import("../metadata.zig").Pair;
const Record = @import("../index.zig").Record;
const status = @import("../status.zig");
const Structure = @import("../structure.zig").Structure;
const Tensor = @import("../index.zig").Tensor;

pub const Decoded = struct {
    /// Sorted by name.
    tensors: []const Tensor,
    /// Indices of `tensors` in the order of the file. At equal offsets, empty tensors come first.
    order: []const u32,
    /// One for each of `tensors`, or empty.
    records: []const Record = &.{},
    /// Sorted by key.
    metadata: []const Pair = &.{},
    /// Empty if all names are flat.
    structure: Structure = .{},
    /// The number of bytes that had to be read; the rest of the file begins there.
    header_size: u64,
    is_encrypted: bool = false,
};

pub const Error = status.DataError || error{OutOfMemory};
