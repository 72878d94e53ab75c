//! Exports: writing.

const std = @import("std");
const Builder = @import("../builder.zig").Builder;
const builders = @import("../builder.zig");
const bytes = @import("../bytes.zig");
const c = @import("types.zig");
const checksum = @import("../checksum.zig");
const Digest = @import("../index.zig").Digest;
const encode = @import("../encode.zig");
const format = @import("../format.zig");
const metadata = @import("../metadata.zig");
const status = @import("../status.zig");
const Diagnostic = status.Diagnostic;
const Status = status.Status;
const structures = @import("../structure.zig");
const support = @import("support.zig");
const Report = support.Report;
const give = support.give;
const gpa = support.gpa;
const result = support.result;
const slice = support.slice;
const sliceMutable = support.sliceMutable;

export fn tz_builder_new(
    specs: ?*const c.TensorSpec,
    spec_count: usize,
    options: ?*const c.BuilderOptions,
    out: ?**Builder,
    diagnostic: ?*c.Diagnostic,
) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    return result(newBuilder(specs, spec_count, options, out, &report.diagnostic));
}

fn newBuilder(
    specs: ?*const c.TensorSpec,
    spec_count: usize,
    options: ?*const c.BuilderOptions,
    out: ?**Builder,
    diagnostic: *Diagnostic,
) status.Error!void {
    const target = out orelse return error.Argument;
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    const given: support.Array(c.TensorSpec) = try .init(specs, spec_count);
    const list = try arena.allocator().alloc(builders.Spec, given.len());
    for (list, 0..) |*spec, index| {
        const from = try given.get(index);
        spec.* = .{
            .name = try slice(u8, from.name, from.name_size),
            .shape = try slice(u64, from.shape, from.rank),
            .dtype = from.dtype,
            .tie = from.tie,
            .decoded_size = from.decoded_size,
        };
    }
    var chosen: builders.Options = .{};
    if (options) |from| chosen = try builderOptions(arena.allocator(), from);
    target.* = try .init(gpa, list, chosen, diagnostic);
}

fn builderOptions(
    arena: std.mem.Allocator,
    options: *const c.BuilderOptions,
) status.Error!builders.Options {
    const from = try support.take(c.BuilderOptions, options);
    const given_pairs = try slice(c.Pair, from.metadata, from.metadata_count);
    const pairs = try arena.alloc(metadata.Pair, given_pairs.len);
    for (given_pairs, pairs) |given, *pair| {
        pair.* = .{
            .key = try slice(u8, given.key, given.key_size),
            .value = try slice(u8, given.value, given.value_size),
        };
    }
    const given_nodes = try slice(c.Node, from.nodes, from.node_count);
    const nodes = try arena.alloc(structures.Node, given_nodes.len);
    for (given_nodes, nodes) |given, *node| {
        const kind = std.math.cast(u8, given.kind) orelse return error.Argument;
        const key_kind = std.math.cast(u8, given.key_kind) orelse return error.Argument;
        node.* = .{
            .kind = std.enums.fromInt(structures.Kind, kind) orelse return error.Argument,
            .key_kind = std.enums.fromInt(structures.KeyKind, key_kind) orelse
                return error.Argument,
            .key = given.key,
            .value = given.value,
        };
        if (node.key_kind.hasBytes()) {
            node.key_bytes = try slice(u8, given.key_bytes, given.key);
        }
        if (node.kind.hasBytes()) {
            node.value_bytes = try slice(u8, given.value_bytes, given.value);
        }
    }
    return .{ .chunk_size_log2 = from.chunk_size_log2, .metadata = pairs, .nodes = nodes };
}

export fn tz_builder_free(builder: ?*Builder) void {
    if (builder) |made| made.deinit();
}

export fn tz_builder_get(builder: ?*const Builder, out: ?*c.BuilderInfo) Status {
    const self = builder orelse return .argument;
    return result(give(out orelse return .argument, .{
        .header_size = self.header_size,
        .chunk_size = self.chunk_size,
        .chunk_count = self.chunk_count,
        .decoded_size = self.decodedSize(),
        .file_size_max = self.fileSizeMax().?, // checked when it was made
    }));
}

export fn tz_builder_has_data(builder: ?*const Builder, spec: u32) u32 {
    const self = builder orelse return 0;
    if (spec >= self.items.len) return 0;
    return @intFromBool(self.hasData(spec));
}

