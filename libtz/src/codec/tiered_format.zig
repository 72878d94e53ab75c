//! The stored bytes of a tiered chunk (spec/tz-v1-codec-tiered.md, sections 3 to 7): sizes, offsets
//! and rules. Elements are encoded and decoded elsewhere.
//!
//!   header                                   | sub-block 0          | sub-block 1 ...
//!   fixed part | plane records | index | pad | plane 0 | plane 1 ...
//!
//! | Offset | Size | Field            | Rule                                    |
//! |--------|------|------------------|-----------------------------------------|
//! | 0      | u8   | layout           | that of the tensor's dtype              |
//! | 1      | u8   | sub_block_log2   | 15                                      |
//! | 2      | 2    | reserved         | zero                                    |
//! | 4      | u32  | decoded_size     | the chunk's, in bytes                   |
//! | 8      | 32 n | plane records    | one per plane of the layout             |
//! |        | u32s | index            | escape counts: sub-block, plane, tier   |
//! |        |      | padding          | zero, to a multiple of 64               |
//!
//! Plane record:
//!
//! | Offset | Size | Field            | Rule                                    |
//! |--------|------|------------------|-----------------------------------------|
//! | 0      | u8   | kind             | PlaneKind                               |
//! | 1      | u8   | value            | the symbol of a constant plane, else 0  |
//! | 2      | 30   | table            | symbols of the plan's tiers, then zeros |

const std = @import("std");
const bytes = @import("../bytes.zig");

pub const sub_block_log2 = 15;
/// Elements per sub-block, which one thread block of a GPU decodes. Chosen by measurement; see the
/// specification's rationale.
pub const sub_block_size = 1 << sub_block_log2;
/// The largest decoded size: that of the largest chunk of tz-v1.md.
pub const decoded_size_max = 64 << 20;

pub const plane_count_max = 4;
pub const tier_count_max = 3;
/// Symbols in the largest plan's tables.
pub const table_size_max = 30;
/// Planes and sub-blocks begin at multiples of this.
pub const plane_alignment = 64;
/// Lanes in a full group of packed codes.
pub const lane_count = 64;
/// The last group has a multiple of this many lanes.
pub const lane_step = 16;

const decoded_size_offset = 4;
const fixed_size = 8;
const record_size = 32;
const record_table_offset = 2;
const index_entry_size = 4;

comptime {
    // If one of these changes, the format changes.
    std.debug.assert(record_table_offset + table_size_max == record_size);
    std.debug.assert(sub_block_size % (lane_count * 8) == 0);
}

/// How an element is cut into planes of symbols. Codes are part of the format.
pub const Layout = enum(u8) {
    byte = 0,
    bf16 = 1,
    f16 = 2,
    f32 = 3,
    fp8_e4m3 = 4,
    fp8_e5m2 = 5,

    /// The layout of a dtype of tz-v1.md, or null: chunks of that dtype are stored raw.
    pub fn ofDtype(code: u32) ?Layout {
        return switch (code) {
            0x01, 0x02, 0x03, 0x24 => .byte, // bool, u8, i8, e8m0
            0x11 => .bf16,
            0x10, 0x18 => .f16, // and complex pairs of it
            0x12, 0x19 => .f32,
            0x20, 0x22 => .fp8_e4m3,
            0x21, 0x23 => .fp8_e5m2,
            else => null,
        };
    }

    pub fn elementSize(layout: Layout) usize {
        return switch (layout) {
            .byte, .fp8_e4m3, .fp8_e5m2 => 1,
            .bf16, .f16 => 2,
            .f32 => 4,
        };
    }

    /// Bits of each plane's symbols. Plane 0 holds the exponent.
    pub fn planeWidths(layout: Layout) []const u8 {
        return switch (layout) {
            .byte => &.{8},
            .bf16 => &.{ 8, 8 },
            .f16 => &.{ 5, 3, 8 },
            .f32 => &.{ 8, 8, 8, 8 },
            .fp8_e4m3 => &.{ 4, 4 },
            .fp8_e5m2 => &.{ 5, 3 },
        };
    }
};

