//! The canonical writer's choice of plans (spec/tz-v1-codec-tiered.md, section 9). It depends only
//! on the chunk's decoded bytes and layout. Readers do not need it.

const std = @import("std");
const format = @import("tiered_format.zig");
const tasks = @import("tiered_task.zig");
const Header = format.Header;
const PlaneKind = format.PlaneKind;

/// A chunk is stored raw unless it shrinks to this size or less: a smaller gain is not worth the
/// decoding time and the loss of zero-copy reads.
pub fn encodedSizeMax(decoded_size: usize) usize {
    return decoded_size - (decoded_size + 19) / 20;
}

const line_size = 64;
/// 529 lines of a chunk of 1 MiB are sampled. The stride is odd, so that it does not align with the
/// columns of a matrix. Sampling all lines would save a ten-thousandth of the size.
const sample_lines = 512;
const stride_max = 31;

const kinds_tiered = [_]PlaneKind{ .tiered_223, .tiered_33, .tiered_44 };

/// The most frequent symbols of a plane, and the total count.
const Ranking = struct {
    symbols: [format.table_size_max]u8,
    counts: [format.table_size_max]u32,
    total: usize,

    /// Sorts by descending count, and by ascending symbol for equal counts.
    fn of(histogram: *const [256]u32, width: u8) Ranking {
        var result: Ranking = .{ .symbols = @splat(0), .counts = @splat(0), .total = 0 };
        const symbol_count = @as(usize, 1) << @intCast(width);
        var length: usize = 0;
        for (histogram[0..symbol_count], 0..) |count, symbol| {
            result.total += count;
            if (length == result.counts.len and count <= result.counts[length - 1]) continue;
            if (length < result.counts.len) length += 1;
            var index = length - 1;
            while (index > 0 and result.counts[index - 1] < count) : (index -= 1) {
                result.counts[index] = result.counts[index - 1];
                result.symbols[index] = result.symbols[index - 1];
            }
            result.counts[index] = count;
            result.symbols[index] = @intCast(symbol);
        }
        return result;
    }

    /// The size of the sample's symbols in bits.
    fn cost(ranking: *const Ranking, kind: PlaneKind) u64 {
        var bits: u64 = 0;
        var left: u64 = ranking.total;
        var index: usize = 0;
        for (kind.plan()) |code_bits| {
            bits += left * code_bits;
            const end = index + format.symbolCount(code_bits);
            for (ranking.counts[index..end]) |count| left -= count;
            index = end;
        }
        return bits + left * 8;
    }
};

/// The kinds and tables to store a chunk's planes with, or null if the gain would be too small.
pub fn choose(
    kernels: *const tasks.Kernels,
    layout: format.Layout,
    source: []const u8,
    histograms: *tasks.Histograms,
) ?Header {
    const line_count = source.len / line_size;
    if (line_count == 0) return null;
    var header = Header.init(layout, source.len) catch return null;
    histograms.* = @splat(@splat(0));
    const stride = @min(line_count / sample_lines, stride_max) | 1;
    kernels.histogram(&.{
        .layout = layout,
        .source = source.ptr,
        .line_count = line_count,
        .stride = stride,
    }, histograms);

    var bits: u64 = 0;
    var sample_count: usize = 0;
    for (layout.planeWidths(), 0..) |width, index| {
        const ranking: Ranking = .of(&histograms[index], width);
        sample_count = ranking.total;
        const first = ranking.symbols[0];
        const constant = ranking.counts[0] == sample_count and
            kernels.is_constant(layout, index, first, source.ptr, source.len);
        const plane = &header.plane_buffer[index];
        plane.* = .{ .kind = .constant, .width = width, .value = first };
        if (!constant) bits += choosePlane(&ranking, plane);
    }
    const sample_size = sample_count * layout.elementSize();
    if (bits > 8 * encodedSizeMax(sample_size)) return null;
    return header;
}

/// Selects the cheapest kind; among equal ones, the one with the lowest code. Returns its cost in
/// bits.
fn choosePlane(ranking: *const Ranking, plane: *format.Plane) u64 {
    const width = plane.width;
    var least: u64 = std.math.maxInt(u64);
    if (PlaneKind.raw.isAllowed(width)) least = @as(u64, ranking.total) * width;
    plane.* = .{ .kind = .raw, .width = width };
    for (kinds_tiered) |kind| {
        if (!kind.isAllowed(width)) continue;
        const bits = ranking.cost(kind);
        if (bits >= least) continue;
        least = bits;
        plane.kind = kind;
    }
    const table_size = plane.kind.tableSize();
    @memcpy(plane.table[0..table_size], ranking.symbols[0..table_size]);
    return least;
}