fn encodeOptions(given: ?*const c.EncodeOptions) error{Argument}!encode.Options {
    const from = try support.take(c.EncodeOptions, given orelse return error.Argument);
    if (from.reserved != 0) return error.Argument;
    const is_power = std.math.isPowerOfTwo(from.chunk_size);
    const log2 = if (is_power) std.math.log2_int(u64, from.chunk_size) else 0;
    if (log2 < format.chunk_size_log2_min or log2 > format.chunk_size_log2_max) {
        return error.Argument;
    }
    return .{
        .dtype = std.math.cast(u16, from.dtype) orelse return error.Argument,
        .chunk_size = @intCast(from.chunk_size),
        .compress = std.enums.fromInt(encode.Compress, from.compress) orelse
            return error.Argument,
    };
}

export fn tz_chunks_encode_bound(options: ?*const c.EncodeOptions, size: usize) usize {
    _ = encodeOptions(options) catch return 0;
    return encode.outputSizeMax(size) orelse 0;
}

export fn tz_chunks_encode(
    options: ?*const c.EncodeOptions,
    source: ?[*]const u8,
    size: usize,
    out: ?[*]u8,
    out_capacity: usize,
    out_size: ?*usize,
    entries: ?*c.ChunkEntry,
    entry_count: usize,
) Status {
    const target = out_size orelse return .argument;
    const data = slice(u8, source, size) catch return .argument;
    const image = sliceMutable(u8, out, out_capacity) catch return .argument;
    target.* = encodeChunks(options, data, image, entries, entry_count) catch |err|
        return status.fromError(err);
    return .ok;
}

fn encodeChunks(
    given: ?*const c.EncodeOptions,
    data: []const u8,
    image: []u8,
    entries: ?*c.ChunkEntry,
    entry_count: usize,
) status.Error!usize {
    const options = try encodeOptions(given);
    if (data.len == 0 or entry_count != bytes.divCeil(data.len, options.chunk_size)) {
        return error.Argument;
    }
    if (image.len < encode.outputSizeMax(data.len) orelse return error.Argument) {
        return error.Argument;
    }
    const target: support.Array(c.ChunkEntry) = try .init(entries, entry_count);
    const list = try gpa.alloc(encode.Entry, entry_count);
    defer gpa.free(list);
    const written = try encode.encodeChunks(gpa, options, data, image, list);
    for (list, 0..) |entry, index| target.put(index, .{
        .stored_length = entry.stored_length,
        .codec = entry.codec,
        .crc = entry.crc,
        .digest = entry.digest,
    });
    return written;
}

export fn tz_builder_put_chunks(
    builder: ?*Builder,
    spec: u32,
    entries: ?*const c.ChunkEntry,
    count: usize,
    offset: ?*u64,
) Status {
    const self = builder orelse return .argument;
    const target = offset orelse return .argument;
    target.* = putChunks(self, spec, entries, count) catch |err| return status.fromError(err);
    return .ok;
}

fn putChunks(
    builder: *Builder,
    spec: u32,
    entries: ?*const c.ChunkEntry,
    count: usize,
) status.Error!u64 {
    const given: support.Array(c.ChunkEntry) = try .init(entries, count);
    const list = try gpa.alloc(encode.Entry, given.len());
    defer gpa.free(list);
    for (list, 0..) |*entry, index| {
        const from = try given.get(index);
        entry.* = .{
            .stored_length = from.stored_length,
            .codec = from.codec,
            .crc = from.crc,
            .digest = from.digest,
        };
    }
    return builder.putChunks(spec, list);
}

export fn tz_builder_put_content(builder: ?*Builder, spec: u32, digest: ?*const Digest) Status {
    const self = builder orelse return .argument;
    const value = digest orelse return .argument;
    if (spec >= self.items.len) return .argument;
    return result(self.putContent(spec, value.*));
}

export fn tz_builder_finish(
    builder: ?*const Builder,
    out: ?[*]u8,
    capacity: usize,
    needed: ?*usize,
    file_size: ?*u64,
    file_digest: ?*Digest,
) Status {
    return result(finishBuilder(builder, out, capacity, needed, file_size, file_digest));
}

fn finishBuilder(
    builder: ?*const Builder,
    out: ?[*]u8,
    capacity: usize,
    needed: ?*usize,
    file_size: ?*u64,
    file_digest: ?*Digest,
) status.Error!void {
    const self = builder orelse return error.Argument;
    const size = needed orelse return error.Argument;
    size.* = std.math.cast(usize, self.header_size) orelse return error.OutOfMemory;
    const target = try sliceMutable(u8, out, if (out == null) 0 else capacity);
    const written = try self.finish(target);
    if (file_size) |target_size| target_size.* = written;
    if (file_digest) |digest| digest.* = checksum.blake3(target[0..format.preamble_size]);
}
