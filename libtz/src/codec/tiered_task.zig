//! The interface between codec and kernels. A kernel gets one sub-block at a time, after all checks
//! that do not depend on the planes. Structs have C layout, since kernels are compiled separately.

const std = @import("std");
const format = @import("tiered_format.zig");

/// One plane of one sub-block.
pub const PlaneTask = extern struct {
    kind: format.PlaneKind,
    width: u8,
    value: u8,
    table: [format.table_size_max]u8,
    /// Escapes of each tier of the plan. Decoding reads them, encoding writes them.
    escapes: [format.tier_count_max]u32,
    /// Decoding: the plane's first stored byte. Unused in encoding.
    stored: [*]const u8,

    /// Tier `index` of a stored plane.
    pub fn tier(plane: *const PlaneTask, element_count: usize, index: usize) Tier {
        const plan = plane.kind.plan();
        var result: Tier = .{
            .code_bits = plan[index],
            .codes = plane.stored,
            .count = element_count,
            .escape_count = plane.escapes[index],
            .table = &plane.table,
        };
        for (plan[0..index], plane.escapes[0..index]) |code_bits, escape_count| {
            result.codes += format.packedSize(code_bits, result.count);
            result.table += format.symbolCount(code_bits);
            result.count = escape_count;
        }
        return result;
    }

    /// A raw plane of less than a byte per symbol: codes without escapes.
    pub fn raw(plane: *const PlaneTask, element_count: usize) Tier {
        return .{
            .code_bits = plane.width,
            .codes = plane.stored,
            .count = element_count,
            .escape_count = 0,
            .table = undefined,
        };
    }

    /// The symbols that escape the last tier of a stored plane.
    pub fn literals(plane: *const PlaneTask, element_count: usize) []const u8 {
        const last = plane.tier(element_count, plane.kind.plan().len - 1);
        const offset = format.packedSize(last.code_bits, last.count);
        return last.codes[offset..][0..last.escape_count];
    }

    pub fn symbols(plane: *const PlaneTask) []const u8 {
        return plane.table[0..plane.kind.tableSize()];
    }
};

/// Whether codes are the symbols themselves or stand for a table's symbols and escapes.
pub const Codes = enum { plain, tiered };

pub const Tier = struct {
    code_bits: u8,
    codes: [*]const u8,
    count: usize,
    escape_count: usize,
    table: [*]const u8,
};

/// Memory that vector kernels may access behind the requested symbols.
const slack = 64;

/// Elements that vector kernels move from symbols to the destination at a time: few enough for all
/// planes to stay in the first-level cache, and a multiple of the groups of every code width.
pub const tile_size = 2048;

pub const Symbols = [format.sub_block_size + slack]u8;

/// Working memory of a decoder. Needs no initialization, and keeps nothing between calls.
pub const DecodeScratch = extern struct {
    /// Per plane: the symbols that escape its first tier. In the scalar kernels: all symbols.
    planes: [format.plane_count_max]Symbols align(64),
    /// Literals, and the symbols that escape the tiers behind the first, in turns.
    escaped: [2]Symbols align(64),
    /// Per plane: the symbols of a tile.
    tiles: [format.plane_count_max][tile_size + slack]u8 align(64),
};

pub const DecodeTask = extern struct {
    layout: format.Layout,
    element_count: u32,
    planes: [format.plane_count_max]PlaneTask,
    destination: [*]u8,
    /// The destination is aligned to 64, and too large to stay in the caches.
    streams: bool,
    scratch: *DecodeScratch,

    pub fn activePlanes(task: *const DecodeTask) []const PlaneTask {
        return task.planes[0..task.layout.planeWidths().len];
    }
};

/// The result of decoding a sub-block: the first of these errors. Literals to tier 2 of all planes
/// are checked before tier 1 of all planes.
pub const DecodeVerdict = enum(u32) { ok, literal, unused_code, escape_count };

/// Working memory of an encoder. Needs no initialization, and keeps nothing between calls.
pub const EncodeScratch = extern struct {
    planes: [format.plane_count_max]Symbols align(64),
    /// Symbols that escape a tier, in turns.
    escaped: [2]Symbols align(64),
    histograms: Histograms align(64),
};

/// Occurrences of each symbol, per plane.
pub const Histograms = [format.plane_count_max][256]u32;

pub const EncodeTask = extern struct {
    layout: format.Layout,
    element_count: u32,
    planes: [format.plane_count_max]PlaneTask,
    source: [*]const u8,
    destination: [*]u8,
    capacity: usize,
    scratch: *EncodeScratch,

    pub fn activePlanes(task: *EncodeTask) []PlaneTask {
        return task.planes[0..task.layout.planeWidths().len];
    }
};

/// The part of a chunk that a histogram counts.
pub const Sample = extern struct {
    layout: format.Layout,
    source: [*]const u8,
    /// Lines of 64 bytes in the source; every `stride`-th is counted, the first one included.
    line_count: usize,
    stride: usize,
};

pub const no_room = std.math.maxInt(usize);

/// The codec's kernels of one CPU level.
pub const Kernels = extern struct {
    /// Fills the destination with `element_count` elements. Its contents are undefined unless the
    /// verdict is `ok`.
    decode: *const fn (task: *const DecodeTask) callconv(.c) DecodeVerdict,

    /// Writes the sub-block's planes and their padding and sets `escapes`. Returns the size, or
    /// `no_room` when `capacity` is too small.
    encode: *const fn (task: *EncodeTask) callconv(.c) usize,

    /// Adds to `histograms`.
    histogram: *const fn (sample: *const Sample, histograms: *Histograms) callconv(.c) void,

    /// Whether plane `index` of all elements holds `symbol`. `size` is a multiple of the element's.
    is_constant: *const fn (
        layout: format.Layout,
        index: usize,
        symbol: u8,
        source: [*]const u8,
        size: usize,
    ) callconv(.c) bool,
};
