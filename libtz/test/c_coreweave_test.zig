//! Reads a .tensors file through tz.h: opening, record headers in a plan, and their contents.

const std = @import("std");
const c = @import("tz_h");
const tz = @import("tz");

const gpa = std.testing.allocator;
const expect = std.testing.expect;
const expectEqual = std.testing.expectEqual;
const expectEqualStrings = std.testing.expectEqualStrings;

fn sized(comptime T: type) T {
    var value = std.mem.zeroes(T);
    value.struct_size = @sizeOf(T);
    return value;
}

const item_size = @sizeOf(c.tz_read_item);

fn ok(status: c.tz_status) !void {
    if (status == c.TZ_E_MEMORY) return error.OutOfMemory;
    try expectEqual(c.TZ_OK, status);
}

fn le(comptime T: type, value: T) [@sizeOf(T)]u8 {
    return std.mem.toBytes(std.mem.nativeToLittle(T, value));
}

fn zeros(comptime size: usize) [size]u8 {
    return @splat(0);
}

const index_size = 128;
const digest: [32]u8 = @splat('S');
const records_begin = 73 + index_size;
const hashes = le(u16, 41) ++ "\x02\x00\x04abcd\x01\x20" ++ digest;
const data = "12345678";

/// name, role, dtype and dimensions: of a parameter of the root, and of a shape without values.
const parameter = .{ ".w", "\x00", "\x03<f4\x01" ++ le(u32, 2) };
const meta = .{ "m", "\x02", "\x03|u1\x01" ++ le(u32, 3) };

fn record(comptime tensor: anytype, comptime size: u64) []const u8 {
    const rest = le(u16, 9) ++ tensor[1] ++ le(u16, tensor[0].len) ++ tensor[0] ++ tensor[2] ++
        hashes ++ le(u64, size);
    return le(u64, 8 + rest.len) ++ rest;
}

fn entry(comptime tensor: anytype, comptime offset: u64, comptime size: u64) []const u8 {
    const data_offset = offset + record(tensor, size).len;
    return le(u16, tensor[0].len) ++ tensor[0] ++ tensor[1] ++ tensor[2] ++ le(u64, offset) ++
        le(u64, data_offset) ++ le(u64, size);
}

/// A file with two tensors: one with `data`, one without values.
fn fileOf(comptime first: anytype, comptime second: anytype) []const u8 {
    const second_begin = records_begin + record(first, data.len).len + data.len;
    const index = entry(first, records_begin, data.len) ++ entry(second, second_begin, 0);
    return "|TZR|" ++ le(u32, 4) ++ zeros(32) ++ le(u64, data.len) ++ le(u64, 0) ++
        le(u64, 2) ++ le(u64, index_size) ++ index ++ zeros(index_size - index.len) ++
        record(first, data.len) ++ data ++ record(second, 0) ++ le(u64, 0);
}

const file = fileOf(parameter, meta);
/// {"b": [the tensor with data], "a": the other}
const nested_file = fileOf(
    .{ "\x1E[\"b\",0]", "\x02", parameter[2] },
    .{ "\x1E[\"a\"]", "\x02", meta[2] },
);

/// A path that continues where the other one ends; and a dtype without size.
const refused_file = fileOf(
    .{ "\x1E[\"m\",0]", "\x02", parameter[2] },
    meta,
);
const unsized_file = fileOf(parameter, .{ "m", "\x02", "\x03|u0\x01" ++ le(u32, 3) });

test "a file that does not open is refused with the tensor and the reason" {
    const path = "its path ends where that of another tensor continues";
    const Case = struct { []const u8, c.tz_status, []const u8, []const u8 };
    for ([_]Case{
        .{ refused_file, c.TZ_E_FOREIGN, "m", path },
        .{ unsized_file, c.TZ_E_FEATURE, "m", "its dtype is not numeric" },
    }) |case| {
        var header: ?*c.tz_header = null;
        var needed: u64 = 0;
        var diagnostic = sized(c.tz_diagnostic);
        const bytes = case[0];
        const size = bytes.len;
        try expectEqual(
            case[1],
            c.tz_header_open(bytes.ptr, size, size, null, &header, &needed, &diagnostic),
        );
        try expectEqualStrings(case[2], diagnostic.name[0..diagnostic.name_size]);
        try expectEqualStrings(case[3], std.mem.span(diagnostic.reason));
    }
    // The next call clears the diagnostic of the previous one.
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    var diagnostic = sized(c.tz_diagnostic);
    const size = refused_file.len;
    try expectEqual(
        c.TZ_E_FOREIGN,
        c.tz_header_open(refused_file.ptr, size, size, null, &header, &needed, &diagnostic),
    );
    try ok(c.tz_header_open(file.ptr, file.len, file.len, null, &header, &needed, &diagnostic));
    defer c.tz_header_free(header);
    try expectEqual(null, diagnostic.reason);
    try expectEqual(0, diagnostic.name_size);
}