/// How a plane is stored. Codes are part of the format.
pub const PlaneKind = enum(u8) {
    raw = 0,
    constant = 1,
    tiered_223 = 2,
    tiered_33 = 3,
    tiered_44 = 4,

    /// Bits of a code in each tier; empty unless tiered.
    pub fn plan(kind: PlaneKind) []const u8 {
        return switch (kind) {
            .raw, .constant => &.{},
            .tiered_223 => &.{ 2, 2, 3 },
            .tiered_33 => &.{ 3, 3 },
            .tiered_44 => &.{ 4, 4 },
        };
    }

    /// Symbols in the tables of all tiers.
    pub fn tableSize(kind: PlaneKind) usize {
        var size: usize = 0;
        for (kind.plan()) |code_bits| size += symbolCount(code_bits);
        return size;
    }

    /// Whether planes with symbols of `width` bits can be stored in this kind.
    pub fn isAllowed(kind: PlaneKind, width: u8) bool {
        return switch (kind) {
            .raw => width != 5, // five bits are not packed: tiers are never larger than raw bytes
            .constant => true,
            else => kind.tableSize() <= @as(usize, 1) << @intCast(width),
        };
    }
};

/// The number of symbols with codes of their own in a tier; the next code is the escape.
pub fn symbolCount(code_bits: u8) usize {
    return (@as(usize, 1) << @intCast(code_bits)) - 1;
}

/// Codes in a full group, which has 64 bytes, or with codes of three bits 192 bytes.
pub fn groupSize(code_bits: u8) usize {
    return lane_count * slotCount(code_bits);
}

/// Codes in one lane of a group.
pub fn slotCount(code_bits: u8) usize {
    return switch (code_bits) {
        2 => 4,
        3 => 8,
        4 => 2,
        else => unreachable,
    };
}

/// Bytes of a group, per lane.
pub fn rowCount(code_bits: u8) usize {
    return slotCount(code_bits) * code_bits / 8;
}

/// The number of lanes of a group that begins with `count` codes left. The last group has only as
/// many as it needs, rounded up.
pub fn groupLanes(code_bits: u8, count: usize) usize {
    if (count >= groupSize(code_bits)) return lane_count;
    return alignUp((count + slotCount(code_bits) - 1) / slotCount(code_bits), lane_step);
}

/// Bytes that `count` codes take.
pub fn packedSize(code_bits: u8, count: usize) usize {
    const full = count / groupSize(code_bits);
    const tail = groupLanes(code_bits, count % groupSize(code_bits));
    return (full * lane_count + tail) * rowCount(code_bits);
}

/// Bytes of a raw plane.
pub fn rawSize(width: u8, element_count: usize) usize {
    return if (width == 8) element_count else packedSize(width, element_count);
}

pub fn alignPlane(size: usize) usize {
    return alignUp(size, plane_alignment);
}

fn alignUp(size: usize, alignment: usize) usize {
    return (size + alignment - 1) & ~(alignment - 1);
}

/// The rules in section 7 of the specification.
pub const DecodeError = error{
    /// TZ1T-1: the decoded size is 0, above 64 MiB or no multiple of the element's size.
    DecodedSize,
    /// TZ1T-2: the stored bytes end inside the header.
    Truncated,
    /// TZ1T-3: not the layout of the dtype.
    LayoutMismatch,
    /// TZ1T-4: the sub-block size or a reserved byte.
    FixedPart,
    /// TZ1T-5: not the decoded size of the chunk.
    SizeMismatch,
    /// TZ1T-6: an unknown kind, or one that the plane's width rules out.
    PlaneKind,
    /// TZ1T-7: a constant out of range, or not zero where there is none.
    PlaneValue,
    /// TZ1T-8: a table symbol out of range or repeated, or a byte after the table.
    PlaneTable,
    /// TZ1T-9: more escapes than codes.
    EscapeIndex,
    /// TZ1T-10: header padding that is not zero.
    HeaderPadding,
    /// TZ1T-11: the stored size is not the one that follows from the header.
    StoredSize,
    /// TZ1T-12: padding after a plane that is not zero.
    PlanePadding,
    /// TZ1T-13: a literal out of range or with a code of its own.
    Literal,
    /// TZ1T-14: a code behind the last one that is not zero.
    UnusedCode,
    /// TZ1T-15: not as many escapes as the index says.
    EscapeCount,
};

