//! Exports: opening headers, looking around, chunk entries.

const std = @import("std");
const c = @import("types.zig");
const coreweave_names = @import("../foreign/coreweave_names.zig");
const Digest = @import("../index.zig").Digest;
const Header = @import("../header.zig").Header;
const headers = @import("../header.zig");
const Range = @import("../runs.zig").Range;
const status = @import("../status.zig");
const Diagnostic = status.Diagnostic;
const Status = status.Status;
const support = @import("support.zig");
const give = support.give;
const gpa = support.gpa;
const result = support.result;
const slice = support.slice;

fn openAs(
    format: headers.Format,
    front: ?[*]const u8,
    front_size: usize,
    file_size: u64,
    given: ?*const c.OpenOptions,
    out: ?**Header,
    needed: ?*u64,
    diagnostic: ?*Diagnostic,
) status.Error!Status {
    var ignored: Diagnostic = .{};
    const place = support.diagnosticOr(diagnostic, &ignored);
    const target = out orelse return error.Argument;
    const more = needed orelse return error.Argument;
    var chosen: headers.Options = .{};
    if (given) |from| {
        if (from.struct_size < @sizeOf(c.OpenOptions) or from.reserved != 0) return error.Argument;
        chosen.pin = from.pin;
        if (from.open_size_max != 0) chosen.open_size_max = from.open_size_max;
    }
    const bytes = try slice(u8, front, front_size);
    const outcome = if (format == .tz)
        try headers.open(gpa, bytes, file_size, chosen, place)
    else
        try headers.openForeign(format, gpa, bytes, file_size, chosen, place);
    switch (outcome) {
        .header => |header| target.* = header,
        .need_more => |size| {
            more.* = size;
            return .need_more;
        },
    }
    return .ok;
}

export fn tz_header_open(
    front: ?[*]const u8,
    front_size: usize,
    file_size: u64,
    given: ?*const c.OpenOptions,
    out: ?**Header,
    needed: ?*u64,
    diagnostic: ?*Diagnostic,
) Status {
    return openAs(.tz, front, front_size, file_size, given, out, needed, diagnostic) catch |err|
        status.fromError(err);
}

export fn tz_safetensors_open(
    front: ?[*]const u8,
    front_size: usize,
    file_size: u64,
    given: ?*const c.OpenOptions,
    out: ?**Header,
    needed: ?*u64,
    diagnostic: ?*Diagnostic,
) Status {
    return openAs(.safetensors, front, front_size, file_size, given, out, needed, diagnostic) catch |err|
        status.fromError(err);
}

export fn tz_tensors_open(
    front: ?[*]const u8,
    front_size: usize,
    file_size: u64,
    given: ?*const c.OpenOptions,
    out: ?**Header,
    needed: ?*u64,
    diagnostic: ?*Diagnostic,
) Status {
    return openAs(.tensors, front, front_size, file_size, given, out, needed, diagnostic) catch |err|
        status.fromError(err);
}

export fn tz_header_free(header: ?*Header) void {
    if (header) |opened| opened.deinit();
}

export fn tz_header_get(header: ?*const Header, out: ?*c.HeaderInfo) Status {
    const self = header orelse return .argument;
    return result(give(out orelse return .argument, .{
        .struct_size = 0,
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
        .struct_size = 0,
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
    const has_value = node.kind == .str or node.kind == .bytes;
    target.* = .{
        .kind = @backingInt(node.kind),
        .key_kind = @backingInt(node.key_kind),
        .key = node.key,
        .value = node.value,
        .key_bytes = if (node.key_kind == .str) node.key_bytes.ptr else null,
        .value_bytes = if (has_value) node.value_bytes.ptr else null,
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

export fn tz_header_run_ranges(
    header: ?*const Header,
    tensors: ?[*]const u32,
    tensor_count: usize,
    gap_max: u64,
    out: ?[*]Range,
    capacity: usize,
    needed: ?*usize,
) Status {
    return result(runRanges(header, tensors, tensor_count, gap_max, out, capacity, needed));
}

fn runRanges(
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
    count.* = if (self.runs) |*runs|
        try runs.missing(gpa, self.index, chosen, gap_max, ranges)
    else
        0;
    if (count.* > capacity) return error.BufferTooSmall;
}

export fn tz_header_put_runs(
    header: ?*Header,
    offset: u64,
    data: ?[*]const u8,
    size: usize,
    diagnostic: ?*Diagnostic,
) Status {
    return result(putRuns(header, offset, data, size, diagnostic));
}

fn putRuns(
    header: ?*Header,
    offset: u64,
    data: ?[*]const u8,
    size: usize,
    diagnostic: ?*Diagnostic,
) status.Error!void {
    var ignored: Diagnostic = .{};
    const place = support.diagnosticOr(diagnostic, &ignored);
    const self = header orelse return error.Argument;
    const raw = try slice(u8, data, size);
    if (self.runs) |*runs| try runs.put(gpa, self.index, offset, raw, place);
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
    target.* = .{
        .offset = chunk.offset,
        .stored_length = chunk.stored_length,
        .decoded_length = chunk.decoded_length,
        .codec = chunk.codec,
        .crc = chunk.crc,
        .digest = chunk.digest,
    };
}
