//! Names in .tensors files. Most are flat. A nested state dict has paths instead: a byte 1E, then a
//! JSON array of strings (keys of a dict) and integers (indices of a list), such as
//! ["layers",0,"weight"].
//!
//! In a nested file, each tensor gets the name that it would have in a tz file (its steps joined
//! with "/", escaped as bindings/python/libtz/structure.py describes), and the whole object becomes
//! the nodes of a structure section.

const std = @import("std");
const bytes = @import("../bytes.zig");
const format = @import("../format.zig");
const JsonReader = @import("json.zig").Reader;
const Role = @import("../index.zig").Record.Role;
const status = @import("../status.zig");
const structures = @import("../structure.zig");
const Structure = structures.Structure;

const Allocator = std.mem.Allocator;
const Error = status.DataError || error{OutOfMemory};

const path_mark = 0x1E;

pub const Step = union(enum) { key: []const u8, index: u64 };

/// Appends the steps of a name, a single one if it is flat. Returns whether it is a path. Text with
/// escapes is copied into `arena`.
pub fn parse(
    gpa: Allocator,
    arena: Allocator,
    name: []const u8,
    role: Role,
    steps: *std.ArrayList(Step),
    diagnostic: *status.Diagnostic,
) Error!bool {
    if (!isPath(name)) {
        if (!bytes.isText(name)) {
            return diagnostic.because(error.Foreign, "its name is not UTF-8");
        }
        try steps.append(gpa, .{ .key = flatKey(name, role) });
        return false;
    }
    if (role != .state) {
        return diagnostic.because(error.Foreign, "its name is a path, but it belongs to a module");
    }
    // Tensorizer writes one line of ASCII.
    for (name[1..]) |byte| if (byte < 0x20 or byte > 0x7E) {
        return diagnostic.because(error.Json, "its path is not a single line of ASCII");
    };
    var reader: JsonReader = .{ .text = name[1..] };
    parsePath(gpa, arena, &reader, steps) catch |err| return switch (err) {
        error.Json => diagnostic.because(error.Json, reader.reason),
        error.Limit => diagnostic.because(error.Limit, "its path has more than 128 steps"),
        error.OutOfMemory => err,
    };
    return true;
}

fn parsePath(
    gpa: Allocator,
    arena: Allocator,
    reader: *JsonReader,
    steps: *std.ArrayList(Step),
) error{ OutOfMemory, Json, Limit }!void {
    try reader.expect('[');
    var items: JsonReader.Items = .init(']');
    var count: usize = 0;
    while (try items.next(reader)) : (count += 1) {
        if (count == format.depth_max) return error.Limit;
        if (reader.at == reader.text.len) return reader.fail("its path does not end");
        try steps.append(gpa, if (reader.text[reader.at] == '"')
            .{ .key = try reader.string(arena) }
        else
            .{ .index = try reader.integer() });
    }
    try reader.finish();
    if (count == 0) return reader.fail("its path has no steps");
}

fn isPath(name: []const u8) bool {
    return name.len > 0 and name[0] == path_mark;
}

/// A name as in the file, for messages.
pub fn forMessage(name: []const u8) []const u8 {
    return if (isPath(name)) name[1..] else name;
}

/// Tensorizer joins a module's path and a tensor's name with a dot, even for the root module, whose
/// path is empty. Names in PyTorch's state dicts do not have that dot.
pub fn isDotted(name: []const u8, role: Role) bool {
    return role != .state and name.len > 0 and name[0] == '.';
}

fn flatKey(name: []const u8, role: Role) []const u8 {
    return if (isDotted(name, role)) name[1..] else name;
}

/// The tensor's name. Flat ones stay as they are unless other names in the file are paths.
pub fn join(
    arena: Allocator,
    path: []const Step,
    is_nested: bool,
    diagnostic: *status.Diagnostic,
) Error![]const u8 {
    if (!is_nested) {
        const name = path[0].key;
        // The same rule as in tz files, so that every tensor can be named and converted.
        if (bytes.hasControl(name)) {
            return diagnostic.because(error.Foreign, "its name has a control character");
        }
        return name;
    }
    var name: std.ArrayList(u8) = .empty;
    for (path, 0..) |step, number| {
        if (number != 0) try name.append(arena, '/');
        switch (step) {
            .index => |index| try name.print(arena, "{d}", .{index}),
            .key => |key| try appendEscaped(arena, &name, key),
        }
    }
    if (name.items.len > format.name_size_max) {
        return diagnostic.because(error.Limit, "its name is longer than 65,535 bytes");
    }
    return name.items;
}

