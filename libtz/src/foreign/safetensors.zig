//! A strict reader for the header of a .safetensors file: a length of eight bytes, a JSON object,
//! then the data, which the tensors fill without gaps, overlaps or trailing bytes.
//!
//!   {"__metadata__": {"key": "value", ...},
//!    "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
//!
//! The safetensors package accepts more: duplicate names (the last one counts), unknown fields,
//! white space before the object. Here, a file has only one meaning.

const std = @import("std");
const bytes = @import("../bytes.zig");
const Decoded = @import("decoded.zig").Decoded;
const dtypes = @import("../dtype.zig");
const Error = @import("decoded.zig").Error;
const format = @import("../format.zig");
const Pair = @import("../metadata.zig").Pair;
const Reader = @import("json.zig").Reader;
const status = @import("../status.zig");
const Tensor = @import("../index.zig").Tensor;

const Allocator = std.mem.Allocator;

/// Before the JSON: its size.
const length_size = 8;

/// The limit of the format's own library.
const json_size_max = 100_000_000;

const metadata_name = "__metadata__";

/// Reads the header from the first bytes of a file of `file_size` bytes. Null: `needed` bytes are
/// needed. Nothing in the result points into `front`.
pub fn decode(
    arena: Allocator,
    front: []const u8,
    file_size: u64,
    open_size_max: u64,
    needed: *u64,
    diagnostic: *status.Diagnostic,
) Error!?Decoded {
    std.debug.assert(front.len <= file_size);
    if (file_size < length_size) {
        return diagnostic.refuse(error.Truncated, 0, "the file is shorter than 8 bytes");
    }
    if (front.len < length_size) {
        needed.* = length_size;
        return null;
    }
    const json_size = bytes.get(u64, front, 0);
    if (json_size > json_size_max) {
        return diagnostic.refuse(error.Limit, 0, "the header is larger than 100 MB");
    }
    const header_size = length_size + json_size;
    if (header_size > open_size_max) {
        return diagnostic.refuse(error.Limit, 0, "the header is larger than the caller allows");
    }
    if (header_size > file_size) {
        return diagnostic.refuse(error.Truncated, 0, "the file ends within its header");
    }
    // Checked first, so that no large header is fetched in vain.
    if (json_size == 0 or front.len > length_size and front[length_size] != '{') {
        return diagnostic.refuse(error.Json, length_size, "the header does not begin with {");
    }
    if (front.len < header_size) {
        needed.* = header_size;
        return null;
    }
    // A copy, which cannot change while it is parsed; the names point into it.
    const json = try arena.dupe(u8, front[length_size..@intCast(header_size)]);
    var parser: Parser = .{ .arena = arena, .reader = .{ .text = json }, .diagnostic = diagnostic };
    try parser.parse();
    const order = try parser.arrange(file_size - header_size, header_size);
    const tensors = try arena.alloc(Tensor, parser.entries.items.len);
    for (tensors, parser.entries.items) |*tensor, entry| tensor.* = entry.tensor;
    return .{
        .tensors = tensors,
        .order = order,
        .metadata = parser.pairs.items,
        .header_size = header_size,
    };
}

/// A tensor before it has been checked against the others.
const Entry = struct {
    tensor: Tensor,
    /// The range of its data, relative to the beginning of the data.
    begin: u64,
    /// Of its name, in the file.
    name_offset: u64,

    fn end(self: Entry) u64 {
        return self.begin + self.tensor.decoded_size;
    }

    fn lessThan(_: void, a: Entry, b: Entry) bool {
        return std.mem.order(u8, a.tensor.name, b.tensor.name) == .lt;
    }
};

/// A tensor's JSON object.
const Fields = struct {
    dtype: ?dtypes.Info = null,
    shape: ?[]u64 = null,
    data_offsets: ?[2]u64 = null,
};

