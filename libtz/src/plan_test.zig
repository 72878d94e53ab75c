//! Tests of the planner and of the execution of plans.

const std = @import("std");
const codecs = @import("codec.zig");
const format = @import("format.zig");
const Index = @import("index.zig").Index;
const planning = @import("plan.zig");
const types = @import("plan_types.zig");
const process = @import("process.zig");
const sample = @import("plan_sample.zig");
const simulation = @import("plan_simulation.zig");
const status = @import("status.zig");
const Tensor = @import("index.zig").Tensor;
const File = sample.File;
const Options = types.Options;
const Piece = types.Piece;
const Placement = types.Placement;
const Plan = types.Plan;
const Segment = types.Segment;
const ReadItem = types.ReadItem;
const to_nowhere = types.to_nowhere;
const to_staging = types.to_staging;

const testing = std.testing;
const expectEqual = testing.expectEqual;

/// A file of u8 tensors, in the order of their data, and plans for it.
const Fixture = struct {
    arena: std.heap.ArenaAllocator,
    file: File,
    tensors: []Tensor,
    diagnostic: status.Diagnostic = .{},

    fn init(shapes: []const []const u64, chunk_size: u64, foreign: bool) !Fixture {
        var arena: std.heap.ArenaAllocator = .init(testing.allocator);
        errdefer arena.deinit();

        const allocator = arena.allocator();
        const tensors = try allocator.alloc(Tensor, shapes.len);
        const order = try allocator.alloc(u32, shapes.len);
        for (tensors, order, shapes, 0..) |*tensor, *entry, shape, position| {
            var size: u64 = 1;
            for (shape) |dimension| size *= dimension;
            entry.* = @intCast(position);
            tensor.* = .{
                .name = "",
                .shape = shape,
                .dtype = 0x02,
                .order = @intCast(position),
                .decoded_size = size,
                .data_offset = 0,
                .stored_size = 0,
            };
        }
        var prng: std.Random.DefaultPrng = .init(1);
        const index: Index = .{ .tensors = tensors, .order = order, .chunk_size = chunk_size };
        const file: File = try .build(allocator, prng.random(), index, foreign);
        return .{ .arena = arena, .file = file, .tensors = tensors };
    }

    fn deinit(self: *Fixture) void {
        self.arena.deinit();
    }

    fn plan(self: *Fixture, read_items: []const ReadItem, options: Options) types.Error!Plan {
        self.diagnostic = .{};
        const gpa = testing.allocator;
        return planning.make(gpa, self.file, read_items, options, &self.diagnostic);
    }

    fn expectError(self: *Fixture, expected: types.Error, item: ReadItem) !void {
        try testing.expectError(expected, self.plan(&.{item}, .{}));
    }
};

fn box(tensor: u32, begin: []const u64, end: []const u64) ReadItem {
    return .{ .tensor = tensor, .begin = begin.ptr, .end = end.ptr };
}

fn whole(tensor: u32) ReadItem {
    return .{ .tensor = tensor };
}

fn expectSegments(plan: Plan, expected: []const Segment) !void {
    try testing.expectEqualSlices(Segment, expected, plan.segments.items);
}

test "a slab mirrors the file, so raw tensors and their padding are one segment" {
    const shapes = [_][]const u64{ &.{5000}, &.{ 2, 2048 }, &.{100}, &.{ 0, 3 }, &.{1} };
    var fixture: Fixture = try .init(&shapes, 1 << 16, false);
    defer fixture.deinit();

    const read_items = [_]ReadItem{ whole(4), whole(0), whole(3), whole(2), whole(1) };
    const slabs: Options = .{ .slab_size_max = 1 << 20, .slab_tensor_max = 5000 };
    var plan = try fixture.plan(&read_items, slabs);
    defer plan.deinit();

    try expectSegments(plan, &.{.{ .size = 12417, .position = 0, .allocation = 0 }});
    try testing.expectEqualSlices(Placement, &.{
        .{ .position = 12416, .size = 1, .allocation = 0 },
        .{ .position = 0, .size = 5000, .allocation = 0 },
        .{ .position = 0, .size = 0, .allocation = format.none },
        .{ .position = 12288, .size = 100, .allocation = 0 },
        .{ .position = 8192, .size = 4096, .allocation = 0 },
    }, plan.placements);
    try testing.expectEqualSlices(u64, &.{12417}, plan.allocations.items);
    try expectEqual(1, plan.requests.items.len);
    try expectEqual(0, plan.staging_size_max);
    try expectEqual(9197, plan.bytes_wanted);
    try expectEqual(12417, plan.bytes_read);
}

