//! A strict reader for the beginning of a .tensors file of CoreWeave's Tensorizer, data versions 1
//! to 5: the file header and the index. Each tensor's record header is right before its data; see
//! coreweave_record.zig. spec/foreign/coreweave-tensors.md describes the whole layout.
//!
//! Offset | Size | Field        | Rule
//! 0      | 5    | magic        | "|TZR|"
//! 5      | 4    | version      | 1 to 5
//! 9      | 32   | flags        | bit 0 encrypted, bit 1 versioned index; zero before version 4
//! 41     | 8    | data_size    | sum over all tensors
//! 49     | 8    | reserved     | zero
//! 57     | 8    | tensor_count |
//! 65     | 8    | index_size   |
//! 73     |      | index        | tensor_count entries, then zeros
//!
//! The format's own library checks less. Here, all sizes and offsets must be consistent, so a file
//! can neither hide bytes nor assign them to two tensors.

const std = @import("std");
const bytes = @import("../bytes.zig");
const Decoded = @import("decoded.zig").Decoded;
const dtypes = @import("../dtype.zig");
const Error = @import("decoded.zig").Error;
const format = @import("../format.zig");
const names = @import("coreweave_names.zig");
const opaque_dtypes = @import("coreweave_dtype.zig");
const record_format = @import("coreweave_record.zig");
const status = @import("../status.zig");
const Record = @import("../index.zig").Record;
const Structure = @import("../structure.zig").Structure;
const Tensor = @import("../index.zig").Tensor;

const Allocator = std.mem.Allocator;

pub const magic = "|TZR|";

const file_header_size = 73;

/// The end marker: a record header's size of zero.
const end_marker_size = 8;

const flag_encrypted = 1 << 0;
const flag_versioned_index = 1 << 1;

/// An index entry without version, name, dtype and dimensions.
const entry_size_min = 29;

/// Reads file header and index from the first bytes of a file of `file_size` bytes. Null: `needed`
/// bytes are needed. Nothing in the result points into `front`. Temporary memory comes from `gpa`.
pub fn decode(
    gpa: Allocator,
    arena: Allocator,
    front: []const u8,
    file_size: u64,
    open_size_max: u64,
    needed: *u64,
    diagnostic: *status.Diagnostic,
) Error!?Decoded {
    std.debug.assert(front.len <= file_size);
    const magic_size = @min(magic.len, front.len);
    if (!std.mem.eql(u8, front[0..magic_size], magic[0..magic_size])) {
        return diagnostic.refuse(error.NotTz, 0, "the file does not begin with |TZR|");
    }
    const is_short = file_size < file_header_size + end_marker_size;
    // First of all, whether it is such a file.
    if (is_short and front.len >= @min(magic.len, file_size)) {
        return diagnostic.refuse(error.Truncated, 0, "the file is shorter than 81 bytes");
    }
    if (front.len < file_header_size) {
        needed.* = @min(file_header_size, file_size);
        return null;
    }
    const file: FileHeader = try .decode(front, file_size, diagnostic);
    const header_size = file_header_size + file.index_size;
    if (header_size > open_size_max) {
        return diagnostic.refuse(error.Limit, 65, "the index is larger than the caller allows");
    }
    if (front.len < header_size) {
        needed.* = header_size;
        return null;
    }
    const index = front[file_header_size..@intCast(header_size)];
    // Names and dtypes are kept as they are in the file, to be compared with those in the records.
    const used = index[0 .. index.len - countZeros(index)];
    const kept = try arena.alloc(u8, @min(index.len, used.len + 64));
    @memcpy(kept, index[0..kept.len]);
    var parser: Parser = .{
        .gpa = gpa,
        .arena = arena,
        .file = file,
        .index = kept,
        .entries = try arena.alloc(Entry, @intCast(file.tensor_count)),
        .diagnostic = diagnostic,
    };
    defer parser.steps.deinit(gpa);
    try parser.parse();
    return try parser.arrange(file_size, header_size);
}

