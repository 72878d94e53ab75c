//! The structure section, section 9 of the specification: a nested object as nodes in preorder.
//! Each node is
//!
//! Offset | Size | Field
//! 0      | 1    | kind
//! 1      | 1    | key_kind: 0 none, 1 string, 2 integer, 3 large integer
//! 2      | 6    | reserved, zero
//! 8      | 8    | key: size in bytes of a string or large integer, or an i64
//! 16     | 8    | value: by kind
//! 24     |      | key bytes, then value bytes

const std = @import("std");
const bytes = @import("bytes.zig");
const format = @import("format.zig");
const status = @import("status.zig");

pub const Kind = enum(u8) {
    none,
    bool,
    int,
    float,
    str,
    bytes,
    tensor,
    dict,
    list,
    tuple,
    large_int,

    /// Whether `value` is a size, and the value's bytes follow.
    pub fn hasBytes(self: Kind) bool {
        return self == .str or self == .bytes or self == .large_int;
    }
};

pub const KeyKind = enum(u8) {
    none,
    str,
    int,
    large_int,

    /// Whether `key` is a size, and the key's bytes follow.
    pub fn hasBytes(self: KeyKind) bool {
        return self == .str or self == .large_int;
    }
};

pub const Node = struct {
    kind: Kind,
    key_kind: KeyKind,
    /// Size of `key_bytes`, or the bits of an i64, or 0.
    key: u64 = 0,
    /// Size of `value_bytes`, child count, tensor index, bits of an i64 or f64, 0 or 1.
    value: u64 = 0,
    key_bytes: []const u8 = &.{},
    value_bytes: []const u8 = &.{},

    fn isContainer(self: Node) bool {
        return switch (self.kind) {
            .dict, .list, .tuple => true,
            else => false,
        };
    }

    pub fn encodedSize(self: Node) u64 {
        return format.structure_node_size + self.key_bytes.len + self.value_bytes.len;
    }

    /// `out` has encodedSize() bytes.
    pub fn encode(self: Node, out: []u8) void {
        @memset(out[0..format.structure_node_size], 0);
        out[0] = @backingInt(self.kind);
        out[1] = @backingInt(self.key_kind);
        bytes.put(u64, out, 8, self.key);
        bytes.put(u64, out, 16, self.value);
        const rest = out[format.structure_node_size..];
        @memcpy(rest[0..self.key_bytes.len], self.key_bytes);
        @memcpy(rest[self.key_bytes.len..], self.value_bytes);
    }
};

/// A checked structure section.
pub const Structure = struct {
    raw: []const u8 = &.{},
    /// Where each node begins in `raw`.
    offsets: []const u32 = &.{},

    pub fn node(self: Structure, index: usize) Node {
        const raw = self.raw[self.offsets[index]..];
        var result: Node = .{
            .kind = @fromBackingInt(raw[0]),
            .key_kind = @fromBackingInt(raw[1]),
            .key = bytes.get(u64, raw, 8),
            .value = bytes.get(u64, raw, 16),
        };
        const rest = raw[format.structure_node_size..];
        const key_size: usize = if (result.key_kind.hasBytes()) @intCast(result.key) else 0;
        result.key_bytes = rest[0..key_size];
        if (result.kind.hasBytes()) {
            result.value_bytes = rest[key_size..][0..@intCast(result.value)];
        }
        return result;
    }
};

const Allocator = std.mem.Allocator;
const Failure = status.DataError || error{OutOfMemory};

/// TZ1-48 to TZ1-54, TZ1-67, TZ1-78 to TZ1-82, and TZ1-84. `raw` lies at `offset` in the file and
/// must outlive the result. Arrays of the result are allocated in `arena`, temporary memory in
/// `gpa`.
pub fn decode(
    gpa: Allocator,
    arena: Allocator,
    raw: []const u8,
    tensor_count: u32,
    offset: u64,
    diagnostic: *status.Diagnostic,
) Failure!Structure {
    var used: std.DynamicBitSetUnmanaged = try .initEmpty(gpa, tensor_count);
    defer used.deinit(gpa);
    var scan: Scan = .{
        .gpa = gpa,
        .raw = raw,
        .offset = offset,
        .used = &used,
        .diagnostic = diagnostic,
    };
    defer scan.deinit();
    try scan.run();
    if (scan.position != raw.len) return scan.fail(error.Structure, 79);
    if (used.count() != tensor_count) return scan.fail(error.Structure, 81);
    try scan.checkKeys();
    return .{ .raw = raw, .offsets = try arena.dupe(u32, scan.offsets.items) };
}

/// A dict key with its dict, for finding duplicates.
const Key = struct {
    dict: u32,
    kind: KeyKind,
    int: u64,
    text: []const u8,

    fn order(a: Key, b: Key) std.math.Order {
        if (a.dict != b.dict) return std.math.order(a.dict, b.dict);
        if (a.kind != b.kind) return std.math.order(@backingInt(a.kind), @backingInt(b.kind));
        if (a.kind == .int) return std.math.order(a.int, b.int);
        return std.mem.order(u8, a.text, b.text);
    }

    fn lessThan(_: void, a: Key, b: Key) bool {
        return order(a, b) == .lt;
    }
};