test "slabs end at their size, and large tensors have their own allocations" {
    const shapes = [_][]const u64{ &.{64}, &.{1000}, &.{64}, &.{ 2, 32 }, &.{64} };
    var fixture: Fixture = try .init(&shapes, 1 << 16, true);
    defer fixture.deinit();

    const read_items = [_]ReadItem{ whole(0), whole(1), whole(2), whole(3), whole(4) };
    var plan = try fixture.plan(&read_items, .{ .slab_size_max = 192, .slab_tensor_max = 64 });
    defer plan.deinit();

    // The second slab differs from the file, where another tensor of 1000 bytes precedes it.
    try testing.expectEqualSlices(Placement, &.{
        .{ .position = 0, .size = 64, .allocation = 0 },
        .{ .position = 0, .size = 1000, .allocation = 1 },
        .{ .position = 64, .size = 64, .allocation = 0 },
        .{ .position = 128, .size = 64, .allocation = 0 },
        .{ .position = 0, .size = 64, .allocation = 2 },
    }, plan.placements);
    try testing.expectEqualSlices(u64, &.{ 192, 1000, 64 }, plan.allocations.items);
    try expectSegments(plan, &.{
        .{ .size = 64, .position = 0, .allocation = 0 },
        .{ .size = 1000, .position = 0, .allocation = 1 },
        .{ .size = 128, .position = 64, .allocation = 0 },
        .{ .size = 64, .position = 0, .allocation = 2 },
    });
}

test "a slab does not mirror what is far away" {
    const shapes = [_][]const u64{ &.{64}, &.{4032}, &.{64}, &.{4096}, &.{64} };
    var fixture: Fixture = try .init(&shapes, 1 << 16, true);
    defer fixture.deinit();

    const read_items = [_]ReadItem{ whole(0), whole(2), whole(4) };
    var plan = try fixture.plan(&read_items, .{ .slab_size_max = 1 << 20, .slab_tensor_max = 64 });
    defer plan.deinit();

    try expectEqual(4096, plan.placements[1].position);
    try expectEqual(4160, plan.placements[2].position);
    try expectSegments(plan, &.{
        .{ .size = 4160, .position = 0, .allocation = 0 },
        .{ .size = 4096, .position = 0, .allocation = to_nowhere },
        .{ .size = 64, .position = 4160, .allocation = 0 },
    });
}

test "a slice of rows reads its chunks into place" {
    var fixture: Fixture = try .init(&.{&.{ 8, 64 }}, 64, false);
    defer fixture.deinit();

    var plan = try fixture.plan(&.{box(0, &.{ 2, 0 }, &.{ 5, 64 })}, .{});
    defer plan.deinit();

    try expectSegments(plan, &.{.{ .size = 192, .position = 0, .allocation = 0 }});
    const offset = fixture.tensors[0].data_offset + 128;
    try expectEqual(offset, plan.requests.items[0].offset);
}

test "chunks at the ends of a slice go through staging memory" {
    var fixture: Fixture = try .init(&.{&.{ 8, 64 }}, 64, false);
    defer fixture.deinit();

    var plan = try fixture.plan(&.{box(0, &.{ 2, 1 }, &.{ 3, 9 })}, .{});
    defer plan.deinit();

    try expectSegments(plan, &.{.{ .size = 64, .position = 0, .allocation = to_staging }});
    try expectEqual(64, plan.requests.items[0].staging_size);
    try testing.expectEqualSlices(u64, &.{8}, plan.allocations.items);
}

