//! The section directory, section 4 of the specification: one 64-byte entry per section.
//!
//! Offset | Size | Field
//! 0      | 4    | type, ascending
//! 4      | 4    | flags: bit 0 critical
//! 8      | 8    | offset
//! 16     | 8    | size
//! 24     | 4    | record_size, 0 unless a table
//! 28     | 4    | reserved, zero
//! 32     | 32   | digest: BLAKE3 of the section; of the chunk table: zero

const std = @import("std");
const bytes = @import("bytes.zig");
const checksum = @import("checksum.zig");
const format = @import("format.zig");
const Digest = @import("index.zig").Digest;
const Preamble = @import("preamble.zig").Preamble;
const status = @import("status.zig");

pub const Section = struct {
    type: u32,
    flags: u32 = format.section.flag_critical,
    offset: u64,
    size: u64,
    record_size: u32,
    digest: Digest,

    pub fn encode(self: Section, out: *[format.directory_entry_size]u8) void {
        @memset(out, 0);
        bytes.put(u32, out, 0, self.type);
        bytes.put(u32, out, 4, self.flags);
        bytes.put(u64, out, 8, self.offset);
        bytes.put(u64, out, 16, self.size);
        bytes.put(u32, out, 24, self.record_size);
        out[32..64].* = self.digest;
    }

    fn decode(raw: *const [format.directory_entry_size]u8) Section {
        return .{
            .type = bytes.get(u32, raw, 0),
            .flags = bytes.get(u32, raw, 4),
            .offset = bytes.get(u64, raw, 8),
            .size = bytes.get(u64, raw, 16),
            .record_size = bytes.get(u32, raw, 24),
            .digest = raw[32..64].*,
        };
    }

    /// The section's bytes. All sections except the chunk table lie before `open_size`.
    pub fn slice(self: Section, front: []const u8) []const u8 {
        return front[@intCast(self.offset)..][0..@intCast(self.size)];
    }
};

/// The sections of this version. Others are checked, and ignored.
pub const Directory = struct {
    tensors: Section,
    shapes: Section,
    names: Section,
    structure: ?Section,
    metadata: ?Section,
    chunks: Section,
};

/// The fixed `record_size` of a section of this version, or null for any other type.
pub fn recordSize(section_type: u32) ?u32 {
    return switch (section_type) {
        format.section.tensors => format.tensor_record_size,
        format.section.shapes => format.shape_record_size,
        format.section.chunks => format.chunk_record_size,
        format.section.names, format.section.structure, format.section.metadata => 0,
        else => null,
    };
}

/// TZ1-11 to TZ1-20 and TZ1-69 to TZ1-73. `front` holds the first `open_size` bytes of the file.
pub fn decode(
    preamble: Preamble,
    front: []const u8,
    diagnostic: *status.Diagnostic,
) status.DataError!Directory {
    const raw = front[format.preamble_size..@intCast(preamble.directoryEnd())];
    if (!std.mem.eql(u8, &checksum.blake3(raw), &preamble.directory_digest)) {
        return diagnostic.fail(error.Checksum, 11, format.preamble_size);
    }
    var entries: [format.section_count_max]Section = undefined;
    const sections = entries[0..preamble.section_count];
    for (sections, 0..) |*section, number| {
        const entry = raw[number * format.directory_entry_size ..][0..format.directory_entry_size];
        section.* = .decode(entry);
        const previous = if (number == 0) 0 else sections[number - 1].type;
        try checkEntry(section.*, entry, previous, preamble.version_minor, number, diagnostic);
    }
    const directory = try select(sections, diagnostic);
    try checkLayout(preamble, sections, directory, diagnostic);
    try checkContent(preamble, sections, front, diagnostic);
    return directory;
}

