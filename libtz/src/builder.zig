//! Lays out a new file and makes its header, section 17 of the specification. The caller encodes and writes the data;
//! the builder knows where each chunk goes, and collects the entries.

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const chunk_table = @import("chunk_table.zig");
const directories = @import("directory.zig");
const dtypes = @import("dtype.zig");
const Entry = @import("encode.zig").Entry;
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const Pair = @import("metadata.zig").Pair;
const metadata = @import("metadata.zig");
const Preamble = @import("preamble.zig").Preamble;
const Section = directories.Section;
const status = @import("status.zig");
const structures = @import("structure.zig");
const tensor_table = @import("tensor_table.zig");

const Allocator = std.mem.Allocator;

pub const Spec = struct {
    name: []const u8,
    shape: []const u64,
    dtype: u32,
    /// Another spec whose data this one shares, or `format.none`.
    tie: u32 = format.none,
};

pub const Options = struct {
    /// 0: chosen by the amount of data.
    chunk_size_log2: u32 = 0,
    /// In any order.
    metadata: []const Pair = &.{},
    /// Preorder; tensor nodes hold the index of a spec.
    nodes: []const structures.Node = &.{},
};

/// A spec with what was found out about it and put since.
const Item = struct {
    spec: Spec,
    decoded_size: u64,
    /// Index in the tensor table.
    sorted: u32 = 0,
    /// The spec with the smallest name of the tie; itself when not tied.
    owner: u32,
    data_offset: u64 = 0,
    stored_size: u64 = 0,
    chunk_begin: u64 = 0,
    /// Null until it was put. Empty tensors have one from the beginning.
    content: ?Digest = null,

    fn hasData(self: Item, index: usize) bool {
        return self.owner == index and self.decoded_size != 0;
    }
};

