//! Uses the library only through tz.h: writes, opens, plans, processes and checks a file in memory.
//! Also tests every kind of misuse and damage for which the header defines a status.

const std = @import("std");
const c = @import("tz_h");
const tz = @import("tz");

const gpa = std.testing.allocator;
const expect = std.testing.expect;
const expectEqual = std.testing.expectEqual;
const expectEqualSlices = std.testing.expectEqualSlices;
const expectEqualStrings = std.testing.expectEqualStrings;

const none32: u32 = @bitCast(c.TZ_NONE32);
const none64 = std.math.maxInt(u64);
const chunk_size = 1 << 16;

fn expectStatus(expected: c_int, status: c.tz_status) !void {
    if (status == expected) return;
    if (status == c.TZ_E_MEMORY) return error.OutOfMemory;
    std.debug.print(
        "status {s}, not {s}\n",
        .{ c.tz_status_name(status), c.tz_status_name(expected) },
    );
    return error.TestUnexpectedResult;
}

fn ok(status: c.tz_status) !void {
    try expectStatus(c.TZ_OK, status);
}

/// An output struct, ready to be filled.
fn sized(comptime T: type) T {
    var value = std.mem.zeroes(T);
    value.struct_size = @sizeOf(T);
    return value;
}

fn itemOf(tensor: u32) c.tz_read_item {
    var item = sized(c.tz_read_item);
    item.tensor = tensor;
    return item;
}

fn encoding(dtype: u32, compress: u32) c.tz_encode_options {
    var options = sized(c.tz_encode_options);
    options.dtype = dtype;
    options.chunk_size = chunk_size;
    options.compress = compress;
    return options;
}

fn codeOf(name: []const u8) u32 {
    return c.tz_dtype_code(name.ptr, name.len);
}

// ---- A file ------------------------------------------------------------------------------------

const Tensor = struct {
    name: []const u8,
    dtype: []const u8,
    shape: []const u64,
    size: usize,
    tie: u32 = none32,
};

/// In the writer's order: two chunks, less than one, none, a tie to a larger name, a scalar, a
/// page.
const tensors = [_]Tensor{
    .{ .name = "layer.weight", .dtype = "f32", .shape = &.{ 300, 100 }, .size = 120_000 },
    .{ .name = "layer.bias", .dtype = "bf16", .shape = &.{3}, .size = 6 },
    .{ .name = "empty", .dtype = "f32", .shape = &.{ 0, 5 }, .size = 0 },
    .{ .name = "embed", .dtype = "f32", .shape = &.{ 300, 100 }, .size = 120_000, .tie = 0 },
    .{ .name = "scalar", .dtype = "f64", .shape = &.{}, .size = 8 },
    .{ .name = "bytes", .dtype = "u8", .shape = &.{4096}, .size = 4096 },
    .{ .name = "half", .dtype = "bf16", .shape = &.{ 4, 20_000 }, .size = 160_000 },
};

fn pair(key: []const u8, value: []const u8) c.tz_pair {
    return .{ .key = key.ptr, .key_size = key.len, .value = value.ptr, .value_size = value.len };
}

fn tensorNode(key: ?[]const u8, index: u64) c.tz_node {
    return .{
        .kind = c.TZ_NODE_TENSOR,
        .key_kind = if (key == null) c.TZ_KEY_NONE else c.TZ_KEY_STR,
        .key = if (key) |text| text.len else 0,
        .key_bytes = if (key) |text| text.ptr else null,
        .value = index,
    };
}

const large_integer: [1024]u8 = @splat(0x7F);

/// {"model": [layer.weight, layer.bias, empty], -7: (embed, scalar, bytes), "half": half,
///  2^64: a large integer}
const nodes = [_]c.tz_node{
    .{ .kind = c.TZ_NODE_DICT, .value = 4 },
    .{
        .kind = c.TZ_NODE_LIST,
        .key_kind = c.TZ_KEY_STR,
        .key = 5,
        .key_bytes = "model",
        .value = 3,
    },
    tensorNode(null, 0),
    tensorNode(null, 1),
    tensorNode(null, 2),
    .{
        .kind = c.TZ_NODE_TUPLE,
        .key_kind = c.TZ_KEY_INT,
        .key = @bitCast(@as(i64, -7)),
        .value = 3,
    },
    tensorNode(null, 3),
    tensorNode(null, 4),
    tensorNode(null, 5),
    tensorNode("half", 6),
    .{
        .kind = c.TZ_NODE_LARGE_INT,
        .key_kind = c.TZ_KEY_LARGE_INT,
        .key = 9,
        .key_bytes = "\x00\x00\x00\x00\x00\x00\x00\x00\x01",
        .value = large_integer.len,
        .value_bytes = &large_integer,
    },
};

fn specOf(tensor: Tensor) c.tz_tensor_spec {
    return .{
        .struct_size = @sizeOf(c.tz_tensor_spec),
        .name = tensor.name.ptr,
        .name_size = tensor.name.len,
        .shape = tensor.shape.ptr,
        .rank = @intCast(tensor.shape.len),
        .dtype = codeOf(tensor.dtype),
        .tie = tensor.tie,
    };
}

fn newBuilder() !*c.tz_builder {
    var specs: [tensors.len]c.tz_tensor_spec = undefined;
    for (tensors, &specs) |tensor, *spec| spec.* = specOf(tensor);
    const pairs = [_]c.tz_pair{ pair("step", "12"), pair("author", "") };
    var options = sized(c.tz_builder_options);
    options.chunk_size_log2 = 16;
    options.metadata = &pairs;
    options.metadata_count = pairs.len;
    options.nodes = &nodes;
    options.node_count = nodes.len;
    var builder: ?*c.tz_builder = null;
    try ok(c.tz_builder_new(&specs, specs.len, &options, &builder, null));
    return builder.?;
}

/// The values of a tensor. As in weights, their high bytes vary little.
fn fill(data: []u8, spec: usize) void {
    var prng: std.Random.DefaultPrng = .init(spec);
    for (data, 0..) |*byte, index| {
        const random = prng.random().int(u8);
        byte.* = if (index % 2 == 1) 0x3C + random % 3 else random;
    }
}

const File = struct {
    bytes: []u8,
    digest: [32]u8,
    /// By index of `tensors`.
    contents: [tensors.len][]u8,

    fn deinit(self: *File) void {
        gpa.free(self.bytes);
        for (self.contents) |content| gpa.free(content);
    }
};

fn writeFile(compress: u32) !File {
    const builder = try newBuilder();
    defer c.tz_builder_free(builder);
    var info = sized(c.tz_builder_info);
    try ok(c.tz_builder_get(builder, &info));
    try expectEqual(chunk_size, info.chunk_size);
    try expectEqual(2 + 1 + 1 + 1 + 3, info.chunk_count);
    try expectEqual(120_000 + 6 + 8 + 4096 + 160_000, info.decoded_size);
    var file: File = .{
        .bytes = try gpa.alloc(u8, info.file_size_max),
        .digest = undefined,
        .contents = @splat(&.{}),
    };
    errdefer file.deinit();
    @memset(file.bytes, 0);
    for (tensors, &file.contents, 0..) |tensor, *content, spec| {
        content.* = try gpa.alloc(u8, tensor.size);
        fill(content.*, if (tensor.tie == none32) spec else tensor.tie);
        // "embed" is the smaller name of the tie, so it has the data.
        const has_data = spec != 0 and spec != 2;
        try expectEqual(@intFromBool(has_data), c.tz_builder_has_data(builder, @intCast(spec)));
        if (has_data) try putTensor(builder, &file, @intCast(spec), compress);
    }
    var needed: usize = 0;
    var size: u64 = 0;
    try expectStatus(
        c.TZ_E_BUFFER_TOO_SMALL,
        c.tz_builder_finish(builder, null, 0, &needed, &size, &file.digest),
    );
    try expectEqual(info.header_size, needed);
    try ok(c.tz_builder_finish(builder, file.bytes.ptr, needed, &needed, &size, &file.digest));
    try expect(size <= info.file_size_max);
    file.bytes = try gpa.realloc(file.bytes, size);
    return file;
}

