//! For tests and fuzzing: generates a file, items and options, makes a plan, checks everything that
//! tz.h promises about it, executes it, and compares the results with the contents of the file.

const std = @import("std");
const codecs = @import("codec.zig");
const dtypes = @import("dtype.zig");
const format = @import("format.zig");
const Index = @import("index.zig").Index;
const planning = @import("plan.zig");
const types = @import("plan_types.zig");
const process = @import("process.zig");
const sample = @import("plan_sample.zig");
const status = @import("status.zig");
const File = sample.File;

const Allocator = std.mem.Allocator;
const expect = std.testing.expect;
const expectEqual = std.testing.expectEqual;

/// The features of the planner that a case used.
pub const Feat = enum {
    refused,
    read_through_gap,
    shared_slab,
    raw_in_place,
    raw_copied,
    raw_staged,
    compressed_in_place,
    compressed_copied,
    compressed_staged,
    chunk_of_two_items,
};

pub const Feats = std.EnumSet(Feat);

/// Runs one random case.
pub fn simulate(gpa: Allocator, random: std.Random) !Feats {
    var arena_state: std.heap.ArenaAllocator = .init(gpa);
    defer arena_state.deinit();
    const arena = arena_state.allocator();

    const file: File = try .random(arena, random);
    const read_items = try sample.randomItems(arena, random, file.index);
    const options = sample.randomOptions(random);
    var diagnostic: status.Diagnostic = .{};
    var plan = planning.make(gpa, file, read_items, options, &diagnostic) catch |err| {
        if (err != error.Argument) return err;
        try expect(options.staged and try anyScattered(file.index, read_items));
        return .initOne(.refused);
    };
    defer plan.deinit();

    try checkRequests(plan, file, options);
    try checkPlacements(plan, file.index, read_items, options);
    try checkReading(arena, plan, file, read_items);
    const feats = featsOf(plan);
    try execute(arena, plan, file, read_items, random);
    return feats;
}

fn featsOf(plan: types.Plan) Feats {
    var feats: Feats = .{};
    if (plan.gap_size_max != 0) feats.insert(.read_through_gap);
    for (plan.placements) |placement| if (placement.position != 0) feats.insert(.shared_slab);
    for (plan.tasks.items) |task| {
        const raw = task.codec == codecs.raw;
        if (task.user_count > 1) feats.insert(.chunk_of_two_items);
        if (plan.staged) {
            feats.insert(if (raw) .raw_staged else .compressed_staged);
        } else if (task.user_count != 0) {
            feats.insert(if (raw) .raw_copied else .compressed_copied);
        } else {
            feats.insert(if (raw) .raw_in_place else .compressed_in_place);
        }
    }
    return feats;
}

fn isWhole(index: Index, item: types.ReadItem) bool {
    return item.begin == null or index.tensors[item.tensor].shape.len == 0;
}

/// The bytes of an item in order, computed in the slow way.
const Walk = struct {
    shape: []const u64,
    item: types.ReadItem,
    unit_size: u64,
    whole: bool,
    at: u64 = 0,
    size: u64,

    fn init(index: Index, item: types.ReadItem) Walk {
        const tensor = index.tensors[item.tensor];
        return .{
            .shape = tensor.shape,
            .item = item,
            .unit_size = dtypes.byCode(tensor.dtype).?.unitSize(),
            .whole = isWhole(index, item),
            .size = tensor.decoded_size,
        };
    }

    fn next(self: *Walk) ?u64 {
        while (self.at < self.size) {
            defer self.at += 1;
            if (self.whole or self.contains(self.at)) return self.at;
        }
        return null;
    }

    fn contains(self: Walk, at: u64) bool {
        var rest = at / self.unit_size;
        var dimension = self.shape.len;
        while (dimension > 0) {
            dimension -= 1;
            const index = rest % self.shape[dimension];
            if (index < self.item.begin.?[dimension]) return false;
            if (index >= self.item.end.?[dimension]) return false;
            rest /= self.shape[dimension];
        }
        return true;
    }
};

fn anyScattered(index: Index, read_items: []const types.ReadItem) !bool {
    for (read_items) |item| {
        var walk: Walk = .init(index, item);
        var last: ?u64 = null;
        while (walk.next()) |at| {
            if (last != null and at != last.? + 1) return true;
            last = at;
        }
    }
    return false;
}

