//! Tests of the tiered codec: every CPU level against the scalar kernels, with all kinds of planes
//! and all tail lengths; round trips; one rejection per rule of the specification.

const std = @import("std");
const dispatch = @import("../dispatch.zig");
const format = @import("tiered_format.zig");
const tasks = @import("tiered_task.zig");
const sample = @import("tiered_sample.zig");
const tiered = @import("tiered.zig");
const tiered_kernels = @import("tiered_kernels.zig");
const expect = std.testing.expect;
const expectEqual = std.testing.expectEqual;
const expectEqualSlices = std.testing.expectEqualSlices;
const expectError = std.testing.expectError;
const Header = format.Header;
const Layout = format.Layout;
const PlaneKind = format.PlaneKind;

const scalar = &tiered_kernels.kernels_scalar;
const layouts = std.enums.values(Layout);
const kinds = std.enums.values(PlaneKind);

/// The buffers of a test, which are too large for the stack.
const Bench = struct {
    encode_scratch: tiered.EncodeScratch,
    decode_scratch: tiered.DecodeScratch,
    source: [elements_max * 4]u8,
    stored: [size_max]u8,
    stored_scalar: [size_max]u8,
    decoded: [elements_max * 4 + guard]u8 align(64),

    const elements_max = 3 * format.sub_block_size;
    /// The number of guard bytes behind the destination.
    const guard = 64;
    /// The worst plane takes 15 bits for a symbol of 8 bits.
    const size_max = elements_max * 8 + 4096;

    fn create() !*Bench {
        return std.testing.allocator.create(Bench);
    }

    fn destroy(bench: *Bench) void {
        std.testing.allocator.destroy(bench);
    }

    /// Encodes and decodes with the scalar kernels and with all levels. Everything must be equal.
    /// Returns the stored bytes.
    fn roundTrip(bench: *Bench, header: *const Header) ![]u8 {
        const source = bench.source[0..header.decodedSize()];
        const scratch = &bench.encode_scratch;
        const out = &bench.stored_scalar;
        const stored_size = tiered.encodeAs(scalar, header, source, out, scratch).?;
        const stored = bench.stored_scalar[0..stored_size];
        try bench.expectDecodes(scalar, header.layout, stored, source);
        for (dispatch.levels) |level| {
            const table = dispatch.kernelsAt(level) orelse continue;
            const again = tiered.encodeAs(&table.tiered, header, source, &bench.stored, scratch).?;
            try expectEqualSlices(u8, stored, bench.stored[0..again]);
            try bench.expectDecodes(&table.tiered, header.layout, stored, source);
        }
        return stored;
    }

    fn expectDecodes(
        bench: *Bench,
        kernels: *const tasks.Kernels,
        layout: Layout,
        stored: []const u8,
        source: []const u8,
    ) !void {
        const guarded = bench.decoded[0 .. source.len + guard];
        @memset(guarded, 0xA5);
        const destination = guarded[0..source.len];
        try tiered.decodeWith(kernels, layout, stored, destination, &bench.decode_scratch);
        try expectEqualSlices(u8, source, destination);
        try expect(std.mem.allEqual(u8, guarded[source.len..], 0xA5));
    }

    /// Requires that all levels agree with the scalar kernels about `stored`, valid or not.
    fn expectAgreement(bench: *Bench, layout: Layout, stored: []const u8, size: usize) !void {
        const scratch = &bench.decode_scratch;
        const expected = bench.source[0..size];
        const verdict = tiered.decodeWith(scalar, layout, stored, expected, scratch);
        for (dispatch.levels) |level| {
            const table = dispatch.kernelsAt(level) orelse continue;
            const destination = bench.decoded[0..size];
            const again = tiered.decodeWith(&table.tiered, layout, stored, destination, scratch);
            try std.testing.expectEqualDeep(verdict, again);
            if (verdict) |_| try expectEqualSlices(u8, expected, destination) else |_| {}
        }
    }
};

test "all levels agree, for every kind of every plane of every layout" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    var prng: std.Random.DefaultPrng = .init(1);
    const random = prng.random();
    for (layouts) |layout| for (kinds) |first| for (kinds) |second| {
        const wanted: sample.Kinds = .{ first, second, random.enumValue(PlaneKind), second };
        const count_max: usize = if (first == second) Bench.elements_max else 10_000;
        const count = 1 + random.uintLessThan(usize, count_max);
        const header = sample.header(random, layout, count, wanted);
        sample.fill(random, &header, random.int(u8), bench.source[0..header.decodedSize()]);
        _ = try bench.roundTrip(&header);
    };
}