/// Encodes and puts one chunk, then the rest, as a streaming writer does.
fn putTensor(builder: *c.tz_builder, file: *File, spec: u32, compress: u32) !void {
    const data = file.contents[spec];
    var begin: usize = 0;
    while (begin < data.len) {
        const part = data[begin..if (begin == 0) @min(chunk_size, data.len) else data.len];
        var entries: [4]c.tz_chunk_entry = @splat(sized(c.tz_chunk_entry));
        const count = std.math.divCeil(usize, part.len, chunk_size) catch unreachable;
        const options = encoding(codeOf(tensors[spec].dtype), compress);
        const image = try gpa.alloc(u8, c.tz_chunks_encode_bound(&options, part.len));
        defer gpa.free(image);
        var image_size: usize = 0;
        try ok(c.tz_chunks_encode(
            &options,
            part.ptr,
            part.len,
            image.ptr,
            image.len,
            &image_size,
            &entries,
            count,
        ));
        const stored = if (image_size == 0) part else image[0..image_size];
        var offset: u64 = 0;
        try ok(c.tz_builder_put_chunks(builder, spec, &entries, count, &offset));
        @memcpy(file.bytes[offset..][0..stored.len], stored);
        begin += part.len;
    }
    var digest: [32]u8 = undefined;
    c.tz_blake3(data.ptr, data.len, &digest);
    try ok(c.tz_builder_put_content(builder, spec, &digest));
}

fn open(bytes: []const u8) !*c.tz_header {
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    try ok(c.tz_header_open(bytes.ptr, bytes.len, bytes.len, null, &header, &needed, null));
    return header.?;
}

fn openWithEntries(bytes: []const u8) !*c.tz_header {
    const header = try open(bytes);
    errdefer c.tz_header_free(header);
    try ok(c.tz_header_put_entries(header, 0, bytes.ptr, bytes.len, null));
    return header;
}

fn indexOf(header: *c.tz_header, name: []const u8) !u32 {
    var index: u32 = undefined;
    try ok(c.tz_header_find(header, name.ptr, name.len, &index));
    return index;
}

// ---- Correct use -------------------------------------------------------------------------------

test "versions, checksums and data types" {
    try expect(std.mem.span(c.tz_version()).len > 0);
    try expectEqual(1, c.tz_abi_version());
    try expect(std.mem.span(c.tz_cpu_level()).len > 0);
    try expectEqual(0xE306_9283, c.tz_crc32c(0, "123456789", 9));
    try expectEqual(0xE306_9283, c.tz_crc32c(c.tz_crc32c(0, "1234", 4), "56789", 5));
    try expectEqual(7, c.tz_crc32c(7, null, 0));
    try expectEqual(0xCBF4_3926, c.tz_crc32(c.tz_crc32(0, "1234", 4), "56789", 5));
    try expectEqual(7, c.tz_crc32(7, null, 0));

    var whole: [32]u8 = undefined;
    c.tz_blake3("abc", 3, &whole);
    var state: c.tz_blake3_state = undefined;
    c.tz_blake3_init(&state);
    c.tz_blake3_update(&state, "ab", 2);
    c.tz_blake3_update(&state, null, 0);
    var copy = state;
    c.tz_blake3_update(&copy, "c", 1);
    var streamed: [32]u8 = undefined;
    c.tz_blake3_final(&copy, &streamed);
    try expectEqualSlices(u8, &whole, &streamed);
    try expectEqual(0x64, whole[0]);

    var info = sized(c.tz_dtype_info);
    try ok(c.tz_dtype(codeOf("bf16"), &info));
    try expectEqualStrings("bf16", std.mem.span(info.name));
    try expectEqualStrings("BF16", std.mem.span(info.safetensors));
    try expectEqual(16, info.unit_bits);
    try ok(c.tz_dtype(codeOf("c128"), &info));
    try expect(info.safetensors == null);
    try expectStatus(c.TZ_E_FEATURE, c.tz_dtype(0x100, &info));
    try expectStatus(c.TZ_E_FEATURE, c.tz_dtype(0, &info));
    try expectEqual(0, codeOf("BF16"));
    try expectEqual(0, c.tz_dtype_code(null, 0));
}

test "a written file opens with everything in it" {
    var file = try writeFile(c.TZ_COMPRESS_AUTO);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);

    var info = sized(c.tz_header_info);
    try ok(c.tz_header_get(header, &info));
    try expectEqual(c.TZ_FORMAT_TZ, @as(c_int, @intCast(info.format)));
    try expectEqual(tensors.len, info.tensor_count);
    try expectEqual(2, info.metadata_count);
    try expectEqual(nodes.len, info.node_count);
    try expectEqual(8, info.chunk_count);
    try expectEqual(chunk_size, info.chunk_size);
    try expectEqual(file.bytes.len, info.file_size);
    try expectEqual(284_110, info.decoded_size);
    try expectEqualSlices(u8, &file.digest, &info.file_digest);
    var digest: [32]u8 = undefined;
    c.tz_blake3(file.bytes.ptr, 128, &digest);
    try expectEqualSlices(u8, &file.digest, &digest);

    var last_name: []const u8 = "";
    for (0..tensors.len) |index| {
        var tensor = sized(c.tz_tensor);
        try ok(c.tz_header_tensor(header, @intCast(index), &tensor));
        const name = tensor.name[0..tensor.name_size];
        try expect(index == 0 or std.mem.order(u8, last_name, name) == .lt);
        last_name = name;
        try expectEqual(index, try indexOf(header, name));
        try expectEqual(index, c.tz_header_order(header)[tensor.order]);
        const spec = tensors[tensor.order];
        try expectEqualStrings(spec.name, name);
        try expectEqual(codeOf(spec.dtype), tensor.dtype);
        try expectEqualSlices(u64, spec.shape, tensor.shape[0..tensor.rank]);
        try expectEqual(spec.size, tensor.decoded_size);
        c.tz_blake3(file.contents[tensor.order].ptr, spec.size, &digest);
        try expectEqualSlices(u8, &digest, tensor.content_digest[0..32]);
        const tied = std.mem.eql(u8, name, "layer.weight");
        try expectEqual(if (tied) try indexOf(header, "embed") else none32, tensor.tie);
        const has_data = !tied and spec.size != 0;
        const chunks = if (has_data) std.math.divCeil(
            u64,
            spec.size,
            chunk_size,
        ) catch unreachable else 0;
        try expectEqual(chunks, tensor.chunk_count);
        try expect(tensor.stored_size <= tensor.decoded_size);
        try expectEqual(has_data, tensor.stored_size != 0);
    }
    try ok(c.tz_header_content_digest(header, &digest));

    var found: c.tz_pair = undefined;
    try ok(c.tz_header_pair(header, 0, &found));
    try expectEqualStrings("author", found.key[0..found.key_size]);
    try expectEqual(0, found.value_size);
    try ok(c.tz_header_pair(header, 1, &found));
    try expectEqualStrings("12", found.value[0..found.value_size]);
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_header_pair(header, 2, &found));
}

test "the structure comes back node by node" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);
    for (nodes, 0..) |expected, index| {
        var node: c.tz_node = undefined;
        try ok(c.tz_header_node(header, index, &node));
        try expectEqual(expected.kind, node.kind);
        try expectEqual(expected.key_kind, node.key_kind);
        try expectEqual(expected.key, node.key);
        if (expected.key_kind == c.TZ_KEY_STR or expected.key_kind == c.TZ_KEY_LARGE_INT) {
            const size: usize = @intCast(node.key);
            try expectEqualStrings(expected.key_bytes[0..size], node.key_bytes[0..size]);
        } else try expect(node.key_bytes == null);
        if (expected.kind == c.TZ_NODE_LARGE_INT) {
            const size: usize = @intCast(node.value);
            try expectEqualStrings(expected.value_bytes[0..size], node.value_bytes[0..size]);
        } else try expect(node.value_bytes == null);
        if (expected.kind == c.TZ_NODE_TENSOR) {
            const name = tensors[@intCast(expected.value)].name;
            try expectEqual(try indexOf(header, name), node.value);
        } else try expectEqual(expected.value, node.value);
    }
    var node: c.tz_node = undefined;
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_header_node(header, nodes.len, &node));
}

test "equal input gives equal bytes" {
    var first = try writeFile(c.TZ_COMPRESS_AUTO);
    defer first.deinit();
    var second = try writeFile(c.TZ_COMPRESS_AUTO);
    defer second.deinit();
    try expectEqualSlices(u8, first.bytes, second.bytes);
}