test "a column skips the chunks between, or reads through small gaps" {
    var fixture: Fixture = try .init(&.{&.{ 3, 128 }}, 64, false);
    defer fixture.deinit();

    const column = box(0, &.{ 0, 10 }, &.{ 3, 11 });
    var apart = try fixture.plan(&.{column}, .{ .gap_max = 63 });
    defer apart.deinit();

    try expectEqual(3, apart.requests.items.len);
    try expectEqual(192, apart.bytes_read);
    var together = try fixture.plan(&.{column}, .{ .gap_max = 64 });
    defer together.deinit();

    try expectEqual(1, together.requests.items.len);
    try expectSegments(together, &.{.{ .size = 320, .position = 0, .allocation = to_staging }});
    // Gaps that are worth reading but not worth memory are discarded.
    var wide: Fixture = try .init(&.{&.{ 2, 8192 }}, 64, false);
    defer wide.deinit();

    var plan = try wide.plan(&.{box(0, &.{ 0, 0 }, &.{ 2, 1 })}, .{});
    defer plan.deinit();

    try expectSegments(plan, &.{
        .{ .size = 64, .position = 0, .allocation = to_staging },
        .{ .size = 8128, .position = 0, .allocation = to_nowhere },
        .{ .size = 64, .position = 64, .allocation = to_staging },
    });
    try expectEqual(8128, plan.gap_size_max);
}

test "a chunk that several read_items need is read once" {
    var fixture: Fixture = try .init(&.{&.{256}}, 64, false);
    defer fixture.deinit();

    // Chunk 0 belongs to the first, chunk 1 to both, 2 and 3 to the second.
    var plan = try fixture.plan(&.{ box(0, &.{0}, &.{128}), box(0, &.{64}, &.{256}) }, .{});
    defer plan.deinit();

    try expectSegments(plan, &.{
        .{ .size = 64, .position = 0, .allocation = 0 },
        .{ .size = 64, .position = 0, .allocation = to_staging },
        .{ .size = 128, .position = 64, .allocation = 1 },
    });
    try expectEqual(320, plan.bytes_wanted);
    try expectEqual(256, plan.bytes_read);
}

test "requests end before they grow too large, at chunk borders" {
    var fixture: Fixture = try .init(&.{ &.{300}, &.{10} }, 64, false);
    defer fixture.deinit();

    var plan = try fixture.plan(&.{ whole(1), whole(0) }, .{ .request_size_max = 130 });
    defer plan.deinit();

    var sizes: [3]u64 = undefined;
    try expectEqual(sizes.len, plan.requests.items.len);
    for (&sizes, plan.requests.items) |*size, request| size.* = request.size;
    // 64 + 64; 64 + 64; 44 + padding + 10.
    try testing.expectEqualSlices(u64, &.{ 128, 128, 74 }, &sizes);
    var exact = try fixture.plan(&.{whole(0)}, .{ .request_size_max = 128 });
    defer exact.deinit();

    try expectEqual(3, exact.requests.items.len);
    // A chunk is never cut.
    var small = try fixture.plan(&.{whole(0)}, .{ .request_size_max = 1 });
    defer small.deinit();

    try expectEqual(5, small.requests.items.len);
}

test "staged plans say where the pieces of read_items lie" {
    var fixture: Fixture = try .init(&.{ &.{200}, &.{64} }, 64, false);
    defer fixture.deinit();

    const read_items = [_]ReadItem{ whole(1), box(0, &.{10}, &.{140}), whole(0), whole(1) };
    var plan = try fixture.plan(&read_items, .{ .staged = true });
    defer plan.deinit();

    // One request: 200 bytes, padding, 64 bytes, all in one segment.
    try expectSegments(plan, &.{.{ .size = 320, .position = 0, .allocation = to_staging }});
    try testing.expectEqualSlices(Piece, &.{
        .{ .item_offset = 0, .size = 130, .position = 10, .item = 1 },
        .{ .item_offset = 0, .size = 200, .position = 0, .item = 2 },
        .{ .item_offset = 0, .size = 64, .position = 256, .item = 0 },
    }, plan.pieces.items);
    try expectEqual(394, plan.bytes_wanted);
    try expectEqual(0, plan.allocations.items.len);
}

