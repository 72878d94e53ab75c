//! A strict JSON reader (RFC 8259) for headers of a known structure. The caller asks for the tokens
//! that it expects, so there is no tree, no recursion and no depth to limit. Where the RFC allows
//! readers to differ, it is strict: text is well-formed UTF-8, surrogates come in pairs, and
//! numbers are non-negative integers of 64 bits without fraction or exponent.

const std = @import("std");
const bytes = @import("../bytes.zig");

pub const Error = error{Json};

pub const Reader = struct {
    text: []const u8,
    /// Position of the next byte; after an error, near the cause.
    at: usize = 0,
    /// After an error, what is wrong.
    reason: [*:0]const u8 = "it is not JSON",

    pub fn init(text: []const u8) Error!Reader {
        if (!bytes.isText(text)) return error.Json;
        return .{ .text = text };
    }

    /// Notes what is wrong. Also for callers, if something is well-formed but not expected.
    pub fn fail(self: *Reader, reason: [*:0]const u8) Error {
        self.reason = reason;
        return error.Json;
    }

    /// Requires `byte`, after any white space.
    pub fn expect(self: *Reader, comptime byte: u8) Error!void {
        if (!self.take(byte)) return self.fail(std.fmt.comptimePrint("expected {c}", .{byte}));
    }

    /// Skips white space, and `byte` if it comes next.
    pub fn take(self: *Reader, byte: u8) bool {
        while (self.at < self.text.len) : (self.at += 1) {
            switch (self.text[self.at]) {
                ' ', '\t', '\n', '\r' => {},
                else => |next| {
                    if (next != byte) return false;
                    self.at += 1;
                    return true;
                },
            }
        }
        return false;
    }

    /// Iterates over the items of an object or array that ends with `close`: false after the last.
    ///
    ///     try reader.expect('{');
    ///     var items: Items = .init('}');
    ///     while (try items.next(reader)) ...
    pub const Items = struct {
        close: u8,
        first: bool = true,

        pub fn init(close: u8) Items {
            return .{ .close = close };
        }

        pub fn next(self: *Items, reader: *Reader) Error!bool {
            if (reader.take(self.close)) return false;
            if (!self.first and !reader.take(',')) return reader.fail("expected , or the end");
            self.first = false;
            return true;
        }
    };

    pub fn integer(self: *Reader) Error!u64 {
        _ = self.take(' '); // any white space
        const begin = self.at;
        var value: u64 = 0;
        while (self.at < self.text.len) : (self.at += 1) {
            const byte = self.text[self.at];
            if (!std.ascii.isDigit(byte)) break;
            value = bytes.mul(value, 10) orelse return self.fail(too_large);
            value = bytes.add(value, byte - '0') orelse return self.fail(too_large);
        }
        const digits = self.text[begin..self.at];
        // No leading zeros. The caller rejects a fraction or exponent as an unexpected character.
        if (digits.len == 0) return self.fail("expected a whole number that is not negative");
        if (digits.len > 1 and digits[0] == '0') return self.fail("a number begins with 0");
        return value;
    }

    const too_large = "a number does not fit 64 bits";

    /// The text of a string: a part of `text`, or a copy if it contains escapes.
    pub fn string(self: *Reader, arena: std.mem.Allocator) error{ Json, OutOfMemory }![]const u8 {
        const raw = try self.rawString();
        if (std.mem.indexOfScalar(u8, raw, '\\') == null) return raw;
        const out = try arena.alloc(u8, raw.len); // an escape is never shorter than its text
        var size: usize = 0;
        var at: usize = 0;
        while (at < raw.len) {
            if (raw[at] != '\\') {
                out[size] = raw[at];
                size += 1;
                at += 1;
                continue;
            }
            const escape = Escape.decode(raw[at..]) catch return self.fail(bad_escape);
            // Surrogates were refused, and one to four bytes fit where two to twelve were.
            size += std.unicode.utf8Encode(escape.codepoint, out[size..]) catch
                return self.fail(bad_escape);
            at += escape.size;
        }
        return out[0..size];
    }

    const bad_escape = "a string has a malformed escape";

    /// The part between the quotes.
    fn rawString(self: *Reader) Error![]const u8 {
        try self.expect('"');
        const begin = self.at;
        while (self.at < self.text.len) : (self.at += 1) {
            switch (self.text[self.at]) {
                '"' => {
                    self.at += 1;
                    return self.text[begin .. self.at - 1];
                },
                '\\' => self.at += 1, // the next byte does not end the string
                0...0x1F => return self.fail("a string has a control character"),
                else => {},
            }
        }
        return self.fail("a string does not end");
    }

    /// Requires that only white space follows.
    pub fn finish(self: *Reader) Error!void {
        while (self.at < self.text.len) : (self.at += 1) {
            if (self.text[self.at] != ' ') return self.fail("more than spaces follows the end");
        }
    }
};

