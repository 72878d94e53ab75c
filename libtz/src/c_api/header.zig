//! Exports: opening headers, their contents, chunk entries.

const std = @import("std");
const c = @import("types.zig");
const coreweave_names = @import("../foreign/coreweave_names.zig");
const Digest = @import("../index.zig").Digest;
const Header = @import("../header.zig").Header;
const headers = @import("../header.zig");
const Range = @import("../chunk_entries.zig").Range;
const status = @import("../status.zig");
const Diagnostic = status.Diagnostic;
const Status = status.Status;
const support = @import("support.zig");
const Report = support.Report;
const give = support.give;
const gpa = support.gpa;
const result = support.result;
const slice = support.slice;

export fn tz_header_open(
    front: ?[*]const u8,
    front_size: usize,
    file_size: u64,
    options: ?*const c.OpenOptions,
    out: ?**Header,
    needed: ?*u64,
    diagnostic: ?*c.Diagnostic,
) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    const target = out orelse return .argument;
    const more = needed orelse return .argument;
    const bytes = slice(u8, front, front_size) catch return .argument;
    const chosen = openOptions(options) catch return .argument;
    const outcome = headers.open(gpa, bytes, file_size, chosen, &report.diagnostic) catch |err|
        return status.fromError(err);
    switch (outcome) {
        .header => |header| {
            target.* = header;
            return .ok;
        },
        .need_more => |size| {
            more.* = size;
            return .need_more;
        },
    }
}

fn openOptions(given: ?*const c.OpenOptions) error{Argument}!headers.Options {
    const from = try support.take(c.OpenOptions, given orelse return .{});
    var chosen: headers.Options = .{ .pin = from.pin };
    if (from.format != 0) {
        chosen.format = std.enums.fromInt(headers.Format, from.format) orelse
            return error.Argument;
    }
    if (from.open_size_max != 0) chosen.open_size_max = from.open_size_max;
    return chosen;
}

export fn tz_header_free(header: ?*Header) void {
    if (header) |opened| opened.deinit();
}

export fn tz_header_get(header: ?*const Header, out: ?*c.HeaderInfo) Status {
    const self = header orelse return .argument;
    return result(give(out orelse return .argument, .{
        .format = @backingInt(self.format),
        .tensor_count = @intCast(self.index.tensors.len),
        .metadata_count = @intCast(self.pairs.len),
        .node_count = self.structure.offsets.len,
        .chunk_count = self.chunk_count,
        .chunk_size = self.index.chunk_size,
        .file_size = self.file_size,
        .header_size = self.header_size,
        .open_size = self.open_size,
        .decoded_size = self.decodedSize(),
        .incompatible_flags = self.incompatible_flags,
        .compatible_flags = self.compatible_flags,
        .file_digest = self.file_digest,
        .is_encrypted = @intFromBool(self.is_encrypted),
    }));
}

export fn tz_header_tensor(header: ?*const Header, index: u32, out: ?*c.Tensor) Status {
    const self = header orelse return .argument;
    if (index >= self.index.tensors.len) return .argument;
    const tensor = self.index.tensors[index];
    return result(give(out orelse return .argument, .{
        .dtype = tensor.dtype,
        .name = tensor.name.ptr,
        .name_size = tensor.name.len,
        .shape = tensor.shape.ptr,
        .rank = @intCast(tensor.shape.len),
        .order = tensor.order,
        .tie = tensor.tie,
        .flags = tensorFlags(self, index),
        .decoded_size = tensor.decoded_size,
        .stored_size = tensor.stored_size,
        .data_offset = tensor.data_offset,
        .chunk_count = tensor.chunkCount(self.index.chunk_size),
        .content_digest = tensor.content_digest,
    }));
}

fn tensorFlags(header: *const Header, index: u32) c.TensorFlags {
    if (header.index.records.len == 0) return .{};
    const record = header.index.records[index];
    return .{
        .meta = record.is_meta,
        .parameter = record.role == .parameter,
        .buffer = record.role == .buffer,
        .dotted = coreweave_names.isDotted(record.name, record.role),
    };
}

export fn tz_header_find(
    header: ?*const Header,
    name: ?[*]const u8,
    name_size: usize,
    index: ?*u32,
) Status {
    const self = header orelse return .argument;
    const target = index orelse return .argument;
    const text = slice(u8, name, name_size) catch return .argument;
    target.* = self.index.find(text) orelse return .not_found;
    return .ok;
}

