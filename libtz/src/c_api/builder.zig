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
const give = support.give;
const gpa = support.gpa;
const result = support.result;
const slice = support.slice;
const sliceMutable = support.sliceMutable;

export fn tz_builder_new(
    specs: ?[*]const c.TensorSpec,
    spec_count: usize,
    given: ?*const c.BuilderOptions,
    out: ?**Builder,
    diagnostic: ?*Diagnostic,
) Status {
    return result(newBuilder(specs, spec_count, given, out, diagnostic));
}

fn newBuilder(
    specs: ?[*]const c.TensorSpec,
    spec_count: usize,
    given: ?*const c.BuilderOptions,
    out: ?**Builder,
    diagnostic: ?*Diagnostic,
) status.Error!void {
    var ignored: Diagnostic = .{};
    const place = support.diagnosticOr(diagnostic, &ignored);
    const target = out orelse return error.Argument;
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    const list = try arena.allocator().alloc(builders.Spec, spec_count);
    for (try slice(c.TensorSpec, specs, spec_count), list) |from, *spec| {
        if (from.reserved != 0) return error.Argument;
        spec.* = .{
            .name = try slice(u8, from.name, from.name_size),
            .shape = try slice(u64, from.shape, from.rank),
            .dtype = from.dtype,
            .tie = from.tie,
        };
    }
    const chosen: builders.Options = if (given) |from| try builderOptions(arena.allocator(), from) else .{};
    target.* = try .init(gpa, list, chosen, place);
}

fn builderOptions(arena: std.mem.Allocator, from: *const c.BuilderOptions) status.Error!builders.Options {
    if (from.struct_size < @sizeOf(c.BuilderOptions)) return error.Argument;
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
            .key_kind = std.enums.fromInt(structures.KeyKind, key_kind) orelse return error.Argument,
            .key = given.key,
            .value = given.value,
        };
        if (node.key_kind == .str) node.key_bytes = try slice(u8, given.key_bytes, given.key);
        if (node.kind == .str or node.kind == .bytes) {
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
        .struct_size = 0,
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

export fn tz_chunks_encode(
    dtype: u32,
    chunk_size: u64,
    compress: u32,
    source: ?[*]const u8,
    size: usize,
    out: ?[*]u8,
    out_capacity: usize,
    out_size: ?*usize,
    entries: ?[*]encode.Entry,
    entry_count: usize,
) Status {
    const target = out_size orelse return .argument;
    const data = slice(u8, source, size) catch return .argument;
    const image = sliceMutable(u8, out, out_capacity) catch return .argument;
    const list = sliceMutable(encode.Entry, entries, entry_count) catch return .argument;
    const mode = std.enums.fromInt(encode.Compress, compress) orelse return .argument;
    const code = std.math.cast(u16, dtype) orelse return .argument;
    const log2 = if (std.math.isPowerOfTwo(chunk_size)) std.math.log2_int(u64, chunk_size) else 0;
    if (log2 < format.chunk_size_log2_min or log2 > format.chunk_size_log2_max) return .argument;
    if (size == 0 or entry_count != bytes.divCeil(size, chunk_size)) return .argument;
    if (out_capacity < encode.outputSizeMax(size)) return .argument;
    const written = encode.encodeChunks(gpa, code, @intCast(chunk_size), mode, data, image, list) catch |err|
        return status.fromError(err);
    target.* = written;
    return .ok;
}

export fn tz_builder_put_chunks(
    builder: ?*Builder,
    spec: u32,
    entries: ?[*]const encode.Entry,
    count: usize,
    offset: ?*u64,
) Status {
    const self = builder orelse return .argument;
    const target = offset orelse return .argument;
    const list = slice(encode.Entry, entries, count) catch return .argument;
    target.* = self.putChunks(spec, list) catch |err| return status.fromError(err);
    return .ok;
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
    if (file_size) |place| place.* = written;
    if (file_digest) |place| place.* = checksum.blake3(target[0..format.preamble_size]);
}