test "all levels agree, for every tail" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    var prng: std.Random.DefaultPrng = .init(2);
    const random = prng.random();
    // Groups hold up to 512 codes. When nearly all escape, inner tiers get all smaller counts.
    for (1..1100) |count| {
        for (kinds) |kind| {
            const header = sample.header(random, .byte, count, @splat(kind));
            sample.fill(random, &header, if (count % 2 == 0) 255 else 64, bench.source[0..count]);
            _ = try bench.roundTrip(&header);
        }
        for ([_]Layout{ .f16, .fp8_e4m3 }) |layout| { // with packed raw symbols
            const header = sample.header(random, layout, count, @splat(.raw));
            sample.fill(random, &header, 64, bench.source[0..header.decodedSize()]);
            _ = try bench.roundTrip(&header);
        }
    }
    for ([_]usize{ tasks.tile_size, format.sub_block_size, 2 * format.sub_block_size }) |edge| {
        for (edge - 2..edge + 3) |count| for (layouts) |layout| {
            const kind = random.enumValue(PlaneKind);
            const header = sample.header(random, layout, count, @splat(kind));
            sample.fill(random, &header, 64, bench.source[0..header.decodedSize()]);
            _ = try bench.roundTrip(&header);
        };
    }
}

test "chosen encodings round-trip at all levels, or nothing is gained" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    var prng: std.Random.DefaultPrng = .init(3);
    const random = prng.random();
    var encoded_count: usize = 0;
    for (0..200) |round| {
        const layout = layouts[round % layouts.len];
        const count = random.uintLessThan(usize, if (round % 4 == 0) Bench.elements_max else 9000);
        const source = bench.source[0 .. count * layout.elementSize()];
        switch (random.uintLessThan(u8, 4)) {
            0 => random.bytes(source),
            1 => @memset(source, random.int(u8)),
            else => for (source) |*byte| {
                byte.* = @truncate(@as(u64, 0x3f3e3d3c40bf) >> (@as(u6, random.int(u3)) * 8));
            },
        }
        const scratch = &bench.encode_scratch;
        const out = &bench.stored_scalar;
        const size_scalar = tiered.encodeWith(scalar, layout, source, out, scratch);
        for (dispatch.levels) |level| {
            const kernels = &(dispatch.kernelsAt(level) orelse continue).tiered;
            const size = tiered.encodeWith(kernels, layout, source, &bench.stored, scratch);
            try expectEqual(size_scalar, size);
            const stored = bench.stored[0 .. size orelse continue];
            try expectEqualSlices(u8, bench.stored_scalar[0..stored.len], stored);
            try expect(stored.len <= tiered.encodedSizeMax(source.len));
            try bench.expectDecodes(kernels, layout, stored, source);
            encoded_count += 1;
        }
    }
    try expect(encoded_count > 100);
}

test "the sample misleads" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    // At this size, every 9th line is sampled: constant there, noise in between.
    const source = bench.source[0 .. 256 << 10];
    var prng: std.Random.DefaultPrng = .init(4);
    prng.random().bytes(source);
    var line: usize = 0;
    while (line < source.len / 64) : (line += 9) @memset(source[line * 64 ..][0..64], 0x3c);
    const scratch = &bench.encode_scratch;
    try expectEqual(null, tiered.encode(.bf16, source, &bench.stored, scratch));
    // One odd element, not sampled: no plane is constant.
    @memset(source, 0x3c);
    source[64] = 0x3d;
    const size = tiered.encode(.bf16, source, &bench.stored, scratch).?;
    try expect(size > 4096);
    try bench.expectDecodes(scalar, .bf16, bench.stored[0..size], source);
}

test "unaligned buffers" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    var prng: std.Random.DefaultPrng = .init(5);
    const random = prng.random();
    const count = format.sub_block_size + 777;
    const header = sample.header(random, .f32, count, .{ .tiered_223, .raw, .tiered_44, .raw });
    const source = bench.source[0 .. count * 4];
    sample.fill(random, &header, 16, source);
    const stored = try bench.roundTrip(&header);
    for (1..65) |shift| {
        const moved = bench.stored[shift..][0..stored.len];
        @memcpy(moved, stored);
        const destination = bench.decoded[shift % 4 ..][0..source.len];
        try tiered.decode(.f32, moved, destination, &bench.decode_scratch);
        try expectEqualSlices(u8, source, destination);
    }
}

/// One bf16 sub-block that uses all fields of the header: a 2-2-3 exponent plane and a raw one.
fn example(bench: *Bench) ![]u8 {
    var prng: std.Random.DefaultPrng = .init(6);
    const random = prng.random();
    const header = sample.header(random, .bf16, example_count, .{ .tiered_223, .raw, .raw, .raw });
    sample.fill(random, &header, 200, bench.source[0 .. example_count * 2]);
    return bench.roundTrip(&header);
}

const example_count = 700;

fn expectRejected(bench: *Bench, rule: format.DecodeError, stored: []const u8) !void {
    const size = example_count * 2;
    const scratch = &bench.decode_scratch;
    const destination = bench.decoded[0..size];
    try expectError(rule, tiered.decodeWith(scalar, .bf16, stored, destination, scratch));
    try bench.expectAgreement(.bf16, stored, size);
}

