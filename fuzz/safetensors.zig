//! Invariant: any bytes as a safetensors header give a typed error, or tensors with unique names
//! that fill the data exactly. Memory is in proportion to the header. Every front of the file gives
//! the same result or needs more bytes. A header that was read and written as JSON again reads the
//! same.
//!
//! An input is the size of the file's data (u32), then the JSON. Every error has an offset and a
//! reason.

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
const Tensor = tz.index.Tensor;

const prefix_size = 4;
const length_size = 8;

/// Bytes that opening may allocate per byte of the header, and in addition. Metadata needs the
/// most, as in header.zig.
const memory_factor = 32;
const memory_base = 64 << 10;

const opening: tz.header.Options = .{ .format = .safetensors };

pub fn run(input: []const u8) !void {
    if (input.len < prefix_size) return;
    const data_size = std.mem.readInt(u32, input[0..prefix_size], .little);
    const front = joinLength(input[prefix_size..]);
    defer front.deinit();
    const file_size = front.bytes.len + @as(u64, data_size);

    var memory: Limited = .init(memory_base + memory_factor * front.bytes.len);
    defer memory.deinit();
    const gpa = memory.allocator();
    var diagnostic: Diagnostic = .{};
    const outcome = tz.header.open(gpa, front.bytes, file_size, opening, &diagnostic);
    try checkFronts(front.bytes, file_size, outcome);
    const header = (outcome catch return observe.refusedForeign(diagnostic)).header;
    defer header.deinit();
    observe.accepted += 1;
    try checkIndex(header);
    try checkAgain(header);
}

/// The header's bytes as in a file.
fn joinLength(json: []const u8) Buffer {
    const front: Buffer = .init(length_size + json.len);
    std.mem.writeInt(u64, front.bytes[0..length_size], json.len, .little);
    @memcpy(front.bytes[length_size..], json);
    return front;
}

