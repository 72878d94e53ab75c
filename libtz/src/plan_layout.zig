//! The parts of the planner that group neighbours: small tensors in slabs, and chunks in requests,
//! segments, staging memory and pieces.

const std = @import("std");
const bytes = @import("bytes.zig");
const codecs = @import("codec.zig");
const format = @import("format.zig");
const types = @import("plan_types.zig");
const ChunkTask = types.ChunkTask;
const Plan = types.Plan;
const to_staging = types.to_staging;
const to_nowhere = types.to_nowhere;

/// Positions of tensors in slabs and of chunks in staging memory are multiples of this: a cache
/// line, a vector.
const alignment = 64;

/// Up to this many unwanted bytes between two chunks are kept, not thrown away, since one segment
/// is cheaper than three. The padding before a tensor is always smaller.
const kept_gap_end = format.page_size;

/// Places whole tensors, in the order of the file, in shared allocations. If possible, a slab
/// mirrors the layout of the file, padding included, so that many tensors are received in one
/// segment.
pub const Slabs = struct {
    size_max: u64,
    tensor_max: u64,
    /// The slab being filled.
    allocation: ?u32 = null,
    end: u64 = 0,
    /// The ends of the last tensor placed, in the slab and in the file.
    position: u64 = 0,
    offset: u64 = 0,

    pub fn takes(self: Slabs, size: u64) bool {
        return self.size_max != 0 and size <= self.tensor_max;
    }

    pub fn allocate(
        self: *Slabs,
        gpa: std.mem.Allocator,
        allocations: *std.ArrayList(u64),
        size: u64,
        offset: u64,
    ) error{ OutOfMemory, Limit }!types.Placement {
        var position = try self.nextPosition(offset);
        var end = bytes.add(position, size) orelse return error.Limit;
        if (self.allocation == null or end > self.size_max) {
            try allocations.append(gpa, 0);
            self.allocation = @intCast(allocations.items.len - 1);
            position = 0;
            end = size;
        }
        self.end = end;
        self.position = position;
        self.offset = offset;
        allocations.items[self.allocation.?] = end;
        return .{ .position = position, .size = size, .allocation = self.allocation.? };
    }

    fn nextPosition(self: *const Slabs, offset: u64) error{Limit}!u64 {
        const mirrored = bytes.add(self.position, offset - self.offset) orelse
            return error.Limit;
        if (mirrored % alignment == 0 and mirrored >= self.end and
            mirrored - self.end < kept_gap_end) return mirrored;
        return bytes.alignUp(self.end, alignment) orelse error.Limit;
    }
};

/// Zeros compress to almost nothing. So the decoded size of a request is limited too, to a multiple
/// of its largest size, which limits the memory that waits for a consumer.
const decoded_ratio_max = 4;

/// Splits the plan's tasks, which are in file order, into requests, and lays out each request.
pub fn requests(plan: *Plan, options: types.Options) types.Error!void {
    const tasks = plan.tasks.items;
    var begin: usize = 0;
    while (begin < tasks.len) {
        const offset = tasks[begin].offset;
        var decoded: u64 = tasks[begin].decoded_length;
        var end = begin + 1;
        while (end < tasks.len) : (end += 1) {
            decoded += tasks[end].decoded_length;
            if (decoded / decoded_ratio_max > options.request_size_max) break;
            if (tasks[end].offset - tasks[end - 1].end() > options.gap_max) break;
            if (tasks[end].end() - offset > options.request_size_max) break;
        }
        try plan.task_begins.append(plan.gpa, @intCast(begin));
        try addRequest(plan, tasks[begin..end]);
        begin = end;
    }
    try plan.task_begins.append(plan.gpa, @intCast(tasks.len));
    if (plan.requests.items.len > std.math.maxInt(u32)) return error.Limit;
    if (plan.staged) {
        // Pieces say it all.
        plan.users.clearAndFree(plan.gpa);
        for (tasks) |*task| {
            task.user_begin = 0;
            task.user_count = 0;
        }
    }
}

fn addRequest(plan: *Plan, tasks: []ChunkTask) types.Error!void {
    const segment_begin = plan.segments.items.len;
    const piece_begin = plan.pieces.items.len;
    // No sum here overflows: all are sums of lengths of 32 bits over at most 2^32 tasks.
    var staging_size = try addSegments(plan, tasks);
    staging_size = addDecodedAreas(plan.*, tasks, staging_size);
    if (plan.staged) try addPieces(plan, tasks);
    const offset = tasks[0].offset;
    const request: types.Request = .{
        .offset = offset,
        .size = tasks[tasks.len - 1].end() - offset,
        .segment_begin = segment_begin,
        .piece_begin = piece_begin,
        .segment_count = try count32(plan.segments.items.len - segment_begin),
        .piece_count = try count32(plan.pieces.items.len - piece_begin),
        .staging_size = staging_size,
    };
    try plan.requests.append(plan.gpa, request);
    plan.staging_size_max = @max(plan.staging_size_max, staging_size);
    plan.bytes_read += request.size;
}