test "staged plans refuse what is not contiguous" {
    var fixture: Fixture = try .init(&.{&.{ 4, 4 }}, 64, false);
    defer fixture.deinit();

    const columns = box(0, &.{ 0, 1 }, &.{ 4, 2 });
    try testing.expectError(error.Argument, fixture.plan(&.{columns}, .{ .staged = true }));
    try expectEqual(0, fixture.diagnostic.tensor);
    const rows = box(0, &.{ 1, 0 }, &.{ 3, 4 });
    var plan = try fixture.plan(&.{rows}, .{ .staged = true });
    plan.deinit();
}

test "tied tensors share one placement when they are wanted whole" {
    var fixture: Fixture = try .init(&.{ &.{ 4, 16 }, &.{ 4, 16 } }, 64, false);
    defer fixture.deinit();

    fixture.tensors[1].tie = 0;
    const read_items = [_]ReadItem{ whole(1), box(1, &.{ 1, 0 }, &.{ 2, 16 }), whole(0) };
    var plan = try fixture.plan(&read_items, .{});
    defer plan.deinit();

    try testing.expectEqualSlices(Placement, &.{
        .{ .position = 0, .size = 64, .allocation = 0 },
        .{ .position = 0, .size = 16, .allocation = 1 },
        .{ .position = 0, .size = 64, .allocation = 0 },
    }, plan.placements);
    try expectEqual(80, plan.bytes_wanted);
    try expectEqual(64, plan.bytes_read);
}

test "nothing wanted, nothing read" {
    var fixture: Fixture = try .init(&.{ &.{ 4, 4 }, &.{ 0, 4 } }, 64, false);
    defer fixture.deinit();

    fixture.file.chunk_entries.?[0] = &.{}; // even missing entries do not matter
    for ([_][]const ReadItem{
        &.{},
        &.{whole(1)},
        &.{box(0, &.{ 2, 0 }, &.{ 2, 4 })},
    }) |read_items| {
        var plan = try fixture.plan(read_items, .{});
        defer plan.deinit();

        try expectEqual(0, plan.requests.items.len);
        try expectEqual(0, plan.allocations.items.len);
        for (plan.placements) |placement| {
            try expectEqual(Placement{ .size = 0 }, placement);
        }
    }
}

test "scalars" {
    var fixture: Fixture = try .init(&.{&.{}}, 64, false);
    defer fixture.deinit();

    // A scalar has only one box, without dimensions.
    var plan = try fixture.plan(&.{ box(0, &.{}, &.{}), whole(0) }, .{});
    defer plan.deinit();

    try expectEqual(plan.placements[0], plan.placements[1]);
    try testing.expectEqualSlices(u64, &.{1}, plan.allocations.items);
}

test "read_items that cannot be planned" {
    var fixture: Fixture = try .init(&.{ &.{4}, &.{ 4, 4 } }, 64, false);
    defer fixture.deinit();

    const bounds = [_]u64{ 1, 1 };
    try fixture.expectError(error.Argument, whole(2));
    try fixture.expectError(error.Argument, .{ .tensor = 1, .begin = &bounds });
    try fixture.expectError(error.Argument, .{ .tensor = 1, .end = &bounds });
    try fixture.expectError(error.Argument, box(1, &.{ 0, 0 }, &.{ 5, 4 }));
    try expectEqual(1, fixture.diagnostic.tensor);
    try fixture.expectError(error.Argument, box(1, &.{ 3, 0 }, &.{ 2, 4 }));

    fixture.tensors[0].dtype = 0x0100;
    try fixture.expectError(error.Feature, box(0, &.{1}, &.{2}));
    try expectEqual(0, fixture.diagnostic.tensor);
    try expectEqual(60, fixture.diagnostic.rule);

    fixture.file.chunk_entries.?[1] = &.{};
    try fixture.expectError(error.EntriesMissing, whole(1));
    try expectEqual(1, fixture.diagnostic.tensor);
    // Without its entries, a tensor's size is only a claim.
    fixture.tensors[1].shape = &.{ 4, 1 << 60 };
    fixture.tensors[1].decoded_size = 1 << 62;
    try fixture.expectError(error.EntriesMissing, whole(1));
}

