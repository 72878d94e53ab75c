//! Recomputes the checksums of a changed file.

const std = @import("std");
const sample = @import("sample.zig");
const tables = @import("tables.zig");
const tz = @import("tz");
const Range = tables.Range;
const Table = tables.Table;
const clip = tables.clip;
const entryOffset = tables.entryOffset;
const entryRange = tables.entryRange;
const get = tables.get;
const put = tables.put;
const sectionCount = tables.sectionCount;

const format = tz.format;

/// Recomputes all checksums of bytes that the tables locate inside the file: chunks, runs,
/// sections, directory, preamble.
pub fn reseal(file: []u8) void {
    if (file.len < format.preamble_size) return;
    resealTensors(file);
    for (0..sectionCount(file)) |number| {
        const entry = entryOffset(number);
        const range = entryRange(file, number);
        file[entry + 32 ..][0..32].* = if (get(u32, file, entry) == format.section.chunks)
            @splat(0)
        else
            tz.checksum.blake3(file[range.offset..][0..range.size]);
    }
    const directory = Table.directory.range(file);
    file[72..104].* = tz.checksum.blake3(file[directory.offset..][0..directory.size]);
    put(u32, file, 124, tz.checksum.crc32c(0, file[0..124]));
}

/// The stride of the records of a table in this file.
fn recordStride(file: []const u8, section_type: u32, smallest: usize) usize {
    for (0..sectionCount(file)) |number| {
        const entry = entryOffset(number);
        if (get(u32, file, entry) != section_type) continue;
        return @max(smallest, get(u32, file, entry + 24));
    }
    return smallest;
}

fn resealTensors(file: []u8) void {
    const tensors = Table.tensors.range(file);
    const table = Table.chunks.range(file);
    const stride = recordStride(file, format.section.tensors, format.tensor_record_size);
    const chunk_stride = recordStride(file, format.section.chunks, format.chunk_record_size);
    const chunk_size = @as(u64, 1) << @truncate(file[60]);
    var at = tensors.offset;
    while (at + format.tensor_record_size <= tensors.offset + tensors.size) : (at += stride) {
        const decoded_size = get(u64, file, at + 24);
        const tied = get(u32, file, at + 20) != format.none;
        const count = decoded_size / chunk_size + @intFromBool(decoded_size % chunk_size != 0);
        const run_offset = table.offset +| get(u64, file, at + 48) *| chunk_stride;
        const run = clip(file, run_offset, if (tied) 0 else count *| chunk_stride);
        resealChunks(file, run, chunk_stride, get(u64, file, at + 32));
        file[at + 56 ..][0..32].* = tz.checksum.blake3(file[run.offset..][0..run.size]);
    }
}

fn resealChunks(file: []u8, run: Range, stride: usize, data_offset: u64) void {
    var offset = data_offset;
    var at = run.offset;
    while (at + format.chunk_record_size <= run.offset + run.size) : (at += stride) {
        const length = get(u32, file, at);
        // Chunks outside the file keep their made-up checksums.
        if (offset < run.offset + run.size or offset +| length > file.len) return;
        const stored = file[@intCast(offset)..][0..length];
        put(u32, file, at + 4, tz.checksum.crc32c(0, stored));
        file[at + 16 ..][0..32].* = tz.checksum.blake3(stored);
        offset = std.mem.alignForward(u64, offset + length, format.chunk_alignment);
    }
}

test "resealing a valid file changes nothing" {
    var arena: std.heap.ArenaAllocator = .init(std.testing.allocator);
    defer arena.deinit();
    var prng: std.Random.DefaultPrng = .init(std.testing.random_seed);
    for (0..50) |_| {
        const file = try sample.make(arena.allocator(), prng.random(), .whole);
        const copy = try arena.allocator().dupe(u8, file);
        reseal(copy);
        try std.testing.expectEqualSlices(u8, file, copy);
    }
}