pub const Plane = struct {
    kind: PlaneKind,
    width: u8,
    value: u8 = 0,
    table: [table_size_max]u8 = @splat(0),

    /// Bytes of this plane in a sub-block, padding not counted. `escapes`: one count per tier.
    pub fn storedSize(plane: Plane, element_count: usize, escapes: []const u32) usize {
        return switch (plane.kind) {
            .raw => rawSize(plane.width, element_count),
            .constant => 0,
            else => blk: {
                var size: usize = 0;
                var code_count = element_count;
                for (plane.kind.plan(), escapes) |code_bits, escape_count| {
                    size += packedSize(code_bits, code_count);
                    code_count = escape_count;
                }
                break :blk size + code_count; // symbols that escape the last tier are literals
            },
        };
    }
};

pub const Header = struct {
    layout: Layout,
    element_count: usize,
    plane_buffer: [plane_count_max]Plane,

    pub fn init(layout: Layout, decoded_size: usize) DecodeError!Header {
        if (decoded_size == 0 or decoded_size > decoded_size_max) return error.DecodedSize;
        if (decoded_size % layout.elementSize() != 0) return error.DecodedSize;
        return .{
            .layout = layout,
            .element_count = decoded_size / layout.elementSize(),
            .plane_buffer = undefined,
        };
    }

    pub fn decodedSize(header: *const Header) usize {
        return header.element_count * header.layout.elementSize();
    }

    pub fn planes(header: *const Header) []const Plane {
        return header.plane_buffer[0..header.layout.planeWidths().len];
    }

    pub fn subBlockCount(header: *const Header) usize {
        return std.math.divCeil(usize, header.element_count, sub_block_size) catch unreachable;
    }

    /// Elements of sub-block `index`; only the last may hold fewer than `sub_block_size`.
    pub fn elementsOf(header: *const Header, index: usize) usize {
        return @min(sub_block_size, header.element_count - index * sub_block_size);
    }

    /// Escape counts per sub-block.
    pub fn escapesPerBlock(header: *const Header) usize {
        var count: usize = 0;
        for (header.planes()) |plane| count += plane.kind.plan().len;
        return count;
    }

    pub fn indexOffset(header: *const Header) usize {
        return fixed_size + header.planes().len * record_size;
    }

    pub fn size(header: *const Header) usize {
        return alignPlane(header.indexEnd());
    }

    fn indexEnd(header: *const Header) usize {
        const entries = header.subBlockCount() * header.escapesPerBlock();
        return header.indexOffset() + entries * index_entry_size;
    }

    /// The escape counts of sub-block `index`, plane by plane, tier by tier.
    pub fn escapesOf(header: *const Header, stored: []const u8, index: usize) Escapes {
        const count = header.escapesPerBlock();
        const offset = header.indexOffset() + index * count * index_entry_size;
        var result: Escapes = .{ .counts = undefined };
        for (result.counts[0..count], 0..) |*entry, position| {
            entry.* = bytes.get(u32, stored, offset + position * index_entry_size);
        }
        return result;
    }

    pub fn putEscapes(header: *const Header, stored: []u8, index: usize, escapes: Escapes) void {
        const count = header.escapesPerBlock();
        const offset = header.indexOffset() + index * count * index_entry_size;
        for (escapes.counts[0..count], 0..) |entry, position| {
            bytes.put(u32, stored, offset + position * index_entry_size, entry);
        }
    }

    /// Checks all rules that do not depend on the planes. Afterwards, all sizes are known.
    pub fn parse(layout: Layout, stored: []const u8, decoded_size: usize) DecodeError!Header {
        var header = try init(layout, decoded_size);
        const records = header.indexOffset();
        if (stored.len < records) return error.Truncated;
        if (stored[0] != @backingInt(layout)) return error.LayoutMismatch;
        if (stored[1] != sub_block_log2) return error.FixedPart;
        if (!bytes.allZero(stored[2..decoded_size_offset])) return error.FixedPart;
        if (bytes.get(u32, stored, decoded_size_offset) != decoded_size) return error.SizeMismatch;
        for (layout.planeWidths(), 0..) |width, index| {
            const record = stored[fixed_size + index * record_size ..][0..record_size];
            header.plane_buffer[index] = try parsePlane(record, width);
        }
        if (stored.len < header.size()) return error.Truncated;

        var stored_size: u64 = header.size();
        for (0..header.subBlockCount()) |index| {
            stored_size += try header.checkEscapes(stored, index);
        }
        if (!bytes.allZero(stored[header.indexEnd()..header.size()])) return error.HeaderPadding;
        if (stored_size != stored.len) return error.StoredSize;
        return header;
    }

    /// Checks one sub-block's index entries; returns the stored size that follows from them.
    fn checkEscapes(header: *const Header, stored: []const u8, index: usize) DecodeError!u64 {
        const escapes = header.escapesOf(stored, index);
        const element_count = header.elementsOf(index);
        var block_size: u64 = 0;
        var position: usize = 0;
        for (header.planes()) |plane| {
            const tier_count = plane.kind.plan().len;
            const counts = escapes.counts[position..][0..tier_count];
            position += tier_count;
            var code_count = element_count;
            for (counts) |count| {
                if (count > code_count) return error.EscapeIndex;
                code_count = count;
            }
            block_size += alignPlane(plane.storedSize(element_count, counts));
        }
        return block_size;
    }

    /// Writes the header, with an index of zeros.
    pub fn write(header: *const Header, stored: []u8) void {
        @memset(stored[0..header.size()], 0);
        stored[0] = @backingInt(header.layout);
        stored[1] = sub_block_log2;
        bytes.put(u32, stored, decoded_size_offset, @intCast(header.decodedSize()));
        for (header.planes(), 0..) |plane, index| {
            const record = stored[fixed_size + index * record_size ..][0..record_size];
            record[0] = @backingInt(plane.kind);
            record[1] = plane.value;
            record[record_table_offset..].* = plane.table;
        }
    }
};

