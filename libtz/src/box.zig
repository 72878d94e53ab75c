//! Boxes of tensors: rows [begin[0], end[0]) and so on. In the tensor's decoded bytes, a box is a
//! number of rows of equal size, repeated in up to 63 dimensions. In the result, these rows are
//! contiguous.

const std = @import("std");
const format = @import("format.zig");

/// Rows repeat `count` times, `stride` bytes apart.
pub const Dimension = struct {
    count: u64,
    stride: u64,
};

pub const Range = struct { begin: u64, end: u64 };

/// Room for any box's `outer`: the innermost dimension is always part of the row.
pub const Buffer = [format.rank_max]Dimension;

pub const Box = struct {
    /// The first byte, counted in the tensor's decoded bytes.
    begin: u64,
    /// Contiguous bytes in the tensor, as many as possible.
    row_size: u64,
    /// How rows repeat, outermost dimension first. None: the box is contiguous.
    outer: []const Dimension,
    /// All bytes of the box.
    size: u64,

    pub fn whole(size: u64) Box {
        return .{ .begin = 0, .row_size = size, .outer = &.{}, .size = size };
    }

    /// `outer` of the result lies in `buffer`. The shape was checked: the product of its non-zero
    /// dimensions and of `unit_size` fits 63 bits, hence so do all numbers here.
    pub fn init(
        buffer: *Buffer,
        shape: []const u64,
        unit_size: u64,
        begin: []const u64,
        end: []const u64,
    ) error{Argument}!Box {
        var empty = false;
        for (shape, begin, end) |size, low, high| {
            if (low > high or high > size) return error.Argument;
            if (low == high) empty = true;
        }
        if (empty) return whole(0);

        var box = whole(unit_size);
        var first: usize = buffer.len;
        var stride = unit_size;
        var inner_full = true; // the row covers all inner dimensions
        var dimension = shape.len;
        while (dimension > 0) {
            dimension -= 1;
            const count = end[dimension] - begin[dimension];
            box.begin += begin[dimension] * stride;
            box.size *= count;
            if (inner_full) {
                box.row_size = count * stride;
                inner_full = count == shape[dimension];
            } else if (count > 1) {
                const inner = if (first < buffer.len) &buffer[first] else null;
                if (inner != null and inner.?.count * inner.?.stride == stride) {
                    inner.?.count *= count; // one dimension continues the other
                } else {
                    first -= 1;
                    buffer[first] = .{ .count = count, .stride = stride };
                }
            }
            stride *= shape[dimension];
        }
        box.outer = buffer[first..];
        return box;
    }

    pub fn isContiguous(self: Box) bool {
        return self.outer.len == 0;
    }

    /// Where a contiguous box ends in the tensor.
    pub fn contiguousEnd(self: Box) u64 {
        std.debug.assert(self.isContiguous());
        return self.begin + self.row_size;
    }

    /// The first byte of the box at or after byte `at` of the tensor.
    pub fn nextByte(self: Box, at: u64) ?u64 {
        const cursor = self.seek(at) orelse return null;
        return cursor.offset;
    }

    /// The smallest part of the tensor's bytes [begin, end) that contains all bytes of the box in
    /// them; it may end a little late. The range must contain some of the box.
    pub fn hull(self: Box, begin: u64, end: u64) Range {
        const cursor = self.seek(begin).?;
        std.debug.assert(cursor.offset < end);
        const row_end = cursor.offset + cursor.row_rest;
        const is_last = row_end < end and (self.nextByte(row_end) orelse end) >= end;
        return .{ .begin = cursor.offset, .end = if (is_last) row_end else end };
    }

    /// Copies the part of the box that is in a piece of the tensor's decoded bytes, which begins at
    /// byte `piece_begin`, to `out`, the contiguous box.
    pub fn copy(self: Box, piece_begin: u64, piece: []const u8, out: []u8) void {
        std.debug.assert(out.len == self.size);
        const piece_end = piece_begin + piece.len;
        var cursor = self.seek(piece_begin) orelse return;
        while (cursor.offset < piece_end) {
            const available = piece_end - cursor.offset;
            const source = piece[@intCast(cursor.offset - piece_begin)..];
            const target = out[@intCast(cursor.position)..];
            const rows = self.rowsWithin(&cursor, available);
            if (rows == 0) { // the piece begins or ends inside this row, or the box is one row
                const size: usize = @intCast(@min(cursor.row_rest, available));
                @memcpy(target[0..size], source[0..size]);
                if (size < cursor.row_rest) return;
                cursor.position += size;
                if (!self.advance(&cursor, 1)) return;
            } else {
                const stride = self.outer[self.outer.len - 1].stride;
                std.debug.assert(source.len >= (rows - 1) * stride + self.row_size);
                std.debug.assert(target.len >= rows * self.row_size);
                copyRows(target.ptr, source.ptr, @intCast(self.row_size), @intCast(stride), rows);
                cursor.position += rows * self.row_size;
                if (!self.advance(&cursor, rows)) return;
            }
        }
    }

    /// How far a copy has come.
    const Cursor = struct {
        /// Number of the row in each outer dimension.
        index: [format.rank_max]u64,
        /// Position in the tensor.
        offset: u64,
        /// Position in the contiguous box.
        position: u64,
        /// Bytes from here to the end of the row.
        row_rest: u64,
    };

    fn seek(self: Box, at: u64) ?Cursor {
        var cursor: Cursor = undefined;
        @memset(cursor.index[0..self.outer.len], 0);
        if (self.size == 0) return null;
        if (at <= self.begin) {
            self.locate(&cursor);
            return cursor;
        }
        var rest = at - self.begin;
        for (self.outer, 0..) |dimension, level| {
            const index = rest / dimension.stride;
            if (index >= dimension.count) {
                return if (self.carry(&cursor, level)) cursor else null;
            }
            cursor.index[level] = index;
            rest -= index * dimension.stride;
        }
        if (rest >= self.row_size) {
            return if (self.carry(&cursor, self.outer.len)) cursor else null;
        }
        self.locate(&cursor);
        cursor.offset += rest;
        cursor.position += rest;
        cursor.row_rest -= rest;
        return cursor;
    }

    /// Moves to the first row after all rows with the cursor's numbers in the dimensions before
    /// `level`.
    fn carry(self: Box, cursor: *Cursor, level: usize) bool {
        @memset(cursor.index[level..self.outer.len], 0);
        var outer = level;
        while (outer > 0) {
            outer -= 1;
            cursor.index[outer] += 1;
            if (cursor.index[outer] < self.outer[outer].count) {
                self.locate(cursor);
                return true;
            }
            cursor.index[outer] = 0;
        }
        return false;
    }

    /// Sets the rest of the cursor from its row numbers.
    fn locate(self: Box, cursor: *Cursor) void {
        cursor.offset = self.begin;
        cursor.position = 0;
        cursor.row_rest = self.row_size;
        var size = self.row_size;
        var level = self.outer.len;
        while (level > 0) {
            level -= 1;
            cursor.offset += cursor.index[level] * self.outer[level].stride;
            cursor.position += cursor.index[level] * size;
            size *= self.outer[level].count;
        }
    }

    /// The number of rows of the innermost outer dimension that begin here and are inside the next
    /// `available` bytes.
    fn rowsWithin(self: Box, cursor: *const Cursor, available: u64) u64 {
        if (self.isContiguous() or cursor.row_rest != self.row_size) return 0;
        if (available < self.row_size) return 0;
        const last = self.outer.len - 1;
        const rest = self.outer[last].count - cursor.index[last];
        return @min(rest, (available - self.row_size) / self.outer[last].stride + 1);
    }

    /// Skips `rows` rows of the innermost outer dimension, to the beginning of a row. Returns false
    /// if that was the last.
    fn advance(self: Box, cursor: *Cursor, rows: u64) bool {
        if (self.isContiguous()) return false;
        const last = self.outer.len - 1;
        const dimension = self.outer[last];
        cursor.index[last] += rows - 1;
        if (cursor.index[last] + 1 == dimension.count) return self.carry(cursor, last);
        cursor.index[last] += 1;
        cursor.offset += rows * dimension.stride - (self.row_size - cursor.row_rest);
        cursor.row_rest = self.row_size;
        return true;
    }
};