test "opening asks for more at most twice" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    var options = sized(c.tz_open_options);
    options.pin = &file.digest;
    for ([_]usize{ 0, 1, 127, 128, 500 }) |start| {
        var header: ?*c.tz_header = null;
        var needed: u64 = start;
        var calls: usize = 0;
        while (true) : (calls += 1) {
            var more: u64 = 0;
            const status = c.tz_header_open(
                file.bytes.ptr,
                @intCast(needed),
                file.bytes.len,
                &options,
                &header,
                &more,
                null,
            );
            if (status == c.TZ_OK) break;
            try expectStatus(c.TZ_NEED_MORE, status);
            try expect(more > needed and more <= file.bytes.len);
            needed = more;
        }
        defer c.tz_header_free(header);
        try expect(calls <= 2);
    }
}

/// Reads a request from `file` into its segments, as a source does.
const Reader = struct {
    plan: *c.tz_plan,
    info: c.tz_plan_info,
    allocations: [][]align(64) u8,
    addresses: []?*anyopaque,
    staging: []align(64) u8,

    fn init(plan: *c.tz_plan) !Reader {
        var info = sized(c.tz_plan_info);
        try ok(c.tz_plan_get(plan, &info));
        const allocations = try gpa.alloc([]align(64) u8, info.allocation_count);
        const addresses = try gpa.alloc(?*anyopaque, info.allocation_count);
        for (allocations, addresses, 0..) |*memory, *address, index| {
            const size = c.tz_plan_allocations(plan)[index];
            memory.* = try gpa.alignedAlloc(u8, .@"64", @intCast(size));
            @memset(memory.*, 0xAA);
            address.* = memory.ptr;
        }
        const staging = try gpa.alignedAlloc(u8, .@"64", @intCast(info.staging_size_max));
        return .{
            .plan = plan,
            .info = info,
            .allocations = allocations,
            .addresses = addresses,
            .staging = staging,
        };
    }

    fn deinit(self: Reader) void {
        for (self.allocations) |memory| gpa.free(memory);
        gpa.free(self.allocations);
        gpa.free(self.addresses);
        gpa.free(self.staging);
    }

    fn read(self: Reader, file: []const u8, number: usize) void {
        const request = c.tz_plan_requests(self.plan)[number];
        const segments = c.tz_plan_segments(self.plan) + request.segment_begin;
        var at = request.offset;
        for (segments[0..request.segment_count]) |segment| {
            const size: usize = @intCast(segment.size);
            const target: ?[]u8 = if (segment.allocation == @as(u32, @bitCast(c.TZ_TO_NOWHERE)))
                null
            else if (segment.allocation == @as(u32, @bitCast(c.TZ_TO_STAGING)))
                self.staging
            else
                self.allocations[segment.allocation];
            if (target) |memory| {
                @memcpy(
                    memory[@intCast(segment.position)..][0..size],
                    file[@intCast(at)..][0..size],
                );
            }
            at += size;
        }
        std.debug.assert(at == request.offset + request.size);
    }

    fn process(
        self: Reader,
        number: usize,
        received: u64,
        strength: c_int,
        next: *u64,
    ) c.tz_status {
        return c.tz_plan_process(
            self.plan,
            @intCast(number),
            received,
            if (self.staging.len == 0) null else self.staging.ptr,
            if (self.addresses.len == 0) null else self.addresses.ptr,
            @intCast(strength),
            next,
            null,
        );
    }

    /// Reads and processes everything; `step` bytes at a time arrive.
    fn run(self: Reader, file: []const u8, strength: c_int, step: u64) !void {
        for (0..self.info.request_count) |number| {
            self.read(file, number);
            const size = c.tz_plan_requests(self.plan)[number].size;
            var next: u64 = 0;
            var received: u64 = 0;
            while (received < size) {
                received = @min(size, received + step);
                try ok(self.process(number, received, strength, &next));
            }
        }
    }

    fn placed(self: Reader, item: usize) []const u8 {
        const placement = c.tz_plan_placements(self.plan)[item];
        if (placement.size == 0) return &.{};
        const memory = self.allocations[placement.allocation][@intCast(placement.position)..];
        return memory[0..@intCast(placement.size)];
    }
};

fn newPlan(
    header: *c.tz_header,
    items: []const c.tz_read_item,
    options: ?*const c.tz_plan_options,
) !*c.tz_plan {
    var plan: ?*c.tz_plan = null;
    try ok(c.tz_plan_new(header, items.ptr, items.len, options, &plan, null));
    return plan.?;
}

fn itemsOfAll(header: *c.tz_header) ![tensors.len]c.tz_read_item {
    var items: [tensors.len]c.tz_read_item = undefined;
    for (tensors, &items) |tensor, *item| item.* = itemOf(try indexOf(header, tensor.name));
    return items;
}

test "chunks are decoded alone, and damaged ones refused" {
    const scratch = try gpa.alloc(u8, c.tz_decode_scratch_size());
    defer gpa.free(scratch);
    for ([_]u32{ c.TZ_COMPRESS_OFF, c.TZ_COMPRESS_AUTO }) |compress| {
        var file = try writeFile(compress);
        defer file.deinit();
        const header = try openWithEntries(file.bytes);
        defer c.tz_header_free(header);
        for (tensors, file.contents) |tensor, content| {
            const index = try indexOf(header, tensor.name);
            var begin: usize = 0;
            while (begin < content.len) : (begin += chunk_size) {
                var chunk = sized(c.tz_chunk);
                const status = c.tz_header_chunk(header, index, begin / chunk_size, &chunk);
                if (status != c.TZ_OK) break; // a tie
                const expected = content[begin..@min(content.len, begin + chunk_size)];
                try decodeAlone(header, index, &chunk, file.bytes, expected, scratch);
            }
        }
    }
}

fn decodeAlone(
    header: *c.tz_header,
    index: u32,
    chunk: *const c.tz_chunk,
    file: []u8,
    expected: []const u8,
    scratch: []u8,
) !void {
    const stored = file[@intCast(chunk.offset)..][0..chunk.stored_length];
    const out = try gpa.alloc(u8, expected.len);
    defer gpa.free(out);
    const levels = [_]u32{ c.TZ_VERIFY_NONE, c.TZ_VERIFY_CRC, c.TZ_VERIFY_DIGEST };
    for (levels) |level| {
        @memset(out, 0xAA);
        try ok(c.tz_chunk_decode(header, index, chunk, level, stored.ptr, null, null));
        const working: ?[*]u8 = if (chunk.codec == 0) null else scratch.ptr;
        try ok(c.tz_chunk_decode(header, index, chunk, level, stored.ptr, out.ptr, working));
        try expectEqualSlices(u8, expected, out);
    }
    if (chunk.codec != 0) try expectStatus(
        c.TZ_E_ARGUMENT,
        c.tz_chunk_decode(header, index, chunk, c.TZ_VERIFY_CRC, stored.ptr, out.ptr, null),
    );
    var unknown = chunk.*;
    unknown.codec = 200;
    try expectStatus(
        c.TZ_E_FEATURE,
        c.tz_chunk_decode(header, index, &unknown, 1, stored.ptr, out.ptr, scratch.ptr),
    );
    stored[stored.len / 2] ^= 1;
    defer stored[stored.len / 2] ^= 1;
    try ok(c.tz_chunk_decode(header, index, chunk, c.TZ_VERIFY_NONE, stored.ptr, null, null));
    for (levels[1..]) |level| try expectStatus(
        c.TZ_E_CHECKSUM,
        c.tz_chunk_decode(header, index, chunk, level, stored.ptr, out.ptr, scratch.ptr),
    );
}

test "all tensors arrive in their allocations" {
    for ([_]u32{ c.TZ_COMPRESS_OFF, c.TZ_COMPRESS_AUTO }) |compress| {
        var file = try writeFile(compress);
        defer file.deinit();
        const header = try openWithEntries(file.bytes);
        defer c.tz_header_free(header);
        const items = try itemsOfAll(header);

        var small = sized(c.tz_plan_options);
        small.request_size_max = 1;
        var slabs = sized(c.tz_plan_options);
        slabs.slab_size_max = 10_000;
        slabs.slab_tensor_max = 5_000;
        for ([_]?*const c.tz_plan_options{ null, &small, &slabs }) |options| {
            const plan = try newPlan(header, &items, options);
            defer c.tz_plan_free(plan);
            const reader: Reader = try .init(plan);
            defer reader.deinit();
            try reader.run(file.bytes, c.TZ_VERIFY_DIGEST, 50_000);
            for (file.contents, 0..) |content, item| try expectEqualSlices(
                u8,
                content,
                reader.placed(item),
            );
            // One placement for a tensor and its owner.
            const placements = c.tz_plan_placements(plan);
            try expectEqual(placements[0].allocation, placements[3].allocation);
            try expectEqual(none32, placements[2].allocation);
            try expectEqual(284_110, reader.info.bytes_wanted);
            if (options == &small) try expectEqual(8, reader.info.request_count);
            if (options == null) try expectEqual(5, reader.info.allocation_count);
            if (options == &slabs) try expectEqual(3, reader.info.allocation_count);
        }
    }
}