fn appendEscaped(arena: Allocator, name: *std.ArrayList(u8), key: []const u8) Error!void {
    if (looksLikeNumber(key)) try name.appendSlice(arena, "~2");
    var at: usize = 0;
    while (at < key.len) : (at += 1) switch (key[at]) {
        '~' => try name.appendSlice(arena, "~0"),
        '/' => try name.appendSlice(arena, "~1"),
        0x00...0x1F, 0x7F => |control| try name.print(arena, "~x{x:0>2}", .{control}),
        // U+0080 to U+009F are C2 80 to C2 9F; other characters with C2 continue above 9F.
        0xC2 => if (key[at + 1] < 0xA0) {
            at += 1;
            try name.print(arena, "~x{x:0>2}", .{key[at]});
        } else try name.append(arena, 0xC2),
        else => |byte| try name.append(arena, byte),
    };
}

fn looksLikeNumber(key: []const u8) bool {
    const digits = if (key.len > 0 and key[0] == '-') key[1..] else key;
    for (digits) |byte| if (!std.ascii.isDigit(byte)) return false;
    return digits.len > 0;
}

/// A dict or list in a path takes two bytes in a file, but hundreds in memory if no other path
/// shares it. Real files have fewer of them than tensors.
const container_max = 1 << 16;
const container_tensor_max = 8;

/// The nested object that the paths of a file form. Dicts have their keys in order of first
/// appearance, lists their elements in order of index. Indices may be missing, since an element
/// without tensors leaves no trace in a file.
pub const Tree = struct {
    gpa: Allocator,
    node_max: u64,
    diagnostic: *status.Diagnostic,
    nodes: std.ArrayList(Node) = .empty,
    known: std.HashMapUnmanaged(Key, u32, Key.Context, 80) = .empty,

    const Kind = enum { dict, list, tensor };

    const Node = struct {
        step: Step,
        kind: Kind,
        /// Only for leaves.
        tensor: u32 = 0,
        child_count: u32 = 0,
        first_child: u32 = format.none,
        last_child: u32 = format.none,
        next: u32 = format.none,
    };

    const Key = struct {
        parent: u32,
        step: Step,

        const Context = struct {
            pub fn hash(_: Context, key: Key) u64 {
                const seed: u64 = key.parent;
                return switch (key.step) {
                    .key => |text| std.hash.Wyhash.hash(seed, text),
                    .index => |index| std.hash.Wyhash.hash(~seed, std.mem.asBytes(&index)),
                };
            }

            pub fn eql(_: Context, a: Key, b: Key) bool {
                if (a.parent != b.parent) return false;
                return switch (a.step) {
                    .key => |text| b.step == .key and std.mem.eql(u8, text, b.step.key),
                    .index => |index| b.step == .index and index == b.step.index,
                };
            }
        };
    };

    pub fn init(gpa: Allocator, tensor_count: u64, diagnostic: *status.Diagnostic) Tree {
        const containers = container_max + container_tensor_max * tensor_count;
        const node_max = @min(containers + tensor_count, format.node_count_max);
        return .{ .gpa = gpa, .node_max = node_max, .diagnostic = diagnostic };
    }

    pub fn deinit(self: *Tree) void {
        self.nodes.deinit(self.gpa);
        self.known.deinit(self.gpa);
    }

    /// Adds a tensor, by its index in the tensor table. The path's text must outlive the tree.
    pub fn add(self: *Tree, path: []const Step, tensor: u32) Error!void {
        if (self.nodes.items.len == 0) {
            const kind = kindAbove(path[0]);
            try self.nodes.append(self.gpa, .{ .step = .{ .key = "" }, .kind = kind });
        }
        var parent: u32 = 0;
        for (path, 1..) |step, depth| {
            const kind = self.nodes.items[parent].kind;
            if (kind != kindAbove(step)) {
                return self.diagnostic.because(error.Foreign, if (kind == .tensor)
                    "its path continues where that of another tensor ends"
                else
                    "its path has a key where another has a list index, or the reverse");
            }
            const found = try self.known.getOrPut(self.gpa, .{ .parent = parent, .step = step });
            const is_last = depth == path.len;
            if (found.found_existing and is_last) {
                const reason = "its path ends where that of another tensor continues";
                return self.diagnostic.because(error.Foreign, reason);
            }
            if (!found.found_existing) {
                found.value_ptr.* = try self.append(parent, .{
                    .step = step,
                    .kind = if (is_last) .tensor else kindAbove(path[depth]),
                    .tensor = tensor,
                });
            }
            parent = found.value_ptr.*;
        }
    }

    fn kindAbove(step: Step) Kind {
        return if (step == .key) .dict else .list;
    }

    fn append(self: *Tree, parent: u32, node: Node) Error!u32 {
        if (self.nodes.items.len == self.node_max) {
            const reason = "the paths form more than 65,536 dicts and lists plus 8 per tensor";
            return self.diagnostic.because(error.Limit, reason);
        }
        const number: u32 = @intCast(self.nodes.items.len);
        try self.nodes.append(self.gpa, node);
        const above = &self.nodes.items[parent];
        if (above.child_count == 0) above.first_child = number else {
            self.nodes.items[above.last_child].next = number;
        }
        above.last_child = number;
        above.child_count += 1;
        return number;
    }

    /// The object as the nodes of a structure section.
    pub fn encode(self: *Tree, arena: Allocator) Error!Structure {
        var raw: std.ArrayList(u8) = .empty;
        var offsets: std.ArrayList(u32) = .empty;
        var stack: std.ArrayList(u32) = .empty;
        defer stack.deinit(self.gpa);
        try stack.append(self.gpa, 0);
        while (stack.pop()) |number| {
            const node = self.encoded(number);
            const offset = std.math.cast(u32, raw.items.len) orelse
                return self.diagnostic.because(error.Limit, "the paths are too long");
            try offsets.append(arena, offset);
            node.encode(try raw.addManyAsSlice(arena, @intCast(node.encodedSize())));
            try self.pushChildren(&stack, number);
        }
        return .{ .raw = raw.items, .offsets = offsets.items };
    }

    fn encoded(self: *const Tree, number: u32) structures.Node {
        const node = self.nodes.items[number];
        // The root and elements of lists have no key.
        const key = if (number != 0 and node.step == .key) node.step.key else null;
        return .{
            .kind = switch (node.kind) {
                .dict => .dict,
                .list => .list,
                .tensor => .tensor,
            },
            .key_kind = if (key == null) .none else .str,
            .key = if (key) |text| text.len else 0,
            .value = if (node.kind == .tensor) node.tensor else node.child_count,
            .key_bytes = key orelse "",
        };
    }

    /// Pushes them in reverse, so that they are popped in order.
    fn pushChildren(self: *Tree, stack: *std.ArrayList(u32), number: u32) Error!void {
        const node = self.nodes.items[number];
        const begin = stack.items.len;
        var child = node.first_child;
        while (child != format.none) : (child = self.nodes.items[child].next) {
            try stack.append(self.gpa, child);
        }
        const children = stack.items[begin..];
        if (node.kind == .list) {
            std.mem.sortUnstable(u32, children, self.nodes.items, hasLaterIndex);
        } else {
            std.mem.reverse(u32, children);
        }
    }

    fn hasLaterIndex(nodes: []const Node, a: u32, b: u32) bool {
        return nodes[a].step.index > nodes[b].step.index;
    }
};

