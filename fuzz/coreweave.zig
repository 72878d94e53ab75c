//! Invariant: any bytes as a .tensors file give a typed error, or tensors with unique names, whose
//! records and data fill the file in order, and valid nodes. Memory is in proportion to the file.
//! Every front of the file gives the same result or needs more bytes. Every record header is parsed
//! within its bounds, and the hashed bytes are fewer than its own.
//!
//! An input is a whole file. Every error has an offset and a reason.

const std = @import("std");
const Buffer = @import("memory.zig").Buffer;
const Limited = @import("memory.zig").Limited;
const observe = @import("observe.zig");
const tz = @import("tz");

const Allocator = std.mem.Allocator;
const Diagnostic = tz.status.Diagnostic;
const Error = tz.status.Error;
const Header = tz.header.Header;
const Outcome = tz.header.Outcome;
const records = tz.coreweave_record;

const file_header_size = 73;
const end_marker_size = 8;

/// Bytes that opening may allocate per byte of the file, and in addition. Nested names need the
/// most: each pair of bytes "1," may become a node.
const memory_factor = 256;
const memory_base = 64 << 10;

const opening: tz.header.Options = .{ .format = .coreweave };

pub fn run(input: []const u8) !void {
    const file: Buffer = .copyOf(input);
    defer file.deinit();
    var memory: Limited = .init(memory_base + memory_factor * input.len);
    defer memory.deinit();
    const gpa = memory.allocator();
    var diagnostic: Diagnostic = .{};
    const outcome = tz.header.open(gpa, file.bytes, input.len, opening, &diagnostic);
    try checkFronts(file.bytes, outcome);
    const header = (outcome catch return observe.refusedForeign(diagnostic)).header;
    defer header.deinit();
    observe.accepted += 1;
    try checkIndex(header);
    try checkStructure(header);
    try checkRecords(header, file.bytes);
}

fn checkFronts(file: []const u8, whole: Error!Outcome) !void {
    const index_end = if (file.len < file_header_size) file.len else blk: {
        const size = std.mem.readInt(u64, file[65..73], .little);
        break :blk @min(file.len, file_header_size +| size);
    };
    for ([_]usize{ 0, 4, 5, file_header_size - 1, file_header_size, @intCast(index_end) }) |size| {
        if (size >= file.len) continue;
        var memory: Limited = .init(memory_base + memory_factor * size);
        defer memory.deinit();
        const part: Buffer = .copyOf(file[0..size]);
        defer part.deinit();
        var diagnostic: Diagnostic = .{};
        const gpa = memory.allocator();
        const outcome = tz.header.open(gpa, part.bytes, file.len, opening, &diagnostic);
        if (outcome) |got| switch (got) {
            .header => |header| {
                defer header.deinit();
                const full = whole catch return error.OnlyPartAccepted;
                if (full != .header) return error.OtherVerdict;
            },
            .need_more => |needed| if (needed <= size or needed > file.len) return error.WrongNeed,
        } else |err| {
            if (whole) |_| return error.OnlyPartRefused else |other| {
                if (err != other) return error.OtherVerdict;
            }
        }
    }
}

fn checkIndex(header: *const Header) !void {
    const index = header.index;
    if (index.order.len != index.tensors.len) return error.WrongOrder;
    if (index.records.len != index.tensors.len) return error.WrongRecords;
    var end = header.header_size;
    for (index.order, 0..) |number, position| {
        const tensor = index.tensors[number];
        const record = index.records[number];
        if (tensor.order != position) return error.WrongOrder;
        if (record.offset != end) return error.WrongOffset;
        end += record.size;
        if (tensor.stored_size != tensor.decoded_size) return error.WrongSize;
        if (record.is_meta and tensor.stored_size != 0) return error.WrongSize;
        if (tensor.data_offset != if (tensor.hasChunks()) end else 0) return error.WrongOffset;
        end += tensor.stored_size;
    }
    if (end + end_marker_size != header.file_size) return error.WrongEnd;
    for (index.tensors, 0..) |tensor, number| {
        if (!std.unicode.utf8ValidateSlice(tensor.name)) return error.WrongName;
        if (index.find(tensor.name) != @as(u32, @intCast(number))) return error.WrongName;
        if (number == 0) continue;
        const before = index.tensors[number - 1].name;
        if (std.mem.order(u8, before, tensor.name) != .lt) return error.WrongName;
    }
}

fn checkStructure(header: *const Header) !void {
    if (header.structure.offsets.len == 0) return;
    var arena: std.heap.ArenaAllocator = .init(std.heap.smp_allocator);
    defer arena.deinit();
    var diagnostic: Diagnostic = .{};
    const again = try tz.structure.decode(
        std.heap.smp_allocator,
        arena.allocator(),
        header.structure.raw,
        @intCast(header.index.tensors.len),
        0,
        &diagnostic,
    );
    if (!std.mem.eql(u32, again.offsets, header.structure.offsets)) return error.OtherNodes;
}

