//! Tests with a faulty decoder: a writer finds the fault when it compares chunks with their source,
//! and a check of a whole file finds it in files written with a correct decoder.

const std = @import("std");
const builders = @import("builder.zig");
const checksum = @import("checksum.zig");
const dispatch = @import("dispatch.zig");
const encode = @import("encode.zig");
const headers = @import("header.zig");
const tasks = @import("codec/tiered_task.zig");
const status = @import("status.zig");
const KernelTable = @import("kernel_table.zig").KernelTable;
const Verifier = @import("verifier.zig").Verifier;

const expectError = std.testing.expectError;

const bf16_code = 0x11;
const chunk_size = 1 << 16;
const element_count = chunk_size + 1000; // two chunks and a bit
const Entries = [3]encode.Entry;

/// The kernels of the running CPU, except for the decoder.
var faulty: KernelTable = undefined;
var sound: *const KernelTable = undefined;

/// Flips one bit in the last element of each sub-block.
fn decodeWithFault(task: *const tasks.DecodeTask) callconv(.c) tasks.DecodeVerdict {
    const verdict = sound.tiered.decode(task);
    task.destination[task.element_count * task.layout.elementSize() - 1] ^= 1;
    return verdict;
}

fn plantFault() void {
    sound = dispatch.kernels();
    faulty = sound.*;
    faulty.tiered.decode = decodeWithFault;
    dispatch.replaceForTest(&faulty);
}

fn removeFault() void {
    dispatch.replaceForTest(null);
}

/// A file of one compressible tensor; the caller frees it.
fn makeFile(gpa: std.mem.Allocator) ![]u8 {
    const data = try gpa.alloc(u8, 2 * element_count);
    defer gpa.free(data);
    for (data, 0..) |*byte, index| byte.* = if (index % 2 == 0) @truncate(index *% 37) else 0x3c;

    const image = try gpa.alloc(u8, encode.outputSizeMax(data.len).?);
    defer gpa.free(image);
    var entries: Entries = undefined;
    const encoding: encode.Options = .{ .dtype = bf16_code, .chunk_size = chunk_size };
    const size = try encode.encodeChunks(gpa, encoding, data, image, &entries);
    for (entries) |entry| try std.testing.expectEqual(1, entry.codec);

    const shape = [_]u64{element_count};
    const specs = [_]builders.Spec{.{ .name = "w", .shape = &shape, .dtype = bf16_code }};
    var diagnostic: status.Diagnostic = .{};
    const chunked: builders.Options = .{ .chunk_size_log2 = 16 };
    const builder: *builders.Builder = try .init(gpa, &specs, chunked, &diagnostic);
    defer builder.deinit();
    const begin: usize = @intCast(try builder.putChunks(0, &entries));
    try builder.putContent(0, checksum.blake3(data));
    const file = try gpa.alloc(u8, begin + size);
    errdefer gpa.free(file);
    @memset(file, 0);
    @memcpy(file[begin..], image[0..size]);
    try std.testing.expectEqual(file.len, try builder.finish(file));
    return file;
}

fn verify(gpa: std.mem.Allocator, file: []const u8, diagnostic: *status.Diagnostic) !void {
    const header = (try headers.open(gpa, file, file.len, .{}, diagnostic)).header;
    defer header.deinit();
    var verifier: Verifier = try .init(gpa, header);
    defer verifier.deinit();
    while (true) {
        const range = try verifier.next(diagnostic);
        if (range.size == 0) break;
        try verifier.put(file[@intCast(range.offset)..][0..@intCast(range.size)], diagnostic);
    }
    try verifier.finish(diagnostic);
}

test "a writer decodes and compares before it hands out a chunk" {
    const gpa = std.testing.allocator;
    plantFault();
    defer removeFault();
    try expectError(error.Codec, makeFile(gpa));
}

test "checking a whole file compares what was decoded with the content digest" {
    const gpa = std.testing.allocator;
    const file = try makeFile(gpa);
    defer gpa.free(file);
    var diagnostic: status.Diagnostic = .{};
    try verify(gpa, file, &diagnostic);
    plantFault();
    defer removeFault();
    try expectError(error.Content, verify(gpa, file, &diagnostic));
    try std.testing.expectEqual(46, diagnostic.rule);
}
