//! Invariant: any bytes give a header or a typed error, with memory in proportion to the input.
//! Every front of them gives the same result or needs more bytes. Headers that open are canonical:
//! a builder makes the same bytes from their contents.

const std = @import("std");
const inputs = @import("input.zig");
const Limited = @import("memory.zig").Limited;
const Buffer = @import("memory.zig").Buffer;
const observe = @import("observe.zig");
const tz = @import("tz");

const Allocator = std.mem.Allocator;
const Diagnostic = tz.status.Diagnostic;
const Error = tz.status.Error;
const Header = tz.header.Header;
const format = tz.format;

/// Bytes that opening may allocate per byte of the header, and in addition. Metadata needs the
/// most: pairs of 9 bytes become entries of 32 bytes in a growing list.
const memory_factor = 24;
const memory_base = 64 << 10;

const opening: tz.header.Options = .{ .format = .tz };

pub fn make(arena: Allocator, random: std.Random) ![]u8 {
    return inputs.make(arena, random, .header_only);
}

pub const mutate = inputs.mutate;

pub fn run(bytes: []const u8) !void {
    const input = inputs.Input.parse(bytes) orelse return;
    const front: Buffer = .copyOf(input.file);
    defer front.deinit();
    const file_size = claimedSize(input);
    var memory: Limited = .init(memory_base + memory_factor * front.bytes.len);
    defer memory.deinit();
    const gpa = memory.allocator();

    var diagnostic: Diagnostic = .{};
    const outcome = tz.header.open(gpa, front.bytes, file_size, opening, &diagnostic);
    try checkFronts(input, file_size, outcome);
    const header = switch (outcome catch return observe.refused(diagnostic)) {
        .header => |header| header,
        .need_more => return,
    };
    defer header.deinit();
    observe.accepted += 1;
    try checkLookups(header);
    // The chunk entries that are in the input.
    header.chunk_entries.?.put(gpa, header.index, 0, front.bytes, &diagnostic) catch |err| {
        if (err == error.OutOfMemory) return err;
        return observe.refused(diagnostic);
    };
    if (front.bytes.len < header.header_size) return;
    try checkChunks(header);
    try checkCanonical(header, front.bytes);
}

/// The file size that the preamble claims, as a hostile server would, or the real one.
fn claimedSize(input: inputs.Input) u64 {
    if (input.file.len < format.preamble_size or input.seed % 8 == 0) return input.file.len;
    return @max(input.file.len, std.mem.readInt(u64, input.file[32..40], .little));
}

/// Checks that a shorter front never gives another result, but needs more bytes.
fn checkFronts(input: inputs.Input, file_size: u64, expected: anytype) !void {
    var prng: std.Random.DefaultPrng = .init(input.seed);
    for (0..2) |_| {
        const size = prng.random().uintAtMost(usize, @min(input.file.len, 1024));
        const front: Buffer = .copyOf(input.file[0..size]);
        defer front.deinit();
        var memory: Limited = .init(memory_base + memory_factor * size);
        defer memory.deinit();
        var diagnostic: Diagnostic = .{};
        const gpa = memory.allocator();
        const bytes = front.bytes;
        const outcome = tz.header.open(gpa, bytes, file_size, opening, &diagnostic) catch |err| {
            if (expected) |_| return err else |other| if (other != err) return err;
            continue;
        };
        switch (outcome) {
            .header => |header| header.deinit(),
            .need_more => |needed| if (needed <= size or needed > file_size) {
                return error.AsksForNothing;
            },
        }
    }
}

fn checkLookups(header: *Header) !void {
    const index = header.index;
    for (index.tensors, 0..) |tensor, position| {
        const number: u32 = @intCast(position);
        if (index.find(tensor.name) != number) return error.NotFound;
        if (index.order[tensor.order] != number) return error.WrongOrder;
        if (tensor.data_offset + tensor.stored_size > header.file_size) return error.OutsideFile;
        const begin_min = if (tensor.hasChunks()) header.header_size else 0;
        if (tensor.data_offset < begin_min) return error.InsideHeader;
    }
    for (0..header.structure.offsets.len) |number| {
        const node = header.structure.node(number);
        if (node.kind == .tensor and node.value >= index.tensors.len) return error.NoSuchTensor;
    }
    _ = try header.contentDigest();
}

