//! Invariant: for any bytes as a tiered chunk, every CPU level gives the verdict and the elements
//! of the scalar kernels, with any contents of the scratch memory. Decoded chunks are encoded to
//! the same bytes again, and encoded elements decode to the same elements. No memory outside the
//! buffers is accessed.
//!
//! The first byte of an input selects the layout; its bit 7 selects elements or stored bytes, which
//! contain their decoded size.

const std = @import("std");
const Buffer = @import("memory.zig").Buffer;
const observe = @import("observe.zig");
const tz = @import("tz");

const Allocator = std.mem.Allocator;
const tiered = tz.codec.tiered;
const Layout = tiered.Layout;

const layouts = std.enums.values(Layout);
const is_elements = 0x80;
const decoded_size_offset = 4;
/// A little more than two sub-blocks of the largest elements: enough to bypass the caches.
const decoded_size_max = (2 << 17) + 1024;
/// The worst tiered plane takes 15 bits for a symbol; an fp8 element has two symbols.
const stored_size_max = 4 * decoded_size_max + 4096;

var encode_scratch: tiered.EncodeScratch = undefined;
var decode_scratch: tiered.DecodeScratch = undefined;

pub fn run(input: []const u8) !void {
    if (input.len == 0) return;
    const layout = layouts[(input[0] & ~@as(u8, is_elements)) % layouts.len];
    const rest = input[1..];
    if (input[0] & is_elements == 0) return runStored(layout, rest);
    if (rest.len <= decoded_size_max) return runElements(layout, rest);
}

fn runStored(layout: Layout, bytes: []const u8) !void {
    const stored: Tight = .copyOf(bytes);
    defer stored.deinit();
    const size = decodedSize(bytes);
    const scalar: Tight = .init(size);
    defer scalar.deinit();
    const verdict = decode(&tiered.kernels_scalar, layout, stored.bytes, scalar.bytes, 0x00);

    if (verdict == null) try tiered.validate(layout, stored.bytes, size);
    for (tz.dispatch.levels) |level| {
        const kernels = &(tz.dispatch.kernelsAt(level) orelse continue).tiered;
        const tight: Tight = .init(size);
        defer tight.deinit();
        const aligned: Buffer = .init(size);
        defer aligned.deinit();
        for ([_][]u8{ tight.bytes, aligned.bytes }) |destination| {
            const again = decode(kernels, layout, stored.bytes, destination, 0xFF);
            if (again != verdict) return error.VerdictsDiffer;
            if (verdict != null) continue;
            if (!std.mem.eql(u8, scalar.bytes, destination)) return error.LevelsDiffer;
        }
        if (verdict == null) try expectCanonical(kernels, layout, stored.bytes, scalar.bytes);
    }
    if (verdict) |err| observe.rules[ruleOf(err)] += 1 else observe.accepted += 1;
}

fn decode(
    kernels: *const tiered.Kernels,
    layout: Layout,
    stored: []const u8,
    destination: []u8,
    scratch_byte: u8,
) ?tiered.DecodeError {
    @memset(std.mem.asBytes(&decode_scratch), scratch_byte);
    tiered.decodeWith(kernels, layout, stored, destination, &decode_scratch) catch |err| return err;
    return null;
}

/// The decoded size that the chunk claims, if it is possible, so that decoding makes sense.
fn decodedSize(stored: []const u8) usize {
    if (stored.len < decoded_size_offset + 4) return 1;
    const claimed = std.mem.readInt(u32, stored[decoded_size_offset..][0..4], .little);
    return claimed % (decoded_size_max + 1);
}

/// Checks that the elements, kinds and tables have only one encoding.
fn expectCanonical(
    kernels: *const tiered.Kernels,
    layout: Layout,
    stored: []const u8,
    elements: []const u8,
) !void {
    const header: tiered.Header = try .parse(layout, stored, elements.len);
    const again: Tight = .init(stored.len);
    defer again.deinit();
    const size = tiered.encodeAs(kernels, &header, elements, again.bytes, &encode_scratch) orelse
        return error.NotCanonical;
    if (size != stored.len or !std.mem.eql(u8, stored, again.bytes)) return error.NotCanonical;
}