// tz.h's rules for threads rely on this: entries never move.
test "plans are executed after further chunk entries were put" {
    var file = try writeFile(c.TZ_COMPRESS_AUTO);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);
    var plans: [tensors.len]*c.tz_plan = undefined;
    for (tensors, &plans) |tensor, *plan| {
        const index = try indexOf(header, tensor.name);
        var range: c.tz_range = undefined;
        var count: usize = 0;
        try ok(c.tz_header_entry_ranges(header, &index, 1, 0, &range, 1, &count));
        if (count == 1) {
            const run = file.bytes[@intCast(range.offset)..][0..@intCast(range.size)];
            try ok(c.tz_header_put_entries(header, range.offset, run.ptr, run.len, null));
        }
        plan.* = try newPlan(header, &.{itemOf(index)}, null);
    }
    for (plans, file.contents) |plan, content| {
        defer c.tz_plan_free(plan);
        const reader: Reader = try .init(plan);
        defer reader.deinit();
        try reader.run(file.bytes, c.TZ_VERIFY_DIGEST, 50_000);
        try expectEqualSlices(u8, content, reader.placed(0));
    }
}

test "a staged plan says where everything lies" {
    var file = try writeFile(c.TZ_COMPRESS_AUTO);
    defer file.deinit();
    const header = try openWithEntries(file.bytes);
    defer c.tz_header_free(header);
    const items = try itemsOfAll(header);
    var options = sized(c.tz_plan_options);
    options.flags = c.TZ_PLAN_STAGED;
    options.request_size_max = 100_000;
    const plan = try newPlan(header, &items, &options);
    defer c.tz_plan_free(plan);
    const reader: Reader = try .init(plan);
    defer reader.deinit();
    try expectEqual(0, reader.info.allocation_count);

    var covered: [tensors.len]u64 = @splat(0);
    for (0..reader.info.request_count) |number| {
        const request = c.tz_plan_requests(plan)[number];
        reader.read(file.bytes, number);
        var next: u64 = 0;
        try ok(reader.process(number, request.size, c.TZ_VERIFY_CRC, &next));
        const pieces = c.tz_plan_pieces(plan) + request.piece_begin;
        for (pieces[0..request.piece_count]) |piece| {
            const size: usize = @intCast(piece.size);
            const content = file.contents[piece.item][@intCast(piece.item_offset)..][0..size];
            try expectEqualSlices(u8, content, reader.staging[@intCast(piece.position)..][0..size]);
            covered[piece.item] += size;
        }
    }
    // Pieces name the first of the tied items.
    for (tensors, covered, 0..) |tensor, size, item| {
        try expectEqual(if (item == 3) 0 else tensor.size, size);
    }
}

test "a box arrives contiguous" {
    var file = try writeFile(c.TZ_COMPRESS_AUTO);
    defer file.deinit();
    const header = try openWithEntries(file.bytes);
    defer c.tz_header_free(header);
    const begin = [_]u64{ 1, 19_990 };
    const end = [_]u64{ 3, 20_000 };
    const row = [_]u64{ 250, 0 };
    const row_end = [_]u64{ 251, 100 };
    var items = [_]c.tz_read_item{
        itemOf(try indexOf(header, "half")),
        itemOf(try indexOf(header, "embed")),
    };
    items[0].begin = &begin;
    items[0].end = &end;
    items[1].begin = &row;
    items[1].end = &row_end;
    const plan = try newPlan(header, &items, null);
    defer c.tz_plan_free(plan);
    const reader: Reader = try .init(plan);
    defer reader.deinit();
    try reader.run(file.bytes, c.TZ_VERIFY_NONE, none64);
    try expectEqual(2 * 10 * 2, reader.placed(0).len);
    for ([_]usize{ 1, 2 }, 0..) |line, index| {
        const from = file.contents[6][(line * 20_000 + 19_990) * 2 ..][0..20];
        try expectEqualSlices(u8, from, reader.placed(0)[index * 20 ..][0..20]);
    }
    try expectEqualSlices(u8, file.contents[3][250 * 400 ..][0..400], reader.placed(1));

    // The first of the two boxes is not contiguous, so a staged plan refuses it.
    var options = sized(c.tz_plan_options);
    options.flags = c.TZ_PLAN_STAGED;
    var refused: ?*c.tz_plan = null;
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_plan_new(header, &items, 2, &options, &refused, null));
    try ok(c.tz_plan_new(header, items[1..], 1, &options, &refused, null));
    c.tz_plan_free(refused);
    const outside = [_]u64{ 301, 100 };
    var bad = items[1];
    bad.end = &outside;
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_plan_new(header, &bad, 1, null, &refused, null));
}

/// Gives a verifier all ranges that it requests. Returns the first status that is not TZ_OK.
fn verify(bytes: []const u8, header: *c.tz_header, diagnostic: ?*c.tz_diagnostic) !c.tz_status {
    var verifier: ?*c.tz_verifier = null;
    try ok(c.tz_verifier_new(header, &verifier));
    defer c.tz_verifier_free(verifier);
    while (true) {
        var range: c.tz_range = undefined;
        const asked = c.tz_verifier_next(verifier, &range, diagnostic);
        if (asked != c.TZ_OK) return asked;
        if (range.size == 0) return c.tz_verifier_finish(verifier, diagnostic);
        try expectStatus(c.TZ_E_SEQUENCE, c.tz_verifier_finish(verifier, null));
        const part = bytes[@intCast(range.offset)..][0..@intCast(range.size)];
        try expectStatus(
            c.TZ_E_ARGUMENT,
            c.tz_verifier_put(verifier, part.ptr, part.len - 1, null),
        );
        const put = c.tz_verifier_put(verifier, part.ptr, part.len, diagnostic);
        if (put != c.TZ_OK) return put;
    }
}

test "a verifier reads the whole file and finds any byte that changed" {
    var file = try writeFile(c.TZ_COMPRESS_AUTO);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);
    var diagnostic = sized(c.tz_diagnostic);
    try expectEqual(c.TZ_OK, try verify(file.bytes, header, &diagnostic));
    var info = sized(c.tz_header_info);
    try ok(c.tz_header_get(header, &info));
    var prng: std.Random.DefaultPrng = .init(0x5EED);
    for (0..100) |_| {
        const at = prng.random().intRangeLessThan(u64, info.open_size, info.file_size);
        file.bytes[@intCast(at)] ^= 1;
        defer file.bytes[@intCast(at)] ^= 1;
        const status = try verify(file.bytes, header, &diagnostic);
        try expect(status == c.TZ_E_CHECKSUM or status == c.TZ_E_RESERVED);
        try expect(diagnostic.offset <= at);
        try expect(diagnostic.rule == 38 or diagnostic.rule == 43 or diagnostic.rule == 45);
    }
}

/// All exports that allocate.
fn wholeLife() !void {
    var file = try writeFile(c.TZ_COMPRESS_AUTO);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);
    var count: usize = 0;
    var range: c.tz_range = undefined;
    try ok(c.tz_header_entry_ranges(header, null, 0, 1 << 20, &range, 1, &count));
    try ok(c.tz_header_put_entries(header, 0, file.bytes.ptr, file.bytes.len, null));
    var options = sized(c.tz_plan_options);
    for ([_]u32{ 0, c.TZ_PLAN_STAGED }) |flags| {
        options.flags = flags;
        c.tz_plan_free(try newPlan(header, &(try itemsOfAll(header)), &options));
    }
    try expectStatus(c.TZ_OK, try verify(file.bytes, header, null));
    var digest: [32]u8 = undefined;
    try ok(c.tz_header_content_digest(header, &digest));
    const foreign = "\x40\x00\x00\x00\x00\x00\x00\x00" ++
        "{\"w\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}           ab";
    var other: ?*c.tz_header = null;
    var needed: u64 = 0;
    const size = foreign.len;
    try ok(c.tz_header_open(foreign, size, size, null, &other, &needed, null));
    c.tz_header_free(other);
}