pub const Builder = struct {
    gpa: Allocator,
    arena: std.heap.ArenaAllocator,
    items: []Item,
    /// Spec indices by name.
    sorted: []u32,
    chunk_size: u64,
    /// All sections but the chunk table, whose bytes do not depend on data; tensor_section is made at the end.
    shapes: []u8,
    names: []u8,
    structure: []u8,
    metadata: []u8,
    sections: []Section,
    header_size: u64,
    chunk_count: u64,
    /// What was put so far: entries, the next spec with data, and where its next chunk goes.
    entries: std.ArrayList(u8) = .empty,
    current: usize = 0,
    current_chunks: u64 = 0,
    end: u64,
    incompatible_flags: u64 = 0,

    pub fn init(
        gpa: Allocator,
        specs: []const Spec,
        options: Options,
        diagnostic: *status.Diagnostic,
    ) status.Error!*Builder {
        if (specs.len > format.tensor_count_max) return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
        var arena: std.heap.ArenaAllocator = .init(gpa);
        errdefer arena.deinit();
        const allocator = arena.allocator();
        const items = try copySpecs(allocator, specs, diagnostic);
        const sorted = try sortByName(allocator, items, diagnostic);
        try resolveTies(items, diagnostic);
        const chunk_size = try chunkSize(items, options.chunk_size_log2);
        const self = try allocator.create(Builder);
        self.* = .{
            .gpa = gpa,
            .arena = undefined,
            .items = items,
            .sorted = sorted,
            .chunk_size = chunk_size,
            .shapes = try encodeShapes(allocator, items, sorted),
            .names = try encodeNames(allocator, items, sorted, diagnostic),
            .structure = try encodeStructure(gpa, allocator, items, options.nodes, diagnostic),
            .metadata = try encodeMetadata(allocator, options.metadata, diagnostic),
            .sections = undefined,
            .header_size = 0,
            .chunk_count = 0,
            .end = 0,
        };
        for (items, 0..) |item, index| {
            if (item.hasData(index)) self.chunk_count += bytes.divCeil(item.decoded_size, chunk_size);
        }
        if (self.chunk_count > format.chunk_count_max) {
            return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
        }
        self.sections = try self.layOut(allocator, diagnostic);
        const last = self.sections[self.sections.len - 1];
        self.header_size = last.offset + last.size;
        self.end = self.header_size;
        self.skipEmpty();
        if (self.fileSizeMax() == null) return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
        self.arena = arena;
        return self;
    }

    pub fn deinit(self: *Builder) void {
        self.entries.deinit(self.gpa);
        var arena = self.arena; // self lies in it
        arena.deinit();
    }

    /// Whether the data of this spec must be put: not when it is empty or tied to a smaller name.
    pub fn hasData(self: *const Builder, spec: usize) bool {
        return self.items[spec].hasData(spec);
    }

    pub fn decodedSize(self: *const Builder) u64 {
        var sum: u64 = 0;
        for (self.items, 0..) |item, index| {
            if (item.hasData(index)) sum +|= item.decoded_size;
        }
        return sum;
    }

    /// The size of the file when every chunk is stored raw; null over the format's limit.
    pub fn fileSizeMax(self: *const Builder) ?u64 {
        var end = self.header_size;
        for (self.items, 0..) |item, index| {
            if (!item.hasData(index)) continue;
            end = bytes.alignUp(end, format.tensorAlignment(item.decoded_size)) orelse return null;
            end = bytes.add(end, item.decoded_size) orelse return null;
        }
        return if (end > format.file_size_max) null else end;
    }

    /// The sections of this file with their places; digests and the tensor table's bytes come at the end.
    fn layOut(
        self: *Builder,
        allocator: Allocator,
        diagnostic: *status.Diagnostic,
    ) (status.DataError || error{OutOfMemory})![]Section {
        const sizes = [_]struct { u32, u64 }{
            .{ format.section.tensors, @as(u64, format.tensor_record_size) * self.items.len },
            .{ format.section.shapes, self.shapes.len },
            .{ format.section.names, self.names.len },
            .{ format.section.structure, self.structure.len },
            .{ format.section.metadata, self.metadata.len },
            .{ format.section.chunks, format.chunk_record_size * self.chunk_count },
        };
        var list: std.ArrayList(Section) = try .initCapacity(allocator, sizes.len);
        for (sizes) |section| {
            const section_type, const size = section;
            const optional = section_type == format.section.structure or
                section_type == format.section.metadata;
            if (optional and size == 0) continue;
            list.appendAssumeCapacity(.{
                .type = section_type,
                .offset = 0,
                .size = size,
                .record_size = directories.recordSize(section_type).?,
                .digest = @splat(0),
            });
        }
        var end: u64 = format.preamble_size + format.directory_entry_size * list.items.len;
        for (list.items) |*section| {
            section.offset = std.mem.alignForward(u64, end, format.section_alignment);
            end = section.offset + section.size;
        }
        if (list.items[list.items.len - 1].offset > format.open_size_max) {
            return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
        }
        return list.items;
    }

    /// Takes the next chunks of `spec` and returns where the first of them lies in the file.
    pub fn putChunks(self: *Builder, spec: usize, entries: []const Entry) status.Error!u64 {
        if (spec != self.current or entries.len == 0) return error.Sequence;
        const item = &self.items[spec];
        const chunk_count = bytes.divCeil(item.decoded_size, self.chunk_size);
        if (entries.len > chunk_count - self.current_chunks) return error.Sequence;
        for (entries, self.current_chunks..) |entry, number| {
            const decoded_length = @min(self.chunk_size, item.decoded_size - number * self.chunk_size);
            const fits = switch (entry.codec) {
                format.codec_raw => entry.stored_length == decoded_length,
                format.codec_tiered => entry.stored_length > 0 and entry.stored_length < decoded_length,
                else => false,
            };
            if (!fits) return error.Argument;
        }
        try self.entries.ensureUnusedCapacity(self.gpa, entries.len * format.chunk_record_size);
        if (self.current_chunks == 0) {
            const alignment = format.tensorAlignment(item.decoded_size);
            item.data_offset = std.mem.alignForward(u64, self.end, alignment);
            item.chunk_begin = self.entries.items.len / format.chunk_record_size;
            self.end = item.data_offset;
        }
        const first = std.mem.alignForward(u64, self.end, format.chunk_alignment);
        for (entries) |entry| {
            self.end = std.mem.alignForward(u64, self.end, format.chunk_alignment) + entry.stored_length;
            if (entry.codec == format.codec_tiered) self.incompatible_flags |= format.flag_tiered;
            const record: chunk_table.Entry = .{
                .stored_length = entry.stored_length,
                .crc = entry.crc,
                .codec = @intCast(entry.codec),
                .digest = entry.digest,
            };
            record.encode(self.entries.addManyAsArrayAssumeCapacity(format.chunk_record_size));
        }
        self.current_chunks += entries.len;
        if (self.current_chunks == chunk_count) {
            item.stored_size = self.end - item.data_offset;
            self.current += 1;
            self.current_chunks = 0;
            self.skipEmpty();
        }
        return first;
    }

    fn skipEmpty(self: *Builder) void {
        while (self.current < self.items.len and !self.hasData(self.current)) self.current += 1;
    }

    pub fn putContent(self: *Builder, spec: usize, digest: Digest) status.CallError!void {
        if (!self.hasData(spec) or self.items[spec].content != null) return error.Sequence;
        self.items[spec].content = digest;
    }

    /// Writes the header, header_size bytes, and returns the size of the file.
    pub fn finish(self: *const Builder, out: []u8) status.CallError!u64 {
        if (self.current != self.items.len) return error.Sequence;
        for (self.items, 0..) |item, index| {
            if (item.hasData(index) and item.content == null) return error.Sequence;
        }
        if (out.len < self.header_size) return error.BufferTooSmall;
        const header = out[0..@intCast(self.header_size)];
        @memset(header, 0);
        for (self.sections, 0..) |section, number| {
            const place = section.slice(header);
            self.fill(section.type, @constCast(place));
            var described = section;
            if (section.type != format.section.chunks) described.digest = checksum.blake3(place);
            described.encode(header[format.preamble_size + number * format.directory_entry_size ..][0..format.directory_entry_size]);
        }
        const directory_size = self.sections.len * format.directory_entry_size;
        const preamble: Preamble = .{
            .section_count = @intCast(self.sections.len),
            .incompatible_flags = self.incompatible_flags,
            .file_size = self.end,
            .header_size = self.header_size,
            .open_size = self.sections[self.sections.len - 1].offset,
            .tensor_count = @intCast(self.items.len),
            .chunk_size_log2 = std.math.log2_int(u64, self.chunk_size),
            .chunk_count = self.chunk_count,
            .directory_digest = checksum.blake3(header[format.preamble_size..][0..directory_size]),
        };
        preamble.encode(header[0..format.preamble_size]);
        return self.end;
    }

    fn fill(self: *const Builder, section_type: u32, out: []u8) void {
        switch (section_type) {
            format.section.tensors => self.fillTensors(out),
            format.section.shapes => @memcpy(out, self.shapes),
            format.section.names => @memcpy(out, self.names),
            format.section.structure => @memcpy(out, self.structure),
            format.section.metadata => @memcpy(out, self.metadata),
            format.section.chunks => @memcpy(out, self.entries.items),
            else => unreachable,
        }
    }

    fn fillTensors(self: *const Builder, out: []u8) void {
        var name_offset: u32 = 0;
        var shape_begin: u32 = 0;
        for (self.sorted, 0..) |spec, index| {
            const item = self.items[spec];
            const owner = self.items[item.owner];
            const run_size: usize = if (item.hasData(spec))
                @intCast(bytes.divCeil(item.decoded_size, self.chunk_size) * format.chunk_record_size)
            else
                0;
            const run_begin: usize = @intCast(item.chunk_begin * format.chunk_record_size);
            const run_digest = checksum.blake3(self.entries.items[run_begin..][0..run_size]);
            const content = owner.content orelse tensor_table.empty_digest;
            tensor_table.encode(.{
                .name = item.spec.name,
                .shape = item.spec.shape,
                .dtype = @intCast(item.spec.dtype),
                .order = spec,
                .tie = if (item.owner == spec) format.none else owner.sorted,
                .decoded_size = item.decoded_size,
                .data_offset = item.data_offset,
                .stored_size = item.stored_size,
                .chunk_begin = item.chunk_begin,
                .run_digest = &run_digest,
                .content_digest = &content,
            }, name_offset, shape_begin, out[index * format.tensor_record_size ..][0..format.tensor_record_size]);
            name_offset += @intCast(item.spec.name.len);
            shape_begin += @intCast(item.spec.shape.len);
        }
    }
};