const Scan = struct {
    gpa: Allocator,
    raw: []const u8,
    offset: u64,
    used: *std.DynamicBitSetUnmanaged,
    diagnostic: *status.Diagnostic,
    position: usize = 0,
    offsets: std.ArrayList(u32) = .empty,
    keys: std.ArrayList(Key) = .empty,
    /// The containers around the next node, each with the number of children that it still lacks.
    stack: [format.depth_max + 1]Open = undefined,
    depth: usize = 0,

    const Open = struct { node: u32, kind: Kind, missing: u64 };

    fn deinit(self: *Scan) void {
        self.offsets.deinit(self.gpa);
        self.keys.deinit(self.gpa);
    }

    fn fail(self: *Scan, err: status.DataError, rule: u32) status.DataError {
        return self.diagnostic.fail(err, rule, self.offset + self.position);
    }

    fn run(self: *Scan) Failure!void {
        while (true) {
            try self.next();
            while (self.depth > 0 and self.stack[self.depth - 1].missing == 0) self.depth -= 1;
            if (self.depth == 0) return;
        }
    }

    /// The next node: its own rules, and whether the innermost open container may hold it.
    fn next(self: *Scan) Failure!void {
        const rest = self.raw[self.position..];
        if (rest.len < format.structure_node_size) return self.fail(error.Structure, 48);
        if (self.depth > format.depth_max) return self.fail(error.Limit, 53);
        if (self.offsets.items.len == format.node_count_max) return self.fail(error.Limit, 82);
        const node = try self.fixedPart(rest);
        const parent: ?*Open = if (self.depth == 0) null else &self.stack[self.depth - 1];
        const needs_key = parent != null and parent.?.kind == .dict;
        if (needs_key != (node.key_kind != .none)) return self.fail(error.Structure, 50);
        const text = try self.variablePart(node, rest[format.structure_node_size..]);
        if (node.kind == .tensor) {
            if (node.value >= self.used.capacity()) return self.fail(error.Structure, 54);
            if (self.used.isSet(@intCast(node.value))) return self.fail(error.Structure, 80);
            self.used.set(@intCast(node.value));
        }
        if (parent) |open| {
            open.missing -= 1;
            if (needs_key) {
                const int = if (node.key_kind == .int) node.key else 0;
                const key: Key = .{
                    .dict = open.node,
                    .kind = node.key_kind,
                    .int = int,
                    .text = text.key,
                };
                try self.keys.append(self.gpa, key);
            }
        }
        const index: u32 = @intCast(self.offsets.items.len);
        try self.offsets.append(self.gpa, @intCast(self.position));
        self.position += format.structure_node_size + text.size;
        if (node.isContainer() and node.value != 0) {
            self.stack[self.depth] = .{ .node = index, .kind = node.kind, .missing = node.value };
            self.depth += 1;
        }
    }

    /// TZ1-49.
    fn fixedPart(self: *Scan, raw: []const u8) status.DataError!Node {
        const kind = std.enums.fromInt(Kind, raw[0]) orelse return self.fail(error.Structure, 49);
        const key_kind = std.enums.fromInt(KeyKind, raw[1]) orelse
            return self.fail(error.Structure, 49);
        const node: Node = .{
            .kind = kind,
            .key_kind = key_kind,
            .key = bytes.get(u64, raw, 8),
            .value = bytes.get(u64, raw, 16),
        };
        const value_max: u64 = switch (kind) {
            .none => 0,
            .bool => 1,
            else => std.math.maxInt(u64),
        };
        if (!bytes.allZero(raw[2..8]) or node.value > value_max or
            (key_kind == .none and node.key != 0))
        {
            return self.fail(error.Structure, 49);
        }
        return node;
    }

    const Text = struct { key: []const u8, size: usize };

    /// Key and value bytes: TZ1-78, TZ1-51, TZ1-67 and TZ1-84.
    fn variablePart(self: *Scan, node: Node, rest: []const u8) status.DataError!Text {
        const key_size = if (node.key_kind.hasBytes()) node.key else 0;
        const value_size = if (node.kind.hasBytes()) node.value else 0;
        if (key_size > rest.len or value_size > rest.len - key_size) {
            return self.fail(error.Structure, 78);
        }
        const key = rest[0..@intCast(key_size)];
        const value = rest[key.len..][0..@intCast(value_size)];
        switch (node.key_kind) {
            .str => if (!bytes.isText(key)) return self.fail(error.Structure, 51),
            .large_int => try self.largeInteger(key),
            .none, .int => {},
        }
        if (node.kind == .str and !bytes.isText(value)) return self.fail(error.Structure, 51);
        if (node.kind == .large_int) try self.largeInteger(value);
        return .{ .key = key, .size = key.len + value.len };
    }

    /// TZ1-67 and TZ1-84: two's complement of more bytes than an i64 has, and of no more than it
    /// takes.
    fn largeInteger(self: *Scan, raw: []const u8) status.DataError!void {
        if (raw.len > format.large_integer_size_max) return self.fail(error.Limit, 67);
        if (raw.len <= @sizeOf(i64)) return self.fail(error.Structure, 84);
        const extension: u8 = if (raw[raw.len - 2] < 0x80) 0 else 0xFF;
        if (raw[raw.len - 1] == extension) return self.fail(error.Structure, 84);
    }

    /// TZ1-52.
    fn checkKeys(self: *Scan) status.DataError!void {
        const keys = self.keys.items;
        std.mem.sortUnstable(Key, keys, {}, Key.lessThan);
        for (1..@max(keys.len, 1)) |index| {
            if (Key.order(keys[index - 1], keys[index]) == .eq) {
                self.position = self.offsets.items[keys[index].dict];
                return self.fail(error.Structure, 52);
            }
        }
    }
};