fn wholeLifeOf(allocator: std.mem.Allocator) !void {
    tz.c_support.tested_allocator = allocator;
    defer tz.c_support.tested_allocator = std.heap.smp_allocator;
    try wholeLife();
}

test "every allocation of every function may fail: TZ_E_MEMORY, and nothing leaks" {
    try std.testing.checkAllAllocationFailures(gpa, wholeLifeOf, .{});
}

test "safetensors files go the same way" {
    const json = "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}," ++
        "\"__metadata__\":{\"a\":\"b\"}}";
    const bytes = std.mem.toBytes(@as(u64, json.len)) ++ json ++ "abcdefghijklmnopqrstuvwx";
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    try expectStatus(
        c.TZ_NEED_MORE,
        c.tz_header_open(bytes, 8, bytes.len, null, &header, &needed, null),
    );
    try ok(c.tz_header_open(bytes, @intCast(needed), bytes.len, null, &header, &needed, null));
    defer c.tz_header_free(header);
    var info = sized(c.tz_header_info);
    try ok(c.tz_header_get(header, &info));
    try expectEqual(c.TZ_FORMAT_SAFETENSORS, @as(c_int, @intCast(info.format)));
    var tensor = sized(c.tz_tensor);
    try ok(c.tz_header_tensor(header, 0, &tensor));
    try expect(tensor.content_digest == null);
    var count: usize = 1;
    try ok(c.tz_header_entry_ranges(header, null, 0, 0, null, 0, &count));
    try expectEqual(0, count);
    var digest: [32]u8 = undefined;
    try expectStatus(c.TZ_E_FEATURE, c.tz_header_content_digest(header, &digest));
    var verifier: ?*c.tz_verifier = null;
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_verifier_new(header, &verifier));

    const item: c.tz_read_item = itemOf(0);
    const plan = try newPlan(header.?, &.{item}, null);
    defer c.tz_plan_free(plan);
    const reader: Reader = try .init(plan);
    defer reader.deinit();
    try reader.run(bytes, c.TZ_VERIFY_CRC, none64);
    try expectEqualStrings("abcdefghijklmnopqrstuvwx", reader.placed(0));
    var options = sized(c.tz_open_options);
    options.pin = &digest;
    var pinned: ?*c.tz_header = null;
    for (
        [_]u32{ 0, c.TZ_FORMAT_SAFETENSORS },
        [_]c_int{ c.TZ_E_DIGEST, c.TZ_E_ARGUMENT },
    ) |format, expected| {
        options.format = format;
        const size = bytes.len;
        const status = c.tz_header_open(bytes, size, size, &options, &pinned, &needed, null);
        try expectStatus(expected, status);
    }
}

test "the last piece of a foreign tensor is found at once, for any claimed size" {
    const size: u64 = 1 << 62;
    const json = std.fmt.comptimePrint(
        "{{\"w\":{{\"dtype\":\"U8\",\"shape\":[{d}],\"data_offsets\":[0,{d}]}}}}",
        .{ size, size },
    );
    const front = std.mem.toBytes(@as(u64, json.len)) ++ json;
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    const file_size = front.len + size;
    try ok(c.tz_header_open(front, front.len, file_size, null, &header, &needed, null));
    defer c.tz_header_free(header);
    var chunk = sized(c.tz_chunk);
    const last = (size >> 20) - 1;
    try ok(c.tz_header_chunk(header, 0, last, &chunk));
    try expectEqual(front.len + (last << 20), chunk.offset);
    try expectEqual(1 << 20, chunk.decoded_length);
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_header_chunk(header, 0, last + 1, &chunk));
}

// ---- Misuse and damage -------------------------------------------------------------------------

test "NULL is refused, or freed" {
    c.tz_header_free(null);
    c.tz_plan_free(null);
    c.tz_verifier_free(null);
    c.tz_builder_free(null);
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const header = try openWithEntries(file.bytes);
    defer c.tz_header_free(header);
    const plan = try newPlan(header, &.{itemOf(0)}, null);
    defer c.tz_plan_free(plan);
    const builder = try newBuilder();
    defer c.tz_builder_free(builder);
    var verifier: ?*c.tz_verifier = null;
    try ok(c.tz_verifier_new(header, &verifier));
    defer c.tz_verifier_free(verifier);

    var out: ?*c.tz_header = null;
    var made: ?*c.tz_plan = null;
    var built: ?*c.tz_builder = null;
    var number: u64 = 0;
    var size: usize = 0;
    var index: u32 = 0;
    var digest: [32]u8 = undefined;
    var header_info = sized(c.tz_header_info);
    var plan_info = sized(c.tz_plan_info);
    var builder_info = sized(c.tz_builder_info);
    var tensor = sized(c.tz_tensor);
    var range: c.tz_range = undefined;
    var chunk = sized(c.tz_chunk);
    var one_byte = chunk;
    one_byte.stored_length = 1;
    one_byte.decoded_length = 1;
    var node: c.tz_node = undefined;
    var found: c.tz_pair = undefined;
    var entry = sized(c.tz_chunk_entry);
    const bytewise = encoding(2, c.TZ_COMPRESS_OFF);
    const bytes = file.bytes;
    const statuses = [_]c.tz_status{
        c.tz_dtype(1, null),
        c.tz_header_open(null, 5, 500, null, &out, &number, null),
        c.tz_header_open(bytes.ptr, bytes.len, bytes.len, null, null, &number, null),
        c.tz_header_open(bytes.ptr, bytes.len, bytes.len, null, &out, null, null),
        c.tz_header_open(bytes.ptr, bytes.len, bytes.len - 1, null, &out, &number, null),
        c.tz_header_get(null, &header_info),
        c.tz_header_get(header, null),
        c.tz_header_tensor(null, 0, &tensor),
        c.tz_header_tensor(header, 0, null),
        c.tz_header_find(null, "a", 1, &index),
        c.tz_header_find(header, null, 1, &index),
        c.tz_header_find(header, "a", 1, null),
        c.tz_header_pair(null, 0, &found),
        c.tz_header_pair(header, 0, null),
        c.tz_header_node(null, 0, &node),
        c.tz_header_node(header, 0, null),
        c.tz_header_content_digest(null, &digest),
        c.tz_header_content_digest(header, null),
        c.tz_header_entry_ranges(null, null, 0, 0, &range, 1, &size),
        c.tz_header_entry_ranges(header, null, 0, 0, null, 1, &size),
        c.tz_header_entry_ranges(header, null, 0, 0, &range, 1, null),
        c.tz_header_put_entries(null, 0, bytes.ptr, bytes.len, null),
        c.tz_header_put_entries(header, 0, null, 1, null),
        c.tz_header_put_entries(header, none64, bytes.ptr, bytes.len, null),
        c.tz_header_chunk(null, 0, 0, &chunk),
        c.tz_header_chunk(header, 0, 0, null),
        c.tz_plan_new(null, null, 0, null, &made, null),
        c.tz_plan_new(header, null, 1, null, &made, null),
        c.tz_plan_new(header, null, 0, null, null, null),
        c.tz_plan_get(null, &plan_info),
        c.tz_plan_get(plan, null),
        c.tz_plan_process(null, 0, 0, null, null, 1, &number, null),
        c.tz_plan_process(plan, 0, 0, null, null, 1, &number, null), // it has an allocation
        c.tz_plan_process(plan, 0, 0, null, null, 1, null, null),
        c.tz_chunk_decode(null, 0, &chunk, 1, bytes.ptr, null, null),
        c.tz_chunk_decode(header, 0, null, 1, bytes.ptr, null, null),
        c.tz_chunk_decode(header, 0, &one_byte, 1, null, null, null),
        c.tz_verifier_new(null, &verifier),
        c.tz_verifier_new(header, null),
        c.tz_verifier_next(null, &range, null),
        c.tz_verifier_next(verifier, null, null),
        c.tz_verifier_put(null, bytes.ptr, 1, null),
        c.tz_verifier_put(verifier, null, 1, null),
        c.tz_verifier_finish(null, null),
        c.tz_builder_new(null, 1, null, &built, null),
        c.tz_builder_new(null, 0, null, null, null),
        c.tz_builder_get(null, &builder_info),
        c.tz_builder_get(builder, null),
        c.tz_chunks_encode(null, "a", 1, bytes.ptr, 65, &size, &entry, 1),
        c.tz_chunks_encode(&bytewise, null, 1, bytes.ptr, 65, &size, &entry, 1),
        c.tz_chunks_encode(&bytewise, "a", 1, null, 65, &size, &entry, 1),
        c.tz_chunks_encode(&bytewise, "a", 1, bytes.ptr, 65, null, &entry, 1),
        c.tz_chunks_encode(&bytewise, "a", 1, bytes.ptr, 65, &size, null, 1),
        c.tz_builder_put_chunks(null, 0, &entry, 1, &number),
        c.tz_builder_put_chunks(builder, 1, null, 1, &number),
        c.tz_builder_put_chunks(builder, 1, &entry, 1, null),
        c.tz_builder_put_content(null, 1, &digest),
        c.tz_builder_put_content(builder, 1, null),
        c.tz_builder_put_content(builder, tensors.len, &digest),
        c.tz_builder_finish(null, bytes.ptr, bytes.len, &size, null, null),
        c.tz_builder_finish(builder, bytes.ptr, bytes.len, null, null, null),
    };
    for (statuses, 0..) |status, call| {
        errdefer std.debug.print("call {d}\n", .{call});
        try expectStatus(c.TZ_E_ARGUMENT, status);
    }
    try expectEqual(0, c.tz_builder_has_data(null, 0));
    try expectEqual(0, c.tz_builder_has_data(builder, tensors.len));
    // No object was made.
    try expect(out == null and made == null and built == null);
}