fn copySpecs(
    allocator: Allocator,
    specs: []const Spec,
    diagnostic: *status.Diagnostic,
) status.Error![]Item {
    const nowhere = status.Diagnostic.none;
    const items = try allocator.alloc(Item, specs.len);
    for (specs, items, 0..) |spec, *item, index| {
        diagnostic.tensor = index;
        if (spec.name.len > format.name_size_max) return diagnostic.fail(error.Name, 22, nowhere);
        if (!bytes.isText(spec.name) or bytes.hasControl(spec.name)) {
            return diagnostic.fail(error.Name, 23, nowhere);
        }
        if (dtypes.byCode(spec.dtype) == null) return diagnostic.fail(error.Feature, 25, nowhere);
        if (spec.shape.len > format.rank_max) return diagnostic.fail(error.Limit, 27, nowhere);
        item.* = .{
            .spec = .{
                .name = try allocator.dupe(u8, spec.name),
                .shape = try allocator.dupe(u64, spec.shape),
                .dtype = spec.dtype,
                .tie = spec.tie,
            },
            .decoded_size = tensor_table.decodedSize(spec.dtype, spec.shape) orelse
                return diagnostic.fail(error.Limit, 29, nowhere),
            .owner = @intCast(index),
        };
    }
    diagnostic.tensor = nowhere;
    return items;
}