fn countZeros(index: []const u8) usize {
    var count: usize = 0;
    while (count < index.len and index[index.len - 1 - count] == 0) count += 1;
    return count;
}

const FileHeader = struct {
    version: u32,
    is_encrypted: bool,
    has_versioned_index: bool,
    data_size: u64,
    tensor_count: u64,
    index_size: u64,

    fn decode(
        front: []const u8,
        file_size: u64,
        diagnostic: *status.Diagnostic,
    ) Error!FileHeader {
        const version = bytes.get(u32, front, 5);
        if (version < 1 or version > 5) {
            return diagnostic.refuse(error.Version, 5, "the data version is not one of 1 to 5");
        }
        const flags = bytes.get(u64, front, 9);
        const known: u64 = switch (version) {
            4 => flag_encrypted,
            5 => flag_encrypted | flag_versioned_index,
            else => 0,
        };
        if (flags & ~known != 0 or !bytes.allZero(front[17..41])) {
            return diagnostic.refuse(error.Feature, 9, "a flag is not part of its data version");
        }
        // An unreleased writer calls another layout version 5 too; it lacks this flag.
        const has_versioned_index = flags & flag_versioned_index != 0;
        if (version == 5 and !has_versioned_index) {
            return diagnostic.refuse(error.Feature, 9, "its index is not flagged as versioned");
        }
        if (!bytes.allZero(front[49..57])) {
            return diagnostic.refuse(error.Reserved, 49, "reserved bytes are not zero");
        }
        const index_size = bytes.get(u64, front, 65);
        if (index_size > file_size - file_header_size - end_marker_size) {
            return diagnostic.refuse(error.Truncated, 65, "the file ends within its index");
        }
        const tensor_count = bytes.get(u64, front, 57);
        if (tensor_count > format.tensor_count_max) {
            return diagnostic.refuse(error.Limit, 57, "there are more than 16,777,216 tensors");
        }
        if (tensor_count > index_size / entry_size_min) {
            return diagnostic.refuse(error.Foreign, 57, "the index is too small for its tensors");
        }
        return .{
            .version = version,
            .is_encrypted = version == 3 or flags & flag_encrypted != 0,
            .has_versioned_index = has_versioned_index,
            .data_size = bytes.get(u64, front, 41),
            .tensor_count = tensor_count,
            .index_size = index_size,
        };
    }
};

/// A tensor before it has been checked against the others.
const Entry = struct {
    tensor: Tensor,
    record: Record,
    /// Where the data is; set even if nothing is stored.
    data_offset: u64,
    /// Its path: a range of the parser's steps.
    step_begin: u32,
    step_count: u32,
    /// Where the index entry is in the file.
    offset: u64,
};