/// Checks that chunks are contiguous up to the end of their tensor.
fn checkChunks(header: *Header) !void {
    for (header.index.tensors, 0..) |tensor, number| {
        if (!tensor.hasChunks()) continue;
        var chunks = try header.chunks(@intCast(number));
        var end = tensor.data_offset;
        var decoded_size: u64 = 0;
        while (chunks.next()) |chunk| {
            const begin = std.mem.alignForward(u64, end, format.chunk_alignment);
            if (chunk.offset != begin) return error.WrongPlace;
            end = chunk.offset + chunk.stored_length;
            decoded_size += chunk.decoded_length;
        }
        if (end != tensor.data_offset + tensor.stored_size) return error.WrongEnd;
        if (decoded_size != tensor.decoded_size) return error.WrongSize;
    }
}

/// Builds the header again from its contents.
fn checkCanonical(header: *Header, front: []const u8) !void {
    if (!isOfThisVersion(header, front)) return;
    var arena_state: std.heap.ArenaAllocator = .init(@import("memory.zig").backing);
    defer arena_state.deinit();
    const arena = arena_state.allocator();
    const index = header.index;
    const specs = try arena.alloc(tz.builder.Spec, index.tensors.len);
    for (specs, index.order) |*spec, number| {
        const tensor = index.tensors[number];
        spec.* = .{
            .name = tensor.name,
            .shape = tensor.shape,
            .dtype = tensor.dtype,
            .tie = if (tensor.tie == format.none) format.none else index.tensors[tensor.tie].order,
        };
    }
    const nodes = try arena.alloc(tz.structure.Node, header.structure.offsets.len);
    for (nodes, 0..) |*node, number| {
        node.* = header.structure.node(number);
        if (node.kind == .tensor) node.value = index.tensors[@intCast(node.value)].order;
    }
    var diagnostic: Diagnostic = .{};
    const builder: *tz.builder.Builder = try .init(arena, specs, .{
        .chunk_size_log2 = std.math.log2_int(u64, index.chunk_size),
        .metadata = header.pairs,
        .nodes = nodes,
    }, &diagnostic);
    for (0..specs.len) |spec| {
        if (!builder.hasData(spec)) continue;
        try putTensor(arena, builder, @intCast(spec), header);
    }
    const rebuilt = try arena.alloc(u8, @intCast(header.header_size));
    const file_size = try builder.finish(rebuilt);
    // An unused flag is refused only by whole-file operations: TZ1-47.
    if (builder.incompatible_flags != header.incompatible_flags) return;
    if (file_size != header.file_size) return error.OtherSize;
    if (!std.mem.eql(u8, rebuilt, front[0..rebuilt.len])) return error.NotCanonical;
}

/// Whether a writer of this version can make it. Other headers can be read, but not written.
fn isOfThisVersion(header: *Header, front: []const u8) bool {
    if (header.compatible_flags != 0) return false;
    if (std.mem.readInt(u16, front[10..12], .little) != 0) return false;
    var known: u32 = 4;
    if (header.structure.offsets.len != 0) known += 1;
    if (header.pairs.len != 0) known += 1;
    if (std.mem.readInt(u32, front[12..16], .little) != known) return false;
    for (header.pairs) |pair| if (std.mem.startsWith(u8, pair.key, "tz.")) return false;
    for (header.index.tensors) |tensor| {
        if (tz.dtype.byCode(tensor.dtype) == null) return false;
        if (tensor.decoded_size != 0) continue;
        // Only whole-file operations check the content digest of an empty tensor.
        if (!std.mem.eql(u8, tensor.content_digest.?, &tz.checksum.blake3(""))) return false;
    }
    return true;
}

fn putTensor(arena: Allocator, builder: *tz.builder.Builder, spec: u32, header: *Header) !void {
    const tensor = header.index.order[spec];
    var entries: std.ArrayList(tz.encode.Entry) = .empty;
    var chunks = try header.chunks(tensor);
    while (chunks.next()) |chunk| try entries.append(arena, .{
        .stored_length = chunk.stored_length,
        .codec = chunk.codec,
        .crc = chunk.crc,
        .digest = chunk.digest.?.*,
    });
    const offset = try builder.putChunks(spec, entries.items);
    if (offset != header.index.tensors[tensor].data_offset) return error.OtherPlace;
    try builder.putContent(spec, header.index.tensors[tensor].content_digest.?.*);
}