fn checkRequests(plan: types.Plan, file: File, options: types.Options) !void {
    const requests = plan.requests.items;
    var file_end: u64 = 0;
    var segment_end: u64 = 0;
    var bytes_read: u64 = 0;
    var staging_size_max: u64 = 0;
    var gap_size_max: u64 = 0;
    try expectEqual(requests.len + 1, plan.task_begins.items.len);
    for (requests, 0..) |request, number| {
        try expect(request.offset >= file_end and request.size > 0);
        file_end = request.offset + request.size;
        try expect(file_end <= file.bytes.len);
        try expectEqual(segment_end, request.segment_begin);
        segment_end += request.segment_count;
        var size: u64 = 0;
        for (segmentsOf(plan, request)) |segment| {
            try expect(segment.size > 0);
            size += segment.size;
            switch (segment.allocation) {
                types.to_nowhere => gap_size_max = @max(gap_size_max, segment.size),
                types.to_staging => {
                    try expect(segment.position + segment.size <= request.staging_size);
                },
                else => |allocation| {
                    const room = plan.allocations.items[allocation];
                    try expect(segment.position + segment.size <= room);
                },
            }
        }
        try expectEqual(request.size, size);
        const begins = plan.task_begins.items;
        const tasks = plan.tasks.items[begins[number]..begins[number + 1]];
        try expect(tasks.len > 0);
        if (tasks.len > 1) try expect(request.size <= options.request_size_max);
        for (tasks[1..], tasks[0 .. tasks.len - 1]) |task, before| {
            try expect(task.offset - before.end() <= options.gap_max);
        }
        if (!plan.staged) try checkGaps(plan, request, tasks);
        for (tasks) |task| {
            const staged = task.received_allocation == types.to_staging;
            if (staged) try expect(task.received_position % 64 == 0);
            const users = plan.usersOf(task);
            for (1..@max(1, users.len)) |user| try expect(users[user - 1] < users[user]);
        }
        try expectEqual(tasks[0].offset, request.offset);
        try expectEqual(tasks[tasks.len - 1].end(), file_end);
        bytes_read += request.size;
        staging_size_max = @max(staging_size_max, request.staging_size);
    }
    try expectEqual(plan.segments.items.len, segment_end);
    try expectEqual(plan.bytes_read, bytes_read);
    try expectEqual(plan.staging_size_max, staging_size_max);
    try expectEqual(plan.gap_size_max, gap_size_max);
}

/// Checks that bytes received between chunks do not overwrite wanted ones.
fn checkGaps(plan: types.Plan, request: types.Request, tasks: []const types.ChunkTask) !void {
    for (tasks[1..], tasks[0 .. tasks.len - 1]) |task, before| {
        var begin = request.offset;
        for (segmentsOf(plan, request)) |segment| {
            const low = @max(begin, before.end());
            const high = @min(begin + segment.size, task.offset);
            if (low < high) {
                const position = segment.position + (low - begin);
                for (plan.placements) |placement| {
                    if (placement.size == 0 or placement.allocation != segment.allocation) continue;
                    try expect(position + (high - low) <= placement.position or
                        placement.position + placement.size <= position);
                }
            }
            begin += segment.size;
        }
    }
}

fn checkPlacements(
    plan: types.Plan,
    index: Index,
    read_items: []const types.ReadItem,
    options: types.Options,
) !void {
    try expectEqual(read_items.len, plan.placements.len);
    if (options.staged) try expectEqual(0, plan.allocations.items.len);
    var bytes_wanted: u64 = 0;
    for (plan.placements, read_items, 0..) |placement, item, number| {
        var walk: Walk = .init(index, item);
        var size: u64 = 0;
        while (walk.next() != null) size += 1;
        try expectEqual(size, placement.size);
        if (size == 0 or options.staged) {
            try expectEqual(format.none, placement.allocation);
        } else {
            try expect(placement.position % 64 == 0);
            try expect(placement.position + size <= plan.allocations.items[placement.allocation]);
        }
        if (options.slab_size_max == 0) try expectEqual(0, placement.position);
        var is_first = true;
        for (plan.placements[0..number], read_items[0..number]) |other, other_want| {
            const same = index.owner(item.tensor) == index.owner(other_want.tensor) and
                isWhole(index, item) and isWhole(index, other_want);
            if (same) {
                try expectEqual(other, placement);
                is_first = false;
            } else if (size != 0 and other.size != 0 and !options.staged and
                other.allocation == placement.allocation)
            {
                try expect(isWhole(index, item) and isWhole(index, other_want));
                try expect(placement.position + size <= other.position or
                    other.position + other.size <= placement.position);
            }
        }
        if (is_first) bytes_wanted += size;
    }
    try expectEqual(bytes_wanted, plan.bytes_wanted);
}

/// Checks that exactly the chunks that an item needs are read, each once.
fn checkReading(
    arena: Allocator,
    plan: types.Plan,
    file: File,
    read_items: []const types.ReadItem,
) !void {
    const count = file.index.tensors.len;
    const needed = try arena.alloc(std.DynamicBitSetUnmanaged, count);
    for (needed, file.index.tensors) |*set, tensor| {
        set.* = try .initEmpty(arena, @intCast(tensor.chunkCount(file.index.chunk_size)));
    }
    for (read_items) |item| {
        var walk: Walk = .init(file.index, item);
        const set = &needed[file.index.owner(item.tensor)];
        while (walk.next()) |at| set.set(@intCast(at / file.index.chunk_size));
    }
    for (plan.tasks.items) |task| {
        try expect(needed[task.tensor].isSet(task.chunk));
        needed[task.tensor].unset(task.chunk);
    }
    for (needed) |set| try expectEqual(0, set.count());
}