const Parser = struct {
    arena: Allocator,
    reader: Reader,
    diagnostic: *status.Diagnostic,
    entries: std.ArrayList(Entry) = .empty,
    pairs: std.ArrayList(Pair) = .empty,

    fn parse(self: *Parser) Error!void {
        self.parseTop() catch |err| {
            if (err != error.Json) return err;
            const offset = length_size + self.reader.at;
            return self.diagnostic.refuse(error.Json, offset, self.reader.reason);
        };
    }

    fn parseTop(self: *Parser) Error!void {
        self.reader = Reader.init(self.reader.text) catch
            return self.reader.fail("the header is not UTF-8");
        var has_metadata = false;
        try self.reader.expect('{');
        var items: Reader.Items = .init('}');
        while (try items.next(&self.reader)) {
            const name_offset = length_size + self.reader.at;
            const name = try self.reader.string(self.arena);
            if (!std.mem.eql(u8, name, metadata_name)) {
                try self.parseTensor(name, name_offset);
            } else if (has_metadata) {
                return self.refuse(error.Foreign, name_offset, "__metadata__ occurs twice");
            } else {
                has_metadata = true;
                try self.parseMetadata();
            }
        }
        try self.reader.finish();
    }

    fn refuse(self: *Parser, err: status.DataError, offset: u64, reason: [*:0]const u8) Error {
        return self.diagnostic.refuse(err, offset, reason);
    }

    fn parseMetadata(self: *Parser) Error!void {
        try self.reader.expect(':');
        const offset = length_size + self.reader.at;
        try self.reader.expect('{');
        var items: Reader.Items = .init('}');
        while (try items.next(&self.reader)) {
            const key = try self.reader.string(self.arena);
            try self.reader.expect(':');
            const value = try self.reader.string(self.arena);
            try self.pairs.append(self.arena, .{ .key = key, .value = value });
        }
        const pairs = self.pairs.items;
        std.mem.sortUnstable(Pair, pairs, {}, Pair.lessThan);
        for (1..@max(1, pairs.len)) |number| {
            if (std.mem.eql(u8, pairs[number - 1].key, pairs[number].key)) {
                return self.refuse(error.Foreign, offset, "a key of __metadata__ occurs twice");
            }
        }
    }

    fn parseTensor(self: *Parser, name: []const u8, name_offset: u64) Error!void {
        errdefer self.diagnostic.setName(name);
        try self.reader.expect(':');
        // The same rule as in tz files, so that every tensor can be named and converted.
        if (bytes.hasControl(name)) {
            return self.refuse(error.Foreign, name_offset, "its name has a control character");
        }
        if (name.len > format.name_size_max) {
            return self.refuse(error.Limit, name_offset, "its name is longer than 65,535 bytes");
        }
        if (self.entries.items.len == format.tensor_count_max) {
            return self.refuse(error.Limit, name_offset, "there are more than 16,777,216 tensors");
        }
        const fields = try self.parseFields();
        const dtype = fields.dtype orelse return self.reader.fail("it has no dtype");
        const shape = fields.shape orelse return self.reader.fail("it has no shape");
        const begin, const end = fields.data_offsets orelse
            return self.reader.fail("it has no data_offsets");
        // For packed dtypes, shapes of .safetensors count numbers, of which a unit holds several.
        if (dtype.elements > 1) {
            if (shape.len == 0 or shape[shape.len - 1] % dtype.elements != 0) {
                const reason = "its last dimension is not a multiple of the unit of its dtype";
                return self.refuse(error.Foreign, name_offset, reason);
            }
            shape[shape.len - 1] /= dtype.elements;
        }
        const size = dtypes.sizeOf(dtype.unitSize(), shape) orelse
            return self.refuse(error.Limit, name_offset, "its shape is too large");
        if (begin > end or end - begin != size) {
            const reason = "its data_offsets contradict its shape and dtype";
            return self.refuse(error.Foreign, name_offset, reason);
        }
        try self.entries.append(self.arena, .{
            .tensor = .{
                .name = name,
                .shape = shape,
                .dtype = dtype.code,
                .order = 0,
                .decoded_size = size,
                .data_offset = 0,
                .stored_size = size,
            },
            .begin = begin,
            .name_offset = name_offset,
        });
    }

    fn parseFields(self: *Parser) Error!Fields {
        var fields: Fields = .{};
        try self.reader.expect('{');
        var items: Reader.Items = .init('}');
        while (try items.next(&self.reader)) {
            const field = try self.reader.string(self.arena);
            try self.reader.expect(':');
            if (std.mem.eql(u8, field, "dtype")) {
                if (fields.dtype != null) return self.reader.fail("its dtype occurs twice");
                const offset = length_size + self.reader.at;
                const name = try self.reader.string(self.arena);
                fields.dtype = dtypes.bySafetensors(name) orelse
                    return self.refuse(error.Feature, offset, "its dtype is unknown");
            } else if (std.mem.eql(u8, field, "shape")) {
                if (fields.shape != null) return self.reader.fail("its shape occurs twice");
                fields.shape = try self.parseShape();
            } else if (std.mem.eql(u8, field, "data_offsets")) {
                if (fields.data_offsets != null) {
                    return self.reader.fail("its data_offsets occur twice");
                }
                try self.reader.expect('[');
                const begin = try self.reader.integer();
                try self.reader.expect(',');
                const end = try self.reader.integer();
                try self.reader.expect(']');
                fields.data_offsets = .{ begin, end };
            } else return self.reader.fail("it has more than dtype, shape and data_offsets");
        }
        return fields;
    }

    fn parseShape(self: *Parser) Error![]u64 {
        const offset = length_size + self.reader.at;
        var shape: [format.rank_max]u64 = undefined;
        var rank: usize = 0;
        try self.reader.expect('[');
        var items: Reader.Items = .init(']');
        while (try items.next(&self.reader)) : (rank += 1) {
            if (rank == shape.len) {
                return self.refuse(error.Limit, offset, "it has more than 64 dimensions");
            }
            shape[rank] = try self.reader.integer();
        }
        return self.arena.dupe(u64, shape[0..rank]);
    }

    /// Sorts the entries by name, checks that they fill the data exactly, and sets the order of
    /// each.
    fn arrange(self: *Parser, data_size: u64, header_size: u64) Error![]u32 {
        const entries = self.entries.items;
        std.mem.sortUnstable(Entry, entries, {}, Entry.lessThan);
        for (1..@max(1, entries.len)) |number| {
            if (std.mem.eql(u8, entries[number - 1].tensor.name, entries[number].tensor.name)) {
                return self.refuseEntry(error.Foreign, entries[number], "its name occurs twice");
            }
        }
        const order = try self.arena.alloc(u32, entries.len);
        for (order, 0..) |*value, index| value.* = @intCast(index);
        std.mem.sortUnstable(u32, order, entries, byData);
        var data_end: u64 = 0;
        for (order, 0..) |index, position| {
            const entry = &entries[index];
            if (entry.begin > data_end) {
                return self.refuseEntry(error.Foreign, entry.*, "there is a gap before its data");
            }
            if (entry.begin < data_end) {
                const reason = "its data overlap those of another tensor";
                return self.refuseEntry(error.Foreign, entry.*, reason);
            }
            data_end = entry.end();
            if (data_end > data_size) {
                const reason = "the file ends before its data end";
                return self.refuseEntry(error.Truncated, entry.*, reason);
            }
            entry.tensor.order = @intCast(position);
            const empty = entry.tensor.decoded_size == 0;
            entry.tensor.data_offset = if (empty) 0 else header_size + entry.begin;
        }
        if (data_end < data_size) {
            const reason = "there are bytes after the data that belong to no tensor";
            return self.refuse(error.Trailing, header_size + data_end, reason);
        }
        return order;
    }

    fn refuseEntry(
        self: *Parser,
        err: status.DataError,
        entry: Entry,
        reason: [*:0]const u8,
    ) Error {
        self.diagnostic.setName(entry.tensor.name);
        return self.refuse(err, entry.name_offset, reason);
    }

    fn byData(entries: []const Entry, a: u32, b: u32) bool {
        const left = entries[a];
        const right = entries[b];
        if (left.begin != right.begin) return left.begin < right.begin;
        if (left.end() != right.end()) return left.end() < right.end();
        return a < b;
    }
};

