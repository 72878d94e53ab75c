//! The tiered exponent codec, codec 1 of the format: spec/tz-v1-codec-tiered.md.
//!
//! Trained weights have few different exponents. A plane of exponents becomes a *tier* of two-bit
//! codes: three codes stand for the most frequent symbols; the fourth is the escape to the next
//! tier, which encodes the next symbols the same way. Symbols that escape the last tier are stored
//! as literals. Codes have a fixed width, and vectors unpack them with shifts. There is no bit
//! stream, so everything runs at memory speed on any vector unit. Sub-blocks of 32768 elements are
//! independent.
//!
//!   tiered_format.zig    stored bytes: sizes, offsets, rules
//!   tiered_plan.zig      the canonical writer's choices
//!   tiered_task.zig      the interface of the kernels
//!   tiered_kernels.zig   the kernels of one CPU level, from
//!     tiered_scalar.zig    the scalar reference
//!     tiered_vector.zig    all vector lengths, on top of
//!       tiered_isa.zig       a few instructions
//!
//! Nothing here allocates or keeps state. Decoding takes the same time for all data.

const std = @import("std");
const bytes = @import("../bytes.zig");
const dispatch = @import("../dispatch.zig");
const format = @import("tiered_format.zig");
const tasks = @import("tiered_task.zig");
const plan = @import("tiered_plan.zig");

pub const Layout = format.Layout;
pub const DecodeError = format.DecodeError;
pub const DecodeScratch = tasks.DecodeScratch;
pub const EncodeScratch = tasks.EncodeScratch;
pub const encodedSizeMax = plan.encodedSizeMax;

/// For tests, fuzzers and benchmarks, which choose kernels and planes themselves.
pub const Header = format.Header;
pub const Kernels = tasks.Kernels;
pub const PlaneKind = format.PlaneKind;
pub const kernels_scalar = @import("tiered_kernels.zig").kernels_scalar;
pub const sample = @import("tiered_sample.zig");

/// From this size on, decoded chunks bypass the caches. That is a third to a half faster, but a
/// fifth slower for a caller that reads the data again immediately.
const stream_size_min = 256 << 10;

/// Encodes a chunk into the front of `destination`, which must have room for
/// `encodedSizeMax(source.len)`, and returns the encoded size. Null: too little gain, store it raw.
/// Equal input gives equal bytes on every CPU.
pub fn encode(
    layout: Layout,
    source: []const u8,
    destination: []u8,
    scratch: *EncodeScratch,
) ?usize {
    return encodeWith(&dispatch.kernels().tiered, layout, source, destination, scratch);
}

/// Decodes a chunk: fills `destination`, whose size is the chunk's decoded size. After an error its
/// bytes are undefined. Any `stored` bytes are safe.
pub fn decode(
    layout: Layout,
    stored: []const u8,
    destination: []u8,
    scratch: *DecodeScratch,
) DecodeError!void {
    return decodeWith(&dispatch.kernels().tiered, layout, stored, destination, scratch);
}

/// Makes all checks that need no decoding: TZ1T-1 to TZ1T-12.
pub fn validate(layout: Layout, stored: []const u8, decoded_size: usize) DecodeError!void {
    const header: Header = try .parse(layout, stored, decoded_size);
    var offset = header.size();
    for (0..header.subBlockCount()) |index| {
        const block: SubBlock = try .parse(&header, stored, offset, index);
        offset += block.size;
    }
}

pub fn encodeWith(
    kernels: *const Kernels,
    layout: Layout,
    source: []const u8,
    destination: []u8,
    scratch: *EncodeScratch,
) ?usize {
    const header = plan.choose(kernels, layout, source, &scratch.histograms) orelse return null;
    const room = destination[0..encodedSizeMax(source.len)];
    return encodeAs(kernels, &header, source, room, scratch);
}

/// Encodes with the kinds and tables of `header`, even if they save nothing. Null if `destination`
/// is too small.
pub fn encodeAs(
    kernels: *const Kernels,
    header: *const Header,
    source: []const u8,
    destination: []u8,
    scratch: *EncodeScratch,
) ?usize {
    const layout = header.layout;
    const element_size = layout.elementSize();
    std.debug.assert(source.len == header.decodedSize());
    var size = header.size();
    if (size > destination.len) return null;
    header.write(destination);
    for (0..header.subBlockCount()) |index| {
        var task: tasks.EncodeTask = .{
            .layout = layout,
            .element_count = @intCast(header.elementsOf(index)),
            .planes = undefined,
            .source = source[index * format.sub_block_size * element_size ..].ptr,
            .destination = destination[size..].ptr,
            .capacity = destination.len - size,
            .scratch = scratch,
        };
        for (header.planes(), 0..) |plane, plane_index| task.planes[plane_index] = planeTask(plane);
        const block_size = kernels.encode(&task);
        if (block_size == tasks.no_room) return null;
        size += block_size;

        var escapes: format.Escapes = .{ .counts = undefined };
        var position: usize = 0;
        for (task.activePlanes()) |plane| {
            const counts = plane.escapes[0..plane.kind.plan().len];
            @memcpy(escapes.counts[position..][0..counts.len], counts);
            position += counts.len;
        }
        header.putEscapes(destination, index, escapes);
    }
    return size;
}

pub fn decodeWith(
    kernels: *const Kernels,
    layout: Layout,
    stored: []const u8,
    destination: []u8,
    scratch: *DecodeScratch,
) DecodeError!void {
    const header: Header = try .parse(layout, stored, destination.len);
    const element_size = layout.elementSize();
    const streams = destination.len >= stream_size_min and
        std.mem.isAligned(@intFromPtr(destination.ptr), 64);
    var offset = header.size();
    for (0..header.subBlockCount()) |index| {
        const block: SubBlock = try .parse(&header, stored, offset, index);
        offset += block.size;
        const begin = index * format.sub_block_size * element_size;
        const verdict = kernels.decode(&.{
            .layout = layout,
            .element_count = @intCast(header.elementsOf(index)),
            .planes = block.planes,
            .destination = destination[begin..].ptr,
            .streams = streams,
            .scratch = scratch,
        });
        switch (verdict) {
            .ok => {},
            .literal => return error.Literal,
            .unused_code => return error.UnusedCode,
            .escape_count => return error.EscapeCount,
        }
    }
}

fn planeTask(plane: format.Plane) tasks.PlaneTask {
    return .{
        .kind = plane.kind,
        .width = plane.width,
        .value = plane.value,
        .table = plane.table,
        .escapes = @splat(0),
        .stored = undefined,
    };
}

/// The positions of the planes in a stored sub-block.
const SubBlock = struct {
    planes: [format.plane_count_max]tasks.PlaneTask,
    size: usize,

    fn parse(
        header: *const Header,
        stored: []const u8,
        begin: usize,
        index: usize,
    ) DecodeError!SubBlock {
        const escapes = header.escapesOf(stored, index);
        const element_count = header.elementsOf(index);
        var block: SubBlock = .{ .planes = undefined, .size = 0 };
        var position: usize = 0;
        for (header.planes(), 0..) |plane, plane_index| {
            const tier_count = plane.kind.plan().len;
            const counts = escapes.counts[position..][0..tier_count];
            position += tier_count;
            const size = plane.storedSize(element_count, counts);
            const room = stored[begin + block.size ..][0..format.alignPlane(size)];
            if (!bytes.allZero(room[size..])) return error.PlanePadding;
            const task = &block.planes[plane_index];
            task.* = planeTask(plane);
            task.stored = room.ptr;
            @memcpy(task.escapes[0..tier_count], counts);
            block.size += room.len;
        }
        return block;
    }
};