test "a foreign file that claims to be huge costs nothing" {
    var fixture: Fixture = try .init(&.{&.{ 64, 2 }}, 1 << 20, true);
    defer fixture.deinit();

    // A server may claim 2^50 bytes, in rows of 2^44.
    const tensor = &fixture.tensors[0];
    tensor.shape = &.{ 64, 1 << 44 };
    tensor.decoded_size = 1 << 50;
    tensor.stored_size = 1 << 50;
    try fixture.expectError(error.Limit, whole(0));
    try fixture.expectError(error.Limit, box(0, &.{ 0, 5 }, &.{ 64, 1 << 43 }));
    const last = box(0, &.{ 0, (1 << 44) - 1 }, &.{ 64, 1 << 44 });
    var plan = try fixture.plan(&.{last}, .{});
    defer plan.deinit();

    try expectEqual(64, plan.requests.items.len);
    try expectEqual(tensor.data_offset + (1 << 50) - 1, plan.requests.items[63].offset);
    // Even the numbers of chunks do not fit.
    tensor.shape = &.{ 64, 1 << 56 };
    tensor.decoded_size = 1 << 62;
    try fixture.expectError(error.Limit, box(0, &.{ 0, (1 << 56) - 1 }, &.{ 64, 1 << 56 }));
}

test "sums of read_items that overflow are refused" {
    var fixture: Fixture = try .init(&.{&.{ 64, 2 }}, 1 << 20, true);
    defer fixture.deinit();

    fixture.tensors[0].shape = &.{ 1, 1 << 62, 1 };
    fixture.tensors[0].decoded_size = 1 << 62;
    const rows = box(0, &.{ 0, 0, 0 }, &.{ 1, 1 << 62, 1 });
    const read_items: [5]ReadItem = @splat(rows);
    try testing.expectError(error.Limit, fixture.plan(&read_items, .{}));
}

test "checks name the chunk that fails, and stay at it" {
    var fixture: Fixture = try .init(&.{ &.{10}, &.{200} }, 64, false);
    defer fixture.deinit();

    var plan = try fixture.plan(&.{whole(1)}, .{});
    defer plan.deinit();

    var memory: [200]u8 = undefined;
    const offset: usize = @intCast(plan.requests.items[0].offset);
    @memcpy(&memory, fixture.file.bytes[offset..][0..200]);
    memory[130] ^= 0x10;
    var next: u64 = 0;
    const allocations = [_]?*anyopaque{&memory};
    var batch: process.Batch = .{
        .request = 0,
        .received = 191,
        .staging = null,
        .allocations = &allocations,
        .verify = .crc,
    };
    try process.process(&plan, batch, &next, &fixture.diagnostic);
    try expectEqual(2, next);
    batch.received = 200;
    for ([_]process.Verify{ .crc, .digest, .crc }) |verify| {
        batch.verify = verify;
        const outcome = process.process(&plan, batch, &next, &fixture.diagnostic);
        try testing.expectError(error.Checksum, outcome);
        try expectEqual(status.Diagnostic{
            .offset = offset + 128,
            .tensor = 1,
            .chunk = 2,
            .rule = if (verify == .digest) 85 else 43,
        }, fixture.diagnostic);
        try expectEqual(2, next);
    }
    batch.verify = .none;
    try process.process(&plan, batch, &next, &fixture.diagnostic);
    try expectEqual(4, next);
}