const testing = std.testing;

fn expectName(expected: []const u8, raw: []const u8, is_nested: bool) !void {
    var arena: std.heap.ArenaAllocator = .init(testing.allocator);
    defer arena.deinit();
    var steps: std.ArrayList(Step) = .empty;
    var diagnostic: status.Diagnostic = .{};
    _ = try parse(arena.allocator(), arena.allocator(), raw, .state, &steps, &diagnostic);
    const name = try join(arena.allocator(), steps.items, is_nested, &diagnostic);
    try testing.expectEqualStrings(expected, name);
}

test "names" {
    try expectName("a.b/~", "a.b/~", false);
    try expectName(".a", ".a", false); // in a state dict, this is the key
    try expectName("a.b~1~0", "a.b/~", true);
    try expectName("a/0/~20", "\x1E[\"a\",0,\"0\"]", true);
    try expectName("~2-7/-/~x0a~x9f\u{A0}", "\x1E[\"-7\",\"-\",\"\\n\\u009f\\u00a0\"]", true);
    try testing.expectEqualStrings("w", flatKey(".w", .parameter));
    try testing.expectEqualStrings("a.w", flatKey("a.w", .buffer));
}

fn buildTree(gpa: Allocator) !void {
    var arena: std.heap.ArenaAllocator = .init(gpa);
    defer arena.deinit();
    var diagnostic: status.Diagnostic = .{};
    var tree: Tree = .init(gpa, 3, &diagnostic);
    defer tree.deinit();
    try tree.add(&.{ .{ .key = "b" }, .{ .index = 7 } }, 1);
    try tree.add(&.{.{ .key = "a" }}, 0);
    try tree.add(&.{ .{ .key = "b" }, .{ .index = 2 }, .{ .key = "x" } }, 2);
    const structure = try tree.encode(arena.allocator());
    _ = structures.decode(gpa, arena.allocator(), structure.raw, 3, 0, &diagnostic) catch |err|
        return if (err == error.OutOfMemory) err else error.TestUnexpectedResult;
    const kinds = [_]structures.Kind{ .dict, .list, .dict, .tensor, .tensor, .tensor };
    const values = [_]u64{ 2, 2, 1, 2, 1, 0 };
    try testing.expectEqual(kinds.len, structure.offsets.len);
    for (kinds, values, 0..) |kind, value, number| {
        const node = structure.node(number);
        try testing.expectEqual(kind, node.kind);
        try testing.expectEqual(value, node.value);
    }
    try testing.expectEqualStrings("b", structure.node(1).key_bytes);
}

test "dicts keep their order, lists are sorted; any allocation may fail" {
    try testing.checkAllAllocationFailures(testing.allocator, buildTree, .{});
}