fn checkEntry(
    section: Section,
    entry: *const [format.directory_entry_size]u8,
    previous_type: u32,
    version_minor: u16,
    number: usize,
    diagnostic: *status.Diagnostic,
) status.DataError!void {
    const at = format.preamble_size + number * format.directory_entry_size;
    if (section.type <= previous_type) return diagnostic.fail(error.Directory, 12, at);
    const critical = section.flags & format.section.flag_critical != 0;
    if (section.flags & ~@as(u32, format.section.flag_critical) != 0) {
        return diagnostic.fail(error.Reserved, 13, at + 4);
    }
    if (!bytes.allZero(entry[28..32])) return diagnostic.fail(error.Reserved, 13, at + 28);
    const record_size = recordSize(section.type) orelse {
        if (critical) return diagnostic.fail(error.Feature, 14, at);
        return;
    };
    if (!critical) return diagnostic.fail(error.Directory, 15, at + 4);
    const may_grow = version_minor > format.version_minor and record_size != 0;
    if (section.record_size != record_size and
        !(may_grow and section.record_size > record_size))
    {
        return diagnostic.fail(error.Directory, 16, at + 24);
    }
    if (record_size != 0 and section.size % section.record_size != 0) {
        return diagnostic.fail(error.Directory, 70, at + 16);
    }
}

/// TZ1-17 and TZ1-71.
fn select(sections: []const Section, diagnostic: *status.Diagnostic) status.DataError!Directory {
    const directory: Directory = .{
        .tensors = try require(sections, format.section.tensors, diagnostic),
        .shapes = try require(sections, format.section.shapes, diagnostic),
        .names = try require(sections, format.section.names, diagnostic),
        .structure = find(sections, format.section.structure),
        .metadata = find(sections, format.section.metadata),
        .chunks = try require(sections, format.section.chunks, diagnostic),
    };
    for ([_]?Section{ directory.structure, directory.metadata }) |optional| {
        if (optional) |section| if (section.size == 0) {
            return diagnostic.fail(error.Directory, 71, format.preamble_size);
        };
    }
    return directory;
}

fn find(sections: []const Section, section_type: u32) ?Section {
    for (sections) |section| if (section.type == section_type) return section;
    return null;
}

fn require(
    sections: []const Section,
    section_type: u32,
    diagnostic: *status.Diagnostic,
) status.DataError!Section {
    return find(sections, section_type) orelse
        diagnostic.fail(error.Directory, 17, format.preamble_size);
}

/// TZ1-18, TZ1-72 and TZ1-73. The chunk table has the highest type, so it is the last section, and
/// no section ends behind it.
fn checkLayout(
    preamble: Preamble,
    sections: []const Section,
    directory: Directory,
    diagnostic: *status.Diagnostic,
) status.DataError!void {
    var end: u128 = preamble.directoryEnd(); // of sizes that are not checked yet
    for (sections, 0..) |section, number| {
        const at = format.preamble_size + number * format.directory_entry_size;
        if (section.offset != std.mem.alignForward(u128, end, format.section_alignment)) {
            return diagnostic.fail(error.Layout, 18, at + 8);
        }
        end = @as(u128, section.offset) + section.size;
    }
    if (directory.chunks.offset != preamble.open_size or end != preamble.header_size) {
        return diagnostic.fail(error.Layout, 72, 40);
    }
    if (directory.tensors.size / directory.tensors.record_size != preamble.tensor_count) {
        return diagnostic.fail(error.Layout, 73, 56);
    }
    if (directory.chunks.size / directory.chunks.record_size != preamble.chunk_count) {
        return diagnostic.fail(error.Layout, 73, 64);
    }
}

/// TZ1-19, TZ1-20 and TZ1-69.
fn checkContent(
    preamble: Preamble,
    sections: []const Section,
    front: []const u8,
    diagnostic: *status.Diagnostic,
) status.DataError!void {
    var end = preamble.directoryEnd();
    for (sections, 0..) |section, number| {
        const at = format.preamble_size + number * format.directory_entry_size;
        if (!bytes.allZero(front[@intCast(end)..@intCast(section.offset)])) {
            return diagnostic.fail(error.Reserved, 19, end);
        }
        end = section.offset + section.size;
        if (section.type == format.section.chunks) {
            if (!bytes.allZero(&section.digest)) {
                return diagnostic.fail(error.Reserved, 69, at + 32);
            }
        } else if (!std.mem.eql(u8, &checksum.blake3(section.slice(front)), &section.digest)) {
            return diagnostic.fail(error.Checksum, 20, section.offset);
        }
    }
}