fn execute(
    arena: Allocator,
    plan: types.Plan,
    file: File,
    read_items: []const types.ReadItem,
    random: std.Random,
) !void {
    const allocations = try arena.alloc(?*anyopaque, plan.allocations.items.len);
    for (allocations, plan.allocations.items) |*address, size| {
        address.* = (try arena.alloc(u8, @intCast(size))).ptr;
    }
    const delivered = try arena.alloc([]u8, read_items.len);
    const counts = try arena.alloc(u64, read_items.len);
    @memset(counts, 0);
    for (delivered, plan.placements) |*out, placement| {
        const size: usize = @intCast(placement.size);
        out.* = if (plan.staged)
            try arena.alloc(u8, size)
        else if (size == 0)
            &.{}
        else
            memoryAt(allocations, placement.allocation, placement.position)[0..size];
    }
    const verify = random.enumValue(process.Verify);
    // In any order, as threads would.
    const numbers = try arena.alloc(u32, plan.requests.items.len);
    for (numbers, 0..) |*entry, number| entry.* = @intCast(number);
    random.shuffle(u32, numbers);
    for (numbers) |number| {
        const request = plan.requests.items[number];
        const staging = try arena.alloc(u8, @intCast(request.staging_size));
        try receive(plan, file, .{
            .request = number,
            .received = 0,
            .staging = staging.ptr,
            .allocations = allocations,
            .verify = verify,
        }, random);
        const pieces = plan.pieces.items[@intCast(request.piece_begin)..][0..request.piece_count];
        for (pieces) |piece| {
            const source = staging[@intCast(piece.position)..][0..@intCast(piece.size)];
            @memcpy(delivered[piece.item][@intCast(piece.item_offset)..][0..source.len], source);
            counts[piece.item] += piece.size;
        }
    }
    for (read_items, delivered, counts, 0..) |item, out, count, number| {
        if (plan.staged and count != out.len) {
            // Delivered under the first item of the same tensor.
            try expectEqual(0, count);
            try expect(for (read_items[0..number]) |other| {
                if (file.index.owner(other.tensor) == file.index.owner(item.tensor) and
                    isWhole(file.index, other) and isWhole(file.index, item)) break true;
            } else false);
            continue;
        }
        var walk: Walk = .init(file.index, item);
        const content = file.contentOf(item.tensor);
        for (out) |byte| try expectEqual(content[@intCast(walk.next().?)], byte);
    }
}

/// Receives a request in parts, processing what has arrived.
fn receive(plan: types.Plan, file: File, whole_batch: process.Batch, random: std.Random) !void {
    var batch = whole_batch;
    const request = plan.requests.items[batch.request];
    var next: u64 = 0;
    var diagnostic: status.Diagnostic = .{};
    while (batch.received < request.size) {
        const size = random.intRangeAtMost(u64, 1, request.size - batch.received);
        for (0..@intCast(size)) |_| receiveByte(plan, file, &batch);
        try process.process(&plan, batch, &next, &diagnostic);
    }
    const begins = plan.task_begins.items;
    try expectEqual(begins[batch.request + 1] - begins[batch.request], next);
    try process.process(&plan, batch, &next, &diagnostic); // nothing is left to do
}

fn segmentsOf(plan: types.Plan, request: types.Request) []const types.Segment {
    return plan.segments.items[@intCast(request.segment_begin)..][0..request.segment_count];
}

fn memoryAt(allocations: []const ?*anyopaque, allocation: u32, position: u64) [*]u8 {
    const address: [*]u8 = @ptrCast(allocations[allocation].?);
    return address + @as(usize, @intCast(position));
}

fn receiveByte(plan: types.Plan, file: File, batch: *process.Batch) void {
    const request = plan.requests.items[batch.request];
    const byte = file.bytes[@intCast(request.offset + batch.received)];
    var begin: u64 = 0;
    for (segmentsOf(plan, request)) |segment| {
        if (batch.received < begin + segment.size) {
            const position: usize = @intCast(segment.position + (batch.received - begin));
            switch (segment.allocation) {
                types.to_nowhere => {},
                types.to_staging => batch.staging.?[position] = byte,
                else => |allocation| {
                    memoryAt(batch.allocations, allocation, position)[0] = byte;
                },
            }
            break;
        }
        begin += segment.size;
    }
    batch.received += 1;
}