/// The caller has checked that all rows lie in both memories.
fn copyRows(target: [*]u8, source: [*]const u8, row_size: usize, stride: usize, rows: u64) void {
    @setRuntimeSafety(false);
    switch (row_size) {
        // One move instead of a call: a column of a matrix is made of such rows.
        inline 1, 2, 4, 8, 16 => |size| {
            var row: usize = 0;
            while (row < rows) : (row += 1) {
                target[row * size ..][0..size].* = source[row * stride ..][0..size].*;
            }
        },
        else => {
            var row: usize = 0;
            while (row < rows) : (row += 1) {
                const from = source[row * stride ..][0..row_size];
                @memcpy(target[row * row_size ..][0..row_size], from);
            }
        },
    }
}

const testing = std.testing;

fn expectBox(
    shape: []const u64,
    unit_size: u64,
    begin: []const u64,
    end: []const u64,
    expected: Box,
) !void {
    var buffer: Buffer = undefined;
    const box = try Box.init(&buffer, shape, unit_size, begin, end);
    try testing.expectEqualDeep(expected, box);
}

test "boxes become as few and as long rows as possible" {
    try expectBox(&.{}, 4, &.{}, &.{}, Box.whole(4));
    try expectBox(&.{ 3, 4 }, 2, &.{ 0, 0 }, &.{ 3, 4 }, Box.whole(24));
    // Whole rows are contiguous.
    try expectBox(&.{ 3, 4 }, 2, &.{ 1, 0 }, &.{ 3, 4 }, .{
        .begin = 8,
        .row_size = 16,
        .outer = &.{},
        .size = 16,
    });
    // So is a part of one row, for any outer dimensions.
    try expectBox(&.{ 3, 4 }, 2, &.{ 1, 1 }, &.{ 2, 3 }, .{
        .begin = 10,
        .row_size = 4,
        .outer = &.{},
        .size = 4,
    });
    try expectBox(&.{ 3, 4 }, 2, &.{ 0, 1 }, &.{ 3, 3 }, .{
        .begin = 2,
        .row_size = 4,
        .outer = &.{.{ .count = 3, .stride = 8 }},
        .size = 12,
    });
    // Two full outer dimensions, with a dimension of one between them, are one.
    try expectBox(&.{ 5, 1, 3, 4 }, 2, &.{ 1, 0, 0, 1 }, &.{ 4, 1, 3, 3 }, .{
        .begin = 26,
        .row_size = 4,
        .outer = &.{.{ .count = 9, .stride = 8 }},
        .size = 36,
    });
    try expectBox(&.{ 5, 2, 3, 4 }, 1, &.{ 1, 1, 0, 1 }, &.{ 4, 2, 2, 3 }, .{
        .begin = 24 + 12 + 1,
        .row_size = 2,
        .outer = &.{ .{ .count = 3, .stride = 24 }, .{ .count = 2, .stride = 4 } },
        .size = 12,
    });
    try expectBox(&.{ 3, 4 }, 2, &.{ 3, 1 }, &.{ 3, 3 }, Box.whole(0));
    try expectBox(&.{ 3, 0, 1 << 60 }, 1, &.{ 0, 0, 7 }, &.{ 3, 0, 9 }, Box.whole(0));
}