export fn tz_header_order(header: *const Header) [*]const u32 {
    return header.index.order.ptr;
}

export fn tz_header_pair(header: ?*const Header, index: u32, out: ?*c.Pair) Status {
    const self = header orelse return .argument;
    const target = out orelse return .argument;
    if (index >= self.pairs.len) return .argument;
    const pair = self.pairs[index];
    target.* = .{
        .key = pair.key.ptr,
        .key_size = pair.key.len,
        .value = pair.value.ptr,
        .value_size = pair.value.len,
    };
    return .ok;
}

export fn tz_header_node(header: ?*const Header, index: u64, out: ?*c.Node) Status {
    const self = header orelse return .argument;
    const target = out orelse return .argument;
    if (index >= self.structure.offsets.len) return .argument;
    const node = self.structure.node(@intCast(index));
    target.* = .{
        .kind = @backingInt(node.kind),
        .key_kind = @backingInt(node.key_kind),
        .key = node.key,
        .value = node.value,
        .key_bytes = if (node.key_kind.hasBytes()) node.key_bytes.ptr else null,
        .value_bytes = if (node.kind.hasBytes()) node.value_bytes.ptr else null,
    };
    return .ok;
}

export fn tz_header_content_digest(header: ?*const Header, digest: ?*Digest) Status {
    const self = header orelse return .argument;
    const target = digest orelse return .argument;
    target.* = self.contentDigest() catch |err| return status.fromError(err);
    return .ok;
}

// ---- Chunk entries ----------------------------------------------------------------------------

export fn tz_header_entry_ranges(
    header: ?*const Header,
    tensors: ?[*]const u32,
    tensor_count: usize,
    gap_max: u64,
    out: ?[*]Range,
    capacity: usize,
    needed: ?*usize,
) Status {
    return result(entryRanges(header, tensors, tensor_count, gap_max, out, capacity, needed));
}

fn entryRanges(
    header: ?*const Header,
    tensors: ?[*]const u32,
    tensor_count: usize,
    gap_max: u64,
    out: ?[*]Range,
    capacity: usize,
    needed: ?*usize,
) status.Error!void {
    const self = header orelse return error.Argument;
    const count = needed orelse return error.Argument;
    const ranges = try support.sliceMutable(Range, out, capacity);
    const chosen: ?[]const u32 = if (tensors) |list| list[0..tensor_count] else null;
    count.* = if (self.chunk_entries) |*entries|
        try entries.missing(gpa, self.index, chosen, gap_max, ranges)
    else
        0;
    if (count.* > capacity) return error.BufferTooSmall;
}

export fn tz_header_put_entries(
    header: ?*Header,
    offset: u64,
    data: ?[*]const u8,
    size: usize,
    diagnostic: ?*c.Diagnostic,
) Status {
    var report = Report.init(diagnostic) catch return .argument;
    defer report.deliver();
    return result(putEntries(header, offset, data, size, &report.diagnostic));
}

fn putEntries(
    header: ?*Header,
    offset: u64,
    data: ?[*]const u8,
    size: usize,
    diagnostic: *Diagnostic,
) status.Error!void {
    const self = header orelse return error.Argument;
    const raw = try slice(u8, data, size);
    if (self.chunk_entries) |*entries| try entries.put(gpa, self.index, offset, raw, diagnostic);
}

export fn tz_header_chunk(header: ?*const Header, tensor: u32, chunk: u64, out: ?*c.Chunk) Status {
    return result(getChunk(header, tensor, chunk, out));
}

fn getChunk(header: ?*const Header, tensor: u32, number: u64, out: ?*c.Chunk) status.Error!void {
    const self = header orelse return error.Argument;
    const target = out orelse return error.Argument;
    if (tensor >= self.index.tensors.len) return error.Argument;
    var chunks = try self.chunks(tensor);
    const chunk_count = self.index.tensors[tensor].chunkCount(self.index.chunk_size);
    if (number >= chunk_count) return error.Argument;
    chunks.skip(number);
    const chunk = chunks.next().?;
    try give(target, .{
        .codec = chunk.codec,
        .offset = chunk.offset,
        .stored_length = chunk.stored_length,
        .decoded_length = chunk.decoded_length,
        .crc = chunk.crc,
        .digest = chunk.digest,
    });
}