const Parser = struct {
    gpa: Allocator,
    arena: Allocator,
    file: FileHeader,
    /// With only a few of the zeros at its end.
    index: []const u8,
    entries: []Entry,
    diagnostic: *status.Diagnostic,
    at: usize = 0,
    steps: std.ArrayList(names.Step) = .empty,
    is_nested: bool = false,

    fn parse(self: *Parser) Error!void {
        for (self.entries) |*entry| {
            const offset = file_header_size + self.at;
            self.parseEntry(entry, offset) catch |err| {
                self.diagnostic.offset = offset;
                return err;
            };
        }
        if (!bytes.allZero(self.index[self.at..])) {
            const reason = "there are bytes after the last entry of the index";
            return self.diagnostic.refuse(error.Foreign, file_header_size + self.at, reason);
        }
    }

    fn take(self: *Parser, size: usize) Error![]const u8 {
        if (size > self.index.len - self.at) {
            return self.diagnostic.because(error.Foreign, "the index ends within an entry");
        }
        defer self.at += size;
        return self.index[self.at..][0..size];
    }

    fn integer(self: *Parser, comptime T: type) Error!T {
        return bytes.get(T, try self.take(@sizeOf(T)), 0);
    }

    fn parseEntry(self: *Parser, entry: *Entry, offset: u64) Error!void {
        const diagnostic = self.diagnostic;
        var has_wide_dimensions = false;
        if (self.file.has_versioned_index) switch (try self.integer(u32)) {
            1 => {},
            5 => has_wide_dimensions = true,
            else => return diagnostic.because(error.Version, "an index entry has no known version"),
        };
        const name = try self.take(try self.integer(u16));
        errdefer diagnostic.setName(names.forMessage(name));
        const role = std.enums.fromInt(Record.Role, try self.integer(u8)) orelse
            return diagnostic.because(error.Foreign, "its kind is unknown");
        const type_begin = self.at;
        const dtype_text = try self.take(try self.integer(u8));
        const dtype = opaque_dtypes.Found.decode(dtype_text) catch |err|
            return diagnostic.because(err, switch (err) {
                error.Foreign => "its dtype is malformed",
                error.Feature => "its dtype is not numeric",
            });
        const shape = try self.parseShape(has_wide_dimensions);
        const type_bytes = self.index[type_begin..self.at];
        const record_offset = try self.integer(u64);
        const data_offset = try self.integer(u64);
        const stored_size = try self.integer(u64);
        const size = dtypes.sizeOf(dtype.unit_size, shape) orelse
            return diagnostic.because(error.Limit, "its shape is too large");
        const is_meta = stored_size == 0 and size != 0;
        if (is_meta and self.file.version < 4) {
            const reason = "it has a shape but no data, before version 4";
            return diagnostic.because(error.Foreign, reason);
        }
        if (!is_meta and stored_size != size) {
            const reason = "its size contradicts its shape and dtype";
            return diagnostic.because(error.Foreign, reason);
        }
        const record_size = std.math.sub(u64, data_offset, record_offset) catch
            return diagnostic.because(error.Foreign, "its data lie before its record header");
        if (record_size > record_format.size_max) {
            return diagnostic.because(error.Limit, "its record header is larger than 64 MiB");
        }
        if (record_size < record_format.sizeMin(name.len, type_bytes.len, self.file.is_encrypted)) {
            return diagnostic.because(error.Foreign, "its record header is too small");
        }
        const step_begin = self.steps.items.len;
        if (try names.parse(self.gpa, self.arena, name, role, &self.steps, diagnostic)) {
            self.is_nested = true;
        }
        if (self.steps.items.len > std.math.maxInt(u32)) {
            return diagnostic.because(error.Limit, "the paths have too many steps");
        }
        entry.* = .{
            .tensor = .{
                .name = "",
                .shape = shape,
                .dtype = dtype.code,
                .order = 0,
                .decoded_size = stored_size,
                .data_offset = if (stored_size == 0) 0 else data_offset,
                .stored_size = stored_size,
            },
            .record = .{
                .offset = record_offset,
                .size = @intCast(record_size),
                .role = role,
                .is_meta = is_meta,
                .name = name,
                .type_bytes = type_bytes,
            },
            .data_offset = data_offset,
            .step_begin = @intCast(step_begin),
            .step_count = @intCast(self.steps.items.len - step_begin),
            .offset = offset,
        };
    }

    fn parseShape(self: *Parser, has_wide_dimensions: bool) Error![]u64 {
        const rank = try self.integer(u8);
        if (rank > format.rank_max) {
            return self.diagnostic.because(error.Limit, "it has more than 64 dimensions");
        }
        const shape = try self.arena.alloc(u64, rank);
        for (shape) |*dimension| {
            dimension.* = if (has_wide_dimensions)
                try self.integer(u64)
            else
                try self.integer(u32);
        }
        return shape;
    }

    /// Checks that records and data fill the file; names and sorts the tensors.
    fn arrange(self: *Parser, file_size: u64, header_size: u64) Error!Decoded {
        const count = self.entries.len;
        for (self.entries) |*entry| {
            errdefer self.note(entry.*);
            const path = self.pathOf(entry.*);
            entry.tensor.name = try names.join(self.arena, path, self.is_nested, self.diagnostic);
        }
        try self.checkLayout(file_size, header_size);
        const sorted = try self.arena.alloc(u32, count); // entries by name
        for (sorted, 0..) |*value, index| value.* = @intCast(index);
        std.mem.sortUnstable(u32, sorted, self.entries, byName);
        const order = try self.arena.alloc(u32, count); // tensor index of each entry
        const tensors = try self.arena.alloc(Tensor, count);
        const records = try self.arena.alloc(Record, count);
        for (sorted, tensors, records, 0..) |position, *tensor, *record, index| {
            const entry = &self.entries[position];
            entry.tensor.order = position;
            order[position] = @intCast(index);
            tensor.* = entry.tensor;
            record.* = entry.record;
            if (index > 0 and std.mem.eql(u8, tensors[index - 1].name, tensor.name)) {
                return self.refuse(error.Foreign, entry.*, "its name occurs twice");
            }
        }
        return .{
            .tensors = tensors,
            .order = order,
            .records = records,
            .structure = if (self.is_nested) try self.nest(order) else .{},
            .header_size = header_size,
            .is_encrypted = self.file.is_encrypted,
        };
    }

    fn refuse(self: *Parser, err: status.DataError, entry: Entry, reason: [*:0]const u8) Error {
        self.note(entry);
        return self.diagnostic.because(err, reason);
    }

    /// Notes the tensor at fault, with libtz's name, or the file's name if it has no other yet.
    fn note(self: *Parser, entry: Entry) void {
        const name = entry.tensor.name;
        self.diagnostic.setName(if (name.len != 0) name else names.forMessage(entry.record.name));
        self.diagnostic.offset = entry.offset;
    }

    fn pathOf(self: *const Parser, entry: Entry) []const names.Step {
        return self.steps.items[entry.step_begin..][0..entry.step_count];
    }

    /// Checks that the records, each followed by its data, are contiguous up to the end marker.
    fn checkLayout(self: *Parser, file_size: u64, header_size: u64) Error!void {
        const data_end = file_size - end_marker_size;
        var end = header_size;
        var sum: u64 = 0;
        for (self.entries) |entry| {
            if (entry.record.offset != end) {
                const reason = "its record header does not begin where the data before it end";
                return self.refuse(error.Foreign, entry, reason);
            }
            end = bytes.add(entry.data_offset, entry.tensor.stored_size) orelse file_size;
            if (end > data_end) {
                return self.refuse(error.Truncated, entry, "the file ends before its data end");
            }
            sum += entry.tensor.stored_size; // all are in the file, so this is below its size
        }
        if (end < data_end) {
            const reason = "there are bytes after the data that belong to no tensor";
            return self.diagnostic.refuse(error.Trailing, end, reason);
        }
        if (sum != self.file.data_size) {
            const reason = "the size of all data differs from the one in the file header";
            return self.diagnostic.refuse(error.Foreign, 41, reason);
        }
    }

    fn byName(entries: []const Entry, a: u32, b: u32) bool {
        return switch (std.mem.order(u8, entries[a].tensor.name, entries[b].tensor.name)) {
            .lt => true,
            .gt => false,
            .eq => a < b,
        };
    }

    fn nest(self: *Parser, order: []const u32) Error!Structure {
        var tree: names.Tree = .init(self.gpa, self.entries.len, self.diagnostic);
        defer tree.deinit();
        for (self.entries, order) |entry, tensor| {
            errdefer self.note(entry);
            try tree.add(self.pathOf(entry), tensor);
        }
        return tree.encode(self.arena);
    }
};