fn runElements(layout: Layout, bytes: []const u8) !void {
    const source: Tight = .copyOf(bytes);
    defer source.deinit();
    const room = tiered.encodedSizeMax(source.bytes.len);
    const scalar: Tight = .init(room);
    defer scalar.deinit();
    const scratch = &encode_scratch;
    const kernels_scalar = &tiered.kernels_scalar;
    const encoded_size =
        tiered.encodeWith(kernels_scalar, layout, source.bytes, scalar.bytes, scratch);
    for (tz.dispatch.levels) |level| {
        const kernels = &(tz.dispatch.kernelsAt(level) orelse continue).tiered;
        const stored: Tight = .init(room);
        defer stored.deinit();
        const size = tiered.encodeWith(kernels, layout, source.bytes, stored.bytes, scratch);
        if (size != encoded_size) return error.LevelsDiffer;
        const encoded = stored.bytes[0 .. size orelse continue];
        if (!std.mem.eql(u8, encoded, scalar.bytes[0..encoded.len])) return error.LevelsDiffer;
        const decoded: Tight = .init(source.bytes.len);
        defer decoded.deinit();
        if (decode(kernels, layout, encoded, decoded.bytes, 0x55)) |err| return err;
        if (!std.mem.eql(u8, source.bytes, decoded.bytes)) return error.RoundTrip;
    }
    if (encoded_size != null) observe.accepted += 1;
}

/// A buffer that ends exactly at a guard page, so its beginning has any alignment.
const Tight = struct {
    buffer: Buffer,
    bytes: []u8,

    fn init(size: usize) Tight {
        const buffer: Buffer = .init(std.mem.alignForward(usize, size, 64));
        return .{ .buffer = buffer, .bytes = buffer.bytes[buffer.bytes.len - size ..] };
    }

    fn copyOf(source: []const u8) Tight {
        const self: Tight = .init(source.len);
        @memcpy(self.bytes, source);
        return self;
    }

    fn deinit(self: Tight) void {
        self.buffer.deinit();
    }
};

fn ruleOf(err: tiered.DecodeError) usize {
    return switch (err) {
        error.DecodedSize => 1,
        error.Truncated => 2,
        error.LayoutMismatch => 3,
        error.FixedPart => 4,
        error.SizeMismatch => 5,
        error.PlaneKind => 6,
        error.PlaneValue => 7,
        error.PlaneTable => 8,
        error.EscapeIndex => 9,
        error.HeaderPadding => 10,
        error.StoredSize => 11,
        error.PlanePadding => 12,
        error.Literal => 13,
        error.UnusedCode => 14,
        error.EscapeCount => 15,
    };
}

/// A valid chunk, usually with small changes, or elements.
pub fn make(arena: Allocator, random: std.Random) ![]u8 {
    const layout_index = random.uintLessThan(u8, layouts.len);
    const layout = layouts[layout_index];
    const large = random.uintLessThan(u8, 16) == 0;
    const size_max: usize = if (large) decoded_size_max else 6000;
    const count = 1 + random.uintLessThan(usize, size_max / layout.elementSize());
    var kinds: tiered.sample.Kinds = undefined;
    for (&kinds) |*kind| kind.* = random.enumValue(tiered.PlaneKind);
    const header = tiered.sample.header(random, layout, count, kinds);
    const elements = try arena.alloc(u8, header.decodedSize());
    tiered.sample.fill(random, &header, random.int(u8), elements);
    if (random.uintLessThan(u8, 4) == 0) {
        return std.mem.concat(arena, u8, &.{ &.{is_elements | layout_index}, elements });
    }
    const room = try arena.alloc(u8, stored_size_max);
    const kernels = &tz.dispatch.kernels().tiered;
    const size = tiered.encodeAs(kernels, &header, elements, room, &encode_scratch).?;
    const input = try std.mem.concat(arena, u8, &.{ &.{layout_index}, room[0..size] });
    return if (random.uintLessThan(u8, 8) == 0) input else mutate(arena, random, input);
}

/// Changes bytes of the header, near its end and in the planes; sometimes also the length.
pub fn mutate(arena: Allocator, random: std.Random, input: []const u8) ![]u8 {
    var bytes: std.ArrayList(u8) = .empty;
    try bytes.appendSlice(arena, input);
    for (0..random.intRangeAtMost(usize, 1, 3)) |_| {
        const size = bytes.items.len;
        if (size < 2) break;
        const front = @min(size, 256);
        const near: usize = if (random.boolean()) front else size;
        const offset = 1 + random.uintLessThan(usize, near - 1);
        const byte = &bytes.items[offset];
        switch (random.uintLessThan(u8, 8)) {
            0 => byte.* = random.int(u8),
            1 => byte.* = 0,
            2, 3 => byte.* ^= @as(u8, 1) << random.int(u3),
            4 => byte.* +%= 1,
            5 => byte.* -%= 1,
            6 => bytes.shrinkRetainingCapacity(size -| random.uintAtMost(usize, 130)),
            else => try bytes.appendNTimes(arena, 0, random.uintAtMost(usize, 130)),
        }
    }
    return bytes.items;
}