fn sortByName(
    allocator: Allocator,
    items: []Item,
    diagnostic: *status.Diagnostic,
) status.Error![]u32 {
    const sorted = try allocator.alloc(u32, items.len);
    for (sorted, 0..) |*spec, index| spec.* = @intCast(index);
    std.mem.sortUnstable(u32, sorted, @as([]const Item, items), struct {
        fn lessThan(all: []const Item, a: u32, b: u32) bool {
            return std.mem.order(u8, all[a].spec.name, all[b].spec.name) == .lt;
        }
    }.lessThan);
    for (sorted, 0..) |spec, index| {
        items[spec].sorted = @intCast(index);
        if (index == 0) continue;
        const before = items[sorted[index - 1]].spec.name;
        if (std.mem.eql(u8, before, items[spec].spec.name)) {
            diagnostic.tensor = @max(spec, sorted[index - 1]);
            return diagnostic.fail(error.Name, 24, status.Diagnostic.none);
        }
    }
    return sorted;
}

/// Joins specs that are tied, directly or over others, and makes the smallest name of each group its owner.
fn resolveTies(items: []Item, diagnostic: *status.Diagnostic) status.Error!void {
    for (items, 0..) |item, index| {
        if (item.spec.tie == format.none) continue;
        diagnostic.tensor = index;
        if (item.spec.tie >= items.len) return error.Argument;
        const other = items[item.spec.tie].spec;
        if (item.spec.tie == index or item.decoded_size == 0 or other.dtype != item.spec.dtype or
            !std.mem.eql(u64, other.shape, item.spec.shape))
        {
            return diagnostic.fail(error.Tie, 32, status.Diagnostic.none);
        }
        const a = root(items, @intCast(index));
        const b = root(items, item.spec.tie);
        if (items[a].sorted < items[b].sorted) items[b].owner = a else items[a].owner = b;
    }
    diagnostic.tensor = status.Diagnostic.none;
    for (items, 0..) |*item, index| item.owner = root(items, @intCast(index));
}