test "numbers out of range are refused" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const header = try openWithEntries(file.bytes);
    defer c.tz_header_free(header);
    const plan = try newPlan(header, &.{itemOf(try indexOf(header, "bytes"))}, null);
    defer c.tz_plan_free(plan);
    var made: ?*c.tz_plan = null;
    var tensor = sized(c.tz_tensor);
    var chunk = sized(c.tz_chunk);
    var longer_stored = chunk;
    longer_stored.stored_length = 1;
    var too_long = chunk;
    too_long.decoded_length = chunk_size + 1;
    var count: usize = 0;
    var next: u64 = 0;
    var memory: [4096]u8 align(64) = undefined;
    const addresses = [_]?*anyopaque{&memory};
    const missing = [_]?*anyopaque{null};
    var entry = sized(c.tz_chunk_entry);
    var flags = sized(c.tz_plan_options);
    flags.flags = 2;
    var flagged = itemOf(0);
    flagged.flags = 2;
    var half_a_box = itemOf(0);
    half_a_box.begin = &next;
    var unknown = sized(c.tz_open_options);
    unknown.format = 4;
    const bytewise = encoding(2, c.TZ_COMPRESS_OFF);
    var odd = bytewise;
    odd.chunk_size -= 1;
    var small = bytewise;
    small.chunk_size /= 2;
    var reserved = bytewise;
    reserved.reserved = 1;
    var out: ?*c.tz_header = null;
    const bytes = file.bytes;
    const outside: u32 = tensors.len;
    const request_size = c.tz_plan_requests(plan)[0].size;
    const statuses = [_]c.tz_status{
        c.tz_header_open(bytes.ptr, bytes.len, bytes.len, &unknown, &out, &next, null),
        c.tz_header_tensor(header, outside, &tensor),
        c.tz_header_chunk(header, outside, 0, &chunk),
        c.tz_header_chunk(header, try indexOf(header, "bytes"), 1, &chunk),
        c.tz_header_chunk(header, try indexOf(header, "empty"), 0, &chunk),
        c.tz_header_entry_ranges(header, &outside, 1, 0, null, 0, &count),
        c.tz_plan_new(header, &itemOf(outside), 1, null, &made, null),
        c.tz_plan_new(header, &flagged, 1, null, &made, null),
        c.tz_plan_new(header, &half_a_box, 1, null, &made, null),
        c.tz_plan_new(header, null, 0, &flags, &made, null),
        c.tz_plan_process(plan, 1, 0, null, &addresses, 1, &next, null),
        c.tz_plan_process(plan, 0, request_size + 1, null, &addresses, 1, &next, null),
        c.tz_plan_process(plan, 0, request_size, null, &addresses, 3, &next, null),
        c.tz_plan_process(plan, 0, request_size, null, &missing, 1, &next, null),
        c.tz_chunk_decode(header, outside, &chunk, 1, bytes.ptr, null, null),
        c.tz_chunk_decode(header, 0, &chunk, 3, bytes.ptr, null, null),
        c.tz_chunk_decode(header, 0, &longer_stored, 1, bytes.ptr, null, null),
        c.tz_chunk_decode(header, 0, &too_long, 1, bytes.ptr, null, null),
        c.tz_chunks_encode(&odd, "a", 1, &memory, 65, &count, &entry, 1),
        c.tz_chunks_encode(&small, "a", 1, &memory, 65, &count, &entry, 1),
        c.tz_chunks_encode(&reserved, "a", 1, &memory, 65, &count, &entry, 1),
        c.tz_chunks_encode(&encoding(2, 2), "a", 1, &memory, 65, &count, &entry, 1),
        c.tz_chunks_encode(&bytewise, "a", 1, &memory, 64, &count, &entry, 1),
        c.tz_chunks_encode(&bytewise, "a", 0, &memory, 64, &count, &entry, 0),
        c.tz_chunks_encode(&bytewise, "a", 1, &memory, 65, &count, &entry, 2),
    };
    for (statuses, 0..) |status, call| {
        errdefer std.debug.print("call {d}\n", .{call});
        try expectStatus(c.TZ_E_ARGUMENT, status);
    }
    for ([_]*const c.tz_encode_options{ &odd, &small, &reserved }) |options| {
        try expectEqual(0, c.tz_chunks_encode_bound(options, 1));
    }
    try expectEqual(0, c.tz_chunks_encode_bound(null, 1));
    try expectEqual(0, c.tz_chunks_encode_bound(&bytewise, std.math.maxInt(usize)));
    try expectEqual(65, c.tz_chunks_encode_bound(&bytewise, 1));
    next = 2; // one chunk
    try expectStatus(
        c.TZ_E_ARGUMENT,
        c.tz_plan_process(plan, 0, 0, null, &addresses, 1, &next, null),
    );
    var index: u32 = 77;
    try expectStatus(c.TZ_E_NOT_FOUND, c.tz_header_find(header, "byte", 4, &index));
    try expectEqual(77, index);
}

/// A struct of a newer header, with a field that this library does not know.
fn Newer(comptime T: type) type {
    return extern struct { known: T, unknown: u64 };
}

fn newer(comptime T: type) Newer(T) {
    var value = std.mem.zeroes(Newer(T));
    value.known.struct_size = @sizeOf(Newer(T));
    return value;
}

test "structs are refused that are shorter than any header has them" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const header = try openWithEntries(file.bytes);
    defer c.tz_header_free(header);
    const plan = try newPlan(header, &.{}, null);
    defer c.tz_plan_free(plan);
    const builder = try newBuilder();
    defer c.tz_builder_free(builder);
    var out: ?*c.tz_header = null;
    var made: ?*c.tz_plan = null;
    var built: ?*c.tz_builder = null;
    var number: u64 = 0;
    var size: usize = 0;
    const bytes = file.bytes;
    inline for (.{ -1, 100_000 }) |change| {
        const Wrong = struct {
            fn sized(comptime T: type) T {
                var value = std.mem.zeroes(T);
                value.struct_size = @intCast(@sizeOf(T) + change);
                return value;
            }
        };
        var diagnostic = Wrong.sized(c.tz_diagnostic);
        var dtype_info = Wrong.sized(c.tz_dtype_info);
        const open_options = Wrong.sized(c.tz_open_options);
        var header_info = Wrong.sized(c.tz_header_info);
        var tensor = Wrong.sized(c.tz_tensor);
        var chunk = Wrong.sized(c.tz_chunk);
        const item = Wrong.sized(c.tz_read_item);
        const plan_options = Wrong.sized(c.tz_plan_options);
        var plan_info = Wrong.sized(c.tz_plan_info);
        const spec = Wrong.sized(c.tz_tensor_spec);
        const builder_options = Wrong.sized(c.tz_builder_options);
        var builder_info = Wrong.sized(c.tz_builder_info);
        const encode_options = Wrong.sized(c.tz_encode_options);
        var entry = Wrong.sized(c.tz_chunk_entry);
        var memory: [128]u8 = undefined;
        const bytewise = encoding(2, c.TZ_COMPRESS_OFF);
        for ([_]c.tz_status{
            c.tz_verifier_finish(null, &diagnostic),
            c.tz_dtype(1, &dtype_info),
            c.tz_header_open(bytes.ptr, bytes.len, bytes.len, &open_options, &out, &number, null),
            c.tz_header_open(bytes.ptr, bytes.len, bytes.len, null, &out, &number, &diagnostic),
            c.tz_header_get(header, &header_info),
            c.tz_header_tensor(header, 0, &tensor),
            c.tz_header_chunk(header, 0, 0, &chunk),
            c.tz_plan_new(header, &item, 1, null, &made, null),
            c.tz_plan_new(header, null, 0, &plan_options, &made, null),
            c.tz_plan_get(plan, &plan_info),
            c.tz_builder_new(&spec, 1, null, &built, null),
            c.tz_builder_new(null, 0, &builder_options, &built, null),
            c.tz_builder_get(builder, &builder_info),
            c.tz_chunks_encode(&encode_options, "a", 1, &memory, 128, &size, &entry, 1),
            c.tz_chunks_encode(&bytewise, "a", 1, &memory, 128, &size, &entry, 1),
            c.tz_builder_put_chunks(builder, 1, &entry, 1, &number),
        }, 0..) |status, call| {
            errdefer std.debug.print("call {d}\n", .{call});
            try expectStatus(c.TZ_E_ARGUMENT, status);
        }
    }
    try expect(out == null and made == null and built == null);
}