fn checkFronts(front: []const u8, file_size: u64, whole: Error!Outcome) !void {
    for ([_]usize{ 0, length_size - 1, length_size, length_size + 1, front.len - 1 }) |size| {
        if (size >= front.len) continue;
        var memory: Limited = .init(memory_base);
        defer memory.deinit();
        const part: Buffer = .copyOf(front[0..size]);
        defer part.deinit();
        var diagnostic: Diagnostic = .{};
        const gpa = memory.allocator();
        const outcome = tz.header.open(gpa, part.bytes, file_size, opening, &diagnostic);
        if (outcome) |asked| {
            if (asked.need_more <= size or asked.need_more > front.len) return error.WrongNeed;
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
    var end = header.header_size;
    for (index.order, 0..) |number, position| {
        const tensor = index.tensors[number];
        if (tensor.order != position) return error.WrongOrder;
        if (tensor.decoded_size != try sizeOf(tensor)) return error.WrongSize;
        if (tensor.stored_size != tensor.decoded_size) return error.WrongSize;
        if (tensor.data_offset != if (tensor.hasChunks()) end else 0) return error.WrongOffset;
        end += tensor.decoded_size;
    }
    if (end != header.file_size) return error.WrongEnd;
    for (index.tensors, 0..) |tensor, number| {
        if (!std.unicode.utf8ValidateSlice(tensor.name)) return error.WrongName;
        if (index.find(tensor.name) != @as(u32, @intCast(number))) return error.WrongName;
        if (number == 0) continue;
        const before = index.tensors[number - 1].name;
        if (std.mem.order(u8, before, tensor.name) != .lt) return error.WrongName;
    }
}

fn sizeOf(tensor: Tensor) !u64 {
    var size = tz.dtype.byCode(tensor.dtype).?.unitSize();
    for (tensor.shape) |dimension| size = try std.math.mul(u64, size, dimension);
    return size;
}

/// Writes the contents of the header again, opens that, and compares.
fn checkAgain(header: *const Header) !void {
    var arena_state: std.heap.ArenaAllocator = .init(std.heap.smp_allocator);
    defer arena_state.deinit();
    const arena = arena_state.allocator();
    const json = try render(arena, header);
    const front = joinLength(json);
    defer front.deinit();
    const file_size = front.bytes.len + (header.file_size - header.header_size);
    var diagnostic: Diagnostic = .{};
    const outcome = try tz.header.open(arena, front.bytes, file_size, opening, &diagnostic);
    const again = outcome.header;
    defer again.deinit();
    if (again.index.tensors.len != header.index.tensors.len) return error.OtherCount;
    for (again.index.tensors, header.index.tensors) |new, old| {
        const same = std.mem.eql(u8, new.name, old.name) and
            std.mem.eql(u64, new.shape, old.shape) and new.dtype == old.dtype and
            new.order == old.order and new.decoded_size == old.decoded_size;
        if (!same) return error.OtherTensor;
    }
    if (again.pairs.len != header.pairs.len) return error.OtherCount;
    for (again.pairs, header.pairs) |new, old| {
        if (!std.mem.eql(u8, new.key, old.key)) return error.OtherPair;
        if (!std.mem.eql(u8, new.value, old.value)) return error.OtherPair;
    }
}

fn render(arena: Allocator, header: *const Header) ![]const u8 {
    var json: std.Io.Writer.Allocating = .init(arena);
    const out = &json.writer;
    try out.writeAll("{\"__metadata__\":{");
    for (header.pairs, 0..) |pair, number| {
        if (number != 0) try out.writeByte(',');
        try renderString(out, pair.key);
        try out.writeByte(':');
        try renderString(out, pair.value);
    }
    try out.writeByte('}');
    var begin: u64 = 0;
    for (header.index.order) |number| {
        const tensor = header.index.tensors[number];
        try out.writeByte(',');
        try renderString(out, tensor.name);
        try renderTensor(out, tensor, begin);
        begin += tensor.decoded_size;
    }
    try out.writeByte('}');
    return json.written();
}

fn renderTensor(out: *std.Io.Writer, tensor: Tensor, begin: u64) !void {
    const dtype = tz.dtype.byCode(tensor.dtype).?;
    try out.print(":{{\"dtype\":\"{s}\",\"shape\":[", .{dtype.safetensors.?});
    for (tensor.shape, 1..) |dimension, count| {
        const last = count == tensor.shape.len;
        try out.print("{d}", .{if (last) dimension * dtype.elements else dimension});
        if (!last) try out.writeByte(',');
    }
    try out.print("],\"data_offsets\":[{d},{d}]}}", .{ begin, begin + tensor.decoded_size });
}

fn renderString(out: *std.Io.Writer, text: []const u8) !void {
    try out.writeByte('"');
    for (text) |byte| switch (byte) {
        '"', '\\', 0...0x1F => try out.print("\\u{x:0>4}", .{byte}),
        else => try out.writeByte(byte),
    };
    try out.writeByte('"');
}

/// A valid header with random white space, or a nearly valid one.
pub fn make(arena: Allocator, random: std.Random) ![]u8 {
    var input: std.Io.Writer.Allocating = .init(arena);
    const out = &input.writer;
    try out.writeAll(&@as([prefix_size]u8, @splat(0)));
    try out.writeByte('{');
    var data_size: u32 = 0;
    if (random.boolean()) try out.writeAll("\"__metadata__\": {\"format\":\"pt\"}");
    for (0..random.uintAtMost(usize, 6)) |number| {
        const first = input.written().len == prefix_size + 1;
        if (!first) try out.writeAll(if (random.boolean()) "," else " ,\n");
        const dtype = randomDtype(random);
        // There are no scalars of types that pack several numbers.
        const rank = random.intRangeAtMost(u32, @intFromBool(dtype.elements > 1), 3);
        const count = if (rank == 0) 1 else dtype.elements * random.uintAtMost(u32, 4);
        const outer = random.uintAtMost(u32, 3);
        try out.print("\"layer.{d}\":{{\"dtype\":\"{s}\",", .{ number, dtype.safetensors.? });
        try out.writeAll("\"shape\":[");
        for (1..@max(1, rank)) |_| try out.print("{d}, ", .{outer});
        if (rank > 0) try out.print("{d}", .{count});
        // A gap or an overlap, with everything else consistent.
        if (random.uintLessThan(u8, 32) == 0) data_size += 1;
        if (random.uintLessThan(u8, 32) == 0) data_size -|= 1;
        const numbers = count * std.math.pow(u32, outer, rank -| 1);
        const size = numbers / dtype.elements * dtype.unit_bits / 8;
        try out.print("],\"data_offsets\":[{d},{d}]}}", .{ data_size, data_size + size });
        data_size += size;
    }
    try out.writeByte('}');
    for (0..random.uintLessThan(usize, 8)) |_| try out.writeByte(' ');
    std.mem.writeInt(u32, input.written()[0..prefix_size], data_size, .little);
    if (random.uintLessThan(u8, 4) == 0) return input.written();
    return mutate(arena, random, input.written());
}

fn randomDtype(random: std.Random) tz.dtype.Info {
    while (true) {
        const dtype = tz.dtype.table[random.uintLessThan(usize, tz.dtype.table.len)];
        if (dtype.safetensors != null) return dtype;
    }
}

const fragments = [_][]const u8{
    "{",         "}",      "[",         "]",            ",",                    ":",
    "\"",        "\\",     "\\u0061",   "\\ud834",      "\\udd1e",              "\\n",
    "0",         "1",      "-",         "1.5",          "18446744073709551615", "null",
    "\"dtype\"", "\"U8\"", "\"shape\"", "\"F4\"",       "\"data_offsets\"",     "\"__metadata__\"",
    "\"a\":",    "[0,0]",  "[]",        "{}",           "{\"a\":\"b\"}",        " ",
    "\n",        "\x00",   "\xC3",      "\xED\xA0\x80", "\xC2\x85",             "4294967296",
};

/// Cuts, copies and inserts pieces of JSON; sometimes changes the data's size.
pub fn mutate(arena: Allocator, random: std.Random, input: []const u8) ![]u8 {
    var bytes: std.ArrayList(u8) = .empty;
    try bytes.appendSlice(arena, input);
    if (input.len < prefix_size) return bytes.items;
    if (random.uintLessThan(u8, 16) == 0) bytes.items[random.uintLessThan(usize, 2)] +%= 1;
    for (0..random.intRangeAtMost(usize, 1, 3)) |_| {
        const size = bytes.items.len;
        const at = random.intRangeAtMost(usize, prefix_size, size);
        const some = random.uintAtMost(usize, @min(12, size - at));
        switch (random.uintLessThan(u8, 4)) {
            0 => bytes.replaceRangeAssumeCapacity(at, some, &.{}),
            1 => if (at < size) {
                bytes.items[at] = random.int(u8);
            },
            2 => try bytes.insertSlice(arena, at, try arena.dupe(u8, bytes.items[at..][0..some])),
            else => {
                const fragment = fragments[random.uintLessThan(usize, fragments.len)];
                try bytes.replaceRange(arena, at, if (random.boolean()) 0 else some, fragment);
            },
        }
    }
    return bytes.items;
}
