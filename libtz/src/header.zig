//! An opened header: the checked beginning of a file of any format, and the chunk entries fetched
//! since.

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const chunk_table = @import("chunk_table.zig");
const coreweave = @import("foreign/coreweave.zig");
const directories = @import("directory.zig");
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const Index = @import("index.zig").Index;
const metadata = @import("metadata.zig");
const Preamble = @import("preamble.zig").Preamble;
const preambles = @import("preamble.zig");
const ChunkEntries = @import("chunk_entries.zig").ChunkEntries;
const safetensors = @import("foreign/safetensors.zig");
const status = @import("status.zig");
const structures = @import("structure.zig");
const Structure = structures.Structure;
const tensor_table = @import("tensor_table.zig");

const Allocator = std.mem.Allocator;

pub const Format = enum(u32) { tz = 1, safetensors = 2, coreweave = 3 };

pub const Options = struct {
    /// Null: detected from the first bytes.
    format: ?Format = null,
    /// The file digest of a tz file, compared before anything is parsed.
    pin: ?*const Digest = null,
    /// Refuse headers that need more than this.
    open_size_max: u64 = format.open_size_max,
};

pub const Outcome = union(enum) {
    header: *Header,
    /// This many bytes from the front are needed.
    need_more: u64,
};

pub const Header = struct {
    gpa: Allocator,
    /// Owns this struct and everything the index points to.
    arena: std.heap.ArenaAllocator,
    format: Format,
    index: Index,
    pairs: []const metadata.Pair,
    structure: Structure = .{},
    file_size: u64,
    header_size: u64,
    open_size: u64,
    chunk_count: u64 = 0,
    incompatible_flags: u64 = 0,
    compatible_flags: u64 = 0,
    is_encrypted: bool = false,
    file_digest: Digest = @splat(0),
    /// Null in foreign formats, which have no chunk table.
    chunk_entries: ?ChunkEntries = null,

    pub fn deinit(self: *Header) void {
        if (self.chunk_entries) |*entries| entries.deinit(self.gpa);
        var arena = self.arena; // self lies in it
        arena.deinit();
    }

    /// The chunks of a tensor with data of its own; for a tied tensor pass its owner.
    pub fn chunks(self: *const Header, tensor: u32) error{EntriesMissing}!chunk_table.Iterator {
        const entry = self.index.tensors[tensor];
        const chunk_entries = if (self.chunk_entries) |*present| present else {
            return .init(entry, null, 0, self.index.chunk_size);
        };
        if (!entry.hasChunks()) return .init(entry, null, 0, self.index.chunk_size);
        const run = chunk_entries.get(self.index, tensor) orelse return error.EntriesMissing;
        return .init(entry, run, chunk_entries.record_size, self.index.chunk_size);
    }

    /// Sum of the decoded sizes of all tensors with data of their own.
    pub fn decodedSize(self: *const Header) u64 {
        var sum: u64 = 0;
        for (self.index.tensors) |tensor| {
            // Bounded by the file size, but for compressed tensors, whose sizes a file may
            // overstate.
            if (tensor.hasChunks()) sum +|= tensor.decoded_size;
        }
        return sum;
    }

    /// Section 12 of the specification.
    pub fn contentDigest(self: *const Header) error{Feature}!Digest {
        if (self.format != .tz) return error.Feature;
        var state: checksum.Blake3 = .init();
        var field: [8]u8 = undefined;
        state.update("tz content digest v1\x00\x00\x00\x00");
        bytes.put(u64, &field, 0, self.index.tensors.len);
        state.update(&field);
        for (self.index.tensors) |tensor| {
            bytes.put(u32, &field, 0, @intCast(tensor.name.len));
            state.update(field[0..4]);
            state.update(tensor.name);
            bytes.put(u16, &field, 0, tensor.dtype);
            bytes.put(u16, &field, 2, @intCast(tensor.shape.len));
            state.update(field[0..4]);
            for (tensor.shape) |dimension| {
                bytes.put(u64, &field, 0, dimension);
                state.update(&field);
            }
            state.update(tensor.content_digest.?);
        }
        return state.final();
    }
};

/// Opens a file of `file_size` bytes from its beginning.
pub fn open(
    gpa: Allocator,
    front: []const u8,
    file_size: u64,
    options: Options,
    diagnostic: *status.Diagnostic,
) status.Error!Outcome {
    if (front.len > file_size) return error.Argument;
    // Only tz files can be pinned, so any other file is not the pinned one.
    const pinned: ?Format = if (options.pin != null) .tz else null;
    const known = options.format orelse pinned;
    const found = known orelse try recognise(front, file_size, diagnostic) orelse
        return .{ .need_more = @min(file_size, format.preamble_size) };
    if (found == .tz) return openTz(gpa, front, file_size, options, diagnostic);
    if (options.pin != null) return error.Argument;
    return openForeign(found, gpa, front, file_size, options, diagnostic);
}

/// In a safetensors file: the brace behind the size of the JSON, which no other format has there.
const brace_offset = 8;