const Escape = struct {
    codepoint: u21,
    /// The length of the escape's text.
    size: usize,

    /// `text` begins with a backslash.
    fn decode(text: []const u8) Error!Escape {
        if (text.len < 2) return error.Json;
        const codepoint: u21 = switch (text[1]) {
            '"', '\\', '/' => |byte| byte,
            'b' => 0x08,
            'f' => 0x0C,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return unicode(text),
            else => return error.Json,
        };
        return .{ .codepoint = codepoint, .size = 2 };
    }

    fn unicode(text: []const u8) Error!Escape {
        const first = try unit(text);
        if (!std.unicode.utf16IsHighSurrogate(first)) {
            if (std.unicode.utf16IsLowSurrogate(first)) return error.Json;
            return .{ .codepoint = first, .size = 6 };
        }
        const second = try unit(text[6..]);
        if (!std.unicode.utf16IsLowSurrogate(second)) return error.Json;
        const high: u21 = first - 0xD800;
        return .{ .codepoint = 0x10000 + (high << 10) + (second - 0xDC00), .size = 12 };
    }

    /// The 16 bits of \uXXXX at the beginning of `text`.
    fn unit(text: []const u8) Error!u16 {
        if (text.len < 6 or text[0] != '\\' or text[1] != 'u') return error.Json;
        var value: u16 = 0;
        for (text[2..6]) |byte| {
            const digit = std.fmt.charToDigit(byte, 16) catch return error.Json;
            value = value << 4 | digit;
        }
        return value;
    }
};

const testing = std.testing;

fn expectString(expected: []const u8, text: []const u8) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var reader: Reader = try .init(text);
    const value = try reader.string(arena.allocator());
    try testing.expectEqualStrings(expected, value);
    try reader.finish();
}

test "strings" {
    try expectString("", "\"\"");
    try expectString("plain ü€𝄞", "\"plain ü€𝄞\"");
    try expectString("\"\\/\x08\x0C\n\r\t", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"");
    try expectString("aé€𝄞b", "\"a\\u00e9\\u20AC\\uD834\\udd1eb\"");
    try expectString("\x00\x7F\u{FFFF}", "\"\\u0000\\u007f\\uffff\"");
}

test "invalid strings" {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();

    for ([_][]const u8{
        "",
        "x",
        "\"",
        "\"abc",
        "\"abc\\\"",
        "\"\n\"",
        "\"\x1f\"",
        "\"\\x41\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\u+123\"",
        "\"\\u1_23\"",
        "\"\\ud834\"", // lone surrogates
        "\"\\udd1e\"",
        "\"\\ud834\\ud834\"",
        "\"\\ud834x\\udd1e\"",
        "\"\\ud834\\n\"",
        "\"\\\"",
        "'a'",
    }) |text| {
        errdefer std.debug.print("{s}\n", .{text});
        var reader: Reader = try .init(text);
        try testing.expectError(error.Json, reader.string(arena.allocator()));
    }
    // Not UTF-8: an overlong form, a surrogate, a stray byte.
    for ([_][]const u8{ "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xFF\"" }) |text| {
        try testing.expectError(error.Json, Reader.init(text));
    }
}

test "integers" {
    for ([_]struct { []const u8, u64 }{
        .{ "0", 0 },
        .{ " \t\r\n7", 7 },
        .{ "10", 10 },
        .{ "18446744073709551615", std.math.maxInt(u64) },
    }) |case| {
        var reader: Reader = try .init(case[0]);
        try testing.expectEqual(case[1], try reader.integer());
        try reader.finish();
    }
    const bad = [_][]const u8{ "", "-0", "-1", "+1", "00", "01", "18446744073709551616", ".5" };
    for (bad) |text| {
        errdefer std.debug.print("{s}\n", .{text});
        var reader: Reader = try .init(text);
        try testing.expectError(error.Json, reader.integer());
    }
    for ([_][]const u8{ "1.0", "1e3", "0x10", "1 2", "1\x00", "1\n" }) |text| {
        var reader: Reader = try .init(text);
        _ = try reader.integer();
        try testing.expectError(error.Json, reader.finish());
    }
}

test "items" {
    for ([_]struct { []const u8, ?usize }{
        .{ "[]", 0 },
        .{ " [ ] ", 0 },
        .{ "[1]", 1 },
        .{ "[1,2 , 3]", 3 },
        .{ "[1,]", null },
        .{ "[,1]", null },
        .{ "[,]", null },
        .{ "[1 2]", null },
        .{ "[1", null },
        .{ "[1,", null },
        .{ "[", null },
        .{ "[1}", null },
    }) |case| {
        errdefer std.debug.print("{s}\n", .{case[0]});
        var reader: Reader = try .init(case[0]);
        try testing.expectEqual(case[1], countItems(&reader) catch null);
    }
}

fn countItems(reader: *Reader) !usize {
    try reader.expect('[');
    var items: Reader.Items = .init(']');
    var count: usize = 0;
    while (try items.next(reader)) : (count += 1) _ = try reader.integer();
    try reader.finish();
    return count;
}