const testing = std.testing;

/// A file with this JSON and this many bytes of data.
fn makeFile(json: []const u8, data_size: usize) ![]u8 {
    const file = try testing.allocator.alloc(u8, length_size + json.len + data_size);
    bytes.put(u64, file, 0, json.len);
    @memcpy(file[length_size..][0..json.len], json);
    @memset(file[length_size + json.len ..], 0x33);
    return file;
}

/// `name` is the tensor's.
fn expectError(
    expected: Error,
    offset: u64,
    name: []const u8,
    reason: []const u8,
    json: []const u8,
    data_size: usize,
) !void {
    errdefer std.debug.print("{s}\n", .{json});
    const file = try makeFile(json, data_size);
    defer testing.allocator.free(file);

    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();

    var diagnostic: status.Diagnostic = .{};
    var needed: u64 = undefined;
    const result = decode(arena.allocator(), file, file.len, 1 << 30, &needed, &diagnostic);
    try testing.expectError(expected, result);
    try testing.expectEqual(offset, diagnostic.offset);
    try testing.expectEqualStrings(name, diagnostic.name[0..diagnostic.name_size]);
    try testing.expectEqualStrings(reason, std.mem.span(diagnostic.reason.?));
}

fn object(
    comptime dtype: []const u8,
    comptime shape: []const u8,
    comptime data_offsets: []const u8,
) []const u8 {
    return comptime "{\"dtype\":\"" ++ dtype ++ "\",\"shape\":" ++ shape ++
        ",\"data_offsets\":" ++ data_offsets ++ "}";
}

