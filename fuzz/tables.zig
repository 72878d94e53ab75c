//! The positions of fields, records and sections in a file, according to its own tables. The file
//! may be any bytes.

const std = @import("std");
const tz = @import("tz");

const format = tz.format;

pub const Field = struct { offset: usize, size: usize };

pub const preamble_fields = [_]Field{
    .{ .offset = 8, .size = 2 },  .{ .offset = 10, .size = 2 },  .{ .offset = 12, .size = 4 },
    .{ .offset = 16, .size = 8 }, .{ .offset = 24, .size = 8 },  .{ .offset = 32, .size = 8 },
    .{ .offset = 40, .size = 8 }, .{ .offset = 48, .size = 8 },  .{ .offset = 56, .size = 4 },
    .{ .offset = 60, .size = 1 }, .{ .offset = 61, .size = 1 },  .{ .offset = 64, .size = 8 },
    .{ .offset = 72, .size = 8 }, .{ .offset = 104, .size = 8 },
};
pub const directory_fields = [_]Field{
    .{ .offset = 0, .size = 4 },  .{ .offset = 4, .size = 4 },  .{ .offset = 8, .size = 8 },
    .{ .offset = 16, .size = 8 }, .{ .offset = 24, .size = 4 }, .{ .offset = 28, .size = 4 },
    .{ .offset = 32, .size = 8 },
};
pub const tensor_fields = [_]Field{
    .{ .offset = 0, .size = 4 },  .{ .offset = 4, .size = 2 },  .{ .offset = 6, .size = 2 },
    .{ .offset = 8, .size = 4 },  .{ .offset = 12, .size = 1 }, .{ .offset = 13, .size = 1 },
    .{ .offset = 14, .size = 2 }, .{ .offset = 16, .size = 4 }, .{ .offset = 20, .size = 4 },
    .{ .offset = 24, .size = 8 }, .{ .offset = 32, .size = 8 }, .{ .offset = 40, .size = 8 },
    .{ .offset = 48, .size = 8 }, .{ .offset = 56, .size = 8 }, .{ .offset = 88, .size = 8 },
};
pub const shape_fields = [_]Field{.{ .offset = 0, .size = 8 }};
pub const chunk_fields = [_]Field{
    .{ .offset = 0, .size = 4 }, .{ .offset = 4, .size = 4 },  .{ .offset = 8, .size = 1 },
    .{ .offset = 9, .size = 1 }, .{ .offset = 16, .size = 8 },
};
pub const node_fields = [_]Field{
    .{ .offset = 0, .size = 1 }, .{ .offset = 1, .size = 1 },  .{ .offset = 2, .size = 1 },
    .{ .offset = 8, .size = 8 }, .{ .offset = 16, .size = 8 },
};
pub const pair_fields = [_]Field{ .{ .offset = 0, .size = 4 }, .{ .offset = 4, .size = 4 } };

pub const Range = struct { offset: usize, size: usize };

pub const Table = enum {
    directory,
    tensors,
    shapes,
    chunks,

    pub fn recordSize(self: Table) usize {
        return switch (self) {
            .directory => format.directory_entry_size,
            .tensors => format.tensor_record_size,
            .shapes => format.shape_record_size,
            .chunks => format.chunk_record_size,
        };
    }

    pub fn fields(self: Table) []const Field {
        return switch (self) {
            .directory => &directory_fields,
            .tensors => &tensor_fields,
            .shapes => &shape_fields,
            .chunks => &chunk_fields,
        };
    }

    pub fn range(self: Table, file: []const u8) Range {
        return switch (self) {
            .directory => .{
                .offset = format.preamble_size,
                .size = sectionCount(file) * format.directory_entry_size,
            },
            .tensors => sectionRange(file, format.section.tensors),
            .shapes => sectionRange(file, format.section.shapes),
            .chunks => sectionRange(file, format.section.chunks),
        };
    }
};

// Bytes behind the end read as 0, and writes there are dropped: an earlier change may have
// truncated the file in the middle of its tables.

pub fn get(comptime T: type, file: []const u8, offset: usize) T {
    if (offset + @sizeOf(T) > file.len) return 0;
    return std.mem.readInt(T, file[offset..][0..@sizeOf(T)], .little);
}

pub fn put(comptime T: type, file: []u8, offset: usize, value: T) void {
    if (offset + @sizeOf(T) > file.len) return;
    std.mem.writeInt(T, file[offset..][0..@sizeOf(T)], value, .little);
}

/// The number of directory entries that are inside the file.
pub fn sectionCount(file: []const u8) usize {
    if (file.len < format.preamble_size) return 0;
    const space = (file.len - format.preamble_size) / format.directory_entry_size;
    return @min(get(u32, file, 12), space, format.section_count_max);
}

pub fn entryOffset(number: usize) usize {
    return format.preamble_size + number * format.directory_entry_size;
}

pub fn clip(file: []const u8, offset: u64, size: u64) Range {
    const begin: usize = @intCast(@min(offset, file.len));
    return .{ .offset = begin, .size = @intCast(@min(size, file.len - begin)) };
}

pub fn entryRange(file: []const u8, number: usize) Range {
    const at = entryOffset(number);
    return clip(file, get(u64, file, at + 8), get(u64, file, at + 16));
}

/// The part of the first section of this type that is inside the file; empty if there is none.
pub fn sectionRange(file: []const u8, section_type: u32) Range {
    for (0..sectionCount(file)) |number| {
        if (get(u32, file, entryOffset(number)) == section_type) return entryRange(file, number);
    }
    return .{ .offset = 0, .size = 0 };
}