/// The end of a chain of owners; halves the chain on the way, so that long ones stay cheap.
fn root(items: []Item, start: u32) u32 {
    var index = start;
    while (items[index].owner != index) {
        items[index].owner = items[items[index].owner].owner;
        index = items[index].owner;
    }
    return index;
}

/// 1 MiB, doubled while the file would have more than 2^20 chunks.
fn chunkSize(items: []const Item, log2: u32) status.CallError!u64 {
    if (log2 != 0) {
        if (log2 < format.chunk_size_log2_min or log2 > format.chunk_size_log2_max) return error.Argument;
        return @as(u64, 1) << @intCast(log2);
    }
    var total: u64 = 0;
    for (items, 0..) |item, index| {
        if (item.hasData(index)) total +|= item.decoded_size;
    }
    var size: u64 = 1 << 20;
    while (size < 1 << format.chunk_size_log2_max and total / size > 1 << 20) size *= 2;
    return size;
}

fn encodeShapes(allocator: Allocator, items: []const Item, sorted: []const u32) error{OutOfMemory}![]u8 {
    var count: usize = 0;
    for (items) |item| count += item.spec.shape.len;
    const out = try allocator.alloc(u8, count * format.shape_record_size);
    var position: usize = 0;
    for (sorted) |spec| {
        for (items[spec].spec.shape) |dimension| {
            bytes.put(u64, out, position, dimension);
            position += format.shape_record_size;
        }
    }
    return out;
}

fn encodeNames(
    allocator: Allocator,
    items: []const Item,
    sorted: []const u32,
    diagnostic: *status.Diagnostic,
) status.Error![]u8 {
    var size: u64 = 0;
    for (items) |item| size += item.spec.name.len;
    if (size > format.open_size_max) return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
    const out = try allocator.alloc(u8, @intCast(size));
    var position: usize = 0;
    for (sorted) |spec| {
        const name = items[spec].spec.name;
        @memcpy(out[position..][0..name.len], name);
        position += name.len;
    }
    return out;
}

/// Checks the nodes by reading back what was written: one set of rules for both directions.
fn encodeStructure(
    gpa: Allocator,
    allocator: Allocator,
    items: []const Item,
    nodes: []const structures.Node,
    diagnostic: *status.Diagnostic,
) status.Error![]u8 {
    if (nodes.len == 0) return &.{};
    var size: u64 = 0;
    for (nodes) |node| size +|= node.encodedSize();
    if (size > format.open_size_max) return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
    const out = try allocator.alloc(u8, @intCast(size));
    var position: usize = 0;
    for (nodes) |node| {
        var numbered = node;
        if (node.kind == .tensor) {
            if (node.value >= items.len) return error.Argument;
            numbered.value = items[@intCast(node.value)].sorted;
        }
        numbered.encode(out[position..][0..@intCast(node.encodedSize())]);
        position += @intCast(node.encodedSize());
    }
    _ = try structures.decode(gpa, allocator, out, @intCast(items.len), 0, diagnostic);
    return out;
}

fn encodeMetadata(
    allocator: Allocator,
    pairs: []const Pair,
    diagnostic: *status.Diagnostic,
) status.Error![]u8 {
    const sorted = try allocator.dupe(Pair, pairs);
    std.mem.sortUnstable(Pair, sorted, {}, Pair.lessThan);
    var size: u64 = 0;
    for (sorted) |pair| {
        if (std.mem.startsWith(u8, pair.key, "tz.")) {
            return diagnostic.fail(error.Metadata, 59, status.Diagnostic.none);
        }
        if (pair.value.len > std.math.maxInt(u32)) return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
        size +|= pair.encodedSize();
    }
    if (size > format.open_size_max) return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
    const out = try allocator.alloc(u8, @intCast(size));
    var position: usize = 0;
    for (sorted) |pair| {
        pair.encode(out[position..][0..@intCast(pair.encodedSize())]);
        position += @intCast(pair.encodedSize());
    }
    _ = try metadata.decode(allocator, out, 0, diagnostic);
    return out;
}