/// A header with one tensor, "a".
fn one(
    comptime dtype: []const u8,
    comptime shape: []const u8,
    comptime data_offsets: []const u8,
) []const u8 {
    return comptime "{\"a\":" ++ object(dtype, shape, data_offsets) ++ "}";
}

const entry_a = "\"a\":" ++ object("U8", "[4]", "[0,4]");
const entry_b = "\"b\":" ++ object("F32", "[2,1]", "[4,12]");
const entry_overlapping = "\"b\":" ++ object("U8", "[6]", "[3,9]");
const entry_e = "\"e\":" ++ object("F64", "[3,0]", "[4,4]");

test "a whole header" {
    const json = "{ \"z\" : {\"shape\":[],\"data_offsets\":[12,14],\"dtype\":\"BF16\"}, " ++
        entry_b ++ ",\"__metadata__\":{\"k\":\"v\",\"a\\n\":\"\"}," ++
        entry_e ++ ",\n\t" ++ entry_a ++ "}   ";
    const file = try makeFile(json, 14);
    defer testing.allocator.free(file);

    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();

    var diagnostic: status.Diagnostic = .{};
    var needed: u64 = undefined;
    const allocator = arena.allocator();
    const decoded = (try decode(allocator, file, file.len, file.len, &needed, &diagnostic)).?;
    const header_size = length_size + json.len;
    try testing.expectEqual(header_size, decoded.header_size);
    try testing.expectEqualSlices(u32, &.{ 0, 2, 1, 3 }, decoded.order);
    const expected = [_]Tensor{ .{
        .name = "a",
        .shape = &.{4},
        .dtype = 0x02,
        .order = 0,
        .decoded_size = 4,
        .data_offset = header_size,
        .stored_size = 4,
    }, .{
        .name = "b",
        .shape = &.{ 2, 1 },
        .dtype = 0x12,
        .order = 2,
        .decoded_size = 8,
        .data_offset = header_size + 4,
        .stored_size = 8,
    }, .{
        .name = "e",
        .shape = &.{ 3, 0 },
        .dtype = 0x13,
        .order = 1,
        .decoded_size = 0,
        .data_offset = 0,
        .stored_size = 0,
    }, .{
        .name = "z",
        .shape = &.{},
        .dtype = 0x11,
        .order = 3,
        .decoded_size = 2,
        .data_offset = header_size + 12,
        .stored_size = 2,
    } };
    try testing.expectEqualDeep(@as([]const Tensor, &expected), decoded.tensors);
    const pairs = [_]Pair{ .{ .key = "a\n", .value = "" }, .{ .key = "k", .value = "v" } };
    try testing.expectEqualDeep(@as([]const Pair, &pairs), decoded.metadata);
    try testing.expectEqual(status.Diagnostic{}, diagnostic);
}