test "a program compiled with a newer header gets 0, and cannot ask for what is not there" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const bytes = file.bytes;
    var options = newer(c.tz_open_options);
    var diagnostic = newer(c.tz_diagnostic);
    diagnostic.unknown = 1;
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    try ok(c.tz_header_open(
        bytes.ptr,
        bytes.len,
        bytes.len,
        &options.known,
        &header,
        &needed,
        &diagnostic.known,
    ));
    defer c.tz_header_free(header);
    try expectEqual(0, diagnostic.unknown);
    try expectEqual(none64, diagnostic.known.tensor);
    options.unknown = 1;
    var other: ?*c.tz_header = null;
    const size = bytes.len;
    try expectStatus(
        c.TZ_E_ARGUMENT,
        c.tz_header_open(bytes.ptr, size, size, &options.known, &other, &needed, null),
    );
    var info = newer(c.tz_header_info);
    info.unknown = 1;
    try ok(c.tz_header_get(header, &info.known));
    try expectEqual(tensors.len, info.known.tensor_count);
    try expectEqual(@sizeOf(Newer(c.tz_header_info)), info.known.struct_size);
    try expectEqual(0, info.unknown);

    // In arrays, the first element's struct_size is the stride.
    try ok(c.tz_header_put_entries(header, 0, bytes.ptr, bytes.len, null));
    var items: [2]Newer(c.tz_read_item) = @splat(newer(c.tz_read_item));
    items[0].known.tensor = try indexOf(header.?, "bytes");
    items[1].known.tensor = try indexOf(header.?, "scalar");
    items[1].known.struct_size = 0;
    var plan: ?*c.tz_plan = null;
    try ok(c.tz_plan_new(header, &items[0].known, 2, null, &plan, null));
    try expectEqual(4096, c.tz_plan_placements(plan)[0].size);
    try expectEqual(8, c.tz_plan_placements(plan)[1].size);
    c.tz_plan_free(plan);
    items[1].unknown = 1;
    const refused = c.tz_plan_new(header, &items[0].known, 2, null, &plan, null);
    try expectStatus(c.TZ_E_ARGUMENT, refused);

    var entries: [3]Newer(c.tz_chunk_entry) = @splat(newer(c.tz_chunk_entry));
    const data = file.contents[0];
    const image = try gpa.alloc(u8, data.len + 64);
    defer gpa.free(image);
    var image_size: usize = 0;
    const raw = encoding(2, c.TZ_COMPRESS_OFF);
    entries[2].unknown = 7;
    const first = &entries[0].known;
    try ok(c.tz_chunks_encode(
        &raw,
        data.ptr,
        data.len,
        image.ptr,
        image.len,
        &image_size,
        first,
        2,
    ));
    try expectEqual(chunk_size, first.stored_length);
    try expectEqual(120_000 - chunk_size, entries[1].known.stored_length);
    try expectEqual(7, entries[2].unknown); // of no chunk
}

test "the format is recognised, or fixed" {
    const safetensors = "\x02\x00\x00\x00\x00\x00\x00\x00{}";
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const Case = struct { []const u8, u32, c_int };
    for ([_]Case{
        .{ file.bytes, 0, c.TZ_OK },
        .{ file.bytes, c.TZ_FORMAT_TZ, c.TZ_OK },
        .{ file.bytes, c.TZ_FORMAT_SAFETENSORS, c.TZ_E_LIMIT }, // the magic as a size
        .{ file.bytes, c.TZ_FORMAT_COREWEAVE, c.TZ_E_NOT_TZ },
        .{ safetensors, 0, c.TZ_OK },
        .{ safetensors, c.TZ_FORMAT_SAFETENSORS, c.TZ_OK },
        .{ safetensors, c.TZ_FORMAT_TZ, c.TZ_E_NOT_TZ },
        .{ safetensors, c.TZ_FORMAT_COREWEAVE, c.TZ_E_NOT_TZ },
        .{ "|TZR|", 0, c.TZ_E_TRUNCATED },
        .{ "|TZX|", 0, c.TZ_E_NOT_TZ },
        .{ "", 0, c.TZ_E_TRUNCATED },
        .{ file.bytes[0..5], 0, c.TZ_E_TRUNCATED },
        .{ file.bytes[0..100], 0, c.TZ_E_TRUNCATED },
        .{ "PK\x03\x04 and whatever a zip file has", 0, c.TZ_E_NOT_TZ },
    }, 0..) |case, number| {
        errdefer std.debug.print("case {d}\n", .{number});
        const bytes, const format, const expected = case;
        var options = sized(c.tz_open_options);
        options.format = format;
        var needed: u64 = 0;
        // Also from an empty front: more is requested at most twice before the verdict.
        var header: ?*c.tz_header = null;
        var status: c.tz_status = c.TZ_NEED_MORE;
        var calls: usize = 0;
        while (status == c.TZ_NEED_MORE) : (calls += 1) {
            status = c.tz_header_open(
                bytes.ptr,
                @intCast(needed),
                bytes.len,
                &options,
                &header,
                &needed,
                null,
            );
        }
        try expectStatus(expected, status);
        try expect(calls <= 3);
        c.tz_header_free(header);
    }
}

test "calls in the wrong order" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);
    const half = try indexOf(header, "half");
    var chunk = sized(c.tz_chunk);
    try expectStatus(c.TZ_E_ENTRIES_MISSING, c.tz_header_chunk(header, half, 0, &chunk));
    var made: ?*c.tz_plan = null;
    var diagnostic = sized(c.tz_diagnostic);
    const item: c.tz_read_item = itemOf(half);
    const planned = c.tz_plan_new(header, &item, 1, null, &made, &diagnostic);
    try expectStatus(c.TZ_E_ENTRIES_MISSING, planned);
    try expectEqual(half, diagnostic.tensor);
    try expectEqual(none64, diagnostic.offset);

    const builder = try newBuilder();
    defer c.tz_builder_free(builder);
    const data: [6]u8 = @splat(1);
    const bytewise = encoding(2, c.TZ_COMPRESS_OFF);
    var memory: [70]u8 = undefined;
    var size: usize = 1;
    var entry = sized(c.tz_chunk_entry);
    try ok(c.tz_chunks_encode(&bytewise, &data, 6, &memory, 70, &size, &entry, 1));
    try expectEqual(0, size); // raw: the source is written to the file
    const too_many = [_]c.tz_chunk_entry{ entry, entry };
    var offset: u64 = 0;
    var digest: [32]u8 = @splat(0);
    var needed: usize = 0;
    for ([_]c.tz_status{
        c.tz_builder_put_chunks(builder, 4, &entry, 1, &offset), // after spec 1
        c.tz_builder_put_chunks(builder, 0, &entry, 1, &offset), // tied, without data
        c.tz_builder_put_chunks(builder, 1, &too_many, 2, &offset),
        c.tz_builder_put_chunks(builder, 1, &entry, 0, &offset),
        c.tz_builder_put_content(builder, 2, &digest), // empty
        c.tz_builder_finish(builder, null, 0, &needed, null, null),
    }) |status| try expectStatus(c.TZ_E_SEQUENCE, status);
    entry.stored_length = 5;
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_builder_put_chunks(builder, 1, &entry, 1, &offset));
    entry.stored_length = 6;
    try ok(c.tz_builder_put_chunks(builder, 1, &entry, 1, &offset));
    try expectStatus(c.TZ_E_SEQUENCE, c.tz_builder_put_chunks(builder, 1, &entry, 1, &offset));
    try ok(c.tz_builder_put_content(builder, 1, &digest));
    try expectStatus(c.TZ_E_SEQUENCE, c.tz_builder_put_content(builder, 1, &digest));
}