fn open(bytes: []const u8) !*c.tz_header {
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    try ok(c.tz_header_open(bytes.ptr, bytes.len, bytes.len, null, &header, &needed, null));
    return header.?;
}

test "a file is opened from its front" {
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    for ([_]usize{ 0, 5, 9, 73 }, [_]u64{ 128, 128, 73, records_begin }) |size, more| {
        const status = c.tz_header_open(file.ptr, size, file.len, null, &header, &needed, null);
        try expectEqual(c.TZ_NEED_MORE, status);
        try expectEqual(more, needed);
    }
    var options = sized(c.tz_open_options);
    options.pin = &@as([32]u8, @splat(0));
    for (
        [_]u32{ 0, c.TZ_FORMAT_TZ, c.TZ_FORMAT_COREWEAVE },
        [_]c.tz_status{ c.TZ_E_DIGEST, c.TZ_E_DIGEST, c.TZ_E_ARGUMENT },
    ) |format, expected| {
        options.format = format;
        try expectEqual(
            expected,
            c.tz_header_open(file.ptr, file.len, file.len, &options, &header, &needed, null),
        );
    }
    options = sized(c.tz_open_options);
    options.open_size_max = 100;
    try expectEqual(
        c.TZ_E_LIMIT,
        c.tz_header_open(file.ptr, file.len, file.len, &options, &header, &needed, null),
    );

    const opened = try open(file);
    defer c.tz_header_free(opened);
    var info = sized(c.tz_header_info);
    try ok(c.tz_header_get(opened, &info));
    try expectEqual(@as(u32, c.TZ_FORMAT_COREWEAVE), info.format);
    try expectEqual(0, info.is_encrypted);
    try expectEqual(0, info.node_count);
    try expectEqual(records_begin, info.header_size);
    var tensor = sized(c.tz_tensor);
    try ok(c.tz_header_tensor(opened, 0, &tensor));
    try expectEqualStrings("m", tensor.name[0..1]);
    try expectEqual(@as(u32, c.TZ_TENSOR_META), tensor.flags);
    try expectEqual(0, tensor.decoded_size);
    try ok(c.tz_header_tensor(opened, 1, &tensor));
    try expectEqualStrings("w", tensor.name[0..@intCast(tensor.name_size)]);
    try expectEqual(@as(u32, c.TZ_TENSOR_PARAMETER | c.TZ_TENSOR_DOTTED), tensor.flags);
}

test "a plan brings record headers with the data" {
    const header = try open(file);
    defer c.tz_header_free(header);
    const items = [_]c.tz_read_item{
        .{ .struct_size = item_size, .tensor = 1 },
        .{ .struct_size = item_size, .tensor = 1, .flags = c.TZ_ITEM_RECORD },
        .{ .struct_size = item_size, .tensor = 0 },
        .{ .struct_size = item_size, .tensor = 0, .flags = c.TZ_ITEM_RECORD },
        .{ .struct_size = item_size, .tensor = 1, .flags = c.TZ_ITEM_RECORD },
    };
    var plan: ?*c.tz_plan = null;
    try ok(c.tz_plan_new(header, &items, items.len, null, &plan, null));
    defer c.tz_plan_free(plan);
    var info = sized(c.tz_plan_info);
    try ok(c.tz_plan_get(plan, &info));
    try expectEqual(1, info.request_count);
    try expectEqual(3, info.allocation_count);
    try expectEqual(file.len - records_begin - 8, info.bytes_read);
    var memory: [3][256]u8 = undefined;
    var at: usize = records_begin;
    for (c.tz_plan_segments(plan)[0..@intCast(info.segment_count)]) |segment| {
        const size: usize = @intCast(segment.size);
        const target = memory[segment.allocation][@intCast(segment.position)..][0..size];
        @memcpy(target, file[at..][0..size]);
        at += size;
    }
    const placements = c.tz_plan_placements(plan);
    try expectEqual(placements[1].allocation, placements[4].allocation);
    try expectEqual(0, placements[2].size);
    try expectEqualStrings(data, memory[placements[0].allocation][0..data.len]);
    for ([_]usize{ 1, 3 }) |number| {
        var range: c.tz_range = undefined;
        try ok(c.tz_header_record(header, items[number].tensor, &range));
        try expectEqual(range.size, placements[number].size);
        const raw = memory[placements[number].allocation][0..@intCast(range.size)];
        try expectEqualStrings(file[@intCast(range.offset)..][0..raw.len], raw);
        var hashed: [256]u8 = undefined;
        var said = sized(c.tz_record);
        const tensor = items[number].tensor;
        try ok(c.tz_record_parse(header, tensor, raw.ptr, raw.len, &hashed, &said, null));
        try expectEqual(9, said.module);
        try expectEqual(@as(u32, c.TZ_RECORD_CRC32), said.flags);
        try expectEqual(std.mem.readInt(u32, "abcd", .little), said.crc32);
        try expectEqualStrings(&digest, said.sha256[0..32]);
        try expectEqual(range.size, said.hashed_size);
        try expect(std.mem.find(u8, hashed[0..raw.len], "SS") == null);
        try expect(said.nonce == null and said.tags == null and said.salt == null);
    }
}