fn checkRecords(header: *const Header, file: []const u8) !void {
    for (header.index.tensors, header.index.records) |tensor, record| {
        const raw: Buffer = .copyOf(file[@intCast(record.offset)..][0..record.size]);
        defer raw.deinit();
        const hashed: Buffer = .init(record.size);
        defer hashed.deinit();
        var diagnostic: Diagnostic = .{};
        const parsed = records.parse(
            tensor,
            record,
            header.is_encrypted,
            raw.bytes,
            hashed.bytes,
            &diagnostic,
        ) catch {
            if (diagnostic.reason == null) return error.NoReason;
            if (diagnostic.offset < record.offset) return error.WrongDiagnostic;
            if (diagnostic.offset > record.offset + record.size) return error.WrongDiagnostic;
            continue;
        };
        if (parsed.hashed_size > record.size) return error.TooMuchHashed;
        const cipher = parsed.crypt.cipher orelse {
            if (header.is_encrypted and tensor.stored_size != 0) return error.PlainData;
            continue;
        };
        const count = cipher.tags.len / records.tag_size;
        if (tensor.stored_size > count * cipher.chunk_size) return error.DataWithoutTag;
    }
}

/// A valid or nearly valid file.
pub fn make(arena: Allocator, random: std.Random) ![]u8 {
    var writer: Writer = .{ .arena = arena, .random = random };
    const file = try writer.make();
    return if (random.uintLessThan(u8, 4) == 0) file else mutate(arena, random, file);
}

const dtypes = [_]struct { []const u8, u32 }{
    .{ "<f4", 4 },                   .{ "|u1", 1 },
    .{ "<V2\x00torch.bfloat16", 2 }, .{ ">f8", 8 },
    .{ "|V1\x00torch.float8_x", 1 }, .{ "<c16", 16 },
};