/// Detects the format from the first bytes. Whether the file is well-formed is checked by the
/// reader of the format. Null: more bytes are needed.
fn recognise(
    front: []const u8,
    file_size: u64,
    diagnostic: *status.Diagnostic,
) status.DataError!?Format {
    if (front.len < @min(file_size, brace_offset + 1)) return null;
    const magic_size = @min(front.len, format.magic.len);
    // A file that ends within the magic is truncated, and so is an empty file.
    if (std.mem.eql(u8, front[0..magic_size], format.magic[0..magic_size])) return .tz;
    if (std.mem.startsWith(u8, front, coreweave.magic)) return .coreweave;
    if (front.len > brace_offset and front[brace_offset] == '{') return .safetensors;
    return diagnostic.fail(error.NotTz, 1, 0);
}

/// Section 13 of the specification gives the order of checks. Bytes are copied before they are
/// checked and parsed: the caller's may be a mapping that another process writes to.
fn openTz(
    gpa: Allocator,
    front: []const u8,
    file_size: u64,
    options: Options,
    diagnostic: *status.Diagnostic,
) status.Error!Outcome {
    const first: usize = @intCast(@min(file_size, format.preamble_size));
    var buffer: [format.preamble_size]u8 = undefined;
    const copied = buffer[0..@min(front.len, first)];
    @memcpy(copied, front[0..copied.len]);
    if (options.pin) |pin| {
        if (copied.len < first) return .{ .need_more = first };
        if (first < buffer.len or !std.mem.eql(u8, &checksum.blake3(&buffer), pin)) {
            return diagnostic.fail(error.Digest, 61, 0);
        }
    }
    try preambles.checkMagic(copied, diagnostic);
    if (copied.len < first) return .{ .need_more = first };
    const preamble: Preamble = try .decode(copied, file_size, diagnostic);
    if (preamble.open_size > options.open_size_max) return diagnostic.fail(error.Limit, 0, 48);
    if (front.len < preamble.open_size) return .{ .need_more = preamble.open_size };
    const rest = front[format.preamble_size..@intCast(preamble.open_size)];
    return .{ .header = try decode(gpa, preamble, &buffer, rest, diagnostic) };
}

/// `rest` follows the first bytes up to `open_size`.
fn decode(
    gpa: Allocator,
    preamble: Preamble,
    first: *const [format.preamble_size]u8,
    rest: []const u8,
    diagnostic: *status.Diagnostic,
) status.Error!*Header {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    errdefer arena.deinit();
    const allocator = arena.allocator();
    const kept = try allocator.alloc(u8, first.len + rest.len);
    @memcpy(kept[0..first.len], first);
    @memcpy(kept[first.len..], rest);
    const directory = try directories.decode(preamble, kept, diagnostic);
    const index = try tensor_table.decode(allocator, preamble, directory, kept, diagnostic);
    const structure: Structure = if (directory.structure) |section| try structures.decode(
        gpa,
        allocator,
        section.slice(kept),
        preamble.tensor_count,
        section.offset,
        diagnostic,
    ) else .{};
    const pairs = if (directory.metadata) |section|
        try metadata.decode(allocator, section.slice(kept), section.offset, diagnostic)
    else
        &.{};
    const chunk_entries: ChunkEntries =
        try .init(allocator, index, preamble, directory.chunks.record_size);
    const self = try allocator.create(Header);
    self.* = .{
        .gpa = gpa,
        .arena = arena, // nothing is taken from it from here on
        .format = .tz,
        .index = index,
        .pairs = pairs,
        .structure = structure,
        .file_size = preamble.file_size,
        .header_size = preamble.header_size,
        .open_size = preamble.open_size,
        .chunk_count = preamble.chunk_count,
        .incompatible_flags = preamble.incompatible_flags,
        .compatible_flags = preamble.compatible_flags,
        .file_digest = checksum.blake3(first),
        .chunk_entries = chunk_entries,
    };
    return self;
}

fn openForeign(
    foreign: Format,
    gpa: Allocator,
    front: []const u8,
    file_size: u64,
    options: Options,
    diagnostic: *status.Diagnostic,
) status.Error!Outcome {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    errdefer arena.deinit();
    const allocator = arena.allocator();
    const size_max = options.open_size_max;
    var needed: u64 = 0;
    const more = &needed;
    const found = switch (foreign) {
        .tz => unreachable,
        .safetensors => try safetensors.decode(
            allocator,
            front,
            file_size,
            size_max,
            more,
            diagnostic,
        ),
        .coreweave => try coreweave.decode(
            gpa,
            allocator,
            front,
            file_size,
            size_max,
            more,
            diagnostic,
        ),
    };
    const decoded = found orelse {
        arena.deinit();
        return .{ .need_more = needed };
    };
    const self = try allocator.create(Header);
    self.* = .{
        .gpa = gpa,
        .arena = arena,
        .format = foreign,
        .index = .{
            .tensors = decoded.tensors,
            .order = decoded.order,
            .chunk_size = foreign_chunk_size,
            .records = decoded.records,
        },
        .pairs = decoded.metadata,
        .structure = decoded.structure,
        .file_size = file_size,
        .header_size = decoded.header_size,
        .open_size = decoded.header_size,
        .is_encrypted = decoded.is_encrypted,
    };
    return .{ .header = self };
}

/// Foreign data are planned in pieces of this size: small enough that slices read little, and large
/// enough that their number does not matter.
const foreign_chunk_size = 1 << 20;