test "rules TZ1T-1 to TZ1T-5" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    const stored = try example(bench);
    try expectError(error.DecodedSize, tiered.validate(.bf16, stored, 0));
    try expectError(error.DecodedSize, tiered.validate(.bf16, stored, example_count * 2 + 1));
    try expectError(error.DecodedSize, tiered.validate(.bf16, stored, (64 << 20) + 2));
    try expectError(error.SizeMismatch, tiered.validate(.bf16, stored, example_count * 2 + 2));
    for (0..stored.len) |size| {
        const rule: format.DecodeError = if (size < 128) error.Truncated else error.StoredSize;
        try expectError(rule, tiered.validate(.bf16, stored[0..size], example_count * 2));
    }
    const longer = bench.stored_scalar[0 .. stored.len + 64];
    try expectError(error.StoredSize, tiered.validate(.bf16, longer, example_count * 2));
    try expectError(error.LayoutMismatch, tiered.validate(.f16, stored, example_count * 2));
    try tiered.validate(.bf16, stored, example_count * 2);
}

test "rules TZ1T-4 to TZ1T-15: a change of a byte breaks the rule it should" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    const original = try example(bench);
    const copy = try std.testing.allocator.dupe(u8, original);
    defer std.testing.allocator.free(copy);
    const header: Header = try .parse(.bf16, copy, example_count * 2);
    const escapes = header.escapesOf(copy, 0).counts;
    const codes = header.size();
    const tier2 = codes + format.packedSize(2, example_count);
    const tier3 = tier2 + format.packedSize(2, escapes[0]);
    const literals = tier3 + format.packedSize(3, escapes[1]);
    const plane_end = literals + escapes[2];
    try expect(escapes[2] > 0 and plane_end % 64 != 0);

    const Case = struct { usize, u8, format.DecodeError };
    for ([_]Case{
        .{ 1, 14, error.FixedPart },
        .{ 2, 1, error.FixedPart },
        .{ 3, 1, error.FixedPart },
        .{ 4, copy[4] + 2, error.SizeMismatch },
        .{ 7, 1, error.SizeMismatch },
        .{ 8, 5, error.PlaneKind },
        .{ 40, 255, error.PlaneKind },
        .{ 9, 1, error.PlaneValue },
        .{ 41, 1, error.PlaneValue },
        .{ 11, copy[10], error.PlaneTable },
        .{ 22, copy[10], error.PlaneTable },
        .{ 23, 1, error.PlaneTable },
        .{ 39, 1, error.PlaneTable },
        .{ 42, 1, error.PlaneTable },
        .{ 72 + 3, 1, error.EscapeIndex },
        .{ 76, @truncate(escapes[0] + 1), error.EscapeIndex },
        .{ 80, copy[80] +% 1, error.EscapeCount },
        .{ 80, copy[80] -% 1, error.PlanePadding },
        .{ 84, 1, error.HeaderPadding },
        .{ 127, 1, error.HeaderPadding },
        .{ plane_end, 1, error.PlanePadding },
        .{ literals, copy[10], error.Literal },
        .{ literals - 1, copy[literals - 1] | 0x80, error.UnusedCode },
        .{ tier3, toggleEscape(copy[tier3], 7), error.EscapeCount },
        .{ tier2, toggleEscape(copy[tier2], 3), error.EscapeCount },
        .{ codes, toggleEscape(copy[codes], 3), error.EscapeCount },
    }) |case| {
        const offset, const byte, const rule = case;
        const before = copy[offset];
        copy[offset] = byte;
        defer copy[offset] = before;
        expectRejected(bench, rule, copy) catch |failure| {
            std.debug.print("offset {d} byte {d} {s}\n", .{ offset, byte, @errorName(rule) });
            return failure;
        };
    }
    try bench.expectAgreement(.bf16, copy, example_count * 2);
}

/// Turns the code in the lowest bits into an escape, or an escape into the first symbol's code.
fn toggleEscape(byte: u8, escape: u8) u8 {
    return if (byte & escape == escape) byte & ~escape else byte | escape;
}

test "rules about widths: symbols that no element has" {
    const bench: *Bench = try .create();
    defer bench.destroy();
    var prng: std.Random.DefaultPrng = .init(7);
    const random = prng.random();
    const header = sample.header(random, .f16, 640, .{ .tiered_33, .raw, .constant, .raw });
    sample.fill(random, &header, 200, bench.source[0..1280]);
    const stored = try bench.roundTrip(&header);
    const Case = struct { usize, u8, format.DecodeError };
    const counts = header.escapesOf(stored, 0).counts;
    const literals = header.size() + format.packedSize(3, 640) + format.packedSize(3, counts[0]);
    try expect(counts[1] > 0);
    for ([_]Case{
        .{ 8, 0, error.PlaneKind }, // five bits are never raw
        .{ 10, 32, error.PlaneTable },
        .{ 40, 2, error.PlaneKind }, // 13 symbols of three bits
        .{ literals, 32, error.Literal },
    }) |case| {
        const offset, const byte, const rule = case;
        const before = stored[offset];
        stored[offset] = byte;
        defer stored[offset] = before;
        const destination = bench.decoded[0..1280];
        const scratch = &bench.decode_scratch;
        try expectError(rule, tiered.decodeWith(scalar, .f16, stored, destination, scratch));
        try bench.expectAgreement(.f16, stored, 1280);
    }
}