const Writer = struct {
    arena: Allocator,
    random: std.Random,
    index: std.ArrayList(u8) = .empty,
    body: std.ArrayList(u8) = .empty,
    data_size: u64 = 0,
    version: u32 = 1,
    is_encrypted: bool = false,

    fn make(self: *Writer) ![]u8 {
        const random = self.random;
        self.version = random.intRangeAtMost(u32, 1, 5);
        self.is_encrypted = self.version == 3 or (self.version > 3 and random.boolean());
        const index_size: usize = 64 * random.intRangeAtMost(usize, 2, 12);
        var count: u64 = 0;
        const is_nested = random.boolean();
        for (0..random.uintAtMost(usize, 5)) |number| {
            const before = self.index.items.len;
            const body_before = self.body.items.len;
            const data_before = self.data_size;
            try self.add(number, is_nested, file_header_size + index_size);
            if (self.index.items.len <= index_size) {
                count += 1;
                continue;
            }
            self.index.shrinkRetainingCapacity(before);
            self.body.shrinkRetainingCapacity(body_before);
            self.data_size = data_before;
            break;
        }
        var file: std.ArrayList(u8) = .empty;
        try file.appendSlice(self.arena, "|TZR|");
        try self.put(u32, &file, self.version);
        var flags: u64 = 0;
        if (self.version >= 4 and self.is_encrypted) flags |= 1;
        if (self.version == 5) flags |= 2;
        try self.put(u64, &file, flags);
        try file.appendNTimes(self.arena, 0, 24);
        for ([_]u64{ self.data_size, 0, count, index_size }) |number| {
            try self.put(u64, &file, number);
        }
        try file.appendSlice(self.arena, self.index.items);
        try file.appendNTimes(self.arena, 0, index_size - self.index.items.len);
        try file.appendSlice(self.arena, self.body.items);
        try self.put(u64, &file, 0);
        return file.items;
    }

    fn put(self: *Writer, comptime T: type, out: *std.ArrayList(u8), value: T) !void {
        var field: [@sizeOf(T)]u8 = undefined;
        std.mem.writeInt(T, &field, value, .little);
        try out.appendSlice(self.arena, &field);
    }

    fn add(self: *Writer, number: usize, is_nested: bool, body_offset: u64) !void {
        const random = self.random;
        const dtype = dtypes[random.uintLessThan(usize, dtypes.len)];
        const name = if (is_nested)
            try std.fmt.allocPrint(self.arena, "\x1E[\"l\",{d},\"w\"]", .{number})
        else
            try std.fmt.allocPrint(self.arena, ".layer.{d}", .{number});
        const role: u8 = if (is_nested) 2 else random.uintAtMost(u8, 2);
        const is_wide = self.version == 5 and random.boolean();
        var type_bytes: std.ArrayList(u8) = .empty;
        try type_bytes.append(self.arena, @intCast(dtype[0].len));
        try type_bytes.appendSlice(self.arena, dtype[0]);
        const rank = random.uintAtMost(u8, 3);
        try type_bytes.append(self.arena, rank);
        var size: u64 = dtype[1];
        for (0..rank) |_| {
            const dimension = random.uintAtMost(u32, 4);
            size *= dimension;
            if (is_wide) try self.put(u64, &type_bytes, dimension) else {
                try self.put(u32, &type_bytes, dimension);
            }
        }
        if (self.version >= 4 and random.uintLessThan(u8, 4) == 0) size = 0;
        const begin = self.body.items.len;
        try self.addRecord(name, role, type_bytes.items, size);
        const data_begin = self.body.items.len;
        random.bytes(try self.body.addManyAsSlice(self.arena, @intCast(size)));
        self.data_size += size;
        const index = &self.index;
        if (self.version == 5) try self.put(u32, index, if (is_wide) 5 else 1);
        try self.put(u16, index, @intCast(name.len));
        try index.appendSlice(self.arena, name);
        try index.append(self.arena, role);
        try index.appendSlice(self.arena, type_bytes.items);
        try self.put(u64, index, body_offset + begin);
        try self.put(u64, index, body_offset + data_begin);
        try self.put(u64, index, size);
    }

    fn addRecord(self: *Writer, name: []const u8, role: u8, types: []const u8, size: u64) !void {
        const body = &self.body;
        const begin = body.items.len;
        try self.put(u64, body, 0);
        try self.put(u16, body, self.random.int(u16));
        try body.append(self.arena, role);
        try self.put(u16, body, @intCast(name.len));
        try body.appendSlice(self.arena, name);
        try body.appendSlice(self.arena, types);
        const hashes = self.random.boolean();
        try self.put(u16, body, if (hashes) 1 + 6 + 34 else 1);
        try body.append(self.arena, if (hashes) 2 else 0);
        if (hashes) {
            try body.appendSlice(self.arena, "\x00\x04abcd\x01\x20");
            try body.appendNTimes(self.arena, 'x', 32);
        }
        if (self.is_encrypted) try self.addCrypt(size);
        try body.appendNTimes(self.arena, 0, self.random.uintLessThan(usize, 8));
        try self.put(u64, body, size);
        const record_size = body.items.len - begin;
        std.mem.writeInt(u64, body.items[begin..][0..8], record_size, .little);
    }

    fn addCrypt(self: *Writer, size: u64) !void {
        const body = &self.body;
        const begin = body.items.len;
        try self.put(u64, body, 0);
        const derived = self.random.boolean();
        const sealed = size != 0 or self.random.boolean();
        try self.put(u16, body, @as(u16, @intFromBool(derived)) + @intFromBool(sealed));
        if (derived) {
            try self.put(u64, body, 2 + 24 + 16);
            try self.put(u16, body, 1);
            try self.put(u16, body, 1);
            try self.put(u64, body, 3);
            try self.put(u64, body, 8192);
            try self.put(u32, body, 2);
            try self.put(u16, body, 16);
            try body.appendNTimes(self.arena, 's', 16);
        }
        if (sealed and self.random.boolean()) {
            try self.put(u64, body, 2 + 24 + 16);
            try self.put(u16, body, 3);
            try body.appendNTimes(self.arena, 'n', 24 + 16);
        } else if (sealed) {
            const count = std.math.divCeil(u64, size, 1024) catch unreachable;
            try self.put(u64, body, 2 + 8 + 24 + 8 + 16 * count);
            try self.put(u16, body, 2);
            try self.put(u64, body, 1024);
            try body.appendNTimes(self.arena, 'n', 24);
            try self.put(u64, body, count);
            try body.appendNTimes(self.arena, 't', @intCast(16 * count));
        }
        const crypt_size = body.items.len - begin - 8;
        std.mem.writeInt(u64, body.items[begin..][0..8], crypt_size, .little);
    }
};

/// Changes a few bytes, mostly in the file header, the index and the records. No checksum covers
/// them, so nothing has to be resealed.
pub fn mutate(arena: Allocator, random: std.Random, input: []const u8) ![]u8 {
    const copy = try arena.dupe(u8, input);
    if (copy.len == 0) return copy;
    for (0..random.intRangeAtMost(usize, 1, 3)) |_| {
        const at = random.uintLessThan(usize, copy.len);
        switch (random.uintLessThan(u8, 4)) {
            0 => copy[at] ^= @as(u8, 1) << random.int(u3),
            1 => copy[at] = random.int(u8),
            2 => copy[at] +%= if (random.boolean()) 1 else 0xFF,
            else => {
                const size = @min(8, copy.len - at);
                @memset(copy[at..][0..size], if (random.boolean()) 0xFF else 0);
            },
        }
    }
    if (random.uintLessThan(u8, 8) == 0) return copy[0..random.uintAtMost(usize, copy.len)];
    return copy;
}