fn count32(count: usize) error{Limit}!u32 {
    return std.math.cast(u32, count) orelse error.Limit;
}

/// Where each byte of a request is received. Returns the staging memory that this takes.
fn addSegments(plan: *Plan, tasks: []ChunkTask) error{OutOfMemory}!u64 {
    const gpa = plan.gpa;
    const segments = &plan.segments;
    // Before each chunk there may be a gap.
    try segments.ensureUnusedCapacity(gpa, 1);
    segments.appendAssumeCapacity(.{ .size = 0, .position = 0, .allocation = to_nowhere });
    var last = &segments.items[segments.items.len - 1];
    var staging_end: u64 = 0;
    var file_end = tasks[0].offset;
    for (tasks) |*task| {
        const gap = task.offset - file_end;
        file_end = task.end();
        const mirrored = last.allocation == task.received_allocation and
            last.allocation != to_staging and
            last.position + last.size + gap == task.received_position;
        if (gap != 0) {
            const staged = last.allocation == to_staging and gap < kept_gap_end;
            if (staged) staging_end += gap;
            if (staged or mirrored) {
                last.size += gap;
            } else {
                last = try addSegment(plan, .{
                    .size = gap,
                    .position = 0,
                    .allocation = to_nowhere,
                });
                plan.gap_size_max = @max(plan.gap_size_max, gap);
            }
        }
        if (task.received_allocation == to_staging) {
            task.received_position = std.mem.alignForward(u64, staging_end, alignment);
            staging_end = task.received_position + task.stored_length;
        }
        if (last.allocation == task.received_allocation and
            last.position + last.size == task.received_position)
        {
            last.size += task.stored_length;
        } else {
            last = try addSegment(plan, .{
                .size = task.stored_length,
                .position = task.received_position,
                .allocation = task.received_allocation,
            });
        }
    }
    return staging_end;
}

/// Avoids an empty last segment.
fn addSegment(plan: *Plan, segment: types.Segment) error{OutOfMemory}!*types.Segment {
    const segments = &plan.segments;
    const last = &segments.items[segments.items.len - 1];
    if (last.size == 0) {
        last.* = segment;
        return last;
    }
    try segments.append(plan.gpa, segment);
    return &segments.items[segments.items.len - 1];
}

/// Places the decoded bytes of chunks that stay in staging memory. Returns the new end of staging
/// memory.
fn addDecodedAreas(plan: Plan, tasks: []ChunkTask, received_end: u64) u64 {
    const begin = std.mem.alignForward(u64, received_end, alignment);
    var end = received_end;
    var compressed = false;
    for (tasks) |*task| {
        if (task.codec == codecs.raw) {
            task.decoded_position = task.received_position;
            continue;
        }
        compressed = true;
        if (task.decoded_allocation != to_staging) continue;
        // Pieces must persist. Copies are made at once, so all chunks of a request can share one
        // area.
        const next = std.mem.alignForward(u64, end, alignment);
        task.decoded_position = if (plan.staged) next else begin;
        end = @max(end, task.decoded_position + task.decoded_length);
    }
    return if (compressed) end + codecs.decode_scratch_size else end;
}

fn addPieces(plan: *Plan, tasks: []const ChunkTask) error{OutOfMemory}!void {
    const pieces = &plan.pieces;
    const piece_begin = pieces.items.len;
    for (tasks) |task| {
        const chunk_begin = plan.decodedBegin(task);
        for (plan.usersOf(task)) |user| {
            const target = &plan.targets.items[user];
            const begin = @max(chunk_begin, target.box.begin);
            const end = @min(chunk_begin + task.decoded_length, target.box.contiguousEnd());
            const piece: types.Piece = .{
                .item_offset = begin - target.box.begin,
                .size = end - begin,
                .position = task.decoded_position + (begin - chunk_begin),
                .item = target.item,
            };
            if (target.last_piece) |number| if (number >= piece_begin) {
                const last = &pieces.items[@intCast(number)];
                if (last.position + last.size == piece.position) {
                    std.debug.assert(last.item_offset + last.size == piece.item_offset);
                    last.size += piece.size;
                    continue;
                }
            };
            target.last_piece = pieces.items.len;
            try pieces.append(plan.gpa, piece);
        }
    }
}