test "boxes outside of the tensor" {
    var buffer: Buffer = undefined;
    const shape = [_]u64{ 3, 4 };
    for ([_][2][2]u64{
        .{ .{ 0, 0 }, .{ 4, 4 } },
        .{ .{ 0, 0 }, .{ 3, 5 } },
        .{ .{ 2, 0 }, .{ 1, 4 } },
        .{ .{ 0, 0 }, .{ 0, 5 } }, // empty, and still outside
    }) |bad| {
        try testing.expectError(error.Argument, Box.init(&buffer, &shape, 2, &bad[0], &bad[1]));
    }
}

test "copy and nextByte agree with a walk over all bytes" {
    const gpa = testing.allocator;
    const seed = 0x7A01;
    errdefer std.debug.print("seed {x}\n", .{seed});
    var prng: std.Random.DefaultPrng = .init(seed);
    const random = prng.random();
    for (0..2000) |_| {
        const rank = random.uintAtMost(usize, 4);
        var shape: [4]u64 = undefined;
        var begin: [4]u64 = undefined;
        var end: [4]u64 = undefined;
        const unit_size = ([_]u64{ 1, 2, 3, 4, 8, 16 })[random.uintLessThan(usize, 6)];
        var size = unit_size;
        for (0..rank) |dimension| {
            shape[dimension] = random.intRangeAtMost(u64, 1, 6);
            begin[dimension] = random.uintAtMost(u64, shape[dimension]);
            end[dimension] = random.intRangeAtMost(u64, begin[dimension], shape[dimension]);
            if (random.boolean()) { // whole dimensions are what collapses
                begin[dimension] = 0;
                end[dimension] = shape[dimension];
            }
            size *= shape[dimension];
        }
        const tensor = try gpa.alloc(u8, @intCast(size));
        defer gpa.free(tensor);

        random.bytes(tensor);
        var buffer: Buffer = undefined;
        const box = try Box.init(&buffer, shape[0..rank], unit_size, begin[0..rank], end[0..rank]);
        const members = try gpa.alloc(bool, tensor.len);
        defer gpa.free(members);

        const expected = try gpa.alloc(u8, @intCast(box.size));
        defer gpa.free(expected);

        var count: usize = 0;
        for (tensor, members, 0..) |byte, *member, offset| {
            member.* = isMember(shape[0..rank], unit_size, begin[0..rank], end[0..rank], offset);
            if (!member.*) continue;
            expected[count] = byte;
            count += 1;
        }
        try testing.expectEqual(expected.len, count);
        for (0..tensor.len + 1) |at| {
            const next = std.mem.findScalarPos(bool, members, at, true);
            try testing.expectEqual(@as(?u64, next), box.nextByte(at));
        }
        // In pieces of any size, in any order, nothing but the box is written.
        const out = try gpa.alloc(u8, expected.len);
        defer gpa.free(out);

        @memset(out, 0xAA);
        const piece_size = random.intRangeAtMost(usize, 1, tensor.len);
        var piece_begin = tensor.len - tensor.len % piece_size;
        while (true) : (piece_begin -= piece_size) {
            const piece_end = @min(tensor.len, piece_begin + piece_size);
            box.copy(piece_begin, tensor[piece_begin..piece_end], out);
            if (piece_begin == 0) break;
        }
        try testing.expectEqualSlices(u8, expected, out);
    }
}

fn isMember(
    shape: []const u64,
    unit_size: u64,
    begin: []const u64,
    end: []const u64,
    at: u64,
) bool {
    var rest = at / unit_size;
    var dimension = shape.len;
    while (dimension > 0) {
        dimension -= 1;
        const index = rest % shape[dimension];
        if (index < begin[dimension] or index >= end[dimension]) return false;
        rest /= shape[dimension];
    }
    return true;
}