test "a buffer too small says what is needed" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);
    const wanted = [_]u32{ try indexOf(header, "half"), try indexOf(header, "layer.bias") };
    var needed: usize = 0;
    var ranges: [2]c.tz_range = undefined;
    const asked = c.tz_header_entry_ranges(header, &wanted, 2, 0, &ranges, 1, &needed);
    try expectStatus(c.TZ_E_BUFFER_TOO_SMALL, asked);
    try expectEqual(2, needed);
    try ok(c.tz_header_entry_ranges(header, &wanted, 2, 0, &ranges, 2, &needed));
    try expect(ranges[0].offset + ranges[0].size < ranges[1].offset);
    try ok(c.tz_header_entry_ranges(header, &wanted, 2, 1 << 20, &ranges, 2, &needed));
    try expectEqual(1, needed);
    // After the put, no range is missing.
    const part = file.bytes[@intCast(ranges[0].offset)..][0..@intCast(ranges[0].size)];
    try ok(c.tz_header_put_entries(header, ranges[0].offset, part.ptr, part.len, null));
    try ok(c.tz_header_entry_ranges(header, &wanted, 2, 0, null, 0, &needed));
    try expectEqual(0, needed);
}

fn openStatus(bytes: []const u8, file_size: u64, diagnostic: *c.tz_diagnostic) c.tz_status {
    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    const status = c.tz_header_open(
        bytes.ptr,
        bytes.len,
        file_size,
        null,
        &header,
        &needed,
        diagnostic,
    );
    if (status == c.TZ_OK) c.tz_header_free(header);
    return status;
}

test "damage in the header is found, and where it is" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const bytes = file.bytes;
    var diagnostic = sized(c.tz_diagnostic);
    for ([_]struct { usize, c_int, u32, u64 }{
        .{ 0, c.TZ_E_NOT_TZ, 1, 0 },
        .{ 8, c.TZ_E_VERSION, 3, 8 },
        .{ 40, c.TZ_E_CHECKSUM, 4, 124 },
        .{ 130, c.TZ_E_CHECKSUM, 11, 128 },
    }) |case| {
        bytes[case[0]] ^= 4;
        defer bytes[case[0]] ^= 4;
        try expectStatus(case[1], openStatus(bytes, bytes.len, &diagnostic));
        try expectEqual(case[2], diagnostic.rule);
        try expectEqual(case[3], diagnostic.offset);
    }
    try expectStatus(
        c.TZ_E_TRUNCATED,
        openStatus(bytes[0 .. bytes.len - 1], bytes.len - 1, &diagnostic),
    );
    try expectStatus(c.TZ_E_TRAILING, openStatus(bytes, bytes.len + 1, &diagnostic));
    try expectStatus(c.TZ_OK, openStatus(bytes, bytes.len, &diagnostic));
    try expectEqual(0, diagnostic.rule);
    try expectEqual(none64, diagnostic.offset);

    var header: ?*c.tz_header = null;
    var needed: u64 = 0;
    const other: [32]u8 = @splat(0);
    var options = sized(c.tz_open_options);
    options.pin = &other;
    try expectStatus(
        c.TZ_E_DIGEST,
        c.tz_header_open(bytes.ptr, bytes.len, bytes.len, &options, &header, &needed, &diagnostic),
    );
    options.pin = null;
    options.open_size_max = 100;
    try expectStatus(
        c.TZ_E_LIMIT,
        c.tz_header_open(bytes.ptr, bytes.len, bytes.len, &options, &header, &needed, &diagnostic),
    );
}

test "damaged chunk entries and chunks are found, and which they are" {
    var file = try writeFile(c.TZ_COMPRESS_OFF);
    defer file.deinit();
    const header = try open(file.bytes);
    defer c.tz_header_free(header);
    const half = try indexOf(header, "half");
    var diagnostic = sized(c.tz_diagnostic);
    var range: c.tz_range = undefined;
    var needed: usize = 0;
    try ok(c.tz_header_entry_ranges(header, &half, 1, 0, &range, 1, &needed));
    const run = file.bytes[@intCast(range.offset)..][0..@intCast(range.size)];
    run[50] ^= 1;
    try expectStatus(
        c.TZ_E_CHECKSUM,
        c.tz_header_put_entries(header, range.offset, run.ptr, run.len, &diagnostic),
    );
    try expectEqual(half, diagnostic.tensor);
    try expectEqual(38, diagnostic.rule);
    run[50] ^= 1;
    try ok(c.tz_header_put_entries(header, range.offset, run.ptr, run.len, &diagnostic));

    var chunk = sized(c.tz_chunk);
    try ok(c.tz_header_chunk(header, half, 1, &chunk));
    try expectEqual(chunk_size, chunk.stored_length);
    const plan = try newPlan(header, &.{itemOf(half)}, null);
    defer c.tz_plan_free(plan);
    const reader: Reader = try .init(plan);
    defer reader.deinit();
    file.bytes[@intCast(chunk.offset + 9)] ^= 0x80;
    reader.read(file.bytes, 0);
    for ([_]c_int{ c.TZ_VERIFY_CRC, c.TZ_VERIFY_DIGEST }) |strength| {
        var next: u64 = 0;
        const status = c.tz_plan_process(
            plan,
            0,
            c.tz_plan_requests(plan)[0].size,
            null,
            reader.addresses.ptr,
            @intCast(strength),
            &next,
            &diagnostic,
        );
        try expectStatus(c.TZ_E_CHECKSUM, status);
        try expectEqual(1, next);
        try expectEqual(half, diagnostic.tensor);
        try expectEqual(1, diagnostic.chunk);
        try expectEqual(chunk.offset, diagnostic.offset);
        const rule: u32 = if (strength == c.TZ_VERIFY_CRC) 43 else 85;
        try expectEqual(rule, diagnostic.rule);
    }
}

test "a builder names the spec it refuses" {
    var diagnostic = sized(c.tz_diagnostic);
    var builder: ?*c.tz_builder = null;
    var specs = [_]c.tz_tensor_spec{ specOf(tensors[1]), specOf(tensors[5]) };
    specs[1].name = "a\n";
    specs[1].name_size = 2;
    try expectStatus(c.TZ_E_NAME, c.tz_builder_new(&specs, 2, null, &builder, &diagnostic));
    try expectEqual(1, diagnostic.tensor);
    try expectEqual(23, diagnostic.rule);
    specs[1] = specs[0];
    try expectStatus(c.TZ_E_NAME, c.tz_builder_new(&specs, 2, null, &builder, &diagnostic));
    try expectEqual(24, diagnostic.rule);
    specs[1] = specOf(tensors[5]);
    specs[1].dtype = 0x200;
    try expectStatus(c.TZ_E_FEATURE, c.tz_builder_new(&specs, 2, null, &builder, &diagnostic));
    specs[1] = specOf(tensors[5]);
    specs[1].tie = 0;
    try expectStatus(c.TZ_E_TIE, c.tz_builder_new(&specs, 2, null, &builder, &diagnostic));
    specs[1].tie = none32;
    var options = sized(c.tz_builder_options);
    options.chunk_size_log2 = 27;
    try expectStatus(c.TZ_E_ARGUMENT, c.tz_builder_new(&specs, 1, &options, &builder, &diagnostic));
    const bad_pairs = [_]c.tz_pair{ pair("k", "1"), pair("k", "2") };
    options = sized(c.tz_builder_options);
    options.metadata = &bad_pairs;
    options.metadata_count = 2;
    try expectStatus(c.TZ_E_METADATA, c.tz_builder_new(&specs, 1, &options, &builder, &diagnostic));
    try expect(builder == null);
}