/// Escape counts of one sub-block.
pub const Escapes = struct {
    counts: [plane_count_max * tier_count_max]u32,
};

fn parsePlane(record: *const [record_size]u8, width: u8) DecodeError!Plane {
    if (record[0] > @backingInt(PlaneKind.tiered_44)) return error.PlaneKind;
    const kind: PlaneKind = @fromBackingInt(record[0]);
    if (!kind.isAllowed(width)) return error.PlaneKind;
    const symbol_limit = @as(usize, 1) << @intCast(width);
    const value = record[1];
    if (value >= symbol_limit or (kind != .constant and value != 0)) return error.PlaneValue;
    const table = record[record_table_offset..];
    const table_size = kind.tableSize();
    for (table[0..table_size], 0..) |symbol, index| {
        if (symbol >= symbol_limit) return error.PlaneTable;
        if (std.mem.indexOfScalar(u8, table[0..index], symbol) != null) return error.PlaneTable;
    }
    if (!bytes.allZero(table[table_size..])) return error.PlaneTable;
    return .{ .kind = kind, .width = width, .value = value, .table = table.* };
}

test packedSize {
    const expectEqual = std.testing.expectEqual;
    for ([_]u8{ 2, 3, 4 }) |code_bits| {
        try expectEqual(0, packedSize(code_bits, 0));
        const group = groupSize(code_bits);
        for (1..2 * group + 1) |count| {
            const size = packedSize(code_bits, count);
            try std.testing.expect(size * 8 >= count * code_bits);
            try std.testing.expect(size >= packedSize(code_bits, count - 1));
            try expectEqual(0, size % lane_step);
        }
        try expectEqual(64 * rowCount(code_bits), packedSize(code_bits, group));
        try expectEqual(80 * rowCount(code_bits), packedSize(code_bits, group + 1));
    }
}