test "chunks that do not decode" {
    const shapes: [12][]const u64 = @splat(&.{4096});
    var fixture: Fixture = try .init(&shapes, 4096, false);
    defer fixture.deinit();

    var read_items: [shapes.len]ReadItem = undefined;
    for (&read_items, 0..) |*item, tensor| item.* = whole(@intCast(tensor));
    var plan = try fixture.plan(&read_items, .{ .request_size_max = 1 });
    defer plan.deinit();

    // Some of the sample's chunks compress.
    const number: u32 = for (plan.tasks.items, 0..) |task, number| {
        if (task.codec != codecs.raw) break @intCast(number);
    } else return error.NothingCompressed;
    const task = plan.tasks.items[number];
    const request = plan.requests.items[number];
    var memory: [4096]u8 = undefined;
    const staging = try testing.allocator.alloc(u8, @intCast(request.staging_size));
    defer testing.allocator.free(staging);

    const stored = fixture.file.bytes[@intCast(task.offset)..][0..task.stored_length];
    @memcpy(staging[0..stored.len], stored);
    const allocations: [shapes.len]?*anyopaque = @splat(&memory);
    var batch: process.Batch = .{
        .request = number,
        .received = request.size,
        .staging = staging.ptr,
        .allocations = &allocations,
        .verify = .digest,
    };
    var next: u64 = 0;
    try process.process(&plan, batch, &next, &fixture.diagnostic);
    try testing.expectEqualSlices(u8, fixture.file.contents[task.tensor], &memory);
    staging[0] ^= 0xFF; // the layout field of the codec
    next = 0;
    batch.verify = .none;
    const outcome = process.process(&plan, batch, &next, &fixture.diagnostic);
    try testing.expectError(error.Codec, outcome);
    try expectEqual(status.Diagnostic{
        .offset = task.offset,
        .tensor = task.tensor,
        .chunk = 0,
        .rule = 44,
    }, fixture.diagnostic);
    try expectEqual(0, next);
}

test "process refuses what contradicts the plan" {
    var fixture: Fixture = try .init(&.{&.{ 2, 64 }}, 64, false);
    defer fixture.deinit();

    const read_items = [_]ReadItem{box(0, &.{ 0, 0 }, &.{ 2, 1 })};
    var plan = try fixture.plan(&read_items, .{});
    defer plan.deinit();

    var memory: [2]u8 = undefined;
    var staging: [128]u8 = undefined;
    const allocations = [_]?*anyopaque{&memory};
    const good: process.Batch = .{
        .request = 0,
        .received = 128,
        .staging = &staging,
        .allocations = &allocations,
        .verify = .none,
    };
    var cases: [5]process.Batch = @splat(good);
    cases[0].request = 1;
    cases[1].received = 129;
    cases[2].staging = null;
    cases[3].allocations = &.{};
    cases[4].allocations = &.{null};
    for (cases) |batch| {
        var next: u64 = 0;
        const outcome = process.process(&plan, batch, &next, &fixture.diagnostic);
        try testing.expectError(error.Argument, outcome);
        try expectEqual(0, next);
    }
    var next: u64 = 3;
    const outcome = process.process(&plan, good, &next, &fixture.diagnostic);
    try testing.expectError(error.Argument, outcome);
    next = 0;
    try process.process(&plan, good, &next, &fixture.diagnostic);
    try expectEqual(2, next);
}

test "every allocation may fail" {
    var fixture: Fixture = try .init(&.{ &.{ 4, 100 }, &.{300}, &.{20}, &.{30} }, 64, false);
    defer fixture.deinit();

    for ([_]Options{
        .{ .request_size_max = 200, .slab_size_max = 64, .slab_tensor_max = 40 },
        .{ .request_size_max = 200, .staged = true },
    }) |options| {
        const arguments = .{ fixture.file, options };
        try testing.checkAllAllocationFailures(testing.allocator, planOnce, arguments);
    }
}

fn planOnce(gpa: std.mem.Allocator, file: File, options: Options) !void {
    const begin = [_]u64{ 1, 3 };
    const end = [_]u64{ if (options.staged) 2 else 3, 90 };
    const boxed = box(0, &begin, &end);
    const read_items = [_]ReadItem{ whole(0), boxed, whole(3), whole(1), whole(2), whole(1) };
    var diagnostic: status.Diagnostic = .{};
    var plan = try planning.make(gpa, file, &read_items, options, &diagnostic);
    plan.deinit();
}

test "random plans keep all promises and deliver what was wanted" {
    var feats: simulation.Feats = .{};
    for (0..1000) |seed| {
        errdefer std.debug.print("seed {d}\n", .{seed});
        var prng: std.Random.DefaultPrng = .init(seed);
        feats.setUnion(try simulation.simulate(testing.allocator, prng.random()));
    }
    try expectEqual(simulation.Feats.full, feats);
}