test "what is refused" {
    const header = try open(file);
    defer c.tz_header_free(header);
    var plan: ?*c.tz_plan = null;
    const corner = [_]u64{0};
    const boxed: c.tz_read_item = .{
        .struct_size = item_size,
        .tensor = 1,
        .flags = c.TZ_ITEM_RECORD,
        .begin = &corner,
        .end = &corner,
    };
    try expectEqual(c.TZ_E_ARGUMENT, c.tz_plan_new(header, &boxed, 1, null, &plan, null));
    var range: c.tz_range = undefined;
    try expectEqual(c.TZ_E_ARGUMENT, c.tz_header_record(header, 2, &range));
    try expectEqual(c.TZ_E_ARGUMENT, c.tz_header_record(null, 0, &range));
    try expectEqual(c.TZ_E_ARGUMENT, c.tz_header_record(header, 0, null));
    try ok(c.tz_header_record(header, 1, &range));
    var raw: [256]u8 = undefined;
    var hashed: [256]u8 = undefined;
    const size: usize = @intCast(range.size);
    @memcpy(raw[0..size], file[@intCast(range.offset)..][0..size]);
    var said = sized(c.tz_record);
    const argument = c.TZ_E_ARGUMENT;
    try expectEqual(argument, c.tz_record_parse(header, 1, &raw, size - 1, &hashed, &said, null));
    try expectEqual(argument, c.tz_record_parse(header, 1, &raw, size, null, &said, null));
    try expectEqual(argument, c.tz_record_parse(header, 1, null, size, &hashed, &said, null));
    try expectEqual(argument, c.tz_record_parse(header, 1, &raw, size, &hashed, null, null));
    try expectEqual(argument, c.tz_record_parse(header, 2, &raw, size, &hashed, &said, null));
    raw[10] ^= 1;
    var diagnostic = sized(c.tz_diagnostic);
    try expectEqual(
        c.TZ_E_FOREIGN,
        c.tz_record_parse(header, 1, &raw, size, &hashed, &said, &diagnostic),
    );
    try expectEqual(1, diagnostic.tensor);
    try expectEqual(range.offset + 10, diagnostic.offset);
    const reason = "its record header and the index differ in the role";
    try expectEqualStrings(reason, std.mem.span(diagnostic.reason));
}

/// All exports that allocate for a .tensors file.
fn wholeLife(bytes: []const u8, node_count: u64) !void {
    const header = try open(bytes);
    defer c.tz_header_free(header);
    var info = sized(c.tz_header_info);
    try ok(c.tz_header_get(header, &info));
    try expectEqual(node_count, info.node_count);
    const items = [_]c.tz_read_item{
        .{ .struct_size = item_size, .tensor = 0 },
        .{ .struct_size = item_size, .tensor = 0, .flags = c.TZ_ITEM_RECORD },
        .{ .struct_size = item_size, .tensor = 1 },
        .{ .struct_size = item_size, .tensor = 1, .flags = c.TZ_ITEM_RECORD },
    };
    var options = sized(c.tz_plan_options);
    for ([_]u32{ 0, c.TZ_PLAN_STAGED }) |flags| {
        options.flags = flags;
        var plan: ?*c.tz_plan = null;
        try ok(c.tz_plan_new(header, &items, items.len, &options, &plan, null));
        c.tz_plan_free(plan);
    }
}

fn wholeLifeOf(allocator: std.mem.Allocator, bytes: []const u8, node_count: u64) !void {
    tz.c_support.tested_allocator = allocator;
    defer tz.c_support.tested_allocator = std.heap.smp_allocator;
    try wholeLife(bytes, node_count);
}

test "every allocation may fail: TZ_E_MEMORY, and nothing leaks" {
    try std.testing.checkAllAllocationFailures(gpa, wholeLifeOf, .{ file, 0 });
    try std.testing.checkAllAllocationFailures(gpa, wholeLifeOf, .{ nested_file, 4 });
}
