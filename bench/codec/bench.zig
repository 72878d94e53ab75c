//! Times the tiered codec on one data set at every CPU level, and memcpy for comparison.
//!
//!     bench-codec FOLDER NAME CHUNK_SIZE ROUNDS
//!
//! FOLDER/NAME.bin holds tensors one after another, NAME.json their layout and sizes; see
//! datasets.py. Chunks never span tensors. Prints a line of JSON: sizes, and GB/s of decoded bytes
//! from memory to memory that was touched before, in thread CPU time, the median of the rounds. A
//! round runs everything once, so that other load on the machine affects all alike.

const std = @import("std");
const tz = @import("tz");

const tiered = tz.codec.tiered;
const linux = std.os.linux;
const data_size_max = 256 << 20;
const rounds_max = 99;

const Description = struct { layout: tiered.Layout, sizes: []const usize };

const Chunk = struct {
    source: []const u8,
    stored: []u8,
    decoded: []u8,
};

const Speeds = struct {
    encode: Series = .{},
    decode: Series = .{},
};

/// Seconds of each round.
const Series = struct {
    values: [rounds_max]f64 = undefined,
    count: usize = 0,

    fn add(series: *Series, seconds: f64) void {
        series.values[series.count] = seconds;
        series.count += 1;
    }

    fn speed(series: *Series, size: usize) f64 {
        const values = series.values[0..series.count];
        std.mem.sort(f64, values, {}, std.sort.asc(f64));
        return @as(f64, @floatFromInt(size)) / values[values.len / 2] / 1e9;
    }
};

var encode_scratch: tiered.EncodeScratch = undefined;
var decode_scratch: tiered.DecodeScratch = undefined;

pub fn main(init: std.process.Init) !void {
    const arena = init.arena.allocator();
    const arguments = try init.minimal.args.toSlice(arena);
    const folder = try std.Io.Dir.cwd().openDir(init.io, arguments[1], .{});
    const name = arguments[2];
    const chunk_size = try std.fmt.parseInt(usize, arguments[3], 10);
    const round_count = try std.fmt.parseInt(usize, arguments[4], 10);

    const json_name = try std.fmt.allocPrint(arena, "{s}.json", .{name});
    const json = try folder.readFileAlloc(init.io, json_name, arena, .limited(1 << 20));
    const about = try std.json.parseFromSliceLeaky(Description, arena, json, .{});
    const bin_name = try std.fmt.allocPrint(arena, "{s}.bin", .{name});
    const data = try folder.readFileAlloc(init.io, bin_name, arena, .limited(data_size_max));
    const chunks = try cut(arena, about, data, chunk_size);

    var copying: Series = .{};
    var speeds: [tz.dispatch.levels.len]Speeds = @splat(.{});
    var stored_size: usize = 0;
    for (0..round_count) |_| {
        copying.add(timeCopy(chunks));
        for (tz.dispatch.levels, &speeds) |level, *measured| {
            const kernels = &(tz.dispatch.kernelsAt(level) orelse continue).tiered;
            measured.encode.add(timeEncode(kernels, about.layout, chunks, &stored_size));
            measured.decode.add(try timeDecode(kernels, about.layout, chunks));
            for (chunks) |chunk| {
                if (!std.mem.eql(u8, chunk.source, chunk.decoded)) return error.RoundTrip;
            }
        }
    }

    var buffer: [4096]u8 = undefined;
    var stdout = std.Io.File.stdout().writerStreaming(init.io, &buffer);
    const out = &stdout.interface;
    try out.print("{{\"name\": \"{s}\", \"layout\": \"{t}\", ", .{ name, about.layout });
    try out.print("\"size\": {d}, \"stored_size\": {d}", .{ data.len, stored_size });
    try out.print(", \"copy\": {d:.2}", .{copying.speed(data.len)});
    for (tz.dispatch.levels, &speeds) |level, *measured| {
        if (measured.encode.count == 0) continue;
        try out.print(", \"{t}\": {{\"encode\": {d:.2}, \"decode\": {d:.2}}}", .{
            level, measured.encode.speed(data.len), measured.decode.speed(data.len),
        });
    }
    try out.print("}}\n", .{});
    try out.flush();
}

/// The chunks of all tensors, with room to encode and decode them.
fn cut(
    arena: std.mem.Allocator,
    about: Description,
    data: []const u8,
    chunk_size: usize,
) ![]Chunk {
    const room = data.len + 64 * about.sizes.len;
    const stored = try arena.alignedAlloc(u8, .fromByteUnits(4096), room);
    const decoded = try arena.alignedAlloc(u8, .fromByteUnits(4096), stored.len);
    @memset(stored, 1);
    @memset(decoded, 1);
    var chunks: std.ArrayList(Chunk) = .empty;
    var begin: usize = 0;
    var position: usize = 0; // tensors begin at multiples of 64
    for (about.sizes) |tensor_size| {
        var offset: usize = 0;
        while (offset < tensor_size) : (offset += chunk_size) {
            const size = @min(chunk_size, tensor_size - offset);
            try chunks.append(arena, .{
                .source = data[begin + offset ..][0..size],
                .stored = stored[position + offset ..][0..size],
                .decoded = decoded[position + offset ..][0..size],
            });
        }
        begin += tensor_size;
        position = std.mem.alignForward(usize, position + tensor_size, 64);
    }
    return chunks.items;
}

/// Seconds of this thread's CPU time.
fn now() f64 {
    var time: linux.timespec = undefined;
    _ = linux.clock_gettime(.THREAD_CPUTIME_ID, &time);
    return @as(f64, @floatFromInt(time.sec)) + 1e-9 * @as(f64, @floatFromInt(time.nsec));
}

fn timeCopy(chunks: []const Chunk) f64 {
    const begin = now();
    for (chunks) |chunk| @memcpy(chunk.decoded, chunk.source);
    return now() - begin;
}

/// Times encoding. Raw chunks are not copied in that time, since a writer writes them from their
/// source.
fn timeEncode(
    kernels: *const tiered.Kernels,
    layout: tiered.Layout,
    chunks: []Chunk,
    stored_size: *usize,
) f64 {
    stored_size.* = 0;
    const begin = now();
    for (chunks) |*chunk| {
        const room = chunk.stored.ptr[0..chunk.source.len];
        const size = tiered.encodeWith(kernels, layout, chunk.source, room, &encode_scratch);
        chunk.stored = room[0 .. size orelse room.len];
        stored_size.* += chunk.stored.len;
    }
    const seconds = now() - begin;
    for (chunks) |chunk| {
        if (chunk.stored.len == chunk.source.len) @memcpy(chunk.stored, chunk.source);
    }
    return seconds;
}

fn timeDecode(kernels: *const tiered.Kernels, layout: tiered.Layout, chunks: []const Chunk) !f64 {
    const begin = now();
    for (chunks) |chunk| {
        if (chunk.stored.len == chunk.decoded.len) {
            @memcpy(chunk.decoded, chunk.stored);
        } else {
            try tiered.decodeWith(kernels, layout, chunk.stored, chunk.decoded, &decode_scratch);
        }
    }
    return now() - begin;
}