test "packed types count units" {
    const json = "{\"4\":{\"dtype\":\"F4\",\"shape\":[3,6],\"data_offsets\":[0,9]}," ++
        "\"6\":{\"dtype\":\"F6_E2M3\",\"shape\":[2,8],\"data_offsets\":[9,21]}}";
    const file = try makeFile(json, 21);
    defer testing.allocator.free(file);

    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();

    var diagnostic: status.Diagnostic = .{};
    var needed: u64 = undefined;
    const allocator = arena.allocator();
    const decoded = (try decode(allocator, file, file.len, file.len, &needed, &diagnostic)).?;
    try testing.expectEqualSlices(u64, &.{ 3, 3 }, decoded.tensors[0].shape);
    try testing.expectEqualSlices(u64, &.{ 2, 2 }, decoded.tensors[1].shape);
}

test "asks for what it needs, and refuses truncated files" {
    const json = "{" ++ entry_a ++ "}";
    const file = try makeFile(json, 4);
    defer testing.allocator.free(file);

    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();

    const allocator = arena.allocator();
    var diagnostic: status.Diagnostic = .{};
    const header_size = length_size + json.len;
    for (0..file.len) |size| {
        var needed: u64 = 0;
        const front = file[0..size];
        const decoded = try decode(allocator, front, file.len, 1 << 30, &needed, &diagnostic);
        try testing.expectEqual(size >= header_size, decoded != null);
        const expected: u64 = if (size < length_size)
            length_size
        else if (size < header_size) header_size else 0;
        try testing.expectEqual(expected, needed);

        const truncated = decode(allocator, front, size, 1 << 30, &needed, &diagnostic);
        try testing.expectError(error.Truncated, truncated);
        diagnostic = .{};
    }
    var needed: u64 = 0;
    const limited = decode(allocator, file, file.len, header_size - 1, &needed, &diagnostic);
    try testing.expectError(error.Limit, limited);
    // The first bytes suffice to refuse a header of more than 100 MB, or one that does not begin
    // like JSON.
    bytes.put(u64, file, 0, json_size_max + 1);
    const large = decode(allocator, file[0..8], 1 << 40, 1 << 30, &needed, &diagnostic);
    try testing.expectError(error.Limit, large);
    bytes.put(u64, file, 0, json_size_max);
    file[8] = ' ';
    const spaced = decode(allocator, file[0..9], 1 << 40, 1 << 30, &needed, &diagnostic);
    try testing.expectError(error.Json, spaced);
    bytes.put(u64, file, 0, 0);
    const nothing = decode(allocator, file[0..8], 8, 1 << 30, &needed, &diagnostic);
    try testing.expectError(error.Json, nothing);
}

