//! Lays out a new file and builds its header, section 17 of the specification. The caller encodes
//! and writes the data; the builder knows the offset of each chunk and collects the entries.

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const chunk_table = @import("chunk_table.zig");
const codecs = @import("codec.zig");
const directories = @import("directory.zig");
const Entry = @import("encode.zig").Entry;
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const Item = sections.Item;
const Pair = @import("metadata.zig").Pair;
const Preamble = @import("preamble.zig").Preamble;
const Section = directories.Section;
const sections = @import("builder_sections.zig");
const status = @import("status.zig");
const structures = @import("structure.zig");
const tensor_table = @import("tensor_table.zig");

const Allocator = std.mem.Allocator;

pub const Spec = sections.Spec;

pub const Options = struct {
    /// 0: chosen according to the amount of data.
    chunk_size_log2: u32 = 0,
    /// In any order.
    metadata: []const Pair = &.{},
    /// Preorder; tensor nodes hold the index of a spec.
    nodes: []const structures.Node = &.{},
};

pub const Builder = struct {
    gpa: Allocator,
    arena: std.heap.ArenaAllocator,
    items: []Item,
    /// Spec indices by name.
    sorted: []u32,
    chunk_size: u64,
    /// All sections that do not depend on the data.
    shapes: []u8,
    names: []u8,
    structure: []u8,
    metadata: []u8,
    sections: []Section,
    header_size: u64,
    chunk_count: u64,
    /// The state of putting: entries, the next spec with data, and the offset of its next chunk.
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
        if (specs.len > format.tensor_count_max) return tooMuch(diagnostic);
        var arena: std.heap.ArenaAllocator = .init(gpa);
        errdefer arena.deinit();
        const allocator = arena.allocator();
        const items = try sections.copySpecs(allocator, specs, diagnostic);
        const sorted = try sections.sortByName(allocator, items, diagnostic);
        try sections.resolveTies(items, diagnostic);
        const chunk_size = try sections.chunkSize(items, options.chunk_size_log2);
        const self = try allocator.create(Builder);
        self.* = .{
            .gpa = gpa,
            .arena = undefined,
            .items = items,
            .sorted = sorted,
            .chunk_size = chunk_size,
            .shapes = try sections.encodeShapes(allocator, items, sorted),
            .names = try sections.encodeNames(allocator, items, sorted, diagnostic),
            .structure = try sections.encodeStructure(
                gpa,
                allocator,
                items,
                options.nodes,
                diagnostic,
            ),
            .metadata = try sections.encodeMetadata(allocator, options.metadata, diagnostic),
            .sections = undefined,
            .header_size = 0,
            .chunk_count = 0,
            .end = 0,
        };
        for (items, 0..) |item, index| {
            if (!item.hasData(index)) continue;
            self.chunk_count += bytes.divCeil(item.decoded_size, chunk_size);
        }
        if (self.chunk_count > format.chunk_count_max) return tooMuch(diagnostic);
        self.sections = try self.layOut(allocator, diagnostic);
        const last = self.sections[self.sections.len - 1];
        self.header_size = last.offset + last.size;
        self.end = self.header_size;
        self.skipEmpty();
        if (self.fileSizeMax() == null) return tooMuch(diagnostic);
        self.arena = arena;
        return self;
    }

    pub fn deinit(self: *Builder) void {
        self.entries.deinit(self.gpa);
        var arena = self.arena; // self lies in it
        arena.deinit();
    }

    /// Whether the data of this spec must be put. False if it is empty or tied to a smaller name.
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

    /// The size of the file if every chunk is stored raw; null above the format's limit.
    pub fn fileSizeMax(self: *const Builder) ?u64 {
        var end = self.header_size;
        for (self.items, 0..) |item, index| {
            if (!item.hasData(index)) continue;
            end = bytes.alignUp(end, format.tensorAlignment(item.decoded_size)) orelse return null;
            end = bytes.add(end, item.decoded_size) orelse return null;
        }
        return if (end > format.file_size_max) null else end;
    }

    /// The sections of this file with their offsets; digests and the tensor table's bytes come at
    /// the end.
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
            return tooMuch(diagnostic);
        }
        return list.items;
    }

    /// Takes the next chunks of `spec`. Returns the offset in the file of the first one.
    pub fn putChunks(self: *Builder, spec: usize, entries: []const Entry) status.Error!u64 {
        if (spec != self.current or entries.len == 0) return error.Sequence;
        const item = &self.items[spec];
        const chunk_count = bytes.divCeil(item.decoded_size, self.chunk_size);
        if (entries.len > chunk_count - self.current_chunks) return error.Sequence;
        for (entries, self.current_chunks..) |entry, number| {
            const rest = item.decoded_size - number * self.chunk_size;
            const codec = codecs.info(entry.codec) orelse return error.Argument;
            const decoded_length = @min(self.chunk_size, rest);
            if (!codec.fits(entry.stored_length, decoded_length)) return error.Argument;
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
            const begin = std.mem.alignForward(u64, self.end, format.chunk_alignment);
            self.end = begin + entry.stored_length;
            self.incompatible_flags |= codecs.info(entry.codec).?.flag; // checked above
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
            const contents = section.slice(header);
            self.fill(section.type, @constCast(contents));
            var described = section;
            if (section.type != format.section.chunks) {
                described.digest = checksum.blake3(contents);
            }
            const at = format.preamble_size + number * format.directory_entry_size;
            described.encode(header[at..][0..format.directory_entry_size]);
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
        const record_size = format.tensor_record_size;
        var name_offset: u32 = 0;
        var shape_begin: u32 = 0;
        for (self.sorted, 0..) |spec, index| {
            const item = self.items[spec];
            const owner = self.items[item.owner];
            const run_digest = checksum.blake3(self.runOf(spec));
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
            }, name_offset, shape_begin, out[record_size * index ..][0..record_size]);
            name_offset += @intCast(item.spec.name.len);
            shape_begin += @intCast(item.spec.shape.len);
        }
    }

    /// The chunk entries of a spec; none without data.
    fn runOf(self: *const Builder, spec: usize) []const u8 {
        const item = self.items[spec];
        if (!item.hasData(spec)) return &.{};
        const begin: usize = @intCast(item.chunk_begin * format.chunk_record_size);
        const count: usize = @intCast(bytes.divCeil(item.decoded_size, self.chunk_size));
        return self.entries.items[begin..][0 .. count * format.chunk_record_size];
    }
};

/// TZ1-8, which no single spec breaks.
fn tooMuch(diagnostic: *status.Diagnostic) status.DataError {
    return diagnostic.fail(error.Limit, 8, status.Diagnostic.none);
}