test "JSON of another shape" {
    const offsets_twice = "{\"a\":{\"data_offsets\":[0,4],\"data_offsets\":[0,4]}}";
    for ([_]struct { []const u8, u64, []const u8, []const u8 }{
        .{ "[]", 0, "", "the header does not begin with {" },
        .{ "{", 1, "", "expected \"" },
        .{ "{}\n", 2, "", "more than spaces follows the end" },
        .{ "{}\x00", 2, "", "more than spaces follows the end" },
        .{ "{}{}", 2, "", "more than spaces follows the end" },
        .{ "{\"a\":1}", 5, "a", "expected {" },
        .{ "{\"a\":null}", 5, "a", "expected {" },
        .{ "{\"a\"}", 4, "a", "expected :" },
        .{ "{\"a\":{}}", 7, "a", "it has no dtype" },
        .{ "{\"\xFF\":{}}", 0, "", "the header is not UTF-8" },
        .{ "{\"a", 3, "", "a string does not end" },
        .{ "{\"a\tb\":{}}", 3, "", "a string has a control character" },
        .{ "{\"\\x\":{}}", 5, "", "a string has a malformed escape" },
        .{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 31, "a", "it has no data_offsets" },
        .{ "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 40, "a", "it has no shape" },
        .{ "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 27, "a", "its dtype occurs twice" },
        .{ "{\"a\":{\"shape\":[4],\"shape\":[4]}}", 26, "a", "its shape occurs twice" },
        .{ offsets_twice, 42, "a", "its data_offsets occur twice" },
        .{ "{\"a\":{\"x\":0}}", 10, "a", "it has more than dtype, shape and data_offsets" },
        .{ "{\"a\":{\"dtype\":\"U8\" \"shape\":[4]}}", 19, "a", "expected , or the end" },
        .{ one("U8", "[4]", "[0,4,4]"), 50, "a", "expected ]" },
        .{ one("U8", "[4]", "[0]"), 48, "a", "expected ," },
        .{ one("U8", "[4]", "[0,4.0]"), 50, "a", "expected ]" },
        .{ one("U8", "[-4]", "[0,4]"), 28, "a", "expected a whole number that is not negative" },
        .{ one("U8", "[[4]]", "[0,4]"), 28, "a", "expected a whole number that is not negative" },
        .{ one("U8", "[04]", "[0,4]"), 30, "a", "a number begins with 0" },
        .{ one("U8", "[18446744073709551616]", "[0,4]"), 47, "a", "a number does not fit 64 bits" },
        .{ "{\"a\":{\"dtype\":\"U8\",\"shape\":4,\"data_offsets\":[0,4]}}", 27, "a", "expected [" },
        .{ "{\"a\":{\"dtype\":2,\"shape\":[4],\"data_offsets\":[0,4]}}", 14, "a", "expected \"" },
        .{ "{\"__metadata__\"}", 15, "", "expected :" },
        .{ "{\"__metadata__\":{\"k\":1}}", 21, "", "expected \"" },
        .{ "{\"__metadata__\":{\"k\":null}}", 21, "", "expected \"" },
        .{ "{\"__metadata__\":null}", 16, "", "expected {" },
        .{ "{\"__metadata__\":{\"k\":NaN}}", 21, "", "expected \"" },
        .{ "{" ++ entry_a ++ ",}", 2 + entry_a.len, "", "expected \"" },
    }) |case| try expectError(error.Json, length_size + case[1], case[2], case[3], case[0], 4);
}

test "sizes, names and offsets that contradict each other" {
    const Case = struct { Error, u64, []const u8, []const u8, []const u8, usize };
    const after_a = 1 + entry_a.len + 1; // "{", and ","
    const ones: [128]u8 = comptime std.mem.toBytes(@as([64][2]u8, @splat("1,".*)));
    const twice = "its name occurs twice";
    const key_twice = "a key of __metadata__ occurs twice";
    const bad_span = "its data_offsets contradict its shape and dtype";
    const bad_units = "its last dimension is not a multiple of the unit of its dtype";
    const overlap = "its data overlap those of another tensor";
    const control = "its name has a control character";
    const trailing = "there are bytes after the data that belong to no tensor";
    const end = "the file ends before its data end";
    const size = "its shape is too large";
    const rank = "it has more than 64 dimensions";
    const metadata = "__metadata__ occurs twice";
    const metadata_twice = "{\"__metadata__\":{},\"__metadata__\":{}}";
    const escaped_twice = "{" ++ entry_a ++ ",\"\\u0061" ++ entry_b[2..] ++ "}";
    for ([_]Case{
        .{ error.Foreign, after_a, "a", twice, "{" ++ entry_a ++ "," ++ entry_a ++ "}", 4 },
        .{ error.Foreign, after_a, "a", twice, escaped_twice, 12 },
        .{ error.Foreign, 1, "b", "there is a gap before its data", "{" ++ entry_b ++ "}", 12 },
        .{ error.Foreign, 1, "b", overlap, "{" ++ entry_overlapping ++ "," ++ entry_a ++ "}", 9 },
        .{ error.Foreign, 1, "a", bad_span, one("U8", "[4]", "[4,0]"), 4 },
        .{ error.Foreign, 1, "a", bad_span, one("U8", "[5]", "[0,4]"), 4 },
        .{ error.Foreign, 1, "a", bad_units, one("F4", "[2,3]", "[0,3]"), 3 },
        .{ error.Foreign, 1, "a", bad_units, one("F4", "[]", "[0,1]"), 1 },
        .{ error.Foreign, 1, "\x00", control, "{\"\\u0000" ++ entry_a[2..] ++ "}", 4 },
        .{ error.Foreign, 1, "\u{85}", control, "{\"\u{85}" ++ entry_a[2..] ++ "}", 4 },
        .{ error.Foreign, 16, "", key_twice, "{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", 0 },
        .{ error.Foreign, 19, "", metadata, metadata_twice, 0 },
        .{ error.Trailing, entry_a.len + 3 + 4, "", trailing, "{" ++ entry_a ++ "} ", 5 },
        .{ error.Trailing, 2, "", trailing, "{}", 1 },
        .{ error.Truncated, 1, "a", end, "{" ++ entry_a ++ "}", 3 },
        .{ error.Feature, 14, "a", "its dtype is unknown", one("U7", "[4]", "[0,4]"), 4 },
        .{ error.Limit, 1, "a", size, one("U8", "[0,4294967296,4294967296]", "[0,0]"), 0 },
        .{ error.Limit, 27, "a", rank, one("U8", "[" ++ ones ++ "1]", "[0,1]"), 1 },
    }) |case| try expectError(case[0], length_size + case[1], case[2], case[3], case[4], case[5]);
}

test "limits of sizes and names" {
    // 2^63 bytes, if no dimension were zero.
    const large = one("U8", "[0,9223372036854775808]", "[0,0]");
    try expectError(error.Limit, length_size + 1, "a", "its shape is too large", large, 0);
    const name: [format.name_size_max + 1]u8 = @splat('n');
    inline for (.{ name[0..format.name_size_max], &name }, 0..) |long, over| {
        const json = comptime "{\"" ++ long ++ "\":" ++ object("U8", "[0]", "[0,0]") ++ "}";
        if (over == 1) {
            const reason = "its name is longer than 65,535 bytes";
            const cut = name[0..253] ++ "…";
            try expectError(error.Limit, length_size + 1, cut, reason, json, 0);
        } else {
            const file = try makeFile(json, 0);
            defer testing.allocator.free(file);

            try decodeOnce(testing.allocator, file);
        }
    }
}

test "every allocation may fail" {
    const json = "{" ++ entry_a ++ "," ++ entry_b ++ ",\"__metadata__\":{\"k\":\"v\"}}";
    const file = try makeFile(json, 12);
    defer testing.allocator.free(file);

    try testing.checkAllAllocationFailures(testing.allocator, decodeOnce, .{file});
}

fn decodeOnce(gpa: Allocator, file: []const u8) !void {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();

    var needed: u64 = undefined;
    var diagnostic: status.Diagnostic = .{};
    _ = (try decode(arena.allocator(), file, file.len, file.len, &needed, &diagnostic)).?;
}
